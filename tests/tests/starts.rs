//! Handshakes that a stranger begins over many flows, beside a flood of requests. It has this file, and so the machine, for itself.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use tests::Line;
use tests::flood::{Offer, flood};

/// Bytes a second of the paced flow.
const BULK: u64 = 2_000_000;

/// The short form of `lab-bench flood`, which measures what is promised, on a quiet machine. As many starts are offered here, and
/// fewer of all else, so that programs without optimisation hold it on two cores that are busy with other things: with a quarter of
/// a core left for the member, 96 % of each flow stayed, and a new one took 0.1 s. While each of the stranger's flows was read as
/// often as a neighbour's, none stayed: what neighbours sent waited for seconds and was lost.
#[test]
fn handshakes_begun_by_a_stranger_leave_live_flows_most_of_their_rate_and_let_new_ones_in() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let b = line.host("b").unwrap();
    let daemons = || ["irmd", "ipcpd", "shim-udp"].map(|name| b.programs(name));
    let before = daemons();
    let offer = Offer {
        requests: 5_000,
        starts: 2_000,
        seconds: 5,
        bulk: BULK,
    };
    let out = flood(&line, offer).unwrap();
    let all = serde_json::to_string_pretty(&out).unwrap();
    eprintln!("{all}");
    let [said, shaken] = &out.starts;
    assert!(said["starts"].as_u64() > Some(2_000), "{all}");
    let most = shaken["drop.handshake_rate"].as_u64();
    let late = shaken["drop.handshake_late"].as_u64();
    assert!(most.max(late) > Some(100), "they were no flood: {all}");
    for flow in out.flows.iter().chain([&out.bulk]) {
        assert!(flow.kept() >= 0.7, "{all}");
    }
    for [early, late] in [out.memory_kib, out.member_kib] {
        assert!(early > 0 && late < early + 8192, "{all}");
    }
    assert!((0.1..3000.0).contains(&out.new_flow_ms), "{all}");
    assert_eq!(daemons(), before, "a daemon died: {all}");
}
