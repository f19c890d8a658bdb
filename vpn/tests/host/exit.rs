//! The way out by a member.

use proto::irm::{OfferedNetwork, VpnConfig, VpnWays};
use vpn::config::Config;

use crate::clash::{device, device_named};
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

pub(crate) fn rules_that_a_killed_process_left_are_taken_back_by_the_next_of_whatever_device() {
    in_own_namespace(async {
        let admin = Admin::new();
        let _lan = admin.attach("lan0", "192.0.2.1/24").await;
        // As an administrator might number and name them: in the range of priorities, of tables, and like the first one.
        for (priority, table) in [(31_001, 100), (200, 0x5354_0001), (31_002, 254)] {
            admin.add_rule(priority, table).await;
        }
        let by_hand = admin.rules().await;
        let (living, mut lives) = device_named("vpn1").await;
        lives.apply(&out_by_b()).await.unwrap();
        let rules = admin.rules().await;
        assert!(rules > by_hand);
        // Of a member with other addresses, so that both may be up.
        let (tun, mut killed) = device_named("vpn2").await;
        let mut other = out_by_b();
        other.addresses = vec!["10.6.0.1/32".parse().unwrap()];
        other.own.clone_from(&other.addresses);
        other.members.clear();
        killed.apply(&other).await.unwrap();
        assert!(admin.rules().await > rules);
        drop((tun, killed));
        assert!(admin.rules().await > rules);
        let (_tun, mut next) = device_named("vpn3").await;
        other.offered.clear();
        next.apply(&other).await.unwrap();
        assert_eq!(admin.rules().await, rules);
        assert!(lives.heal(&out_by_b()).await.unwrap().unwrap().is_nothing());
        drop((living, lives));
        let _next = device_named("vpn4").await;
        assert_eq!(admin.rules().await, by_hand);
    });
}
