//! Two hundred flows that open and close without end; `lab-bench churn` does it for ten minutes. It has this file, and so the
//! machine, for itself.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::Line;
use tests::churn::churn;

#[test]
fn two_hundred_flows_open_and_close_and_nothing_is_left_of_them() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let out = churn(&line, 200, Duration::from_secs(12), TOLERANCE_KIB).unwrap();
    let all = serde_json::to_string_pretty(&out).unwrap();
    eprintln!("{all}");
    let of = |name: &str| out.users[name].as_u64().unwrap();
    assert!(of("allocated") > 1000 && of("most_open") >= 100, "{all}");
    assert_eq!([of("failed"), of("wrong")], [0, 0], "{all}");
    // A raw flow may lose its SDU where a queue is full; a reliable one may not.
    assert!(of("lost") * 100 <= of("allocated"), "{all}");
    assert_eq!(of("echoed") + of("lost"), of("allocated"), "{all}");
    assert!(out.leaks.is_empty() && out.under_way.is_empty(), "{all}");
}

/// A flow that leaks half a KiB shows.
const TOLERANCE_KIB: u64 = 1024;
