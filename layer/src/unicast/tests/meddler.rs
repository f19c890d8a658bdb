//! A hostile member between two others, by the hook that real programs are tested with.

use std::sync::{Arc, Mutex};

use proto::wire::{self, EnrolRelay, EnrolReply, SignedRecord, message::Body};
use proto::{Addr, QosSpec};

use super::super::{Meddler, Own, Sent};
use super::flows::{allocate, flow, line, read, register, wait, write};
use super::*;
use crate::crypt::Handshake;
use crate::route::LinkState;

#[derive(Default)]
struct Seen {
    frames: u64,
    needles: u64,
    forwarded: usize,
}

/// Of every four PDUs it alters one, doubles one, and sends an old one behind another.
struct Evil(Arc<Mutex<Seen>>, Vec<u8>);

impl Meddler for Evil {
    fn saw(&mut self, bytes: &[u8]) {
        let mut seen = self.0.lock().unwrap();
        seen.frames += 1;
        seen.needles += u64::from(bytes.windows(NEEDLE.len()).any(|w| w == NEEDLE));
    }

    fn forwarded(&mut self, _own: &Own<'_>, pdu: &[u8]) -> Vec<Sent> {
        let mut seen = self.0.lock().unwrap();
        let whole = || Sent::On(pdu.to_vec());
        if pdu[0] != ROUTED {
            return vec![whole(), whole()];
        }
        seen.forwarded += 1;
        let old = std::mem::replace(&mut self.1, pdu.to_vec());
        let mut altered = pdu.to_vec();
        *altered.last_mut().unwrap() ^= 1;
        match seen.forwarded % 4 {
            0 => vec![Sent::On(altered)],
            1 => vec![whole(), whole()],
            2 => vec![whole(), Sent::On(old)],
            _ => vec![whole(), Sent::Back(turned(pdu))],
        }
    }

    fn records(&mut self, own: &Own<'_>, records: &mut Vec<SignedRecord>) {
        let mut forged = records.clone();
        for record in &mut forged {
            record.signature = own.identity.sign(&record.body).to_vec();
            // A version that nobody has, else it would not be looked at.
            let mut body = <wire::Record as prost::Message>::decode(&*record.body).unwrap();
            body.counter += 1000;
            record.body = prost::Message::encode_to_vec(&body);
        }
        records.extend(forged);
    }
}

/// As if the other side had sent it.
fn turned(pdu: &[u8]) -> Vec<u8> {
    [&pdu[..4], &pdu[12..20], &pdu[4..12], &pdu[20..]].concat()
}

#[test]
fn a_member_in_between_reads_alters_repeats_and_forges_nothing() {
    let mut net = line();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let evil = Evil(seen.clone(), vec![2; 100]);
    net.node("b").machine.meddle(Box::new(evil));
    register(&mut net, "c", "server");
    net.seconds(1);
    // Something that b has to pass on.
    let now = net.now();
    let machine = &mut net.node("c").machine;
    let link = |neighbour| LinkState {
        neighbour,
        cost: 11,
        mtu: MTU,
    };
    let links = machine.adjacent.keys().copied().map(link).collect();
    machine.publish_links(now, links, false, &[]);
    net.input("c", Input::Timeout);
    net.seconds(1);
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    let sdu = |i: u32| [NEEDLE, &i.to_be_bytes()].concat();
    let mut got = Vec::new();
    for i in 0..200 {
        write(&mut net, "a", 5, &[&sdu(i)]);
        got.extend(read(&mut net, "c", 5));
    }
    let mut once = got.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), got.len(), "an SDU came twice");
    assert!((0..200).map(sdu).filter(|s| got.contains(s)).count() == got.len());
    assert!((100..200).contains(&got.len()), "{}", got.len());
    let seen = seen.lock().unwrap();
    assert!(seen.frames > 200 && seen.forwarded >= 200);
    assert_eq!(seen.needles, 0);
    for (at, reasons) in [("c", ["forged", "replayed"]), ("a", ["record_forged"; 2])] {
        let status = status(&mut net, at);
        for reason in reasons {
            assert!(
                status.counters.get(&format!("drop.{reason}")) > Some(&0),
                "{at}: {reason}"
            );
        }
        assert_eq!(status.members.len(), 3);
        assert!(status.members.iter().all(|m| m.reachable));
        assert!(status.directory.iter().all(|e| e.member == "c"));
    }
}

/// Answers handshakes between others itself, with its own certificate, until it has done so `left` times.
struct Impostor {
    left: usize,
    shakes: Vec<Handshake>,
    /// Sessions that it lets pass.
    true_ones: Vec<u32>,
    now: Arc<Mutex<Instant>>,
}

impl Meddler for Impostor {
    fn forwarded(&mut self, own: &Own<'_>, pdu: &[u8]) -> Vec<Sent> {
        let on = vec![Sent::On(pdu.to_vec())];
        if pdu[0] != HANDSHAKE {
            return on;
        }
        let (head, mut bytes) = (&pdu[..20], pdu[20..].to_vec());
        let (session, _) = Handshake::session_of(&bytes).unwrap();
        let now = *self.now.lock().unwrap();
        let known = self.shakes.iter().any(|h| h.session() == session);
        if !known && (self.left == 0 || self.true_ones.contains(&session)) {
            self.true_ones.push(session);
            return on;
        }
        if !known {
            self.left -= 1;
            let mine = Handshake::server(own.tls, session, 1000, now).unwrap();
            self.shakes.push(mine);
        }
        let mut mine = self.shakes.iter_mut().filter(|h| h.session() == session);
        let mine = mine.next().unwrap();
        mine.handle(now, &mut bytes).unwrap();
        let answers = std::iter::from_fn(|| mine.poll(now));
        answers
            .map(|answer| Sent::Back(turned(&[head, &answer].concat())))
            .collect()
    }
}

#[test]
fn whoever_answers_a_handshake_in_the_place_of_another_is_found_out() {
    let mut net = line();
    let now = Arc::new(Mutex::new(net.now().mono));
    let impostor = Impostor {
        left: 2,
        shakes: Vec::new(),
        true_ones: Vec::new(),
        now: now.clone(),
    };
    net.node("b").machine.meddle(Box::new(impostor));
    register(&mut net, "c", "server");
    net.seconds(1);
    let command = net.command("a", Command::Allocate(allocate("server", 5, QosSpec::RAW)));
    for _ in 0..400 {
        *now.lock().unwrap() = net.now().mono;
        net.run(Duration::from_millis(5));
        let asked = |e: &Event| matches!(e, Event::FlowRequest(_));
        if net.node("c").events.iter().any(asked) {
            break;
        }
    }
    let foreign = status(&mut net, "a").counters["drop.foreign_handshake"];
    assert_eq!(foreign, 2);
    let request = flows::request(&mut net, "c");
    let user = proto::ipcp::User {
        uid: 1000,
        ipcp: false,
    };
    net.ask(
        "c",
        Command::Respond(proto::ipcp::Respond {
            request: request.request,
            verdict: Ok((FlowId(5), user)),
        }),
    )
    .unwrap();
    match wait(&mut net, "a", command) {
        Ok(Answer::Allocated(flow)) => assert_eq!(flow.peer.member, Some(label("c"))),
        other => panic!("{other:?}"),
    }
}

/// Relays more requests than it got, and lies about the first answers.
#[derive(Default)]
struct BadRelay {
    lies: usize,
    refuses: bool,
}

impl Meddler for BadRelay {
    fn relayed(&mut self, _own: &Own<'_>, relay: EnrolRelay) -> Vec<EnrolRelay> {
        let altered = |change: fn(&mut EnrolRelay)| {
            let mut altered = relay.clone();
            altered.id += 1 << 32;
            change(&mut altered);
            altered
        };
        let request = |relay: &mut EnrolRelay, change: fn(&mut wire::EnrolRequest)| {
            change(relay.request.as_mut().unwrap());
        };
        let mut csr = altered(|_| ());
        request(&mut csr, |r| *r.csr.last_mut().unwrap() ^= 1);
        let mut invitation = altered(|_| ());
        request(&mut invitation, |r| r.invitation[0] ^= 1);
        let session = altered(|r| r.exporter[0] ^= 1);
        let again = altered(|_| ());
        vec![csr, invitation, session, relay, again]
    }

    fn answered(&mut self, own: &Own<'_>, reply: &mut EnrolReply) {
        if self.refuses {
            reply.code = Code::Denied as u32;
        } else if self.lies > 0 {
            self.lies -= 1;
            match self.lies % 2 {
                0 => reply.certificate = own.identity.cert().der().to_vec(),
                _ => *reply.certificate.last_mut().unwrap() ^= 1,
            }
        }
    }
}

fn count(net: &mut Net, at: &'static str, name: &str) -> u64 {
    status(net, at).counters.get(name).copied().unwrap_or(0)
}

#[test]
fn a_relay_that_forges_requests_and_lies_about_answers_keeps_nobody_out_and_lets_nobody_in() {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    let relay = BadRelay {
        lies: 3,
        refuses: false,
    };
    net.node("b").machine.meddle(Box::new(relay));
    join(&mut net, "a", "c");
    assert_eq!(count(&mut net, "c", "enrol.lied_to"), 3);
    assert!(count(&mut net, "a", "enrol.refused") >= 3);
    net.seconds(1);
    let members = status(&mut net, "a").members;
    let names: Vec<_> = members.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn a_relay_that_refuses_in_the_name_of_the_issuer_is_not_the_last_that_is_asked() {
    let mut net = Net::new(&["a", "b", "c", "d"]);
    net.cut("a", "d");
    bootstrap(&mut net, "a");
    for member in ["b", "c"] {
        join(&mut net, "a", member);
        net.seconds(1);
    }
    let relay = BadRelay {
        lies: 0,
        refuses: true,
    };
    net.node("b").machine.meddle(Box::new(relay));
    join(&mut net, "a", "d");
    for relay in ["b", "c"] {
        assert_eq!(count(&mut net, relay, "enrol.relayed"), 1, "{relay}");
    }
}

#[test]
fn a_member_in_between_can_not_answer_or_end_the_flows_of_others() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    let now = net.now();
    for at in ["a", "c"] {
        let machine = &mut net.node(at).machine;
        let flow = machine.flows.iter().next().unwrap();
        let (end, other, me): (u64, u64, Addr) = (
            flow.local.0,
            flow.remote.0,
            machine.me.as_ref().unwrap().address,
        );
        let machine = &mut net.node("b").machine;
        for code in [0, Code::Refused as u32] {
            let reply = wire::FlowReply {
                source_endpoint: end,
                endpoint: other,
                code,
                ..wire::FlowReply::default()
            };
            machine.tell_peer(now, me, Body::FlowReply(reply));
        }
        let dealloc = wire::FlowDealloc {
            endpoint: end,
            code: Code::Closed as u32,
            text: "the other side closed the flow".to_owned(),
        };
        machine.tell_peer(now, me, Body::FlowDealloc(dealloc));
    }
    net.input("b", Input::Timeout);
    net.run(Duration::from_millis(100));
    write(&mut net, "a", 5, &[b"still here"]);
    assert_eq!(read(&mut net, "c", 5), [b"still here".to_vec()]);
    write(&mut net, "c", 5, &[b"here too"]);
    assert_eq!(read(&mut net, "a", 5), [b"here too".to_vec()]);
}

/// The first byte of what passes through: a flow's PDU, and a handshake's.
const ROUTED: u8 = 2;
const HANDSHAKE: u8 = 5;
const NEEDLE: &[u8] = b"the quick brown fox of strata";
