//! Wall clocks that step by an hour, forth and back, of one member or of all: nothing that stands or begins minds.

use proto::QosSpec;
use proto::ipcp::AuthorityAct;

use super::flows::{flow, line, read, register, write};
use super::rekeys::Traffic;
use super::*;

const HOUR: i64 = 3600;
const ALL: [&str; 3] = ["a", "b", "c"];

fn step(net: &mut Net, members: &[&'static str], ahead: i64) {
    net.ahead = members.iter().map(|m| (*m, ahead)).collect();
}

fn failed(net: &mut Net) -> Vec<u64> {
    let of = |at| status(net, at).counters.get("handshake.failed").copied();
    ALL.map(of)
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect()
}

#[test]
fn keys_change_and_no_sdu_is_lost_while_the_clock_of_an_end_a_middle_or_all_steps_by_an_hour() {
    for who in [&["a"][..], &["b"], &ALL] {
        let mut net = line();
        let mut traffic = Traffic::new(&mut net, "a", "c");
        for ahead in [HOUR, -HOUR, 0] {
            step(&mut net, who, ahead);
            // Keys change once at least on each link and of the pair.
            traffic.run(&mut net, Duration::from_secs(130));
        }
        assert_eq!(failed(&mut net), [0, 0, 0], "{who:?}");
        traffic.nothing_lost(&mut net);
    }
}

#[test]
fn who_comes_new_registers_asks_and_is_revoked_while_clocks_are_an_hour_apart() {
    for (who, ahead) in [("a", -HOUR), ("a", HOUR), ("c", -HOUR), ("c", HOUR)] {
        let mut net = line();
        step(&mut net, &[who], ahead);
        net.seconds(1);
        for (id, at, from) in [(5, "a", "c"), (6, "c", "a"), (7, "b", "a")] {
            register(&mut net, at, &format!("server-{id}"));
            flow(
                &mut net,
                from,
                at,
                &format!("server-{id}"),
                id,
                QosSpec::BEST,
            );
            write(&mut net, from, id, &[b"hello"]);
            assert_eq!(read(&mut net, at, id), [b"hello"], "{who} by {ahead}");
        }
        // Routing, and names, are told anew in this time.
        net.seconds(2 * 1800);
        write(&mut net, "a", 6, &[b"still"]);
        assert_eq!(read(&mut net, "c", 6), [b"still"], "{who} by {ahead}");
        for at in ALL {
            assert_eq!(
                status(&mut net, at).members.len(),
                3,
                "{who} by {ahead}, at {at}"
            );
        }
        // A restart is a new handshake with each neighbour.
        let files = net.node(who).files.clone();
        net.boot(who, files);
        let rejoin = Enroll {
            entry: Entry::Rejoin,
            over: vec![label("net")],
            timeout_ms: 10_000,
        };
        net.ask(who, Command::Enroll(rejoin)).unwrap();
        net.seconds(5);
        for (id, from, to) in [(8, "a", "c"), (9, "c", "a")] {
            let name = format!("anew-{id}");
            register(&mut net, to, &name);
            flow(&mut net, from, to, &name, id, QosSpec::RAW);
        }
        let out = AuthorityAct::Revoke(label("a"));
        net.ask("b", Command::Authority(out)).unwrap();
        net.seconds(1);
        assert_eq!(net.node("c").closed[&FlowId(9)].code, Code::Denied);
        assert_eq!(status(&mut net, "c").members.len(), 2, "{who} by {ahead}");
    }
}

#[test]
fn certificates_are_renewed_by_and_for_members_whose_clock_steps_by_an_hour() {
    // An issuer that is an hour ahead issues what others believe 25 min too late: that is beyond what clocks may be wrong.
    for (who, ahead) in [("a", HOUR), ("a", -HOUR), ("b", -HOUR)] {
        let mut net = Net::new(&ALL);
        net.cut("a", "c");
        let ask = Bootstrap {
            layer: label("ovl"),
            over: vec![label("net")],
            prefixes: Vec::new(),
            pools: Some(Vec::new()),
            cert_life: Some(Duration::from_secs(6 * 3600)),
            passphrase: None,
            shim_udp: None,
        };
        net.ask("b", Command::Bootstrap(ask)).unwrap();
        join(&mut net, "b", "a");
        join(&mut net, "b", "c");
        net.seconds(1);
        register(&mut net, "c", "server");
        flow(&mut net, "a", "c", "server", 1, QosSpec::BEST);
        let first = status(&mut net, "c").cert_expires;
        // The step comes when certificates are renewed, and lasts for half a life.
        for hour in 0..12u8 {
            step(
                &mut net,
                &[who],
                if (4..7).contains(&hour) { ahead } else { 0 },
            );
            net.seconds(3600);
            write(&mut net, "a", 1, &[&[hour]]);
            assert_eq!(
                read(&mut net, "c", 1),
                [[hour]],
                "{who} by {ahead}, hour {hour}"
            );
        }
        assert!(status(&mut net, "c").cert_expires > first + 4 * 3600);
    }
}
