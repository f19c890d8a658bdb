//! Programs beside a VPN that has more to send than a slow link takes. The link's device pushes back, as that of an uplink does.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use serde_json::Value;
use tests::narrow::{DATAGRAM, Narrow};
use tests::{PAIR_V4, Pair, Process, until};

const TEN: Duration = Duration::from_secs(10);
/// What the link takes, in Mbit/s.
const LINK: u32 = 20;
/// The same of one that takes many packets each time that it takes any.
const FASTER: u32 = 200;
/// Mbit/s that everybody gets at least: a half would be fair, and who starves has none.
const ENOUGH: f64 = 3.0;
/// Half the pings beside what fills the link are back by then; 5 to 9 ms are usual.
const WAITED: Duration = Duration::from_millis(25);

/// A hundred pings beside what fills the link, in the best of three rounds.
fn a_ping_waits_for_little(narrow: &Narrow, beside: &mut Process) {
    let mut last = Value::Null;
    let short = (0..3).any(|_| {
        last = narrow.ping(beside).unwrap();
        eprintln!("beside what fills the link: {last}");
        is_short(&last)
    });
    assert!(short, "{last}");
}

fn is_short(said: &Value) -> bool {
    let p50 = said["rtt_us"]["p50"].as_u64();
    let short = p50.is_some_and(|p50| p50 < WAITED.as_micros() as u64);
    said["received"].as_u64() >= Some(95) && short
}

#[test]
fn programs_and_a_vpn_share_a_link_that_is_too_narrow_for_the_vpn_alone() {
    let narrow = Narrow::new(LINK).unwrap();
    for qos in ["data", "raw"] {
        // A machine that does other things may give somebody too little once; who starves has nothing each time.
        let mut last = (0.0, 0.0);
        let enough = (0..3).any(|_| {
            last = narrow.beside(qos).unwrap();
            let (program, vpn) = last;
            println!("{qos}: {program:.1} Mbit/s, datagrams over the VPN {vpn:.1}");
            assert!(
                program + vpn < f64::from(LINK) * 1.2,
                "the link is not narrow: {last:?}"
            );
            program > ENOUGH && vpn > ENOUGH
        });
        assert!(
            enough,
            "{qos} and the VPN beside it have {last:?} of {LINK} Mbit/s"
        );
    }
}

#[test]
fn a_program_and_a_vpn_have_like_shares_of_a_faster_link() {
    let narrow = Narrow::new(FASTER).unwrap();
    let mut last = (0.0, 0.0);
    let like = (0..3).any(|_| {
        last = narrow.beside("raw").unwrap();
        let (program, vpn) = last;
        println!("raw: {program:.1} Mbit/s, datagrams over the VPN {vpn:.1}");
        program + vpn > f64::from(FASTER) * 0.7 && program < 1.5 * vpn && vpn < 1.5 * program
    });
    assert!(like, "a program and the VPN beside it have {last:?}");
}

#[test]
fn a_ping_beside_a_stream_that_fills_the_link_waits_for_little() {
    let narrow = Narrow::new(LINK).unwrap();
    let Pair { a, b, .. } = &narrow.pair;
    let (at, much) = (&format!("{}:8080", PAIR_V4[1]), "200000000");
    let _server = b.spawn("lab-tool", ["http-serve", at, much]).unwrap();
    let mut last = Value::Null;
    let short = (0..3).any(|_| {
        let get = until(TEN, || {
            let mut get = a.spawn("lab-tool", ["http-get", at])?;
            std::thread::sleep(Duration::from_secs(2));
            anyhow::ensure!(get.alive(), "{}", get.log());
            Ok(get)
        });
        let mut get = get.unwrap();
        last = narrow.ping(&mut get).unwrap();
        println!("beside the stream: {last}");
        is_short(&last)
    });
    assert!(short, "{last}");
}

#[test]
fn a_ping_beside_datagrams_that_never_slow_down_waits_for_little() {
    let narrow = Narrow::new(LINK).unwrap();
    let (_sink, mut pour) = narrow.pour(DATAGRAM).unwrap();
    a_ping_waits_for_little(&narrow, &mut pour);
}

#[test]
fn a_ping_beside_datagrams_over_a_segment_of_ethernet_waits_for_little() {
    let mut narrow = Narrow::new(LINK).unwrap();
    narrow.segment().unwrap();
    let (_sink, mut pour) = narrow.pour(DATAGRAM).unwrap();
    a_ping_waits_for_little(&narrow, &mut pour);
}

#[test]
fn a_ping_beside_fragments_that_the_vpn_judges_waits_for_little() {
    let narrow = Narrow::new(LINK).unwrap();
    // Under rules neither goes by itself: both are written by the VPN's process.
    narrow.pair.deny("deny send udp/9 to any by any").unwrap();
    narrow.pair.judges().unwrap();
    let (_sink, mut pour) = narrow.pour(60_000).unwrap();
    a_ping_waits_for_little(&narrow, &mut pour);
}
