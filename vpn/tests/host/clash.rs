//! What the VPN wants and the host has already.

use proto::Code;
use proto::irm::VpnConfig;
use rtnl::Netlink;
use tokio::net::UdpSocket;
use vpn::config::Config;
use vpn::device::{self, DeviceName};
use vpn::netlink::Device;

use crate::in_own_namespace;
use crate::other::Admin;
use crate::support::{config, wire_config};

pub(crate) async fn device() -> (frames::Tun, Device) {
    device_named("vpn0").await
}

pub(crate) async fn device_named(name: &str) -> (frames::Tun, Device) {
    let name = DeviceName::new(name).unwrap();
    let tun =
        device::create(&name, proto::ipcp::OffloadMode::Auto).unwrap_or_else(|e| panic!("{e}"));
    let device = Device::up(Netlink::open().unwrap(), name, 1400, tun.queue(), None).await;
    (tun, device.unwrap())
}

/// The own address that the host would send from.
async fn source_to(to: &str) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    match socket.connect((to, 9)).await {
        Ok(()) => socket.local_addr().unwrap().ip().to_string(),
        Err(_) => String::new(),
    }
}

pub(crate) fn an_address_that_the_host_has_elsewhere_is_refused_and_both_are_named() {
    in_own_namespace(async {
        let admin = Admin::new();
        let lan = admin.attach("lan0", "10.7.0.1/24").await;
        let (_tun, mut vpn) = device().await;
        let refused = vpn.apply(&config()).await.unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
        assert!(
            refused.text.contains("10.7.0.1 is an address of lan0"),
            "{refused}"
        );
        admin.address("lan0", "10.7.0.1/24", false).await;
        admin.address("lan0", "10.7.0.9/24", true).await;
        let refused = vpn.apply(&config()).await.unwrap_err();
        assert!(
            refused
                .text
                .contains("10.7.0.1 lies in the network 10.7.0.0/24 of lan0"),
            "{refused}"
        );
        drop(lan);
        vpn.apply(&config()).await.unwrap();
        assert!(vpn.warnings().is_empty(), "{:?}", vpn.warnings());
    });
}

pub(crate) fn a_prefix_inside_a_network_of_the_host_is_left_out_and_served_when_that_is_gone() {
    in_own_namespace(async {
        let admin = Admin::new();
        let lan = admin.attach("lan0", "10.8.5.1/24").await;
        let wide = admin.attach("lan1", "10.7.0.2/29").await;
        let (_tun, mut vpn) = device().await;
        let mut wire = wire_config();
        wire.own_prefixes = vec!["10.7.9.1/32".into()];
        wire.members[0].prefixes = vec!["10.7.9.1/32".into()];
        let config = Config::try_from(wire.clone()).unwrap();
        vpn.apply(&config).await.unwrap();
        let [left_out, also, overlaps] = vpn.warnings() else {
            panic!("{:?}", vpn.warnings());
        };
        assert!(left_out.contains("10.7.0.2/32 of b lies in the network 10.7.0.0/29 of lan1"));
        assert!(also.contains("10.7.0.3/32 of c"), "{also}");
        assert!(
            overlaps.contains("10.8.0.0/16 of b overlaps the network 10.8.5.0/24 of lan0"),
            "{overlaps}"
        );
        // The LAN keeps its own, and the VPN has the rest.
        assert_eq!(source_to("10.7.0.3").await, "10.7.0.2");
        assert_eq!(source_to("10.8.5.9").await, "10.8.5.1");
        assert_eq!(source_to("10.8.6.9").await, "10.7.9.1");
        drop((lan, wide));
        let healed = vpn.heal(&config).await.unwrap().unwrap();
        assert!(healed.is_nothing(), "{healed}");
        assert!(vpn.warnings().is_empty(), "{:?}", vpn.warnings());
        assert_eq!(source_to("10.7.0.3").await, "10.7.9.1");
        assert_eq!(source_to("10.8.5.9").await, "10.7.9.1");
    });
}

pub(crate) fn what_stands_goes_on_standing_when_the_hosts_network_changes() {
    in_own_namespace(async {
        let admin = Admin::new();
        let (_tun, mut vpn) = device().await;
        vpn.apply(&config()).await.unwrap();
        // A network that comes later, as by DHCP, gets none of the VPN's packets.
        let _lan = admin.attach("lan0", "10.7.0.9/24").await;
        vpn.heal(&config()).await.unwrap();
        assert_eq!(source_to("10.7.0.3").await, "10.7.0.1");
        let said = vpn.warnings().join("; ");
        assert!(said.contains("10.7.0.3/32 of c lies in"), "{said}");
        assert!(said.contains("address 10.7.0.1 lies in"), "{said}");
        // By hand and at first, it is refused.
        let (name, wire) = (DeviceName::new("vpn1").unwrap(), wire_config());
        let by_hand = VpnConfig {
            routes: vec!["10.7.0.64/26=b".into()],
            own_prefixes: vec!["10.6.0.1/32".into()],
            ..wire
        };
        let _tun = device::create(&name, proto::ipcp::OffloadMode::Auto).unwrap();
        let mut second = Device::up(Netlink::open().unwrap(), name, 1400, 20, None)
            .await
            .unwrap();
        let refused = second.apply(&Config::try_from(by_hand).unwrap()).await;
        let refused = refused.unwrap_err();
        assert!(
            refused.code == Code::Conflict && refused.text.contains("10.7.0.64/26=b lies in"),
            "{refused}"
        );
    });
}
