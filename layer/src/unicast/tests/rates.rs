//! Handshakes by the thousand, of nobody in particular: who is known gets its own all the same.

use proto::wire::message::Body;
use proto::wire::{Records, SignedRecord};
use proto::{Addr, EndpointId, QosSpec};

use super::super::out::Class;
use super::super::pdu::{Routed, TAG_LEN, TTL};
use super::flows::{allocate, read, register, request, wait, write};
use super::intruder::forge;
use super::limits::told_once;
use super::rekeys::Traffic;
use super::*;
use crate::crypt::{Authority, Clock, Handshake, Invitation};

/// What begins a handshake of somebody without certificate, in one PDU.
pub(super) fn hello(net: &mut Net, issuer: &'static str) -> Vec<u8> {
    let url = invite(net, issuer, "x").unwrap();
    let clock = Clock::new();
    clock.set(net.now().wall);
    let invitation = Invitation::parse(&url, net.now().wall).unwrap();
    let joiner = invitation.start(&label("x")).unwrap();
    let tls = joiner.tls(&clock).unwrap();
    let mut client = Handshake::client(&tls, 0, 4000, net.now().mono).unwrap();
    client.poll(net.now().mono).unwrap()
}

/// Strangers: each comes over an N-1 flow of its own to `a`, begins a handshake there and never goes on.
struct Flood {
    hello: Vec<u8>,
    next: u64,
}

impl Flood {
    fn start(&mut self, net: &mut Net) {
        self.next += 1;
        let lower = FlowId(1 << 40 | self.next);
        let up = FlowTell::Up {
            lower,
            over: label("net"),
            mtu: 4000,
            framing: Framing::Train,
            via: Via::Accepted(None),
        };
        net.input("a", Input::Tell(up));
        self.hello[2..6].copy_from_slice(&(self.next as u32).to_be_bytes());
        net.input("a", Input::Lower(lower, train(&self.hello)));
    }

    /// 2,000 a second, until the machine `at` has answered the command.
    fn until_answered(&mut self, net: &mut Net, at: &'static str, id: CommandId) -> Duration {
        let begin = net.elapsed;
        while !net.node(at).answers.contains_key(&id) {
            assert!(net.elapsed - begin < Duration::from_secs(20), "{at} waits");
            self.seconds(net, Duration::from_millis(10));
        }
        net.elapsed - begin
    }

    fn seconds(&mut self, net: &mut Net, time: Duration) {
        for _ in 0..time.as_millis() {
            self.start(net);
            self.start(net);
            net.run(Duration::from_millis(1));
        }
    }
}

pub(super) fn address(net: &mut Net, of: &'static str) -> Addr {
    net.node(of).machine.me.as_ref().unwrap().address
}

fn count(net: &mut Net, name: &str) -> u64 {
    status(net, "a").counters.get(name).copied().unwrap_or(0)
}

pub(super) fn two_thousand_handshakes_a_second_of_strangers_keep_no_member_out([limit]: [&str; 1]) {
    let mut net = Net::new(&["a", "b", "c", "d"]);
    bootstrap(&mut net, "a");
    for member in ["b", "c", "d"] {
        join(&mut net, "a", member);
    }
    let beside = Command::Connect(label("b"), None);
    assert_eq!(net.ask("c", beside), Ok(Answer::Ok));
    net.cut("a", "c");
    net.seconds(200);
    register(&mut net, "a", "server");
    net.seconds(1);
    let (mut flood, begin) = (
        Flood {
            hello: hello(&mut net, "a"),
            next: 0,
        },
        net.elapsed,
    );
    flood.seconds(&mut net, Duration::from_millis(500));

    // A member behind another, with whom nothing was shared yet.
    let command = net.command("c", Command::Allocate(allocate("server", 5, QosSpec::RAW)));
    flood.seconds(&mut net, Duration::from_millis(200));
    let asked = request(&mut net, "a");
    net.command(
        "a",
        Command::Respond(proto::ipcp::Respond {
            request: asked.request,
            verdict: Ok((FlowId(5), allocate("server", 5, QosSpec::RAW).user)),
        }),
    );
    flood.until_answered(&mut net, "c", command);
    assert!(wait(&mut net, "c", command).is_ok());

    // A neighbour whose link was cut comes back over another N-1 flow, as strangers do, but shows that it was met.
    net.cut("a", "d");
    flood.seconds(&mut net, Duration::from_secs(2));
    net.mend("a", "d");
    let again = net.command("d", Command::Connect(label("a"), None));
    let took = flood.until_answered(&mut net, "d", again);
    assert_eq!(wait(&mut net, "d", again), Ok(Answer::Ok));
    assert!(took < Duration::from_secs(2), "after {took:?}");
    let b = net.node("b").machine.me.as_ref().unwrap().address;
    assert!(net.node("a").machine.adjacent.contains_key(&b));
    let dropped = count(&mut net, limit) + count(&mut net, "drop.unknown_lower");
    let answered = flood.next - dropped;
    let most = (net.elapsed - begin).as_secs_f64() * 400.0 + 200.0;
    assert!((answered as f64) <= most, "{answered} of {}", flood.next);
    let strangers = &net.node("a").machine.links;
    assert!(strangers.len() < 270, "{}", strangers.len());
    told_once(&mut net, "a", limit);
}

pub(super) fn a_neighbour_that_begins_thousands_of_handshakes_keeps_nobody_else_out(
    [limit]: [&str; 1],
) {
    let mut net = Net::new(&["a", "b", "c"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    join(&mut net, "a", "c");
    net.seconds(1);
    let mut hello = hello(&mut net, "a");
    hello.truncate(1300);
    let a = net.node("a").machine.me.as_ref().unwrap().address;
    for session in 0..4_000u32 {
        hello[2..6].copy_from_slice(&session.to_be_bytes());
        let machine = &mut net.node("b").machine;
        let lower = machine.adjacent[&a];
        let sent = machine.links.get_mut(&lower).unwrap();
        assert_eq!(sent.send_handshake(true, &hello), Ok(()));
        net.input("b", Input::Timeout);
        net.run(Duration::from_millis(1));
    }
    assert!(count(&mut net, limit) > 3_000);
    let links = net.node("a").machine.links.values();
    assert!(links.clone().all(|l| l.handshakes.len() <= 8));
    told_once(&mut net, "a", limit);
    register(&mut net, "a", "server");
    net.seconds(1);
    flows::flow(&mut net, "c", "a", "server", 5, QosSpec::RAW);
}

/// Members of the layer of `issuer` that were never there, as far as anybody can tell from their records.
pub(super) fn ghosts(
    net: &mut Net,
    issuer: &'static str,
    count: usize,
) -> Vec<(Addr, SignedRecord)> {
    let now = net.now();
    let ask = Invite {
        member: None,
        prefixes: Vec::new(),
        expires_ms: 600_000,
        uses: count as u32,
        hints: Vec::new(),
        groups: Vec::new(),
    };
    let Ok(Answer::Invitation(url)) = net.ask(issuer, Command::Invite(ask)) else {
        panic!("no invitation")
    };
    let authority = net.node(issuer).files["authority"].clone();
    let mut authority = Authority::from_bytes(&authority).unwrap();
    let ghost = |i: usize| {
        let name = label(&format!("ghost-{i}"));
        let joiner = Invitation::parse(&url, now.wall).unwrap();
        let joiner = joiner.start(&name).unwrap();
        let reply = joiner.request(&[0; 32]);
        let reply = authority.redeem(&reply, &[0; 32], now.wall).unwrap();
        let identity = joiner.finish(&reply, now.wall).unwrap();
        let address = identity.cert().address();
        let mut machine = Unicast::new(name, [i as u8; 32], Files::new());
        let mut records = machine.stands(now, identity, None, &[]).unwrap();
        (address, records.remove(0))
    };
    (0..count).map(ghost).collect()
}

/// The neighbour `b` of `a` sends it a PDU in the name of another member, sealed with keys that nobody has.
fn made_up(net: &mut Net, src: Addr, session: u32) {
    let dst = address(net, "a");
    let header = Routed {
        flags: 0,
        cube: 0,
        ttl: TTL,
        dst,
        src,
        endpoint: EndpointId(0),
        session,
        counter: 1,
    };
    let machine = &mut net.node("b").machine;
    let lower = machine.adjacent[&dst];
    let link = machine.links.get_mut(&lower).unwrap();
    let sent = link.send(Class::Control, Routed::LEN + 6 + TAG_LEN, |body| {
        header.write(body);
        body[Routed::LEN..].fill(7);
        Ok(())
    });
    assert_eq!(sent, Ok(()));
    net.input("b", Input::Timeout);
}

pub(super) fn pdus_in_the_names_of_others_make_a_member_begin_few_handshakes([limit]: [&str; 1]) {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    bootstrap(&mut net, "b");
    join(&mut net, "b", "a");
    join(&mut net, "b", "c");
    net.seconds(1);
    let ghosts = ghosts(&mut net, "b", 60);
    let (mut names, records): (Vec<_>, Vec<_>) = ghosts.into_iter().unzip();
    let a = address(&mut net, "a");
    let machine = &mut net.node("b").machine;
    machine.tell_link(machine.adjacent[&a], Body::Records(Records { records }));
    net.input("b", Input::Timeout);
    net.seconds(1);
    assert_eq!(status(&mut net, "a").members.len(), 63, "all are believed");

    // A pair of members that are no neighbours has keys, and uses them.
    let mut traffic = Traffic::new(&mut net, "c", "a");
    net.jitter = Duration::ZERO;
    traffic.run(&mut net, Duration::from_secs(1));
    let [begun, done] = ["handshake.begun", "handshake.done"].map(|what| count(&mut net, what));
    let c = address(&mut net, "c");
    names.push(c);
    let begin = net.elapsed;
    for i in 0..2_000 {
        made_up(&mut net, names[i % names.len()], i as u32);
        if i % 100 == 0 {
            traffic.run(&mut net, Duration::from_millis(50));
        }
    }
    let [more, fresh] = ["handshake.begun", "handshake.done"].map(|what| count(&mut net, what));
    let most = 20 + 10 * (net.elapsed - begin).as_secs();
    assert!((20..=most).contains(&(more - begun)), "{}", more - begun);
    assert_eq!(
        fresh, done,
        "with whom it hears from it has agreed on others"
    );
    let [held, dropped] = [limit, "drop.no_session"].map(|w| count(&mut net, w));
    assert!(held > 200 && held + dropped >= 1_900, "{held}, {dropped}");
    told_once(&mut net, "a", limit);
    net.jitter = Duration::from_millis(40);
    traffic.run(&mut net, Duration::from_millis(500));
    traffic.nothing_lost(&mut net);

    // Who has truly lost its keys gets others.
    net.jitter = Duration::ZERO;
    net.seconds(2);
    net.node("a").machine.peers.remove(&c);
    write(&mut net, "c", 5, &[b"lost"]);
    net.seconds(1);
    assert!(read(&mut net, "a", 5).is_empty());
    write(&mut net, "c", 5, &[b"with keys that both have"]);
    assert_eq!(read(&mut net, "a", 5).len(), 1);
}

pub(super) fn a_member_with_whom_too_many_are_spoken_with_forgets_one_and_keeps_nobody_out(
    [displaced, refused]: [&str; 2],
) {
    let mut net = Net::new(&["a", "b", "c", "d", "e"]);
    for (x, y) in [("a", "c"), ("a", "d"), ("a", "e")] {
        net.cut(x, y);
    }
    bootstrap(&mut net, "b");
    for member in ["a", "c", "d", "e"] {
        join(&mut net, "b", member);
    }
    register(&mut net, "a", "server");
    net.seconds(1);
    net.node("a").machine.bounds.peers = 3;
    flows::flow(&mut net, "c", "a", "server", 5, QosSpec::RAW);
    // b is its neighbour, c has a flow: what b has begun in the name of d is all that can go.
    forge(&mut net, "b", "d", 77);
    net.run(Duration::from_millis(100));
    assert_eq!(net.node("a").machine.peers.len(), 3);
    flows::flow(&mut net, "e", "a", "server", 6, QosSpec::RAW);
    assert_eq!(count(&mut net, displaced), 1);
    // Now all three are needed.
    let command = net.command("d", Command::Allocate(allocate("server", 7, QosSpec::RAW)));
    let reason = wait(&mut net, "d", command).unwrap_err();
    assert_eq!(reason.code, Code::TimedOut, "{reason}");
    assert!(count(&mut net, refused) > 0);
    write(&mut net, "c", 5, &[b"stands"]);
    assert_eq!(read(&mut net, "a", 5), [b"stands".to_vec()]);
    // One flow ends, and its place is free.
    let closed = Reason::new(Code::Closed, "done");
    net.ask("e", Command::Dealloc(FlowId(6), closed)).unwrap();
    net.seconds(15);
    told_once(&mut net, "a", displaced);
    told_once(&mut net, "a", refused);
    net.node("a").events.clear();
    flows::flow(&mut net, "d", "a", "server", 8, QosSpec::RAW);
}
