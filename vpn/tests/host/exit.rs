//! The way out by a member.

use proto::irm::{OfferedNetwork, VpnConfig, VpnWays};
use vpn::config::Config;

use crate::clash::device;
use crate::in_own_namespace;
use crate::other::Admin;
use crate::support::wire_config;

/// B is the way out, in both families.
fn out_by_b() -> Config {
    let mut wire = wire_config();
    wire.members[1].offers = ["0.0.0.0/0", "::/0"]
        .map(|network| OfferedNetwork {
            network: network.to_owned(),
            ..OfferedNetwork::default()
        })
        .to_vec();
    let ways = VpnWays {
        exit: "b".to_owned(),
        ..VpnWays::default()
    };
    Config::try_from(VpnConfig {
        ways: Some(ways),
        ..wire
    })
    .unwrap()
}

pub(crate) fn all_but_what_carries_the_vpn_goes_out_by_the_exit_and_nothing_is_left() {
    in_own_namespace(async {
        let admin = Admin::new();
        let _lan = admin.attach("lan0", "192.0.2.1/24").await;
        admin.address("lan0", "2001:db8:1::1/64", true).await;
        admin.default_by("lan0", false).await;
        admin.default_by("lan0", true).await;
        let (tun, mut vpn) = device().await;
        vpn.apply(&out_by_b()).await.unwrap();
        assert!(vpn.warnings().is_empty(), "{:?}", vpn.warnings());
        let (lan, out) = (admin.index("lan0").await, admin.index("vpn0").await);
        for (from, to, by) in [
            (None, "198.51.100.1", out),
            (Some("10.7.0.1"), "198.51.100.1", out),
            // The shim sends from there, and so does who answers to a caller from outside.
            (Some("192.0.2.1"), "198.51.100.1", lan),
            // What is nearer stays.
            (None, "192.0.2.9", lan),
            (None, "2001:db8::1", out),
            (Some("fd07::1"), "2001:db8::1", out),
            (Some("2001:db8:1::1"), "2001:db8::1", lan),
            (None, "2001:db8:1::9", lan),
        ] {
            let way = admin.way(from, to).await;
            assert_eq!(way, Some(by), "{from:?} to {to}");
        }
        // Once more changes nothing.
        let rules = admin.rules().await;
        let healed = vpn.heal(&out_by_b()).await.unwrap().unwrap();
        assert!(healed.is_nothing(), "{healed}");
        assert_eq!(admin.rules().await, rules);

        // Killed: the routes are gone with the device, and what is left means nothing.
        drop((vpn, tun));
        assert_eq!(admin.way(None, "198.51.100.1").await, Some(lan));
        assert_eq!(admin.way(None, "2001:db8::1").await, Some(lan));
        assert_eq!(admin.rules().await, rules);
        // The next one takes over, and takes it back.
        let (_tun, mut vpn) = device().await;
        vpn.apply(&out_by_b()).await.unwrap();
        assert_eq!(admin.rules().await, rules);
        let out = admin.index("vpn0").await;
        assert_eq!(admin.way(None, "198.51.100.1").await, Some(out));
        vpn.clear(&out_by_b()).await;
        assert_eq!(admin.rules().await, 0);
        assert_eq!(admin.way(None, "198.51.100.1").await, Some(lan));
    });
}

pub(crate) fn one_that_is_no_longer_offered_is_no_longer_taken() {
    in_own_namespace(async {
        let admin = Admin::new();
        let _lan = admin.attach("lan0", "192.0.2.1/24").await;
        admin.default_by("lan0", false).await;
        let (_tun, mut vpn) = device().await;
        let mut config = out_by_b();
        vpn.apply(&config).await.unwrap();
        assert!(admin.rules().await > 0);
        config.offered.clear();
        vpn.apply(&config).await.unwrap();
        let lan = admin.index("lan0").await;
        assert_eq!(admin.way(None, "198.51.100.1").await, Some(lan));
        assert_eq!(admin.rules().await, 0);
    });
}
