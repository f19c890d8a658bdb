//! What is said of names.

use super::*;
use crate::dir::Directory;

const FEW: Rate = Rate {
    burst: 4,
    per_second: 1,
};
const MINE: [&str; 8] = ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"];

fn dir<'a>(net: &'a mut Net, at: &'static str) -> &'a mut Directory {
    &mut net.node(at).machine.me.as_mut().unwrap().dir
}

/// Whether a member knows who serves a name without asking anybody.
fn knows(net: &mut Net, at: &'static str, name: &str) -> bool {
    let now = net.now();
    let me = net.node(at).machine.me.as_ref().unwrap();
    !me.resolve(now, &proto::Name::new(name).unwrap()).is_empty()
}

fn known(net: &mut Net, at: &'static str) -> usize {
    MINE.iter().filter(|name| knows(net, at, name)).count()
}

/// a says more of names than `at` hears, and c is heard all the same; afterwards a is heard too.
fn heard_later(mut net: Net, at: &'static str, limit: &str) {
    for name in MINE {
        register(&mut net, "a", name);
    }
    register(&mut net, "c", "another");
    net.run(Duration::from_millis(50));
    let few = known(&mut net, if at == "b" { "b" } else { "c" });
    assert!((1..MINE.len()).contains(&few), "{few}");
    assert!(knows(&mut net, "b", "another"));
    assert!(bites(&mut net, "b", limit) > 0);
    net.seconds(30);
    assert_eq!(
        known(&mut net, if at == "b" { "b" } else { "c" }),
        MINE.len()
    );
}

pub(super) fn a_neighbour_that_says_too_many_names_is_heard_later_and_others_at_once(
    [limit]: [&str; 1],
) {
    let mut net = world();
    dir(&mut net, "b").hears().neighbour = FEW;
    heard_later(net, "b", limit);
}

pub(super) fn a_member_that_signs_too_many_names_is_heard_later_and_others_at_once(
    [limit]: [&str; 1],
) {
    let mut net = world();
    dir(&mut net, "b").hears().origin = FEW;
    heard_later(net, "b", limit);
}

pub(super) fn a_neighbour_that_has_too_many_names_handed_on_has_the_rest_handed_on_later(
    [limit]: [&str; 1],
) {
    let mut net = world();
    dir(&mut net, "b").hears().relayed = FEW;
    heard_later(net, "c", limit);
}

pub(super) fn entries_beyond_what_is_kept_of_one_member_are_kept_when_there_is_room(
    [limit]: [&str; 1],
) {
    let mut net = world();
    dir(&mut net, "b").keep_at_most(2);
    for name in &MINE[..3] {
        register(&mut net, "a", name);
    }
    register(&mut net, "c", "another");
    net.run(Duration::from_millis(50));
    assert_eq!(known(&mut net, "b"), 2);
    assert!(knows(&mut net, "b", "another"));
    assert!(bites(&mut net, "b", limit) > 0);
    let one = proto::Name::new(MINE[0]).unwrap();
    assert_eq!(net.ask("a", Command::Unregister(one)), Ok(Answer::Ok));
    // So long others hear that it was withdrawn.
    net.seconds(150);
    assert!(knows(&mut net, "b", MINE[2]));
}
