//! What waits: in flows, and in the queues of a link.

use super::super::super::out::Class;
use super::super::rates::address;
use super::*;

/// The link from b to a.
fn narrow(net: &mut Net) -> FlowId {
    let a = address(net, "a");
    net.node("b").machine.adjacent[&a]
}

/// Whether it takes packets from now on.
fn room(net: &mut Net, room: bool) {
    let (now, lower) = (net.now(), narrow(net));
    net.node("b").machine.lower_room(now, lower, room);
    while let Some(output) = net.node("b").machine.poll() {
        net.output("b", output);
    }
}

/// It takes nothing from now on, and eight batches may wait.
fn closed(net: &mut Net) {
    room(net, false);
    let lower = narrow(net);
    let link = net.node("b").machine.links.get_mut(&lower).unwrap();
    link.tx.set_most(8);
}

pub(super) fn a_full_queue_drops_of_whom_has_most_in_it_and_of_nobody_else(limits: [&str; 5]) {
    let kinds = [
        QosSpec::RAW,
        QosSpec::BEST,
        QosSpec::DATA,
        QosSpec::VIDEO,
        QosSpec::VOICE,
    ];
    for (limit, qos) in limits.into_iter().zip(kinds) {
        let mut net = world();
        register(&mut net, "a", "target");
        net.seconds(1);
        flow(&mut net, "c", "a", "target", 1, qos);
        flow(&mut net, "b", "a", "target", 2, qos);
        net.seconds(1);
        closed(&mut net);
        for n in 0..12 {
            if n == 8 {
                write(&mut net, "b", 2, &[b"of another"]);
            }
            write(&mut net, "c", 1, &[&[n; 100]]);
            // What comes together waits together.
            net.run(Duration::from_millis(6));
        }
        room(&mut net, true);
        assert_eq!(read(&mut net, "a", 2), [b"of another".to_vec()], "{qos}");
        assert!(bites(&mut net, "b", limit) > 0, "{qos}");
        let came: Vec<u8> = read(&mut net, "a", 1).iter().map(|sdu| sdu[0]).collect();
        assert!(
            came.is_sorted() && came.last() == Some(&11),
            "{qos}: {came:?}"
        );
        assert_eq!(came.len() == 12, qos == QosSpec::DATA, "{qos}: {came:?}");
    }
}

pub(super) fn requests_of_others_that_a_full_queue_has_dropped_are_made_again([limit]: [&str; 1]) {
    let mut net = world();
    register(&mut net, "a", "target");
    net.seconds(1);
    flow(&mut net, "c", "a", "target", 1, QosSpec::RAW);
    closed(&mut net);
    let asked: Vec<CommandId> = (2..16)
        .map(|id| {
            let ask = Command::Allocate(allocate("target", id, QosSpec::RAW));
            let command = net.command("c", ask);
            net.run(Duration::from_millis(6));
            command
        })
        .collect();
    room(&mut net, true);
    all_answered(&mut net, &asked, "c");
    assert!(bites(&mut net, "b", limit) > 0);
}

/// All that was asked of a comes there, and its answer comes back.
fn all_answered(net: &mut Net, asked: &[CommandId], from: &'static str) {
    for (id, command) in (500..).zip(asked) {
        let request = flows::request(net, "a").request;
        let verdict = Ok((FlowId(id), allocate("target", id, QosSpec::RAW).user));
        let respond = Command::Respond(Respond { request, verdict });
        net.ask("a", respond).unwrap();
        assert!(flows::wait(net, from, *command).is_ok());
    }
}

pub(super) fn control_that_a_full_queue_has_dropped_is_said_again([limit]: [&str; 1]) {
    let mut net = world();
    register(&mut net, "a", "target");
    net.seconds(1);
    room(&mut net, false);
    let lower = narrow(&mut net);
    let link = net.node("b").machine.links.get_mut(&lower).unwrap();
    let mut junk = 0;
    let full = loop {
        let put = link.send(Class::Control, 1_300, |body| {
            body.fill(0xee);
            Ok(())
        });
        match put {
            Ok(()) => junk += 1,
            Err(why) => break why,
        }
    };
    assert_eq!((full, junk > 3_000), (limit, true), "{junk}");
    let ask = Command::Allocate(allocate("target", 9, QosSpec::RAW));
    let command = net.command("b", ask);
    net.run(Duration::from_millis(20));
    room(&mut net, true);
    all_answered(&mut net, &[command], "b");
    assert!(bites(&mut net, "b", limit) > 0);
}

pub(super) fn flows_that_keep_what_waits_are_bounded_for_all_together([limit]: [&str; 1]) {
    let mut net = world();
    bounds(&mut net, "b").memory = 2;
    flow(&mut net, "a", "b", "server", 1, QosSpec::DATA);
    flow(&mut net, "c", "b", "server", 2, QosSpec::DATA);
    let third = Command::Allocate(allocate("server", 3, QosSpec::DATA));
    let reason = net.ask("a", third).unwrap_err();
    assert_eq!(reason.code, Code::Busy);
    assert!(
        reason
            .text
            .contains("b has as many flows of qos data as it has memory for")
    );
    flow(&mut net, "c", "b", "server", 7, QosSpec::RAW);
    bitten(&mut net, "b", limit);
    let closed = Reason::new(Code::Closed, "done");
    net.ask("c", Command::Dealloc(FlowId(2), closed)).unwrap();
    net.seconds(20);
    flow(&mut net, "a", "b", "server", 4, QosSpec::DATA);
}
