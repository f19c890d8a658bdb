//! What comes over links: strangers, handshakes, records, and what is to be said there.

use proto::Addr;
use proto::wire::message::Body;
use proto::wire::{Records, SignedRecord};

use super::super::intruder::forge;
use super::super::rates::{address, ghosts, hello};
use super::*;

/// Somebody's N-1 flow to b.
pub(super) fn stranger(net: &mut Net, n: u64) {
    let up = FlowTell::Up {
        lower: FlowId(1 << 40 | n),
        over: label("net"),
        mtu: 4_000,
        framing: Framing::Train,
        via: Via::Accepted(None),
    };
    net.input("b", Input::Tell(up));
}

pub(super) fn has_stranger(net: &mut Net, n: u64) -> bool {
    let links = &net.node("b").machine.links;
    links.contains_key(&FlowId(1 << 40 | n))
}

/// The stranger begins a handshake.
fn begins(net: &mut Net, n: u64, session: u32, hello: &mut [u8]) {
    hello[2..6].copy_from_slice(&session.to_be_bytes());
    net.input("b", Input::Lower(FlowId(1 << 40 | n), train(hello)));
}

pub(super) fn strangers_are_hung_up_while_those_before_them_are_answered([limit]: [&str; 1]) {
    let mut net = world();
    let mut hello = hello(&mut net, "b");
    bounds(&mut net, "b").strangers = 4;
    for n in 1..=5 {
        stranger(&mut net, n);
        if has_stranger(&mut net, n) {
            begins(&mut net, n, 7, &mut hello);
        }
    }
    assert!(!has_stranger(&mut net, 5) && (1..=4).all(|n| has_stranger(&mut net, n)));
    bitten(&mut net, "b", limit);
    // Those have had their time.
    stranger(&mut net, 6);
    assert!(has_stranger(&mut net, 6));
}

/// The handshakes of others that run at `at` with a member, or over the link of a stranger.
fn open(handshakes: &[super::super::super::running::Running]) -> Vec<u32> {
    let open = handshakes.iter().filter_map(|r| r.open());
    open.map(|(session, ..)| session).collect()
}

pub(super) fn strangers_are_answered_when_nothing_of_neighbours_waits_any_more([limit]: [&str; 1]) {
    let mut net = world();
    let (mut hello, a) = (hello(&mut net, "b"), address(&mut net, "a"));
    let mut behind = train(b"whatever it is");
    behind.set_waited(Duration::from_millis(20));
    let lower = net.node("b").machine.adjacent[&a];
    net.input("b", Input::Lower(lower, behind));
    stranger(&mut net, 1);
    begins(&mut net, 1, 11, &mut hello);
    net.run(Duration::from_millis(100));
    begins(&mut net, 1, 12, &mut hello);
    let link = &net.node("b").machine.links[&FlowId(1 << 40 | 1)];
    assert_eq!(open(&link.handshakes), [12]);
    bitten(&mut net, "b", limit);
}

pub(super) fn a_third_handshake_of_a_stranger_ends_the_first([limit]: [&str; 1]) {
    let mut net = world();
    let mut hello = hello(&mut net, "b");
    stranger(&mut net, 1);
    for session in [11, 12, 13] {
        begins(&mut net, 1, session, &mut hello);
    }
    let link = &net.node("b").machine.links[&FlowId(1 << 40 | 1)];
    assert_eq!(open(&link.handshakes), [12, 13]);
    bitten(&mut net, "b", limit);
}

pub(super) fn a_second_handshake_in_the_name_of_a_member_ends_the_first_and_its_own_passes(
    [limit]: [&str; 1],
) {
    let mut net = world();
    register(&mut net, "a", "target");
    net.seconds(1);
    forge(&mut net, "b", "c", 77);
    forge(&mut net, "b", "c", 78);
    net.run(Duration::from_millis(10));
    let c = address(&mut net, "c");
    assert_eq!(open(&net.node("a").machine.peers[&c].handshakes), [78]);
    bitten(&mut net, "a", limit);
    flow(&mut net, "c", "a", "target", 9, QosSpec::RAW);
}

/// c sends records to b, which sends them on to a.
fn spread(net: &mut Net, records: Vec<SignedRecord>) {
    let b = address(net, "b");
    let machine = &mut net.node("c").machine;
    machine.tell_link(machine.adjacent[&b], Body::Records(Records { records }));
    net.input("c", Input::Timeout);
}

fn strangers_records(net: &mut Net, count: usize) -> Vec<SignedRecord> {
    let ghosts: Vec<(Addr, SignedRecord)> = ghosts(net, "b", count);
    ghosts.into_iter().map(|(_, record)| record).collect()
}

fn members(net: &mut Net, at: &'static str) -> usize {
    status(net, at).members.len()
}

pub(super) fn a_neighbour_that_sends_too_many_records_is_asked_for_the_rest_later(
    [limit]: [&str; 1],
) {
    let mut net = world();
    bounds(&mut net, "a").records = Rate {
        burst: 4,
        per_second: 1,
    };
    let records = strangers_records(&mut net, 5);
    spread(&mut net, records);
    net.run(Duration::from_millis(500));
    assert_eq!((members(&mut net, "a"), members(&mut net, "b")), (7, 8));
    bitten(&mut net, "a", limit);
    net.seconds(15);
    assert_eq!(members(&mut net, "a"), 8);
}

pub(super) fn members_beyond_those_that_are_known_are_believed_when_there_is_room(
    [limit]: [&str; 1],
) {
    let mut net = world();
    let hold = |net: &mut Net, most| {
        let me = net.node("a").machine.me.as_mut().unwrap();
        me.routing.lsdb.hold_at_most(most);
    };
    hold(&mut net, 5);
    let records = strangers_records(&mut net, 3);
    spread(&mut net, records);
    net.run(Duration::from_millis(500));
    assert_eq!((members(&mut net, "a"), members(&mut net, "b")), (5, 6));
    bitten(&mut net, "a", limit);
    hold(&mut net, 6);
    net.seconds(45);
    assert_eq!(members(&mut net, "a"), 6);
}

pub(super) fn records_beyond_what_may_wait_for_a_neighbour_are_said_by_the_next_digest(
    [limit]: [&str; 1],
) {
    let mut net = world();
    let a = address(&mut net, "a");
    let hold = |net: &mut Net, most| {
        let machine = &mut net.node("b").machine;
        let link = machine.links.get_mut(&machine.adjacent[&a]).unwrap();
        link.channel.hold_at_most(most);
    };
    hold(&mut net, 2_000);
    let records = strangers_records(&mut net, 5);
    spread(&mut net, records);
    while !status(&mut net, "b").counters.contains_key(limit) {
        net.run(Duration::from_millis(1));
    }
    assert_eq!((members(&mut net, "a"), members(&mut net, "b")), (3, 8));
    hold(&mut net, 4 << 20);
    bitten(&mut net, "b", limit);
    assert_eq!(members(&mut net, "a"), 8);
}

pub(super) fn requests_to_a_member_that_is_silent_are_refused_beyond_what_may_wait(
    [limit]: [&str; 1],
) {
    let mut net = world();
    flow(&mut net, "a", "b", "server", 50, QosSpec::RAW);
    let b = address(&mut net, "b");
    net.cut("a", "b");
    let peer = net.node("a").machine.peers.get_mut(&b).unwrap();
    peer.channel.hold_at_most(300);
    let mut asked = Vec::new();
    let over = loop {
        let command = ask(&mut net, "a", "server", 1 + asked.len() as u64);
        if !waits(&mut net, "a", command) {
            break command;
        }
        asked.push(command);
    };
    let why = "too much waits to be said to the member";
    refused(&mut net, "a", over, why);
    assert!((2..12).contains(&asked.len()), "{asked:?}");
    net.mend("a", "b");
    for (id, command) in (500..).zip(asked) {
        let request = flows::request(&mut net, "b").request;
        let verdict = Ok((FlowId(id), allocate("server", id, QosSpec::RAW).user));
        let respond = Command::Respond(Respond { request, verdict });
        net.ask("b", respond).unwrap();
        assert!(flows::wait(&mut net, "a", command).is_ok());
    }
    bitten(&mut net, "a", limit);
}

pub(super) fn what_comes_before_the_answer_is_kept_as_far_as_it_may([limit]: [&str; 1]) {
    let mut net = world();
    let command = ask(&mut net, "c", "server", 9);
    // The answer is lost at first.
    let mut first = true;
    net.tamper = Some(Box::new(move |from, to, pdu| {
        if (from, to) == ("b", "c") && std::mem::take(&mut first) {
            pdu.clear();
        }
    }));
    let asked = flows::request(&mut net, "b");
    let user = allocate("server", 9, QosSpec::RAW).user;
    net.command(
        "b",
        Command::Respond(Respond {
            request: asked.request,
            verdict: Ok((FlowId(9), user)),
        }),
    );
    for n in 0..60 {
        write(&mut net, "b", 9, &[&[n; 1_400]]);
    }
    assert!(flows::wait(&mut net, "c", command).is_ok());
    let came: Vec<u8> = read(&mut net, "c", 9).iter().map(|sdu| sdu[0]).collect();
    assert!(
        came.len() > 30 && came.iter().copied().eq(0..came.len() as u8),
        "{came:?}"
    );
    assert_eq!(bites(&mut net, "c", limit), 60 - came.len() as u64);
    write(&mut net, "b", 9, &[b"from now on"]);
    assert_eq!(read(&mut net, "c", 9), [b"from now on".to_vec()]);
}
