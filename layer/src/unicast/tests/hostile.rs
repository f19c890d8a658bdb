//! Packets that are cut, changed, repeated or made up, by strangers and by members.

use proto::{Addr, EndpointId, QosSpec};

use super::super::out::Class;
use super::super::pdu::{Direct, Routed, TAG_LEN, TTL};
use super::flows::{flow, line, read, register, write};
use super::routes::triangle;
use super::*;

fn dropped(net: &mut Net, at: &'static str, reason: &str) -> u64 {
    status(net, at)
        .counters
        .get(&format!("drop.{reason}"))
        .copied()
        .unwrap_or(0)
}

/// Makes every PDU that goes to `to` also be kept.
fn record(net: &mut Net, to: &'static str) -> std::rc::Rc<std::cell::RefCell<Vec<Vec<u8>>>> {
    let kept = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let list = kept.clone();
    net.tamper = Some(Box::new(move |_, at, pdu| {
        if at == to {
            list.borrow_mut().push(pdu.clone());
        }
    }));
    kept
}

/// All that was dropped, for whatever reason.
fn all_dropped(net: &mut Net, at: &'static str) -> u64 {
    let counters = status(net, at).counters.into_iter();
    let drops = counters.filter(|(name, _)| name.starts_with("drop."));
    drops.map(|(_, count)| count).sum()
}

fn only_link(net: &mut Net, at: &'static str) -> FlowId {
    *net.node(at).machine.links.keys().next().unwrap()
}

#[test]
fn pdus_cut_at_each_byte_or_changed_in_each_bit_are_counted_and_do_nothing() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    let kept = record(&mut net, "c");
    write(&mut net, "a", 5, &[b"x"]);
    net.run(Duration::from_millis(600));
    net.tamper = None;
    net.node("c").received.clear();
    let (lower, pdus) = (only_link(&mut net, "c"), kept.borrow().clone());
    assert!(pdus.len() >= 2);
    for pdu in &pdus {
        for len in 1..pdu.len() {
            net.input("c", Input::Lower(lower, train(&pdu[..len])));
        }
        for bit in 0..pdu.len() * 8 {
            let mut changed = pdu.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            net.input("c", Input::Lower(lower, train(&changed)));
        }
    }
    assert!(read(&mut net, "c", 5).is_empty());
    write(&mut net, "a", 5, &[b"still there"]);
    assert_eq!(read(&mut net, "c", 5), [b"still there".to_vec()]);
    assert!(dropped(&mut net, "c", "forged") > 100);
}

#[test]
fn a_pdu_that_comes_again_is_not_taken_again() {
    for (from, to) in [("a", "c"), ("a", "b")] {
        let mut net = line();
        register(&mut net, to, "server");
        flow(&mut net, from, to, "server", 5, QosSpec::RAW);
        let kept = record(&mut net, to);
        write(&mut net, from, 5, &[b"pay 10"]);
        assert_eq!(read(&mut net, to, 5).len(), 1);
        net.tamper = None;
        let pdus = kept.borrow().clone();
        let lowers: Vec<FlowId> = net.node(to).machine.links.keys().copied().collect();
        for pdu in &pdus {
            for lower in &lowers {
                net.input(to, Input::Lower(*lower, train(pdu)));
            }
        }
        assert!(read(&mut net, to, 5).is_empty());
        assert!(dropped(&mut net, to, "replayed") > 0);
    }
}

#[test]
fn random_bytes_are_counted_and_forgotten() {
    let mut net = line();
    let lower = only_link(&mut net, "c");
    let before = all_dropped(&mut net, "c");
    let mut seed = 1u64;
    for i in 0..20_000usize {
        let bytes: Vec<u8> = (0..1 + i % 90)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        net.input("c", Input::Lower(lower, train(&bytes)));
    }
    assert_eq!(all_dropped(&mut net, "c") - before, 20_000);
    assert!(status(&mut net, "c").members.iter().all(|m| m.reachable));
    assert!(net.node("c").machine.links[&lower].handshakes.len() <= 3);
}

/// What a and b agreed on for flow 5, as b would know it: the endpoints at a and at b.
fn ends(net: &mut Net) -> (EndpointId, EndpointId, Addr, Addr) {
    let machine = &net.node("a").machine;
    let flow = machine.flows.iter().next().unwrap();
    (
        flow.local,
        flow.remote,
        machine.me.as_ref().unwrap().address,
        flow.peer,
    )
}

#[test]
fn a_member_that_speaks_for_another_is_not_heard() {
    let mut net = triangle();
    register(&mut net, "b", "server");
    flow(&mut net, "a", "b", "server", 5, QosSpec::RAW);
    let (at_a, _, a, b) = ends(&mut net);
    // c, a true member and neighbour of a, knows even the endpoint of the flow.
    let lower = net.node("c").machine.adjacent[&a];
    let link = net.node("c").machine.links.get_mut(&lower).unwrap();
    let direct = link.send(Class::Control, Direct::LEN + 6, |body| {
        Direct {
            flags: 0,
            cube: 0,
            endpoint: at_a,
        }
        .write(body);
        body[Direct::LEN..].copy_from_slice(b"forged");
        Ok(())
    });
    assert_eq!(direct, Ok(()));
    for session in 0..3 {
        let header = Routed {
            flags: 0,
            cube: 0,
            ttl: TTL,
            dst: a,
            src: b,
            endpoint: at_a,
            session,
            counter: 7,
        };
        let routed = link.send(Class::Control, Routed::LEN + 6 + TAG_LEN, |body| {
            header.write(body);
            body[Routed::LEN..].fill(7);
            Ok(())
        });
        assert_eq!(routed, Ok(()));
    }
    net.input("c", Input::Timeout);
    assert!(read(&mut net, "a", 5).is_empty());
    assert_eq!(dropped(&mut net, "a", "foreign_flow"), 1);
    assert_eq!(dropped(&mut net, "a", "no_session"), 3);
}

#[test]
fn a_pdu_that_circles_ends_when_its_ttl_does() {
    let mut net = line();
    let (a, c) = (
        net.node("a").machine.me.as_ref().unwrap().address,
        net.node("c").machine.me.as_ref().unwrap().address,
    );
    let lower = only_link(&mut net, "a");
    let link = net.node("a").machine.links.get_mut(&lower).unwrap();
    let header = Routed {
        flags: 0,
        cube: 0,
        ttl: 1,
        dst: c,
        src: a,
        endpoint: EndpointId(9),
        session: 1,
        counter: 1,
    };
    link.send(Class::Control, Routed::LEN + TAG_LEN, |body| {
        header.write(body);
        Ok(())
    })
    .unwrap();
    net.input("a", Input::Timeout);
    net.run(Duration::from_millis(100));
    assert_eq!(dropped(&mut net, "b", "ttl"), 1);
}

#[test]
fn a_lossy_doubling_network_delays_control_and_breaks_nothing() {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    let mut count = 0u32;
    net.tamper = Some(Box::new(move |_, _, pdu| {
        count = count.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match count >> 28 {
            0..=2 => pdu.clear(),
            3 => {
                let at = count as usize % pdu.len();
                pdu[at] ^= 0x10;
            }
            _ => {}
        }
    }));
    bootstrap(&mut net, "b");
    join(&mut net, "b", "a");
    join(&mut net, "b", "c");
    net.seconds(5);
    register(&mut net, "c", "server");
    net.seconds(2);
    for id in 1..=10 {
        flow(&mut net, "a", "c", "server", id, QosSpec::RAW);
        net.ask(
            "a",
            Command::Dealloc(FlowId(id), Reason::new(Code::Closed, "done")),
        )
        .unwrap();
    }
    net.tamper = None;
    net.seconds(10);
    for name in ["a", "c"] {
        assert!(status(&mut net, name).flows.is_empty(), "{name}");
    }
}

#[test]
fn a_stranger_without_certificate_is_heard_on_enrolment_only_and_not_for_long() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    // b's request for its certificate gets lost for ever: the link is that of a stranger.
    net.tamper = Some(Box::new(|from, _, pdu| {
        if from == "a" && pdu.first() == Some(&0x12) {
            pdu.clear();
        }
    }));
    net.command(
        "b",
        Command::Enroll(Enroll {
            entry: Entry::Invitation(url),
            over: vec![label("net")],
            timeout_ms: 120_000,
        }),
    );
    net.seconds(2);
    assert!(
        status(&mut net, "a")
            .links
            .iter()
            .any(|l| l.state == "enrolling")
    );
    assert!(net.node("a").machine.adjacent.is_empty());
    let lower = only_link(&mut net, "b");
    let link = net.node("b").machine.links.get_mut(&lower).unwrap();
    let direct = link.send(Class::Control, Direct::LEN + 1, |body| {
        Direct {
            flags: 0,
            cube: 0,
            endpoint: EndpointId(0),
        }
        .write(body);
        Ok(())
    });
    assert_eq!(direct, Ok(()));
    net.input("b", Input::Timeout);
    net.run(Duration::from_millis(50));
    assert_eq!(dropped(&mut net, "a", "not_a_member"), 1);
    net.seconds(29);
    assert!(
        !net.wires.contains_key(&("b", lower)),
        "the stranger's link still stands"
    );
}

#[test]
fn a_member_can_not_alter_the_records_of_another() {
    let mut net = triangle();
    register(&mut net, "b", "server");
    net.seconds(1);
    let (a, c) = (
        net.node("a").machine.me.as_ref().unwrap().address,
        only(&mut net, "c"),
    );
    let now = net.now();
    let machine = &mut net.node("c").machine;
    let me = machine.me.as_ref().unwrap();
    let all = proto::wire::Digest {
        versions: Vec::new(),
        first: 0,
        last: u64::MAX,
    };
    let records = me
        .routing
        .lsdb
        .missing(now.mono, &all)
        .into_iter()
        .flat_map(|r| r.records);
    let mut forged = Vec::new();
    for record in records {
        let mut body =
            <proto::wire::Record as prost::Message>::decode(record.body.as_slice()).unwrap();
        if body.origin == c.0 {
            continue;
        }
        body.counter += 1;
        body.links.clear();
        let body = prost::Message::encode_to_vec(&body);
        // With the old signature, and with one of its own.
        let mut signed = b"strata record v1ovl\0".to_vec();
        signed.extend(&body);
        let signature = me.identity.sign(&signed).to_vec();
        let certificate = me.identity.cert().der().to_vec();
        forged.push(proto::wire::SignedRecord {
            body: body.clone(),
            ..record.clone()
        });
        forged.push(proto::wire::SignedRecord {
            body: body.clone(),
            signature: signature.clone(),
            ..record.clone()
        });
        forged.push(proto::wire::SignedRecord {
            body,
            signature,
            certificate,
            ..record
        });
    }
    let count = forged.len() as u64;
    assert!(count >= 6);
    let lower = machine.adjacent[&a];
    machine.tell_link(
        lower,
        proto::wire::message::Body::Records(proto::wire::Records { records: forged }),
    );
    net.input("c", Input::Timeout);
    net.run(Duration::from_millis(200));
    let status = status(&mut net, "a");
    let counters: BTreeMap<_, _> = status.counters.into_iter().collect();
    let refused: u64 = counters
        .iter()
        .filter(|(k, _)| k.starts_with("drop.record_"))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(refused, count);
    assert!(status.members.iter().all(|m| m.neighbours.len() == 2));
    assert!(status.directory.iter().all(|e| e.member == "b"));
}

#[test]
fn a_member_can_not_register_a_name_for_another() {
    let mut net = triangle();
    register(&mut net, "b", "server");
    net.seconds(1);
    let (a, b) = (only(&mut net, "a"), only(&mut net, "b"));
    let body = proto::wire::NameEntry {
        name_hash: vec![7; 32],
        origin: b.0,
        incarnation: 100,
        counter: 1,
        life: 600,
        withdrawn: false,
    };
    let body = prost::Message::encode_to_vec(&body);
    let machine = &mut net.node("c").machine;
    let identity = &machine.me.as_ref().unwrap().identity;
    let signed = [b"strata name v1ovl\0", body.as_slice()].concat();
    let signature = identity.sign(&signed).to_vec();
    let name = proto::wire::SignedName {
        body,
        signature,
        age: 0,
    };
    let store = proto::wire::NameStore { names: vec![name] };
    let message = proto::wire::Directory {
        dst: a.0,
        src: b.0,
        ttl: 64,
        id: 1,
        body: Some(proto::wire::directory::Body::Store(store)),
    };
    let lower = machine.adjacent[&a];
    machine.tell_link(lower, proto::wire::message::Body::Directory(message));
    net.input("c", Input::Timeout);
    net.run(Duration::from_millis(200));
    assert_eq!(dropped(&mut net, "a", "name_forged"), 1);
    let directory = status(&mut net, "a").directory;
    assert!(directory.iter().all(|e| e.member == "b"));
    assert_eq!(directory.len(), 1);
}

fn only(net: &mut Net, name: &'static str) -> Addr {
    net.node(name).machine.me.as_ref().unwrap().address
}

#[test]
fn a_layer_of_the_same_name_with_another_root_gets_nobody_in_and_nothing_out() {
    let mut net = Net::new(&["a", "b", "d"]);
    net.cut("b", "d");
    bootstrap(&mut net, "b");
    let url = invite(&mut net, "b", "d").unwrap();
    // b goes, and somebody else takes its place and name.
    net.boot("b", Files::new());
    net.mend("b", "d");
    bootstrap(&mut net, "b");
    let reason = enroll(&mut net, "d", url).unwrap_err();
    assert_eq!(reason.code, Code::TimedOut);
    assert!(!net.node("d").files.contains_key("identity"));
    assert!(net.node("b").machine.adjacent.is_empty());
}
