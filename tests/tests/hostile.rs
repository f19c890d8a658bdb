//! A real IPC process with a true member's keys that reads, alters, repeats and makes up what passes through it
//! (`ipcpd/examples/hostile`): it learns nothing and passes for nobody.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Host, Lab, Link, Process, eventually, until};

const FIVE: Duration = Duration::from_secs(5);
const SECRET: &str = "the quick brown fox of strata";

/// A host with its irmd, and the member of the layer `overlay` on it.
struct Node {
    host: Host,
    member: String,
    irmd: Process,
}

impl Node {
    fn new(lab: &Lab, name: &str, bins: &Path) -> Self {
        let host = lab.host(name).unwrap();
        let irmd = host.irmd_in(bins).unwrap();
        let member = format!("ovl-{name}");
        Self { host, member, irmd }
    }

    /// Runs `irm`, which must succeed, and gives what it printed, trimmed.
    fn irm(&self, line: &str) -> String {
        self.host.irm(line).unwrap().trim().to_owned()
    }

    /// A shim at one end of a link, which knows where the other end's member is if this side is to dial it.
    fn shim(&self, layer: &str, link: &Link, end: usize, dials: Option<&Self>) {
        let known = dials.map_or(String::new(), |to| {
            format!("--host {}={}", to.member, link.ip(1 - end))
        });
        self.irm(&format!(
            "ipcp bootstrap {layer} --type shim-udp --layer {layer} --ip {} {known}",
            link.ip(end)
        ));
    }

    fn join(&self, issuer: &Self) {
        let invite = format!("layer invite overlay --member {}", self.member);
        let url = issuer.irm(&invite);
        self.irm(&format!(
            "ipcp enroll {} --type unicast --invite {url}",
            self.member
        ));
    }

    /// What its member says of itself.
    fn status(&self) -> Value {
        let status = self.host.irm_json("status").unwrap();
        let all = status["ipcps"].as_array().unwrap();
        let member = all.iter().find(|i| i["name"] == self.member.as_str());
        member.unwrap()["status"].clone()
    }

    fn count(&self, counter: &str) -> u64 {
        self.status()["counters"][counter]
            .as_u64()
            .unwrap_or_default()
    }

    /// The members that it knows, with their neighbours, and whether it reaches them.
    fn members(&self) -> Vec<(String, Vec<String>, bool)> {
        let status = self.status();
        let member = |m: &Value| {
            let mut neighbours: Vec<String> =
                serde_json::from_value(m["neighbours"].clone()).unwrap();
            neighbours.sort();
            let name = m["name"].as_str().unwrap().to_owned();
            (name, neighbours, m["reachable"] == true)
        };
        let members = status["members"].as_array().unwrap();
        members.iter().map(member).collect()
    }

    /// Who has a name, as it knows; the names themselves are hashes.
    fn holders(&self) -> Vec<(String, String)> {
        let status = self.status();
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let directory = status["directory"].as_array().unwrap().iter();
        let entry = |e: &Value| (text(&e["name_hash"]), text(&e["member"]));
        directory.map(entry).collect()
    }

    fn serve(&self, name: &str) -> Process {
        let args = ["serve", name, "--layer", "overlay", "--text", SECRET];
        let server = self.host.spawn_piped("lab-talk", args).unwrap();
        eventually(FIVE, "the name is served", || server.log().contains(name)).unwrap();
        server
    }

    fn send(&self, name: &str, to: &Self) -> Process {
        let args = [
            "send", name, "--layer", "overlay", "--peer", &to.member, "--text", SECRET,
        ];
        self.host.spawn_piped("lab-talk", args).unwrap()
    }

    /// Tells a hostile member what to do, and waits until it does.
    fn order(&self, number: u64, mut orders: Value) {
        orders["number"] = number.into();
        orders["needle"] = SECRET.into();
        let (new, file) = (
            self.host.run_dir().join("hostile.new"),
            self.host.run_dir().join("hostile.json"),
        );
        fs::write(&new, orders.to_string()).unwrap();
        fs::rename(new, file).unwrap();
        eventually(FIVE, "the hostile member follows its orders", || {
            self.report("number") == number
        })
        .unwrap();
    }

    /// What a hostile member says that it did.
    fn report(&self, what: &str) -> u64 {
        let text = fs::read_to_string(self.host.run_dir().join("hostile-report.json"));
        let json: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
        json[what].as_u64().unwrap_or_default()
    }

    /// Waits until the report is at least so much.
    fn reports(&self, what: &str, least: u64) {
        eventually(FIVE, &format!("{least} {what}"), || {
            self.report(what) >= least
        })
        .unwrap();
    }
}

/// The newest line that `lab-talk send` has printed.
fn said(talk: &Process, what: &str) -> u64 {
    let log = talk.log();
    let whole = &log[..log.rfind('\n').unwrap_or_default()];
    let last = whole.lines().last().unwrap_or_default();
    let json: Value = serde_json::from_str(last).unwrap_or_default();
    json[what].as_u64().unwrap_or_default()
}

/// Waits until so many more SDUs have come back.
fn goes_on(talk: &Process, more: u64, most: Duration) {
    let before = said(talk, "right");
    eventually(most, &format!("{more} more SDUs come back"), || {
        said(talk, "right") >= before + more
    })
    .unwrap_or_else(|e| panic!("{e}: {}", talk.log()));
}

/// A–B–C, B hostile: A has founded the layer, B has joined it, and C is to join it through B.
fn line() -> (Lab, [Node; 3]) {
    let lab = Lab::new().unwrap();
    let hostile = lab.with_ipcpd(&tests::lab::hostile().unwrap()).unwrap();
    let a = Node::new(&lab, "a", lab.bins());
    let b = Node::new(&lab, "b", &hostile);
    let c = Node::new(&lab, "c", lab.bins());
    let ab = lab.veth(&a.host, &b.host).unwrap();
    let bc = lab.veth(&b.host, &c.host).unwrap();
    a.shim("net-ab", &ab, 0, None);
    b.shim("net-ab", &ab, 1, Some(&a));
    b.shim("net-bc", &bc, 0, None);
    c.shim("net-bc", &bc, 1, Some(&b));
    a.irm("ipcp bootstrap ovl-a --type unicast --layer overlay");
    b.join(&a);
    (lab, [a, b, c])
}

fn nobody_panicked(nodes: &[&Node]) {
    for node in nodes {
        let log = node.irmd.log();
        assert!(!log.contains("panicked"), "{}: {log}", node.member);
    }
}

#[test]
fn a_hostile_relay_gets_nobody_in_and_neither_routes_nor_names_are_its_to_change() {
    let (_lab, [a, b, c]) = line();
    b.order(1, json!({"requests": true, "answers": 2, "records": true}));
    c.join(&a);
    b.reports("requests", 7);
    b.reports("answers", 2);
    assert!(a.count("enrol.refused") >= 6, "{}", a.status());
    assert_eq!(c.count("enrol.lied_to"), 2, "{}", c.status());

    let _server = c.serve("ledger");
    let whole: Vec<_> = [
        ("ovl-a", &["ovl-b"][..]),
        ("ovl-b", &["ovl-a", "ovl-c"]),
        ("ovl-c", &["ovl-b"]),
    ]
    .map(|(name, neighbours)| {
        let neighbours = neighbours.iter().map(|n| (*n).to_owned()).collect();
        (name.to_owned(), neighbours, true)
    })
    .into();
    let is_so = || {
        let holders = a.holders();
        let owned = holders.len() == 1 && holders[0].1 == "ovl-c";
        owned && [&a, &c].iter().all(|node| node.members() == whole)
    };
    eventually(FIVE, "all know all, and who has the name", is_so)
        .unwrap_or_else(|e| panic!("{e}: {} {}", a.status(), c.status()));
    b.reports("records", 20);
    for node in [&a, &c] {
        for reason in ["record_forged", "record_wrong_origin"] {
            let dropped = node.count(&format!("drop.{reason}"));
            assert!(dropped > 0, "{} {reason}: {}", node.member, node.status());
        }
    }
    assert!(is_so(), "{} {}", a.status(), c.status());
    for (node, other) in [(&a, "ovl-c"), (&c, "ovl-a")] {
        let json = node.host.irm_json("layer routes overlay").unwrap();
        let mut routes = json["routes"].as_array().unwrap().iter();
        let far = routes.find(|r| r["member"] == other).unwrap();
        assert_eq!(
            (&far["next_hop"], &far["hops"]),
            (&"ovl-b".into(), &2.into())
        );
    }

    // A program at B may take the same name for itself, but it is not C.
    let _same = b
        .host
        .spawn("irm", ["echo", "ledger", "--layer", "overlay"])
        .unwrap();
    eventually(FIVE, "both have the name", || a.holders().len() == 2).unwrap();
    let talk = a.send("ledger", &c);
    goes_on(&talk, 50, FIVE);
    assert_eq!(said(&talk, "wrong"), 0);
    assert_eq!(b.report("needles"), 0);
    nobody_panicked(&[&a, &b, &c]);
}

#[test]
fn a_hostile_relay_reads_changes_repeats_and_forges_nothing_of_what_passes_through_it() {
    let (_lab, [a, b, c]) = line();
    c.join(&a);
    let _server = c.serve("ledger");
    until(FIVE, || {
        a.host.irm("layer routes overlay").and_then(|routes| {
            anyhow::ensure!(routes.contains("ovl-c"), "no route yet: {routes}");
            Ok(())
        })
    })
    .unwrap();

    // Handshakes in the place of C, then all that leaves the true PDUs alone.
    b.order(1, json!({"impersonate": 2, "replay": 1, "forge": 1}));
    let talk = a.send("ledger", &c);
    goes_on(&talk, 500, Duration::from_secs(10));
    b.reports("shaken", 2);
    assert!(a.count("drop.foreign_handshake") >= 2, "{}", a.status());
    b.reports("replayed", 500);
    b.reports("forged", 500);
    for node in [&a, &c] {
        for reason in ["replayed", "forged", "foreign_flow"] {
            let dropped = node.count(&format!("drop.{reason}"));
            assert!(dropped > 100, "{} {reason}: {}", node.member, node.status());
        }
    }
    let (sent, right) = (said(&talk, "sent"), said(&talk, "right"));
    assert!(right * 100 >= sent * 95, "{}", talk.log());

    // Now every one is altered: nothing arrives, and no new flow comes about.
    b.order(2, json!({"alter": 1}));
    std::thread::sleep(Duration::from_millis(300));
    let (right, dropped) = (said(&talk, "right"), c.count("drop.forged"));
    let args = [
        "ping",
        "ledger",
        "--layer",
        "overlay",
        "-c",
        "1",
        "--timeout",
        "1s",
    ];
    let none = a.host.run("irm", args).unwrap();
    assert!(none.code != 0 && none.code < 100, "{none:?}");
    assert_eq!(said(&talk, "right"), right, "{}", talk.log());
    assert!(c.count("drop.forged") > dropped, "{}", c.status());

    // What it leaves alone goes on, on the same flow.
    b.order(3, json!({"alter": 7, "replay": 3, "forge": 5}));
    goes_on(&talk, 300, FIVE);
    let log = talk.finish(FIVE).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    for (what, count) in [("wrong", 0), ("repeated", 0)] {
        assert_eq!(last[what], count, "{last}");
    }
    assert_eq!(last["end"], "", "{last}");
    assert_eq!(b.report("needles"), 0);

    // It would have been seen: what is meant for a program at B can be read there.
    let _own = b.serve("own");
    let talk = until(FIVE, || {
        let talk = a.send("own", &b);
        std::thread::sleep(Duration::from_millis(300));
        anyhow::ensure!(said(&talk, "right") > 0, "{}", talk.log());
        Ok(talk)
    })
    .unwrap();
    b.reports("needles", 10);
    drop(talk);
    nobody_panicked(&[&a, &b, &c]);
}

#[test]
fn a_flow_whose_link_is_cut_goes_on_through_a_third_member_that_reads_none_of_it() {
    let lab = Lab::new().unwrap();
    let hostile = lab.with_ipcpd(&tests::lab::hostile().unwrap()).unwrap();
    let a = Node::new(&lab, "a", lab.bins());
    let b = Node::new(&lab, "b", lab.bins());
    let c = Node::new(&lab, "c", &hostile);
    let ab = lab.veth(&a.host, &b.host).unwrap();
    let ac = lab.veth(&a.host, &c.host).unwrap();
    let bc = lab.veth(&b.host, &c.host).unwrap();
    a.shim("net-ab", &ab, 0, None);
    a.shim("net-ac", &ac, 0, None);
    b.shim("net-ab", &ab, 1, Some(&a));
    b.shim("net-bc", &bc, 0, None);
    c.shim("net-ac", &ac, 1, Some(&a));
    c.shim("net-bc", &bc, 1, Some(&b));
    a.irm("ipcp bootstrap ovl-a --type unicast --layer overlay");
    b.join(&a);
    c.join(&a);
    for neighbour in ["ovl-a", "ovl-b"] {
        c.irm(&format!("ipcp connect ovl-c --dst {neighbour}"));
    }
    c.order(1, json!({}));

    let _server = b.serve("ledger");
    // Two seconds are promised: of three rounds, or as many as it takes, since other programs want the processor, too.
    let mut silences = Vec::new();
    while silences.len() < 3 && silences.iter().all(|ms| *ms > 2_000) {
        a.host.net(&format!("up {}", ab.dev[0])).unwrap();
        until(Duration::from_secs(20), || {
            let routes = a.host.irm("layer routes overlay")?;
            let straight = routes.lines().any(|l| l.matches("ovl-b").count() == 2);
            anyhow::ensure!(straight, "{routes}");
            Ok(())
        })
        .unwrap();
        let talk = a.send("ledger", &b);
        goes_on(&talk, 200, FIVE);
        let straight = c.report("forwarded");
        a.host.net(&format!("down {}", ab.dev[0])).unwrap();
        goes_on(&talk, 500, Duration::from_secs(10));
        c.reports("forwarded", straight + 500);
        let silence = said(&talk, "longest_silence_ms");
        println!("the flow was silent for {silence} ms");
        assert!(silence <= 5_000, "{}", talk.log());
        assert_eq!(said(&talk, "wrong"), 0);
        assert_eq!(c.report("needles"), 0, "C has read a flow of A and B");
        silences.push(silence);
    }
    assert!(silences.iter().any(|ms| *ms <= 2_000), "{silences:?}");

    // It would have been seen: what is meant for a program at C can be read there.
    let _own = c.serve("own");
    let own = until(FIVE, || {
        let own = a.send("own", &c);
        std::thread::sleep(Duration::from_millis(300));
        anyhow::ensure!(said(&own, "right") > 0, "{}", own.log());
        Ok(own)
    })
    .unwrap();
    c.reports("needles", 10);
    drop(own);
    nobody_panicked(&[&a, &b, &c]);
}
