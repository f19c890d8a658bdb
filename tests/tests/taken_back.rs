//! A policy that forbids what goes by itself, where the link takes less than is offered.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Host, Pair, eventually};

const TEN: Duration = Duration::from_secs(10);
/// What the link takes, in Mbit/s.
const LINK: u32 = 4;
/// Until what is forbidden goes by itself no more. The decree comes meanwhile, by the other way of the link.
const MOST: Duration = Duration::from_secs(2);

fn counter(host: &Host, name: &str) -> u64 {
    let status: Value = host.irm_json("vpn status").unwrap();
    status["vpns"][0]["counters"][name].as_u64().unwrap()
}

#[test]
fn what_a_policy_forbids_ends_at_once_though_the_link_is_full() {
    let pair = Pair::narrow(LINK).unwrap();
    let (a, b) = (&pair.a, &pair.b);
    pair.deny("deny send udp/9 to any by any").unwrap();
    pair.judges().unwrap();

    // One conversation goes by itself. Of the other every packet is a fragment and goes by the VPN's process, more than the link takes.
    let all = [("7000", 1200, 8), ("7001", 60_000, 40)].map(|(port, size, mbit)| {
        let to = format!("10.9.2.1:{port}");
        let sink = b.spawn("lab-tool", ["udp-sink", &to]).unwrap();
        eventually(TEN, "the sink is there", || sink.newest()["bytes"] == 0).unwrap();
        let rate = (mbit * 125_000 / size).to_string();
        let size = size.to_string();
        let how = ["--size", &size, "--rate", &rate, "--seconds", "60"];
        let pour = ["udp-pour", &to].into_iter().chain(how);
        (a.spawn("lab-tool", pour).unwrap(), sink)
    });
    for (_, sink) in &all {
        let come = || sink.newest()["bytes"].as_u64() > Some(0);
        eventually(TEN, "datagrams come", come).unwrap();
    }
    // So much that all queues on the way are full.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(counter(a, "handed_packets") > 100, "nothing goes by itself");

    let before = counter(a, "drop.filter_out");
    let begin = Instant::now();
    pair.deny("deny send udp/7000 to any by any").unwrap();
    let set = begin.elapsed();
    // The VPN's process sees them only when they don't go by themselves any more.
    let refused = || counter(a, "drop.filter_out") > before;
    eventually(TEN, "what is forbidden is refused", refused).unwrap();
    let took = begin.elapsed();
    println!("refused {took:?} after the policy was set, which took {set:?}");
    assert!(took < set + MOST, "it went on for {took:?}");
}
