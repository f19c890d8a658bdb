//! Names: who is asked for a flow to one, and whom nobody asks.

use proto::{Addr, Name, QosSpec};

use super::flows::{allocate, flow, register, request, wait};
use super::routes::triangle;
use super::*;

fn unregister(net: &mut Net, at: &'static str, name: &str) {
    let command = Command::Unregister(Name::new(name).unwrap());
    assert_eq!(net.ask(at, command), Ok(Answer::Ok));
}

/// Who of several is asked first, and the others.
fn first(net: &mut Net, of: [&'static str; 2]) -> (&'static str, &'static str) {
    let address = |net: &mut Net, name| net.node(name).machine.me.as_ref().unwrap().address;
    if address(net, of[0]) < address(net, of[1]) {
        (of[0], of[1])
    } else {
        (of[1], of[0])
    }
}

#[test]
fn a_name_is_called_absent_only_when_all_that_keep_it_have_answered_or_had_time_to() {
    let mut net = flows::line();
    // Of what b and c say to each other only the hellos arrive.
    net.tamper = Some(Box::new(|from, to, pdu| {
        if (from == "c" || to == "c") && pdu.len() > 60 {
            pdu.clear();
        }
    }));
    register(&mut net, "c", "svc");
    let since = net.elapsed;
    let command = net.command("a", Command::Allocate(allocate("svc", 5, QosSpec::RAW)));
    net.run(Duration::from_millis(1500));
    let early = net.node("a").answers.get(&command).cloned();
    assert_eq!(early, None, "c has not answered");
    net.tamper = None;
    let asked = request(&mut net, "c");
    let verdict = Err(Reason::new(Code::Refused, "this will do"));
    let respond = proto::ipcp::Respond {
        request: asked.request,
        verdict,
    };
    net.ask("c", Command::Respond(respond)).unwrap();
    let refused = wait(&mut net, "a", command).unwrap_err();
    assert_eq!(refused.code, Code::Refused);
    assert!(net.elapsed - since < Duration::from_secs(4));
}

#[test]
fn of_several_that_serve_a_name_the_next_is_asked_when_the_nearest_dies_or_serves_it_no_longer() {
    let mut net = triangle();
    for at in ["b", "c"] {
        register(&mut net, at, "svc");
    }
    net.seconds(1);
    let (near, next) = first(&mut net, ["b", "c"]);
    flow(&mut net, "a", near, "svc", 5, QosSpec::RAW);
    // Nobody has noticed yet: it is asked, and is silent.
    for other in ["a", next] {
        net.cut(near, other);
    }
    let since = net.elapsed;
    let command = net.command("a", Command::Allocate(allocate("svc", 6, QosSpec::RAW)));
    let asked = request(&mut net, next);
    assert!(net.elapsed - since < Duration::from_secs(3));
    let verdict = Err(Reason::new(Code::Refused, "this will do"));
    let respond = proto::ipcp::Respond {
        request: asked.request,
        verdict,
    };
    net.ask(next, Command::Respond(respond)).unwrap();
    assert_eq!(
        wait(&mut net, "a", command).unwrap_err().code,
        Code::Refused
    );
    for other in ["a", next] {
        net.mend(near, other);
    }
    net.seconds(10);
    unregister(&mut net, near, "svc");
    net.run(Duration::from_millis(20));
    flow(&mut net, "a", next, "svc", 7, QosSpec::RAW);
}

#[test]
fn the_nearest_of_several_answers_whatever_its_address_and_when_it_dies_the_next() {
    for (near, far) in [("b", "d"), ("d", "b")] {
        let mut net = Net::new(&["a", "b", "c", "d"]);
        bootstrap(&mut net, "a");
        for member in [near, "c", far] {
            join(&mut net, "a", member);
        }
        // It is one link to the near one, and two to the far one.
        let connect = Command::Connect(label("c"), None);
        assert_eq!(net.ask(far, connect), Ok(Answer::Ok));
        for (at, from) in [(far, "a"), ("a", far)] {
            let apart = Command::Disconnect(label(from));
            assert_eq!(net.ask(at, apart), Ok(Answer::Ok));
        }
        for at in [near, far] {
            register(&mut net, at, "svc");
        }
        net.seconds(3);
        flow(&mut net, "a", near, "svc", 5, QosSpec::RAW);
        net.cut("a", near);
        net.seconds(40);
        flow(&mut net, "a", far, "svc", 6, QosSpec::RAW);
        net.mend("a", near);
        net.seconds(10);
        flow(&mut net, "a", near, "svc", 7, QosSpec::RAW);
    }
}

#[test]
fn a_name_that_only_this_member_serves_is_told_at_once_and_one_that_nobody_does_in_time() {
    let mut net = triangle();
    register(&mut net, "a", "own");
    net.seconds(1);
    let since = net.elapsed;
    let refused = |net: &mut Net, name: &str, flow| {
        let ask = Command::Allocate(allocate(name, flow, QosSpec::RAW));
        net.ask("a", ask).unwrap_err()
    };
    let reason = refused(&mut net, "own", 5);
    assert_eq!(reason.code, Code::NotFound);
    assert!(reason.text.contains("at this very member only"), "{reason}");
    assert!(net.elapsed - since < Duration::from_millis(100));
    assert_eq!(refused(&mut net, "other", 6).code, Code::NotFound);
    assert!(net.elapsed - since < Duration::from_secs(2));
}

#[test]
fn a_name_that_is_taken_back_is_remembered_by_nobody() {
    let mut net = triangle();
    register(&mut net, "c", "svc");
    net.seconds(1);
    flow(&mut net, "a", "c", "svc", 5, QosSpec::RAW);
    unregister(&mut net, "c", "svc");
    net.run(Duration::from_millis(50));
    for at in ["a", "b", "c"] {
        assert!(status(&mut net, at).directory.is_empty(), "{at}");
    }
    let ask = Command::Allocate(allocate("svc", 6, QosSpec::RAW));
    assert_eq!(net.ask("a", ask).unwrap_err().code, Code::NotFound);
}

/// It could be reached before, over others: nothing but that it is a neighbour now is new.
#[test]
fn a_neighbour_that_comes_is_told_of_names_and_hears_when_they_are_taken_back() {
    let mut net = Net::new(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
    bootstrap(&mut net, "a");
    for member in ["b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        join(&mut net, "a", member);
    }
    net.seconds(3);
    let (name, server, other) = kept_by_neither(&mut net);
    let connect = Command::Connect(label(other), None);
    assert_eq!(net.ask(server, connect), Ok(Answer::Ok));
    net.seconds(1);
    register(&mut net, server, &name);
    net.seconds(1);
    let known = |net: &mut Net| status(net, other).directory.len();
    assert_eq!(known(&mut net), 1);
    unregister(&mut net, server, &name);
    net.seconds(1);
    assert_eq!(known(&mut net), 0);
}

/// A name, and two members that are not to keep it, nor is "a", their neighbour.
fn kept_by_neither(net: &mut Net) -> (String, &'static str, &'static str) {
    let names: Vec<&'static str> = net.nodes.keys().copied().collect();
    let address = |name| (net.node(name).machine.me.as_ref().unwrap().address, name);
    let members: BTreeMap<Addr, &'static str> = names.into_iter().map(address).collect();
    let all: Vec<Addr> = members.keys().copied().collect();
    for name in (0..100).map(|i| format!("svc{i}")) {
        let hash = crate::crypt::name_hash(&label("ovl"), &Name::new(&name).unwrap());
        let keepers = crate::dir::nearest(&all, &hash, crate::dir::KEEPERS);
        let rest = members.iter().filter(|(addr, _)| !keepers.contains(addr));
        let rest: Vec<_> = rest.map(|(_, name)| *name).collect();
        if rest.contains(&"a") {
            let mut rest = rest.into_iter().filter(|name| *name != "a");
            return (name, rest.next().unwrap(), rest.next().unwrap());
        }
    }
    panic!("\"a\" keeps all names");
}
