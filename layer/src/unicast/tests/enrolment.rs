//! Who gets in, through whom, and who doesn't.

use super::*;

#[test]
fn the_first_member_lets_another_in_by_an_invitation() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(2);
    for (name, other) in [("a", "b"), ("b", "a")] {
        let status = status(&mut net, name);
        assert_eq!(status.state, "up");
        let up: Vec<_> = status.links.iter().filter(|l| l.state == "up").collect();
        assert_eq!(up.len(), 1);
        assert_eq!(up[0].member, other);
        assert!((3_000..6_000).contains(&up[0].rtt_us), "{} µs", up[0].rtt_us);
    }
}
