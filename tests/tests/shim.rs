//! The UDP shim as others meet it: a client made from its wire alone, and many allocations over a bad link.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use tests::{Impairment, Lab, until};

#[test]
fn a_client_with_bare_sockets_gets_a_flow() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let _irmd = b.irmd().unwrap();
    b.irm(&format!(
        "ipcp bootstrap udp --type shim-udp --layer net --ip {}",
        link.ip(1)
    ))
    .unwrap();
    let _echo = b.spawn("irm", ["echo", "hello", "--layer", "net"]).unwrap();
    until(Duration::from_secs(5), || {
        b.irm("wait name hello --state registered --timeout 1s")
    })
    .unwrap();
    // lab-tool knows nothing of Strata: it sends the name to port 3359 and talks to whoever echoes it.
    let at = format!("{}:3359", link.v4[1]);
    let out = a
        .run("lab-tool", ["seed-client", &at, "hello", "10"])
        .unwrap();
    assert_eq!(out.stdout.trim(), "10 of 10", "{}", out.stderr);
    // An unknown name gets no answer at all.
    let out = a
        .run("lab-tool", ["seed-client", &at, "nobody", "1"])
        .unwrap();
    assert!(out.code != 0 && out.stderr.contains("no echo"), "{out:?}");
}

#[test]
fn two_hundred_allocations_at_once_succeed_while_every_third_echo_is_lost() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let mut link = lab.link(&a, &b, 3).unwrap();
    let (_ia, _ib) = (a.irmd().unwrap(), b.irmd().unwrap());
    b.irm(&format!(
        "ipcp bootstrap udp --type shim-udp --layer net --ip {}",
        link.ip(1)
    ))
    .unwrap();
    a.irm(&format!(
        "ipcp bootstrap udp --type shim-udp --layer net --ip {} --host many={}",
        link.ip(0),
        link.ip(1)
    ))
    .unwrap();
    let _echo = b.spawn("irm", ["echo", "many", "--layer", "net"]).unwrap();
    until(Duration::from_secs(5), || {
        a.irm("ping many --layer net -c 1 --qos raw --timeout 500ms")
    })
    .unwrap();
    link.impair(Impairment {
        drop_every: 3,
        ..Impairment::default()
    })
    .unwrap();
    let start = Instant::now();
    let out = a
        .run(
            "lab-flows",
            [
                "many",
                "--layer",
                "net",
                "--count",
                "200",
                "--timeout-ms",
                "2000",
            ],
        )
        .unwrap();
    assert_eq!(out.code, 0, "{} {}", out.stdout, out.stderr);
    let json: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(json["allocated"], 200, "{json} in {:?}", start.elapsed());
    assert!(json["slowest_ms"].as_f64().unwrap() < 2000.0, "{json}");
}
