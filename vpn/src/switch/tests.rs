use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Mac, Refused, Switch, To};
use crate::prefix::{Owner, PeerId};

const B: PeerId = PeerId(3);
const C: PeerId = PeerId(6);
const ALL: Mac = Mac([0xff; 6]);

/// Some station's address.
fn mac(n: u16) -> Mac {
    let [a, b] = n.to_be_bytes();
    Mac([0x52, 0, 0, 0, a, b])
}

fn frame(from: Mac, to: Mac) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x08, 0, 1, 2, 3]].concat()
}

fn tagged(from: Mac, to: Mac, kind: [u8; 2], tag: u16) -> Vec<u8> {
    let [a, b] = tag.to_be_bytes();
    [&to.0[..], &from.0, &kind, &[a, b, 0x08, 0, 1]].concat()
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn what_is_known_goes_to_its_member_alone_and_all_else_to_all() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let (one, two) = (mac(1), mac(2));
    assert_eq!(switch.from_host(now, &frame(one, ALL)), Ok(To::All));
    assert_eq!(switch.from_host(now, &frame(one, two)), Ok(To::All));
    assert_eq!(switch.from_peer(now, B, &frame(two, one)), Ok(()));
    assert_eq!(switch.from_host(now, &frame(one, two)), Ok(To::Peer(B)));
    let group = Mac([0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(switch.from_host(now, &frame(one, group)), Ok(To::All));
    let known = switch.known(now);
    assert_eq!((known[&Owner::Me], known[&Owner::Peer(B)]), (1, 1));
}

#[test]
fn what_comes_from_a_member_goes_to_the_host_and_to_no_member() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    assert_eq!(switch.from_peer(now, B, &frame(mac(2), ALL)), Ok(()));
    // Known to be behind C, and behind B itself: nobody here wants it.
    assert_eq!(switch.from_peer(now, C, &frame(mac(3), ALL)), Ok(()));
    for (from, to) in [(mac(2), mac(3)), (mac(4), mac(2))] {
        let passed = switch.from_peer(now, B, &frame(from, to));
        assert_eq!(passed, Err(Refused::Elsewhere));
    }
    // Unknown: it may be for one behind the host, which has not spoken yet.
    assert_eq!(switch.from_peer(now, B, &frame(mac(2), mac(9))), Ok(()));
    // The host's own side is a port like the others.
    assert_eq!(switch.from_host(now, &frame(mac(5), ALL)), Ok(To::All));
    let back = switch.from_host(now, &frame(mac(6), mac(5)));
    assert_eq!(back, Err(Refused::Elsewhere));
}

#[test]
fn frames_that_no_bridge_forwards_are_refused_with_the_reason() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let whole = frame(mac(1), mac(2));
    let vlan = tagged(mac(1), mac(2), [0x81, 0], 7);
    let mut control = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
    let mut all = vec![
        (whole[..13].to_vec(), Refused::Short),
        (vec![], Refused::Short),
        (vlan[..17].to_vec(), Refused::Short),
        (frame(ALL, mac(2)), Refused::Source),
        (frame(Mac([0x33, 0x33, 0, 0, 0, 1]), ALL), Refused::Source),
        (frame(Mac([0; 6]), mac(2)), Refused::Source),
    ];
    for last in 0..16 {
        control.0[5] = last;
        all.push((frame(mac(1), control), Refused::Control));
    }
    for (bad, why) in all {
        assert_eq!(switch.from_host(now, &bad), Err(why), "{bad:02x?}");
        assert_eq!(switch.from_peer(now, B, &bad), Err(why), "{bad:02x?}");
    }
    assert_eq!(switch.known(now), HashMap::new());
    control.0[5] = 0x10;
    for good in [&whole[..14], &vlan[..18], &frame(mac(1), control)] {
        assert!(switch.from_host(now, good).is_ok(), "{good:02x?}");
    }
}

#[test]
fn an_address_is_forgotten_after_five_minutes_of_silence() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    switch.from_peer(now, B, &frame(mac(2), ALL)).unwrap();
    let ask = frame(mac(1), mac(2));
    let to = |switch: &mut Switch, at| switch.from_host(at, &ask).unwrap();
    assert_eq!(to(&mut switch, now + s(299)), To::Peer(B));
    switch
        .from_peer(now + s(299), B, &frame(mac(2), ALL))
        .unwrap();
    assert_eq!(to(&mut switch, now + s(598)), To::Peer(B));
    assert_eq!(to(&mut switch, now + s(599)), To::All);
    assert_eq!(switch.known(now + s(599)).get(&Owner::Peer(B)), None);
}

#[test]
fn an_address_that_moves_is_followed_and_a_member_that_is_gone_is_forgotten() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let ask = frame(mac(1), mac(2));
    for (peer, moves) in [(B, 0), (C, 1), (B, 2)] {
        switch.from_peer(now, peer, &frame(mac(2), ALL)).unwrap();
        assert_eq!(switch.from_host(now, &ask), Ok(To::Peer(peer)));
        assert_eq!(switch.counts(), (0, moves));
    }
    switch.from_peer(now, C, &frame(mac(3), ALL)).unwrap();
    switch.forget(B);
    assert_eq!(switch.from_host(now, &ask), Ok(To::All));
    let other = switch.from_host(now, &frame(mac(1), mac(3)));
    assert_eq!(other, Ok(To::Peer(C)));
    assert_eq!(switch.known(now).get(&Owner::Peer(B)), None);
}

#[test]
fn a_member_takes_no_address_of_a_device_and_none_that_was_heard_here_a_moment_ago() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let devices = [1, 2, 3].map(|n| Mac::of_member(n << 40));
    let owners = [Owner::Me, Owner::Peer(B), Owner::Peer(C)];
    switch.set_fixed(devices.into_iter().zip(owners));
    // However long the host has been silent.
    for at in [now, now + s(1000)] {
        for (taken, by) in [(0, B), (1, C), (2, B)] {
            let stolen = switch.from_peer(at, by, &frame(devices[taken], ALL));
            assert_eq!(stolen, Err(Refused::Stolen));
        }
        let stolen = switch.from_host(at, &frame(devices[1], ALL));
        assert_eq!(stolen, Err(Refused::Stolen));
    }
    for (peer, own) in [(B, 1), (C, 2)] {
        switch
            .from_peer(now, peer, &frame(devices[own], ALL))
            .unwrap();
    }
    let given = mac(77);
    switch.set_own(given);
    let stolen = switch.from_peer(now + s(400), B, &frame(given, ALL));
    assert_eq!(stolen, Err(Refused::Stolen));
    // One behind the host may move away, but not while it speaks here.
    let guest = mac(5);
    switch.from_host(now, &frame(guest, ALL)).unwrap();
    let stolen = switch.from_peer(now + s(1), B, &frame(guest, ALL));
    assert_eq!(stolen, Err(Refused::Stolen));
    switch
        .from_peer(now + Switch::HOLD, B, &frame(guest, ALL))
        .unwrap();
    let ask = frame(devices[0], guest);
    assert_eq!(switch.from_host(now + s(2), &ask), Ok(To::Peer(B)));
    // Here again, it is so at once.
    switch.from_host(now + s(2), &frame(guest, ALL)).unwrap();
    let here = switch.from_host(now + s(2), &ask);
    assert_eq!(here, Err(Refused::Elsewhere));
}

#[test]
fn the_same_address_in_two_vlans_is_two_and_tags_pass() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    for (peer, kind, tag) in [(B, [0x81, 0x00], 7), (C, [0x88, 0xa8], 0x6008)] {
        let said = tagged(mac(2), ALL, kind, tag);
        switch.from_peer(now, peer, &said).unwrap();
    }
    let to = |switch: &mut Switch, tag| {
        let ask = tagged(mac(1), mac(2), [0x81, 0x00], tag);
        switch.from_host(now, &ask).unwrap()
    };
    // The priority is not part of it.
    assert_eq!(to(&mut switch, 0xe007), To::Peer(B));
    assert_eq!(to(&mut switch, 8), To::Peer(C));
    assert_eq!(to(&mut switch, 9), To::All);
    let plain = switch.from_host(now, &frame(mac(1), mac(2)));
    assert_eq!(plain, Ok(To::All));
}

#[test]
fn a_member_that_makes_addresses_up_has_its_share_and_no_more() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let count = Switch::SHARE as u16;
    for n in 0..count + 500 {
        switch
            .from_peer(now, B, &frame(mac(0x1000 + n), ALL))
            .unwrap();
    }
    switch.from_peer(now, C, &frame(mac(2), ALL)).unwrap();
    assert_eq!(switch.counts(), (500, 0));
    let known = switch.known(now);
    assert_eq!(known[&Owner::Peer(B)], Switch::SHARE);
    let to_c = switch.from_host(now, &frame(mac(1), mac(2)));
    assert_eq!(to_c, Ok(To::Peer(C)));
    // Full as it is, it still tells that one is no longer where it was.
    switch.from_peer(now, B, &frame(mac(2), ALL)).unwrap();
    let nobody = switch.from_host(now, &frame(mac(1), mac(2)));
    assert_eq!(nobody, Ok(To::All));
    // They grow old like others, and make room.
    let later = now + Switch::AGE;
    switch.from_peer(later, B, &frame(mac(3), ALL)).unwrap();
    assert_eq!(switch.known(later)[&Owner::Peer(B)], 1);
    assert_eq!(switch.counts(), (501, 0));
}

#[test]
fn many_members_fill_no_more_than_the_table() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let mut sent = 0;
    for peer in 0..20 {
        for n in 0..Switch::SHARE as u16 {
            let from = Mac([0x52, peer, 0, 0, (n >> 8) as u8, n as u8]);
            let id = PeerId(peer.into());
            switch.from_peer(now, id, &frame(from, ALL)).unwrap();
            sent += 1;
        }
    }
    let known: usize = switch.known(now).values().sum();
    assert_eq!(known, Switch::MOST);
    assert_eq!(switch.counts().0 as usize, sent - Switch::MOST);
}

#[test]
fn a_guest_that_a_member_claims_is_still_spoken_to_and_has_its_address_back_when_it_answers() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let (guest, friend) = (mac(5), mac(6));
    switch.from_host(now, &frame(guest, ALL)).unwrap();
    switch.from_peer(now, B, &frame(friend, guest)).unwrap();
    // It is silent, and another member says that it is there.
    switch
        .from_peer(now + s(100), C, &frame(guest, ALL))
        .unwrap();
    let asks = switch.from_peer(now + s(101), B, &frame(friend, guest));
    assert_eq!(asks, Ok(()));
    let answers = switch.from_host(now + s(101), &frame(guest, friend));
    assert_eq!(answers, Ok(To::Peer(B)));
    let again = switch.from_peer(now + s(102), C, &frame(guest, ALL));
    assert_eq!(again, Err(Refused::Stolen));
    // One that was not heard here for as long as addresses are remembered has gone.
    switch
        .from_peer(now + s(200), C, &frame(guest, ALL))
        .unwrap();
    switch
        .from_peer(now + s(402), C, &frame(guest, ALL))
        .unwrap();
    let late = switch.from_peer(now + s(402), B, &frame(friend, guest));
    assert_eq!(late, Err(Refused::Elsewhere));
}

#[test]
fn the_address_of_a_device_needs_not_be_learned_and_floods_to_one_leave_room_for_those_to_all() {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let device = Mac::of_member(2 << 40);
    switch.set_fixed([(device, Owner::Peer(B))].into_iter());
    let to = frame(mac(5), device);
    assert_eq!(switch.from_host(now, &to), Ok(To::Peer(B)));
    switch.forget(B);
    assert_eq!(switch.from_host(now, &to), Ok(To::Peer(B)));
    let (_, burst) = Switch::FLOOD;
    assert!(switch.may_flood(now, false, burst as usize));
    assert!(!switch.may_flood(now, false, 1));
    assert!(switch.may_flood(now, true, 1));
}

#[test]
fn floods_are_bounded_by_their_copies() {
    let now = Instant::now();
    let (rate, burst) = Switch::FLOOD;
    let mut switch = Switch::new(now);
    let count = |switch: &mut Switch, at, copies: usize| {
        let tries = 0..u64::from(burst) * 2;
        tries.filter(|_| switch.may_flood(at, true, copies)).count()
    };
    assert_eq!(count(&mut switch, now, 2), burst as usize / 2);
    assert_eq!(count(&mut switch, now, 2), 0);
    assert_eq!(count(&mut switch, now + s(1), 4), rate as usize / 4);
    // To more members than there are tokens: now and then, not never.
    let many = burst as usize * 3;
    let later = now + s(100);
    assert!(switch.may_flood(later, true, many) && !switch.may_flood(later + s(3), true, many));
    assert!(switch.may_flood(later + s(5), true, many));
    // A clock that stands still, or seems to go back, gives nothing.
    assert!(!switch.may_flood(later, true, 1));
}

#[test]
fn a_device_has_an_address_of_its_own_that_is_a_stations() {
    let one = Mac::of_member(0x0102_0304_0506_0708);
    assert_eq!(one.to_string(), "02:02:03:04:05:06");
    assert!(!Mac::of_member(u64::MAX).is_group());
    assert_eq!(Mac::of_member(u64::MAX).0[0], 0xfe);
}

/// What happens to a switch.
#[derive(Debug, Clone)]
enum Event {
    Wait(u64),
    Host(u16, u16),
    Peer(u8, u16, u16),
    Forget(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let station = 0u16..12;
    prop_oneof![
        (0u64..200_000).prop_map(Event::Wait),
        (station.clone(), station.clone()).prop_map(|(a, b)| Event::Host(a, b)),
        (0u8..3, station.clone(), station).prop_map(|(p, a, b)| Event::Peer(p, a, b)),
        (0u8..3).prop_map(Event::Forget),
    ]
}

proptest! {
    /// Whatever happens: a frame goes to the member that used its address last, if that is not too long ago, and to no other; and
    /// the addresses of devices are where they belong.
    #[test]
    fn a_frame_goes_to_who_used_its_address_last(events in prop::collection::vec(event(), 1..300)) {
        let mut now = Instant::now();
        let mut switch = Switch::new(now);
        // Stations 0 to 3 are the devices of the host and of three members.
        let fixed = |n: u16| match n {
            0 => Some(Owner::Me),
            1..4 => Some(Owner::Peer(PeerId(u32::from(n) - 1))),
            _ => None,
        };
        switch.set_fixed((0..4).filter_map(|n| Some((mac(n), fixed(n)?))));
        let mut last: HashMap<u16, (Owner, Instant)> = HashMap::new();
        let mut here: HashMap<u16, Instant> = HashMap::new();
        for event in events {
            match event {
                Event::Wait(ms) => now += Duration::from_millis(ms),
                Event::Forget(peer) => {
                    let gone = Owner::Peer(PeerId(peer.into()));
                    switch.forget(PeerId(peer.into()));
                    last.retain(|_, (owner, _)| *owner != gone);
                    here.retain(|station, _| last.contains_key(station));
                }
                Event::Host(from, to) => {
                    let got = switch.from_host(now, &frame(mac(from), mac(to)));
                    if fixed(from).is_some_and(|owner| owner != Owner::Me) {
                        prop_assert_eq!(got, Err(Refused::Stolen));
                        continue;
                    }
                    last.insert(from, (Owner::Me, now));
                    here.insert(from, now);
                    let known = last.get(&to).filter(|(_, at)| now - *at < Switch::AGE);
                    prop_assert_eq!(got, match fixed(to).or_else(|| known.map(|(owner, _)| *owner)) {
                        Some(Owner::Peer(id)) => Ok(To::Peer(id)),
                        Some(Owner::Me) => Err(Refused::Elsewhere),
                        None => Ok(To::All),
                    });
                }
                Event::Peer(peer, from, to) => {
                    let id = PeerId(peer.into());
                    let got = switch.from_peer(now, id, &frame(mac(from), mac(to)));
                    let held = last.get(&from).is_some_and(|(owner, at)| *owner == Owner::Me && now - *at < Switch::HOLD);
                    if held || fixed(from).is_some_and(|owner| owner != Owner::Peer(id)) {
                        prop_assert_eq!(got, Err(Refused::Stolen));
                        continue;
                    }
                    last.insert(from, (Owner::Peer(id), now));
                    let known = last.get(&to).filter(|(_, at)| now - *at < Switch::AGE);
                    let was_here = here.get(&to).is_some_and(|at| now - *at < Switch::AGE);
                    let elsewhere = known.is_some_and(|(owner, _)| *owner != Owner::Me) && !was_here;
                    prop_assert_eq!(got, if elsewhere { Err(Refused::Elsewhere) } else { Ok(()) });
                }
            }
            let known: usize = switch.known(now).values().sum();
            prop_assert_eq!(known, last.values().filter(|(_, at)| now - *at < Switch::AGE).count());
        }
    }
}
