//! Programs beside a VPN that has more to send than a slow link takes. The link's device pushes back, as that of an uplink does.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::{Host, PAIR_V4, Pair, Process, eventually, until};

const TEN: Duration = Duration::from_secs(10);
/// What the link takes, and what is offered to the VPN, in Mbit/s.
const LINK: u32 = 20;
const OFFERED: u32 = 48;
const DATAGRAM: u32 = 1200;
/// Mbit/s that everybody gets at least: a half would be fair, and who starves has none.
const ENOUGH: f64 = 3.0;
/// Half the pings beside what fills the link are back by then; some 10 ms is usual.
const WAITED: Duration = Duration::from_millis(60);

/// Two hosts with a layer and its VPN between them, over a narrow link.
struct Narrow(Pair);

impl Narrow {
    fn new() -> Self {
        Self(Pair::narrow(LINK).unwrap())
    }

    /// Datagrams over the VPN that have filled the link, and who counts them at the other end.
    fn pour(&self, size: u32) -> (Process, Process) {
        let Pair { a, b, .. } = &self.0;
        let sink = b.spawn("lab-tool", ["udp-sink", "10.9.2.1:7000"]);
        let sink = sink.unwrap();
        let bytes = || sink.newest()["bytes"].as_u64();
        eventually(TEN, "the sink is there", || bytes() == Some(0)).unwrap();
        let (size, rate) = (size.to_string(), OFFERED * 125_000 / size);
        let rate = rate.to_string();
        let pour = ["udp-pour", "10.9.2.1:7000", "--size", &size];
        let how = ["--rate", &rate, "--seconds", "60"];
        let pour = a.spawn("lab-tool", pour.into_iter().chain(how)).unwrap();
        eventually(TEN, "datagrams come", || bytes() > Some(1 << 20)).unwrap();
        // So much that all queues on the way are full.
        std::thread::sleep(Duration::from_millis(1500));
        (sink, pour)
    }

    /// Mbit/s of a program's flow from A to B that begins when datagrams over the VPN fill the link, and of these meanwhile.
    fn beside(&self, qos: &str) -> (f64, f64) {
        let serve = ["perf", "bulk", "--layer", "overlay", "--server"];
        let Pair { a, b, .. } = &self.0;
        let _server = b.spawn("irm", serve).unwrap();
        b.irm("wait name bulk").unwrap();
        let (sink, mut pour) = self.pour(DATAGRAM);
        let bytes = || sink.newest()["bytes"].as_u64();
        let before = bytes().unwrap();
        let begin = std::time::Instant::now();
        let perf = format!("perf bulk --layer overlay -t 4 -s 1200 --qos {qos}");
        let said = a.irm_json(&perf);
        let others = (bytes().unwrap() - before) as f64 * 8e-6 / begin.elapsed().as_secs_f64();
        assert!(pour.alive(), "it was over too soon: {}", pour.log());
        let rate = said.map(|said| said["gbit_per_s"].as_f64().unwrap());
        // Not to be let in at all is to starve.
        (
            rate.unwrap_or_else(|why| {
                eprintln!("{why}");
                0.0
            }) * 1e3,
            others,
        )
    }
}

#[test]
fn programs_and_a_vpn_share_a_link_that_is_too_narrow_for_the_vpn_alone() {
    let narrow = Narrow::new();
    for qos in ["data", "raw"] {
        // A machine that does other things may give somebody too little once; who starves has nothing each time.
        let mut last = (0.0, 0.0);
        let enough = (0..3).any(|_| {
            last = narrow.beside(qos);
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
fn a_ping_beside_a_stream_that_fills_the_link_waits_for_little() {
    let narrow = Narrow::new();
    let Pair { a, b, .. } = &narrow.0;
    let (at, much) = ("10.9.2.1:8080", "200000000");
    let _server = b.spawn("lab-tool", ["http-serve", at, much]).unwrap();
    let mut last = serde_json::Value::Null;
    let short = (0..3).any(|_| {
        let get = until(TEN, || {
            let mut get = a.spawn("lab-tool", ["http-get", at])?;
            std::thread::sleep(Duration::from_secs(2));
            anyhow::ensure!(get.alive(), "{}", get.log());
            Ok(get)
        });
        let mut get = get.unwrap();
        let ping = ["ping", PAIR_V4[1], "-c", "100", "-i", "20"];
        let out = a.run("lab-tool", ping).unwrap();
        assert!(get.alive(), "it was over too soon: {}", get.log());
        last = serde_json::from_str(&out.stdout).unwrap();
        println!("beside the stream: {last}");
        let p50 = last["rtt_us"]["p50"].as_u64().unwrap();
        last["received"].as_u64() >= Some(95) && p50 < WAITED.as_micros() as u64
    });
    assert!(short, "{last}");
}

#[test]
fn a_ping_beside_datagrams_that_never_slow_down_waits_for_little() {
    let narrow = Narrow::new();
    let Pair { a, .. } = &narrow.0;
    let (_sink, mut pour) = narrow.pour(DATAGRAM);
    let last = a_ping_waits_for_little(a, &mut pour);
    assert!(last.is_ok(), "{last:?}");
}

/// A hundred pings beside what fills the link; the error is what the last round of three gave.
fn a_ping_waits_for_little(a: &Host, pour: &mut Process) -> Result<(), serde_json::Value> {
    let mut last = serde_json::Value::Null;
    let short = (0..3).any(|_| {
        let ping = ["ping", PAIR_V4[1], "-c", "100", "-i", "20"];
        let out = a.run("lab-tool", ping).unwrap();
        assert!(pour.alive(), "it was over too soon: {}", pour.log());
        last = serde_json::from_str(&out.stdout).unwrap();
        eprintln!("beside what fills the link: {last}");
        let p50 = last["rtt_us"]["p50"].as_u64();
        let short = p50.is_some_and(|p50| p50 < WAITED.as_micros() as u64);
        last["received"].as_u64() >= Some(95) && short
    });
    short.then_some(()).ok_or(last)
}

#[test]
fn a_ping_beside_fragments_that_the_vpn_judges_waits_for_little() {
    let narrow = Narrow::new();
    let Pair { a, .. } = &narrow.0;
    // Under rules neither goes by itself: both are written by the VPN's process.
    narrow.0.deny("deny send udp/9 to any by any").unwrap();
    narrow.0.judges().unwrap();
    let (_sink, mut pour) = narrow.pour(60_000);
    let last = a_ping_waits_for_little(a, &mut pour);
    assert!(last.is_ok(), "{last:?}");
}
