//! Handshakes by the thousand, of nobody in particular: who is known gets its own all the same.

use proto::QosSpec;

use super::flows::{allocate, register, request, wait};
use super::*;
use crate::crypt::{Clock, Handshake, Invitation};

/// What begins a handshake of somebody without certificate, in one PDU.
fn hello(net: &mut Net) -> Vec<u8> {
    let url = invite(net, "a", "x").unwrap();
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

fn count(net: &mut Net, name: &str) -> u64 {
    status(net, "a").counters.get(name).copied().unwrap_or(0)
}

#[test]
fn two_thousand_handshakes_a_second_of_strangers_keep_no_member_out() {
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
            hello: hello(&mut net),
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
    let dropped = count(&mut net, "drop.handshake_rate") + count(&mut net, "drop.unknown_lower");
    let answered = flood.next - dropped;
    let most = (net.elapsed - begin).as_secs_f64() * 400.0 + 200.0;
    assert!((answered as f64) <= most, "{answered} of {}", flood.next);
    let strangers = &net.node("a").machine.links;
    assert!(strangers.len() < 270, "{}", strangers.len());
}

#[test]
fn a_neighbour_that_begins_thousands_of_handshakes_keeps_nobody_else_out() {
    let mut net = Net::new(&["a", "b", "c"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    join(&mut net, "a", "c");
    net.seconds(1);
    let mut hello = hello(&mut net);
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
    assert!(count(&mut net, "drop.handshake_rate_neighbour") > 3_000);
    let links = net.node("a").machine.links.values();
    assert!(links.clone().all(|l| l.handshakes.len() <= 8));
    register(&mut net, "a", "server");
    net.seconds(1);
    flows::flow(&mut net, "c", "a", "server", 5, QosSpec::RAW);
}
