//! A certificate of 90 days, as they are, whose issuer is gone: people are warned in time, once each time, and told why.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// The longest between two looks at a certificate that nobody renews.
const LOOK: Duration = Duration::from_secs(75 * 60);

/// A member `c`; `a`, which has issued for it, is out of reach.
fn without_issuer() -> Net {
    let mut net = Net::new(&["a", "c"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "c");
    net.cut("a", "c");
    net
}

/// The end of `c`'s certificate.
fn end(net: &mut Net) -> Duration {
    Duration::from_secs(status(net, "c").cert_expires)
}

/// Sets the clocks of all to when that certificate has so much time left.
fn leave(net: &mut Net, end: Duration, left: Duration) {
    let ahead = (end - left).as_secs() - net.now().wall.secs();
    let ahead = ahead.cast_signed();
    net.ahead = ["a", "c"].map(|member| (member, ahead)).into();
}

/// What the log and the events of a member have warned of since the last look.
fn told(net: &mut Net, member: &'static str) -> Vec<String> {
    let warning = |event| match event {
        Event::Notice(n) if n.kind == "certificate.ends" && n.warning => Some(n.text),
        Event::Notice(_)
        | Event::Done(..)
        | Event::FlowRequest(_)
        | Event::FlowDown(..)
        | Event::Members
        | Event::State(..) => None,
    };
    let events = std::mem::take(&mut net.node(member).events);
    events.into_iter().filter_map(warning).collect()
}

/// What `irm status` warns of at `c`.
fn shown(net: &mut Net) -> Vec<String> {
    let of_end = |text: &String| text.contains("certificate of c");
    let warnings = status(net, "c").warnings;
    warnings.into_iter().filter(of_end).collect()
}

/// Warned once, by a text that says this and why it wasn't renewed, and `status` says so from then on.
fn is_warned(net: &mut Net, said: &str) {
    let told = told(net, "c");
    assert_eq!(told.len(), 1, "{said}: {told:?}");
    let begin = format!("the certificate of c {said}; it wasn't renewed: ");
    assert!(told[0].starts_with(&begin), "{said}: {told:?}");
    let shown = shown(net);
    assert_eq!(shown.len(), 1, "{said}: {shown:?}");
    assert!(shown[0].contains("it wasn't renewed: "), "{shown:?}");
}

fn is_quiet(net: &mut Net, when: &str) {
    assert_eq!(told(net, "c"), [""; 0], "{when}");
}

#[test]
fn a_certificate_of_90_days_warns_with_30_7_and_1_days_left_and_at_its_end() {
    let mut net = without_issuer();
    let end = end(&mut net);
    let life = end - net.now().wall.0;
    assert!(
        life > 90 * DAY - MINUTE && life <= 90 * DAY,
        "it lives {life:?}"
    );
    // It has been asked for in vain for days before anybody is bothered.
    leave(&mut net, end, 31 * DAY);
    net.run(2 * HOUR);
    assert!(status(&mut net, "c").counters["renew.failed"] > 0);
    is_quiet(&mut net, "31 days");
    assert_eq!(shown(&mut net), [""; 0]);
    let marks = [
        (30 * DAY, "expires in 29 days"),
        (7 * DAY, "expires in 6 days"),
        (DAY, "expires in 23 h"),
        (Duration::ZERO, "has expired"),
    ];
    for (left, said) in marks {
        leave(&mut net, end, left + HOUR);
        net.run(HOUR - MINUTE);
        is_quiet(&mut net, &format!("before it {said}"));
        net.run(LOOK + MINUTE);
        is_warned(&mut net, said);
        net.run(3 * HOUR);
        is_quiet(&mut net, &format!("after it {said}"));
    }
}

#[test]
fn who_has_an_issuer_has_been_renewed_before_anybody_is_warned() {
    // When it is renewed is drawn.
    let others = ["b", "c", "d", "e", "f", "g", "h", "i"];
    let mut net = Net::new(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    bootstrap(&mut net, "a");
    for other in others {
        join(&mut net, "a", other);
    }
    let end = end(&mut net);
    let ahead = (end - 30 * DAY - HOUR).as_secs() - net.now().wall.secs();
    for member in others.into_iter().chain(["a"]) {
        net.ahead.insert(member, ahead.cast_signed());
    }
    net.run(2 * HOUR);
    for member in others {
        assert_eq!(told(&mut net, member), [""; 0], "{member}");
        let ends = Duration::from_secs(status(&mut net, member).cert_expires);
        assert!(ends > end + 59 * DAY, "{member}: {ends:?}");
    }
}

#[test]
fn who_starts_anew_with_a_week_left_is_warned_at_once_and_no_more_when_the_issuer_is_back() {
    let mut net = without_issuer();
    let before = end(&mut net);
    leave(&mut net, before, 5 * DAY + HOUR);
    let files = net.node("c").files.clone();
    net.boot("c", files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 10_000,
    };
    net.ask("c", Command::Enroll(rejoin)).unwrap();
    net.run(2 * MINUTE);
    assert_eq!(
        told(&mut net, "c"),
        ["the certificate of c expires in 5 days"]
    );
    net.mend("a", "c");
    net.run(LOOK);
    assert_eq!(shown(&mut net), [""; 0]);
    let gained = end(&mut net) - before;
    assert!(gained > 84 * DAY && gained < 85 * DAY, "{gained:?}");
    is_quiet(&mut net, "renewed");
}
