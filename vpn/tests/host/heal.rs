//! The program puts back what somebody takes from its device.

use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use crate::clash::device;
use crate::in_own_namespace;
use crate::other::{Admin, until};
use crate::program::Bench;
use crate::support::{config, soon};

/// Whether packets to B go through the VPN from this address.
async fn goes(from: &str, to: &str) -> bool {
    let Ok(socket) = UdpSocket::bind(from).await else {
        return false;
    };
    socket.connect(to).await.is_ok()
}

pub(crate) fn what_somebody_takes_from_the_device_comes_back_within_two_seconds() {
    in_own_namespace(async {
        let mut bench = Bench::up().await;
        let admin = Admin::new();
        let whole = async || {
            goes("10.7.0.1:0", "10.7.0.2:9").await
                && goes("10.7.0.1:0", "10.8.1.1:9").await
                && goes("[fd07::1]:0", "[fd07::2]:9").await
        };
        assert!(whole().await);
        for what in ["route", "address", "address6", "device"] {
            match what {
                "route" => assert!(admin.unroute("vpn0", "10.7.0.2/32").await),
                "address" => admin.address("vpn0", "10.7.0.1/32", false).await,
                "address6" => admin.address("vpn0", "fd07::1/128", false).await,
                _ => admin.set_up("vpn0", false).await,
            }
            assert!(!whole().await, "{what} was not taken");
            let took = until(whole).await;
            println!("{what} was back after {took:?}");
            assert!(took < Duration::from_secs(2), "{what}: {took:?}");
        }
        let counted = |name: &str, n: u64| {
            let name = name.to_owned();
            move |info: &proto::irm::VpnInfo| info.counters.get(&name).is_some_and(|c| *c >= n)
        };
        let healed = |info: &proto::irm::VpnInfo| {
            counted("healed.route", 4)(info)
                && counted("healed.address", 2)(info)
                && counted("healed.device", 1)(info)
        };
        soon(bench.attached.asked(healed)).await;
    });
}

pub(crate) fn who_takes_it_in_a_loop_is_not_fought_with_and_that_is_said() {
    in_own_namespace(async {
        let mut bench = Bench::up().await;
        let admin = Admin::new();
        let (began, mut taken) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(14) {
            taken += u32::from(admin.unroute("vpn0", "10.7.0.2/32").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // At 0, 0.1, 0.3, 0.7 s and so on, and not 700 times.
        assert!((5..=10).contains(&taken), "{taken}");
        let said = |info: &proto::irm::VpnInfo| info.detail.contains("again and again");
        soon(bench.attached.asked(said)).await;
    });
}

pub(crate) fn a_device_that_was_removed_is_told_from_one_that_is_down() {
    in_own_namespace(async {
        let (_tun, mut vpn) = device().await;
        vpn.apply(&config()).await.unwrap();
        let admin = Admin::new();
        admin.set_up("vpn0", false).await;
        let healed = vpn.heal(&config()).await.unwrap();
        assert_eq!(healed.unwrap().device, 1);
        admin.remove("vpn0").await;
        // Also where another takes its name.
        let _other = admin.attach("vpn0", "192.0.2.1/24").await;
        assert_eq!(vpn.heal(&config()).await.unwrap(), None);
    });
}

pub(crate) fn the_program_says_that_its_device_was_removed_and_ends() {
    in_own_namespace(async {
        let mut bench = Bench::up().await;
        Admin::new().remove("vpn0").await;
        let why = bench.attached.failure().await;
        assert!(why.text.contains("the device vpn0 is gone"), "{why}");
        assert_eq!(bench.program.ended().await.code(), Some(1));
    });
}
