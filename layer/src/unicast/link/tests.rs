use super::*;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
fn frames_of_the_channel_follow_the_mtu_of_either_side() {
    let now = Instant::now();
    let stands = |mtu| Stands {
        lower: FlowId(1),
        over: Label::new("cable").unwrap(),
        mtu,
        framing: Framing::Record,
    };
    let longest = |link: &mut Link| {
        link.channel.send(&[7; 5000]).unwrap();
        link.channel.poll(now).unwrap().len() + HOP_OVERHEAD + 1
    };
    let mut whole = Link::new(stands(1400), None, 1, now);
    assert_eq!(longest(&mut whole), SAFE_MTU as usize);
    let mut theirs = Link::new(stands(1400), None, 1, now);
    assert!(theirs.set_their_mtu(700));
    assert_eq!(longest(&mut theirs), 700);
    theirs.begin_channel(2);
    assert_eq!(longest(&mut theirs), 700, "a new channel too");
    let mut ours = Link::new(stands(1400), None, 1, now);
    assert!(ours.set_mtu(now, 600));
    assert_eq!(longest(&mut ours), 600);
}
