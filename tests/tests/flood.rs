//! A flood of requests from sources that don't exist. It has this file, and so the machine, for itself.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::flood::{Offer, flood};
use tests::{Line, until};

/// Bytes a second of the paced flow: what programs without optimisation carry beside the flood; `lab-bench` has 20 MB/s.
const BULK: u64 = 4_000_000;
/// What `shim-udp` answers of strangers in a second.
const ANSWERED_A_SECOND: u64 = 4096;

#[test]
fn a_flood_from_spoofed_sources_leaves_live_flows_and_a_bulk_load_their_rate() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let (a, b) = (line.host("a").unwrap(), line.host("b").unwrap());
    let daemons = || ["irmd", "ipcpd", "shim-udp"].map(|name| b.programs(name));
    let before = daemons();
    let offer = Offer {
        requests: 22_000,
        starts: 0,
        seconds: 30,
        bulk: BULK,
    };
    let out = flood(&line, offer).unwrap();
    let all = serde_json::to_string_pretty(&out).unwrap();
    eprintln!("{all}");
    assert!(out.offered_per_s >= 20_000.0, "{all}");
    for flow in &out.flows {
        assert!(flow.kept() >= 0.9, "{all}");
    }
    assert!(out.bulk.quiet_per_s >= 0.9 * BULK as f64, "{all}");
    assert!(out.bulk.kept() >= 0.9, "{all}");
    assert!((200..=1024).contains(&out.most_sockets), "{all}");
    for [early, late] in [out.memory_kib, out.member_kib] {
        assert!(late < early + 4096, "{all}");
    }
    // Each request was answered, or is counted with the reason why not.
    let of = |name: &str| out.counted[name].as_u64().unwrap_or(0);
    assert_eq!(of("requests"), of("echoes") + of("drop.flood"), "{all}");
    let seen = of("requests") + out.unread;
    assert!(seen * 100 >= out.offered * 98, "{all}");
    // Where the shim gets too little of a core to read more than it answers, none are too many.
    let too_many = of("requests") > 30 * ANSWERED_A_SECOND;
    assert!(of("drop.flood") > 0 || !too_many, "{all}");
    assert!(of("drop.evicted") > 0, "{all}");
    assert_eq!(daemons(), before, "a daemon died: {all}");
    // Who is in earnest gets through when it is over.
    let _echo = b
        .spawn("irm", ["echo", "near", "--layer", "net-ab"])
        .unwrap();
    until(Duration::from_secs(10), || {
        a.irm("ping near --layer net-ab -c 1 --qos raw --timeout 1s")
    })
    .unwrap();
}
