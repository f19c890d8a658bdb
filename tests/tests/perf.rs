//! `irm perf` over a layer: what it says is what the receiver has counted, also where much is lost, and whoever sends.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::{Impairment, Lab, eventually, until};

const TEN: Duration = Duration::from_secs(10);
const SDU: u64 = 1000;

#[test]
fn what_is_lost_on_the_way_is_no_throughput_and_what_is_sent_again_is_counted_once() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let mut link = lab.link(&a, &b, 34).unwrap();
    let _irmds = [&a, &b].map(|host| host.irmd().unwrap());
    link.overlay(&a, &b).unwrap();
    let serve = ["perf", "speed", "--layer", "overlay", "--server"];
    let server = b.spawn("irm", serve).unwrap();
    b.irm("wait name speed --timeout 10s").unwrap();
    let perf = |qos: &str, way: &str| {
        let perf = format!("perf speed --layer overlay -t 2 -s {SDU} --qos {qos} {way}");
        a.irm_json(&perf)
    };
    until(TEN, || perf("raw", "")).unwrap();
    link.impair(Impairment {
        loss: 0.1,
        ..Impairment::default()
    })
    .unwrap();
    for (qos, way) in [
        ("raw", ""),
        ("raw", "--reverse"),
        ("data", ""),
        ("data", "--reverse"),
    ] {
        let said = perf(qos, way).unwrap();
        println!("{qos} {way}: {said}");
        let of = |key: &str| said[key].as_u64().unwrap();
        let (sent, got) = (of("sdus_sent"), of("sdus_received"));
        assert!(got > 0, "{said}");
        assert_eq!((of("bytes"), of("sdus_lost")), (got * SDU, sent - got));
        if qos == "raw" {
            assert!(got * 100 <= sent * 93, "a tenth is lost: {said}");
        } else {
            assert_eq!(got, sent, "{said}");
        }
        let seconds = said["seconds"].as_f64().unwrap();
        let rate = got as f64 * SDU as f64 * 8e-9 / seconds;
        let told = said["gbit_per_s"].as_f64().unwrap();
        assert!((told - rate).abs() <= rate / 1000.0, "{rate}: {said}");
        // The other end counts for itself where it receives, and is told where it sends.
        let both = format!("{sent} sent, {got} received");
        eventually(TEN, "the server has said it too", || {
            server.log().contains(&both)
        })
        .unwrap_or_else(|e| panic!("{e}: {both}: {}", server.log()));
    }
}
