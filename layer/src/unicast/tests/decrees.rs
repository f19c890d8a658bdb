//! What the authority says reaches every member, and stays.

use super::*;
use crate::decree::Kind;

fn policy(net: &mut Net, name: &'static str) -> Option<Vec<u8>> {
    let decree = net.node(name).machine.current_decree(Kind::POLICY);
    decree.map(<[u8]>::to_vec)
}

fn publish(net: &mut Net, name: &'static str, text: &str) -> Result<u64, Reason> {
    let now = net.now();
    let machine = &mut net.node(name).machine;
    let number = machine.publish_decree(now, Kind::POLICY, text.as_bytes().to_vec());
    net.input(name, Input::Timeout);
    number
}

/// A line `a`–`b`–`c`.
pub(super) fn line() -> Net {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(1);
    join(&mut net, "a", "c");
    net.seconds(2);
    net
}

#[test]
fn a_decree_reaches_every_member_within_a_moment_and_the_newest_holds() {
    let mut net = line();
    assert_eq!(publish(&mut net, "a", "one"), Ok(1));
    net.run(Duration::from_millis(100));
    for name in ["a", "b", "c"] {
        assert_eq!(policy(&mut net, name), Some(b"one".to_vec()), "{name}");
    }
    assert_eq!(publish(&mut net, "a", "two"), Ok(2));
    net.run(Duration::from_millis(100));
    for name in ["a", "b", "c"] {
        assert_eq!(policy(&mut net, name), Some(b"two".to_vec()), "{name}");
    }
    assert_eq!(
        publish(&mut net, "c", "mine").unwrap_err().code,
        Code::Denied
    );
}

#[test]
fn who_was_away_learns_it_with_its_next_adjacency_and_who_restarts_still_knows_it() {
    let mut net = line();
    net.cut("b", "c");
    net.seconds(5);
    publish(&mut net, "a", "one").unwrap();
    net.seconds(5);
    assert_eq!(policy(&mut net, "c"), None);
    let files = net.node("b").files.clone();
    net.boot("b", files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 10_000,
    };
    net.cut("a", "b");
    net.ask("b", Command::Enroll(rejoin)).unwrap();
    assert_eq!(policy(&mut net, "b"), Some(b"one".to_vec()));
    // It comes from whoever has it, not from the authority alone.
    net.mend("b", "c");
    net.seconds(45);
    assert_eq!(policy(&mut net, "c"), Some(b"one".to_vec()));
}
