//! Joining a layer through a member that isn't its issuer, and a layer over a layer.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::{Host, Lab, Process, until};

const FIVE: Duration = Duration::from_secs(5);

/// A host with its irmd.
struct Node {
    host: Host,
    _irmd: Process,
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
    let (ba, ad) = (
        lab.veth(&b.host, &a.host).unwrap(),
        lab.veth(&a.host, &d.host).unwrap(),
    );
    let irm = |node: &Node, line: String| node.host.irm(&line).unwrap();
    irm(
        &b,
        format!(
            "ipcp bootstrap udp --type shim-udp --layer net-ba --ip {}",
            ba.ip(0)
        ),
    );
    irm(
        &a,
        format!(
            "ipcp bootstrap udp1 --type shim-udp --layer net-ba --ip {} --host ovl-b={}",
            ba.ip(1),
            ba.ip(0)
        ),
    );
    irm(
        &a,
        format!(
            "ipcp bootstrap udp2 --type shim-udp --layer net-ad --ip {}",
            ad.ip(0)
        ),
    );
    irm(
        &d,
        format!(
            "ipcp bootstrap udp --type shim-udp --layer net-ad --ip {} --host ovl-a={}",
            ad.ip(1),
            ad.ip(0)
        ),
    );
    irm(
        &b,
        "ipcp bootstrap ovl-b --type unicast --layer overlay".into(),
    );
    let invite = |member: &str| {
        irm(&b, format!("layer invite overlay --member {member}"))
            .trim()
            .to_owned()
    };
    irm(
        &a,
        format!(
            "ipcp enroll ovl-a --type unicast --invite {}",
            invite("ovl-a")
        ),
    );
    let url = invite("ovl-d");
    irm(
        &d,
        format!("ipcp enroll ovl-d --type unicast --invite {url}"),
    );

    // A program on D reaches one on B.
    let _echo = b
        .host
        .spawn("irm", ["echo", "far", "--layer", "overlay"])
        .unwrap();
    until(FIVE, || {
        d.host
            .irm("ping far --layer overlay -c 3 -i 0.01 --peer ovl-b")
    })
    .unwrap();
    // The wrong member is refused, and the invitation can't be used again.
    assert_ne!(
        d.host
            .run(
                "irm",
                [
                    "ping", "far", "--layer", "overlay", "-c", "1", "--peer", "ovl-a"
                ]
            )
            .unwrap()
            .code,
        0
    );
    let again = a
        .host
        .run(
            "irm",
            [
                "ipcp", "enroll", "ovl-x", "--type", "unicast", "--invite", &url,
            ],
        )
        .unwrap();
    assert_eq!(again.code, 6, "{}", again.stderr);
    let members = d.host.irm_json("layer members overlay").unwrap();
    assert_eq!(members["members"].as_array().unwrap().len(), 3, "{members}");
}

#[test]
fn a_layer_over_a_layer_over_udp_carries_flows() {
    let lab = Lab::new().unwrap();
    let [a, b] = ["a", "b"].map(|name| node(&lab, name));
    let link = lab.veth(&a.host, &b.host).unwrap();
    let irm = |node: &Node, line: String| node.host.irm(&line).unwrap();
    irm(
        &b,
        format!(
            "ipcp bootstrap udp --type shim-udp --layer net --ip {}",
            link.ip(1)
        ),
    );
    irm(
        &a,
        format!(
            "ipcp bootstrap udp --type shim-udp --layer net --ip {} --host low-b={}",
            link.ip(0),
            link.ip(1)
        ),
    );
    irm(&b, "ipcp bootstrap low-b --type unicast --layer low".into());
    let url = irm(&b, "layer invite low --member low-a".into());
    irm(
        &a,
        format!("ipcp enroll low-a --type unicast --invite {}", url.trim()),
    );
    irm(
        &b,
        "ipcp bootstrap top-b --type unicast --layer top --over low".into(),
    );
    let url = irm(&b, "layer invite top --member top-a".into());
    irm(
        &a,
        format!(
            "ipcp enroll top-a --type unicast --over low --invite {}",
            url.trim()
        ),
    );

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
