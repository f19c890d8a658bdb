//! Both members ask each other for a flow at once, or one asks for two; each request is accepted or refused. The first
//! four packets of those that this is made of, or the other four, are lost, doubled or late, in any combination.

use super::*;

/// What is asked for, of whom, and whether its irmd will have it.
#[derive(Debug, Clone, Copy)]
struct Ask {
    from: &'static str,
    to: &'static str,
    name: &'static str,
    accepted: bool,
    /// As which flow its caller knows it, and as which the one that is asked.
    ids: [FlowId; 2],
}

/// Both ways at once, with every verdict. Each irmd counts flows by itself: what is the first here is the second there.
fn crossed(round: u64, verdicts: usize) -> [Ask; 2] {
    let (first, second) = (FlowId(round), FlowId(round + 1));
    [("a", "b", "at-b", 1), ("b", "a", "at-a", 2)].map(|(from, to, name, bit)| Ask {
        from,
        to,
        name,
        accepted: verdicts & bit == 0,
        ids: [first, second],
    })
}

/// Two of one member.
fn beside(round: u64, verdicts: usize) -> [Ask; 2] {
    [("at-b", 1, 0), ("too-at-b", 2, 1)].map(|(name, bit, i)| Ask {
        from: "a",
        to: "b",
        name,
        accepted: verdicts & bit == 0,
        ids: [FlowId(round + i), FlowId(round + 1 - i)],
    })
}

impl World {
    fn with_names() -> Self {
        let mut world = Self::new();
        for (at, name) in [("b", "at-b"), ("b", "too-at-b"), ("a", "at-a")] {
            register(&mut world.net, at, name);
        }
        world.net.seconds(3);
        world
    }

    /// Asks, the second a little later than the first. Gives what was said of each, and how often each irmd was asked.
    fn ask_both(&mut self, asks: &[Ask; 2], later: Duration) -> [(Option<Answered>, usize); 2] {
        let mut asked = [0; 2];
        let mut commands = [0; 2];
        for (i, ask) in asks.iter().enumerate() {
            let wish = allocate(ask.name, ask.ids[0].0, QosSpec::RAW);
            commands[i] = self.net.command(ask.from, Command::Allocate(wish));
            if i == 0 {
                self.run_judged(later, |at, name| judged(asks, &mut asked, at, name));
            }
        }
        self.run_judged(PATIENCE, |at, name| judged(asks, &mut asked, at, name));
        [0, 1].map(|i| {
            let said = self.net.node(asks[i].from).answers.remove(&commands[i]);
            (said, asked[i])
        })
    }

    /// Whether a flow stands at its caller, and where it was asked for.
    fn both_stand(&mut self, ask: &Ask) -> [bool; 2] {
        let ends = [(ask.from, ask.ids[0]), (ask.to, ask.ids[1])];
        ends.map(|(at, id)| self.net.node(at).open.contains(&id))
    }

    /// What is written into a flow comes out of it, and of no other.
    fn carries(&mut self, ask: &Ask, what: &str) {
        let ends = [(ask.from, ask.ids[0]), (ask.to, ask.ids[1])];
        for ((at, id), (to, there)) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            let said = format!("{at} {}", ask.name).into_bytes();
            self.net.input(at, Input::Upper(id, record(&said)));
            self.net.run(LATENCY * 2);
            let come = std::mem::take(&mut self.net.node(to).received);
            let come: Vec<_> = come.into_iter().collect();
            assert_eq!(come, [(there, vec![said])], "{what}");
        }
    }

    /// Nobody waits for anything, and no flow stands.
    fn is_done(&mut self, what: &str) {
        for at in ["a", "b"] {
            let node = self.net.node(at);
            assert!(node.open.is_empty(), "{at}: {what}");
            let flows = &node.machine.flows;
            let left = [
                flows.outgoing.len(),
                flows.incoming.len(),
                flows.closing.len(),
            ];
            assert_eq!((left, flows.len()), ([0; 3], 0), "{at}: {what}");
        }
    }
}

/// What an irmd says of a request that it was asked about.
fn judged(asks: &[Ask; 2], asked: &mut [usize; 2], at: &str, name: &str) -> Result<FlowId, Reason> {
    let of = |ask: &Ask| ask.to == at && ask.name == name;
    let i = asks.iter().position(of).unwrap();
    asked[i] += 1;
    match asks[i].accepted {
        true => Ok(asks[i].ids[1]),
        false => Err(Reason::new(Code::Denied, format!("no {name}"))),
    }
}

fn record(sdu: &[u8]) -> Batch {
    let mut batch = Batch::new(Framing::Record);
    batch.push(sdu.len()).unwrap().copy_from_slice(sdu);
    batch
}

/// Explores what becomes of the first four packets, or the next, for some verdicts on the two requests.
fn explore(verdicts: &[usize], asks: fn(u64, usize) -> [Ask; 2]) {
    let mut world = World::with_names();
    let mut round = 100;
    for (verdicts, skip, fates) in all_plans(verdicts) {
        round += 2;
        let asks = asks(round, verdicts);
        let what = format!("{asks:?}, after {skip}: {fates:?}");
        let spared = [Fate::Arrives].repeat(skip);
        world.follow(&[spared, fates].concat());
        let said = world.ask_both(&asks, LATENCY * (round as u32 / 2 % 3));
        assert!(world.plan.borrow().met > skip, "{what}");
        for (ask, (answer, asked)) in asks.iter().zip(said) {
            assert_eq!(asked, 1, "{what}");
            assert_eq!(world.both_stand(ask), [ask.accepted; 2], "{what}");
            match answer {
                Some(Ok(Answer::Allocated(_))) if ask.accepted => {}
                Some(Err(why)) if !ask.accepted => {
                    let text = format!("no {}", ask.name);
                    assert_eq!((why.code, why.text), (Code::Denied, text), "{what}");
                }
                other => panic!("{other:?}: {what}"),
            }
        }
        world.follow(&[]);
        for ask in asks.iter().filter(|ask| ask.accepted) {
            world.carries(ask, &what);
            world.dealloc(ask.from, ask.ids[0]);
            world.run_judged(Duration::from_millis(50), |_, _| unreachable!());
        }
        world.is_done(&what);
    }
}

#[test]
fn whatever_becomes_of_the_packets_two_members_that_ask_each_other_at_once_have_what_was_granted() {
    explore(&[0, 1, 2, 3], crossed);
}

#[test]
fn whatever_becomes_of_the_packets_two_requests_of_one_member_are_answered_each_by_its_own_verdict()
{
    explore(&ONE, beside);
}

#[test]
fn whatever_becomes_of_the_packets_callers_that_give_up_what_is_refused_or_granted_leave_nothing() {
    let mut world = World::with_names();
    let mut round = 100;
    for (verdicts, skip, fates) in all_plans(&ONE) {
        round += 2;
        let asks = crossed(round, verdicts);
        let what = format!("{asks:?}, after {skip}: {fates:?}");
        let spared = [Fate::Arrives].repeat(skip);
        world.follow(&[spared, fates].concat());
        let mut asked = [0; 2];
        for ask in &asks {
            let wish = allocate(ask.name, ask.ids[0].0, QosSpec::RAW);
            world.net.command(ask.from, Command::Allocate(wish));
        }
        for ask in &asks {
            // Before the request has come, while it is answered, or after.
            let wait = LATENCY * (round as u32 / 2 % 5);
            world.run_judged(wait, |at, name| judged(&asks, &mut asked, at, name));
            world.dealloc(ask.from, ask.ids[0]);
        }
        world.run_judged(PATIENCE, |at, name| judged(&asks, &mut asked, at, name));
        assert!(asked.iter().all(|asked| *asked <= 1), "{asked:?}: {what}");
        world.is_done(&what);
    }
}

/// Verdicts on both requests, how many packets arrive first, and what becomes of those after them.
fn all_plans(verdicts: &[usize]) -> impl Iterator<Item = (usize, usize, Vec<Fate>)> {
    let all = verdicts.iter().flat_map(|of| SKIPS.map(|skip| (*of, skip)));
    all.flat_map(|(of, skip)| plans(DEPTH).map(move |fates| (of, skip, fates)))
}

type Answered = Result<Answer, Reason>;

/// Two requests, two answers, and what acknowledges each, are eight packets if none is lost.
const SKIPS: [usize; 2] = [0, 4];
/// One of two requests is refused.
const ONE: [usize; 2] = [1, 2];
