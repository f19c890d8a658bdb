//! Many flows between hosts: what they took of the daemons on their way is given back.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::look::{leaks, settled};
use tests::talk::Talk;
use tests::{Host, Line, until};

const FIVE: Duration = Duration::from_secs(5);

#[test]
fn a_thousand_flows_from_a_to_c_come_and_go_without_a_leak() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let _echo = c
        .spawn("irm", ["echo", "many", "--layer", "overlay"])
        .unwrap();
    until(FIVE, || a.irm("ping many --layer overlay -c 1")).unwrap();
    // What a process allocates once is no leak; more at once than afterwards takes the most of it.
    thousand(a, 300);
    let before = settled(&line.hosts, "overlay", 4 * FIVE).unwrap();
    thousand(a, 100);
    let after = settled(&line.hosts, "overlay", 4 * FIVE).unwrap();
    let all = format!("before: {before:#?}\nafter: {after:#?}");
    assert_eq!(
        before.len(),
        11,
        "A and C have three daemons and B four, C an echo beside: {all}"
    );
    let leaks = leaks(&before, &after, TOLERANCE_KIB);
    assert!(leaks.is_empty(), "{leaks:#?}: {all}");
}

#[test]
fn a_program_that_is_killed_is_no_good_close_to_who_talked_with_it_over_a_layer() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    for (from, to, kills) in [(a, c, true), (c, a, false)] {
        let talk = Talk::begin(from, to).unwrap();
        talk.goes_on("the flow stands").unwrap();
        let heard = talk.heard_at_the_end(kills).unwrap();
        let end = heard["end"].as_str().unwrap();
        assert_eq!(heard["closed"], !kills, "{heard}");
        let words = ["closed the flow", "without a word"][usize::from(kills)];
        assert!(end.contains(words), "{heard}");
    }
}

/// Flows to a name on C: most one after the other, some at once.
fn thousand(host: &Host, at_once: u64) {
    let flows = |how: &[&str]| {
        let args = ["many", "--layer", "overlay"].iter().chain(how);
        let out = host.run("lab-flows", args).unwrap();
        let json: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
        assert!(json["failed"].as_array().unwrap().is_empty(), "{json}");
        json["allocated"].as_u64().unwrap()
    };
    let all = flows(&["--count", &(1000 - at_once).to_string(), "--in-turn"])
        + flows(&["--count", &at_once.to_string()]);
    assert_eq!(all, 1000);
}

/// A flow that leaks more than half a KiB shows.
const TOLERANCE_KIB: u64 = 512;
