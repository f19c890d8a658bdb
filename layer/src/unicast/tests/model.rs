//! Every fate of the packets that a flow's beginning and end are made of, up to a bound: lost, doubled, late, in any
//! combination. Whatever happens to them, both sides agree in the end, and nothing is asked twice. [`crossed`] has requests of
//! both sides at once, and refusals.

mod crossed;

use std::cell::RefCell;
use std::rc::Rc;

use proto::QosSpec;
use proto::ipcp::{Respond, User};

use super::super::pdu;
use super::flows::{allocate, register};
use super::*;

/// What becomes of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    IsLost,
    ComesTwice,
    /// What was sent after it overtakes it.
    IsLate,
}

const FATES: [Fate; 4] = [Fate::Arrives, Fate::IsLost, Fate::ComesTwice, Fate::IsLate];

/// Decides on the packets to come, in the order in which they are sent; those after them arrive.
#[derive(Default)]
struct Plan {
    fates: Vec<Fate>,
    met: usize,
    /// What comes later, and to whom.
    again: Vec<(Duration, &'static str, Vec<u8>)>,
}

impl Plan {
    fn decide(&mut self, to: &'static str, pdu: &mut Vec<u8>) {
        // Hellos and handshakes say nothing of flows.
        if pdu[0] != SEALED || pdu.len() == HELLO {
            return;
        }
        let fate = self.fates.get(self.met).copied();
        self.met += 1;
        match fate.unwrap_or(Fate::Arrives) {
            Fate::Arrives => {}
            Fate::IsLost => pdu.clear(),
            Fate::ComesTwice => self.again.push((LATENCY * 2, to, pdu.clone())),
            Fate::IsLate => self.again.push((LATE, to, std::mem::take(pdu))),
        }
    }
}

/// All combinations of the fates of so many packets.
fn plans(packets: u32) -> impl Iterator<Item = Vec<Fate>> {
    let fate = |plan: usize, i: u32| FATES[plan / FATES.len().pow(i) % FATES.len()];
    (0..FATES.len().pow(packets)).map(move |plan| (0..packets).map(|i| fate(plan, i)).collect())
}

struct World {
    net: Net,
    plan: Rc<RefCell<Plan>>,
}

impl World {
    fn new() -> Self {
        let mut net = Net::new(&["a", "b"]);
        bootstrap(&mut net, "a");
        join(&mut net, "a", "b");
        register(&mut net, "b", "server");
        net.seconds(3);
        let plan = Rc::<RefCell<Plan>>::default();
        let decides = plan.clone();
        net.tamper = Some(Box::new(move |_, to, pdu| {
            decides.borrow_mut().decide(to, pdu);
        }));
        Self { net, plan }
    }

    fn follow(&self, fates: &[Fate]) {
        *self.plan.borrow_mut() = Plan {
            fates: fates.to_vec(),
            ..Plan::default()
        };
    }

    /// Lets time pass, and what is late arrive. The callee's irmd accepts whatever it is asked; gives how often that was.
    fn run(&mut self, time: Duration, flow: FlowId) -> usize {
        let mut asked = 0;
        self.run_judged(time, |_, _| {
            asked += 1;
            Ok(flow)
        });
        asked
    }

    /// The same; whether a request for a name, at a member, is accepted, and as which flow, is said by `judge`.
    fn run_judged(
        &mut self,
        time: Duration,
        mut judge: impl FnMut(&'static str, &str) -> Result<FlowId, Reason>,
    ) {
        let (begin, end) = (self.net.elapsed, self.net.elapsed + time);
        while self.net.elapsed < end {
            // Later, only what is said again is left to come.
            let early = self.net.elapsed < begin + LATE * 2;
            let step = if early { LATENCY } else { LATENCY * 10 };
            self.net.run(step);
            self.bring_late(step);
            for at in ["a", "b"] {
                let events = std::mem::take(&mut self.net.node(at).events);
                for event in events {
                    let Event::FlowRequest(request) = event else {
                        continue;
                    };
                    let user = User {
                        uid: 1000,
                        ipcp: false,
                    };
                    let verdict = judge(at, request.name.as_str()).map(|flow| (flow, user));
                    let respond = Respond {
                        request: request.request,
                        verdict,
                    };
                    self.net.command(at, Command::Respond(respond));
                }
            }
        }
    }

    /// What is doubled or late comes when it is due.
    fn bring_late(&mut self, step: Duration) {
        let mut plan = self.plan.borrow_mut();
        for (wait, _, _) in &mut plan.again {
            *wait = wait.saturating_sub(step);
        }
        let due = plan.again.extract_if(.., |(wait, _, _)| wait.is_zero());
        let due: Vec<_> = due.collect();
        drop(plan);
        for (_, to, pdu) in due {
            let lower = *self.net.node(to).machine.links.keys().next().unwrap();
            self.net.input(to, Input::Lower(lower, train(&pdu)));
        }
    }

    /// Whether a flow stands at each side.
    fn stands(&mut self, flow: FlowId) -> [bool; 2] {
        ["a", "b"].map(|at| self.net.node(at).open.contains(&flow))
    }

    fn allocate(&mut self, flow: u64) -> CommandId {
        let ask = allocate("server", flow, QosSpec::RAW);
        self.net.command("a", Command::Allocate(ask))
    }

    fn dealloc(&mut self, at: &'static str, flow: FlowId) {
        let reason = Reason::new(Code::Closed, "done");
        self.net.command(at, Command::Dealloc(flow, reason));
    }
}

#[test]
fn whatever_becomes_of_the_packets_of_an_allocation_the_flow_stands_once_and_at_both_sides() {
    let mut world = World::new();
    for (i, fates) in plans(DEPTH).enumerate() {
        let flow = FlowId(100 + i as u64);
        world.follow(&fates);
        let command = world.allocate(flow.0);
        let asked = world.run(PATIENCE, flow);
        // The request, the answer, and what acknowledges that; what is said again comes on top.
        assert!(world.plan.borrow().met >= 3);
        assert_eq!(asked, 1, "{fates:?}");
        assert_eq!(world.stands(flow), [true; 2], "{fates:?}");
        let answer = world.net.node("a").answers.remove(&command);
        assert!(
            matches!(answer, Some(Ok(Answer::Allocated(_)))),
            "{fates:?}"
        );
        world.follow(&[]);
        world.dealloc("a", flow);
        world.run(Duration::from_millis(50), flow);
        assert_eq!(world.stands(flow), [false; 2], "{fates:?}");
    }
}

#[test]
fn whatever_becomes_of_the_packets_of_an_end_both_sides_hear_of_it_and_nothing_is_left() {
    let mut world = World::new();
    for (i, fates) in plans(DEPTH).enumerate() {
        let flow = FlowId(100 + i as u64);
        world.follow(&[]);
        world.allocate(flow.0);
        world.run(Duration::from_millis(50), flow);
        assert_eq!(world.stands(flow), [true; 2], "{fates:?}");
        world.follow(&fates);
        // One side ends it, or both do, at once or one after the other.
        world.dealloc(["a", "b"][i % 2], flow);
        if i % 3 == 0 {
            world.run(LATENCY * (i as u32 % 5), flow);
            world.dealloc(["b", "a"][i % 2], flow);
        }
        assert_eq!(world.run(PATIENCE, flow), 0, "{fates:?}");
        assert_eq!(world.stands(flow), [false; 2], "{fates:?}");
        for at in ["a", "b"] {
            let machine = &world.net.node(at).machine;
            assert!(machine.flows.closing.len() == 0, "{at}: {fates:?}");
        }
    }
}

#[test]
fn whatever_becomes_of_the_packets_a_caller_that_gives_up_leaves_no_end_behind() {
    let mut world = World::new();
    for (i, fates) in plans(DEPTH).enumerate() {
        let flow = FlowId(100 + i as u64);
        world.follow(&fates);
        world.allocate(flow.0);
        // Before the request has come, while it is answered, or after.
        world.run(LATENCY * (i as u32 % 6), flow);
        world.dealloc("a", flow);
        let asked = world.run(PATIENCE, flow);
        assert!(asked <= 1, "{fates:?}");
        assert_eq!(world.stands(flow), [false; 2], "{fates:?}");
    }
}

/// Packets whose fate is explored: request, its acknowledgement, answer, its acknowledgement.
const DEPTH: u32 = 4;
/// A sealed hello.
const HELLO: usize = pdu::Hello::LEN + pdu::HOP_OVERHEAD;
const SEALED: u8 = pdu::Kind::SEALED;
const LATE: Duration = Duration::from_millis(30);
/// By then all was said again that was lost.
const PATIENCE: Duration = Duration::from_millis(1500);
