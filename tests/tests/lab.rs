//! The Lab itself: hosts reach each other over a link, and impairments do what they say.

use std::net::UdpSocket;
use std::time::Duration;

use tests::{Impairment, Lab};

#[test]
fn hosts_on_a_veth_reach_each_other_and_nobody_else() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let sink = a
        .spawn("lab-tool", ["udp-echo", &format!("{}:7000", link.v4[0])])
        .unwrap();
    // The echo needs a moment before it listens.
    let once = ["udp-send", &format!("{}:7000", link.v4[0]), "1"];
    while b.run("lab-tool", once).unwrap().stdout.trim() != "1 of 1" {}
    let out = b
        .run(
            "lab-tool",
            ["udp-send", &format!("{}:7000", link.v4[0]), "20"],
        )
        .unwrap();
    assert_eq!(
        out.stdout.trim(),
        "20 of 20",
        "{} {}",
        out.stderr,
        sink.log()
    );
    // Nothing leaks to the host that runs the test.
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    outside
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(
        outside.send_to(b"x", (link.v4[0], 7000)).is_err() || outside.recv(&mut [0; 8]).is_err()
    );
}

#[test]
fn an_impaired_link_loses_every_third_datagram_and_can_be_cut() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let mut link = lab.link(&a, &b, 7).unwrap();
    let at = format!("{}:7000", link.v4[1]);
    let _echo = b.spawn("lab-tool", ["udp-echo", &at]).unwrap();
    let count = |n: &str| {
        a.run("lab-tool", ["udp-send", &at, n])
            .unwrap()
            .stdout
            .trim()
            .to_owned()
    };
    // The echo needs a moment before it listens.
    while count("1") != "1 of 1" {}
    assert_eq!(count("30"), "30 of 30");
    link.impair(Impairment {
        drop_every: 3,
        ..Impairment::default()
    })
    .unwrap();
    assert_eq!(count("30"), "20 of 30");
    link.impair(Impairment {
        cut: true,
        ..Impairment::default()
    })
    .unwrap();
    assert_eq!(count("3"), "0 of 3");
    link.impair(Impairment {
        delay_us: 2_000,
        jitter_us: 1_000,
        ..Impairment::default()
    })
    .unwrap();
    assert_eq!(count("10"), "10 of 10");
}
