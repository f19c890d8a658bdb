//! Joining a layer through a member that isn't its issuer, and a layer over a layer.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Host, Lab, Link, Process, until};

const FIVE: Duration = Duration::from_secs(5);

/// A host with its irmd.
struct Node {
    host: Host,
    _irmd: Process,
}

impl Node {
    /// Runs `irm`, which must succeed, and gives what it printed, trimmed.
    fn irm(&self, line: &str) -> String {
        self.host.irm(line).unwrap().trim().to_owned()
    }
}

fn node(lab: &Lab, name: &str) -> Node {
    let host = lab.host(name).unwrap();
    let irmd = host.irmd().unwrap();
    Node { host, _irmd: irmd }
}

#[test]
fn a_member_joins_through_one_that_is_not_the_issuer() {
    let lab = Lab::new().unwrap();
    let [b, a, d] = ["b", "a", "d"].map(|name| node(&lab, name));
    let (_ba, _ad) = shims(&lab, &b, &a, &d);
    b.irm("ipcp bootstrap ovl-b --type unicast --layer overlay");
    let invite = |member: &str| b.irm(&format!("layer invite overlay --member {member}"));
    let enroll = |node: &Node, member: &str, url: &str| {
        node.irm(&format!(
            "ipcp enroll {member} --type unicast --invite {url}"
        ))
    };
    enroll(&a, "ovl-a", &invite("ovl-a"));
    let url = invite("ovl-d");
    enroll(&d, "ovl-d", &url);

    // A program on D reaches one on B.
    let _echo = b
        .host
        .spawn("irm", ["echo", "far", "--layer", "overlay"])
        .unwrap();
    let ping = "ping far --layer overlay -c 3 -i 0.01 --peer";
    until(FIVE, || d.host.irm(&format!("{ping} ovl-b"))).unwrap();
    // The wrong member is refused, and the invitation can't be used again.
    let wrong = d.host.irm(&format!("{ping} ovl-a --timeout 1s"));
    assert!(wrong.is_err(), "a flow to the wrong member: {wrong:?}");
    let again = [
        "ipcp", "enroll", "ovl-x", "--type", "unicast", "--invite", &url,
    ];
    let again = a.host.run("irm", again).unwrap();
    assert_eq!(again.code, 6, "{}", again.stderr);
    let members = d.host.irm_json("layer members overlay").unwrap();
    assert_eq!(members["members"].as_array().unwrap().len(), 3, "{members}");
}

/// B–A–D: A's shims know where B is, D's where A is.
fn shims(lab: &Lab, b: &Node, a: &Node, d: &Node) -> (Link, Link) {
    let (ba, ad) = (
        lab.veth(&b.host, &a.host).unwrap(),
        lab.veth(&a.host, &d.host).unwrap(),
    );
    let shim = |node: &Node, name: &str, layer: &str, ip: IpAddr, host: String| {
        node.irm(&format!(
            "ipcp bootstrap {name} --type shim-udp --layer {layer} --ip {ip} {host}"
        ))
    };
    shim(b, "udp", "net-ba", ba.ip(0), String::new());
    shim(
        a,
        "udp1",
        "net-ba",
        ba.ip(1),
        format!("--host ovl-b={}", ba.ip(0)),
    );
    shim(a, "udp2", "net-ad", ad.ip(0), String::new());
    shim(
        d,
        "udp",
        "net-ad",
        ad.ip(1),
        format!("--host ovl-a={}", ad.ip(0)),
    );
    (ba, ad)
}

#[test]
fn a_layer_over_a_layer_over_udp_carries_flows() {
    let lab = Lab::new().unwrap();
    let [a, b] = ["a", "b"].map(|name| node(&lab, name));
    let link = lab.veth(&a.host, &b.host).unwrap();
    b.irm(&format!(
        "ipcp bootstrap udp --type shim-udp --layer net --ip {}",
        link.ip(1)
    ));
    a.irm(&format!(
        "ipcp bootstrap udp --type shim-udp --layer net --ip {} --host low-b={}",
        link.ip(0),
        link.ip(1)
    ));
    b.irm("ipcp bootstrap low-b --type unicast --layer low");
    let url = b.irm("layer invite low --member low-a");
    a.irm(&format!(
        "ipcp enroll low-a --type unicast --invite {}",
        url
    ));
    b.irm("ipcp bootstrap top-b --type unicast --layer top --over low");
    let url = b.irm("layer invite top --member top-a");
    a.irm(&format!(
        "ipcp enroll top-a --type unicast --over low --invite {}",
        url
    ));

    let _echo = b
        .host
        .spawn("irm", ["echo", "deep", "--layer", "top"])
        .unwrap();
    until(FIVE, || {
        a.host
            .irm("ping deep --layer top -c 3 -i 0.01 --peer top-b")
    })
    .unwrap();
    let big = a
        .host
        .irm_json("ping deep --layer top -c 20 -i 0.005 -s 1200")
        .unwrap();
    assert_eq!(big["received"], 20, "{big}");
    // Around in a circle is refused.
    let circle = b
        .host
        .run(
            "irm",
            [
                "ipcp",
                "bootstrap",
                "x",
                "--type",
                "unicast",
                "--layer",
                "low",
                "--over",
                "top",
            ],
        )
        .unwrap();
    assert_ne!(circle.code, 0);
}

#[test]
fn an_adjacency_and_offloads_change_live_and_flows_are_waited_for_with_short_keywords_too() {
    let lab = Lab::new().unwrap();
    let [a, b] = ["a", "b"].map(|name| node(&lab, name));
    let link = lab.veth(&a.host, &b.host).unwrap();
    let (on_a, on_b) = (link.ip(0), link.ip(1));
    b.irm(&format!("i b t shim-udp n udp l net ip {on_b}"));
    a.irm(&format!(
        "i b t shim-udp n udp l net ip {on_a} host ovl-b={on_b}"
    ));
    b.irm("ipcp bootstrap type unicast name ovl-b layer ovl");
    let url = b.irm("layer invite ovl --member ovl-a");
    a.irm(&format!("i e t unicast n ovl-a inv {url}"));
    // Started when somebody asks for it.
    let irm = lab.bins().join("irm");
    b.irm(&format!(
        "b prog {} n hello a -- echo hello --layer ovl",
        irm.display()
    ));
    b.irm("n r n hello l ovl");

    let waits = a
        .host
        .spawn("irm", "wait flow hello --timeout 5s".split(' '))
        .unwrap();
    let asks = "ping hello --layer ovl -i 0.01 --timeout 5s -c 1000";
    let mut ping = a.host.spawn("irm", asks.split(' ')).unwrap();
    ends_well(waits);
    let early = a.host.run(
        "irm",
        "wait flow hello --state down --timeout 100ms".split(' '),
    );
    assert_eq!(early.unwrap().code, 7);
    switch_offloads(&[&a, &b]);
    assert!(
        ping.alive(),
        "the flow did not live through it: {}",
        ping.log()
    );

    a.irm("ipcp disconnect n ovl-a dst ovl-b");
    until(FIVE, || without_links(&a)).unwrap();
    until(FIVE, || without_links(&b)).unwrap();
    let cut = "ping hello --layer ovl -c 1 --timeout 500ms";
    let cut = a.host.run("irm", cut.split(' ')).unwrap();
    assert_ne!(cut.code, 0, "{}", cut.stdout);
    a.irm("ipcp connect n ovl-a dst ovl-b");
    until(FIVE, || a.host.irm("ping hello --layer ovl -c 3 -i 0.01")).unwrap();
    let gone = a
        .host
        .spawn(
            "irm",
            "wait flow hello --state down --timeout 5s".split(' '),
        )
        .unwrap();
    assert!(
        ping.alive(),
        "the flow did not outlive the cut: {}",
        ping.log()
    );
    ping.signal(Signal::SIGINT).unwrap();
    ping.wait(FIVE).unwrap();
    ends_well(gone);
}

fn switch_offloads(nodes: &[&Node]) {
    for (switch, mode) in [
        ("gso", "off"),
        ("gro", "off"),
        ("gso", "on"),
        ("gro", "auto"),
    ] {
        for node in nodes {
            node.irm(&format!("ipcp set n udp offload {switch}={mode}"));
            let udp = ipcp(node, "udp");
            assert_eq!(udp["status"]["settings"][switch], mode, "{udp}");
        }
    }
}

fn ends_well(mut process: Process) {
    assert_eq!(process.wait(FIVE).unwrap(), 0, "{}", process.log());
}

/// An IPC process with all that it says of itself.
fn ipcp(node: &Node, name: &str) -> Value {
    let status = node.host.irm_json("status").unwrap();
    let mut all = status["ipcps"].as_array().unwrap().iter();
    all.find(|i| i["name"] == name).unwrap().clone()
}

fn without_links(node: &Node) -> anyhow::Result<()> {
    let ipcp = ipcp(node, &format!("ovl-{}", node.host.name));
    let links = ipcp["status"]["links"].as_array();
    anyhow::ensure!(links.is_some_and(Vec::is_empty), "{ipcp}");
    Ok(())
}
