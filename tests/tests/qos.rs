//! The queues of a layer over real links: voice beside bulk that takes all there is.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::{Line, until};

const TEN: Duration = Duration::from_secs(10);

/// The p99 of round trips of voice in µs, and how many came back.
fn voice(host: &tests::Host) -> (u64, u64) {
    let ping = "ping talk --layer overlay --qos voice -c 300 -i 0.01";
    let said = host.irm_json(ping).unwrap();
    let p99 = said["rtt_us"]["p99"].as_u64().unwrap();
    (p99, said["received"].as_u64().unwrap())
}

/// The short form of `lab-bench voice`: what is promised is measured there, on a quiet machine.
#[test]
fn voice_is_heard_beside_bulk_that_takes_all_there_is() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let [a, c] = ["a", "c"].map(|name| line.host(name).unwrap());
    let _echo = c
        .spawn("irm", ["echo", "talk", "--layer", "overlay"])
        .unwrap();
    let _server = c
        .spawn("irm", ["perf", "bulk", "--layer", "overlay", "--server"])
        .unwrap();
    c.irm("wait name bulk --timeout 10s").unwrap();
    until(TEN, || a.irm("ping talk --layer overlay --qos voice -c 1")).unwrap();
    let (idle, _) = voice(a);
    let args = "--json perf bulk --layer overlay --qos data -s 1300 -t 6";
    let mut bulk = a.spawn("irm", args.split(' ')).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let (beside, received) = voice(a);
    assert_eq!(bulk.wait(2 * TEN).unwrap(), 0, "{}", bulk.log());
    let said = bulk.json().unwrap();
    let rate = said["gbit_per_s"].as_f64().unwrap();
    println!(
        "voice: p99 {idle} us alone, {beside} us beside {rate:.2} Gbit/s of data: {:.1} times",
        beside as f64 / idle as f64
    );
    assert!(rate > 0.01, "nothing was beside it: {said}");
    assert!(received >= 270, "{received} of 300 came back");
    assert!(beside <= 100_000, "{beside} us beside bulk");
}
