use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
fn begin() -> Instant {
    Instant::now()
}

fn lot(cube: Cube, member: u64, now: Instant) -> Lot {
    Lot {
        cube,
        member: Addr(member),
        own: EndpointId(0),
        now,
        max_delay_ms: 0,
    }
}

fn egress() -> (Egress, Stats, Instant) {
    (Egress::new(Framing::Train), Stats::default(), begin())
}

/// Writes a packet that says of whom it is.
fn push(egress: &mut Egress, lot: &Lot, len: usize) -> bool {
    let fill = |room: &mut [u8]| {
        room[0] = lot.member.0 as u8;
        Ok(room.len())
    };
    egress.put(Class::Data(*lot), len, fill) == Ok(len)
}

fn control(egress: &mut Egress, len: usize) -> bool {
    egress.put(Class::Control, len, |room| Ok(room.len())) == Ok(len)
}

fn counted(stats: &Stats, what: &str) -> u64 {
    stats
        .iter()
        .find(|(name, _)| *name == what)
        .map_or(0, |(_, n)| n)
}

/// The bytes of each cube and member of so many batches, while every queue is kept full by `refill`.
fn shares(
    batches: usize,
    now: Instant,
    mut refill: impl FnMut(&mut Egress),
) -> BTreeMap<(Cube, u8), usize> {
    let (mut egress, mut stats) = (Egress::new(Framing::Train), Stats::default());
    let mut sent = BTreeMap::new();
    for _ in 0..batches {
        refill(&mut egress);
        let popped = egress.pop_data(now, &mut stats).unwrap();
        let from = popped.batch.bytes()[0];
        *sent.entry((popped.cube, from)).or_default() += popped.batch.bytes().len();
    }
    sent
}

#[test]
fn packets_of_one_size_share_a_train_and_a_longer_one_begins_the_next() {
    let (mut egress, mut stats, now) = egress();
    for len in [100, 100, 100, 120, 120] {
        assert!(push(&mut egress, &lot(Cube::Raw, 1, now), len));
    }
    let counts: Vec<_> = std::iter::from_fn(|| egress.pop_data(now, &mut stats))
        .map(|p| p.batch.count())
        .collect();
    assert_eq!(counts, [3, 2]);
}

#[test]
fn a_packet_is_as_long_as_was_written() {
    let (mut egress, mut stats, now) = egress();
    let class = Class::Data(lot(Cube::Data, 1, now));
    for len in [100, 100, 60, 100] {
        assert_eq!(egress.put(class, 100, |_| Ok(len)), Ok(len));
    }
    let sizes: Vec<_> = std::iter::from_fn(|| egress.pop_data(now, &mut stats))
        .map(|p| p.batch.bytes().len())
        .collect();
    assert_eq!(sizes, [260, 100]);
}

#[test]
fn a_packet_that_came_to_nothing_leaves_nothing() {
    let (mut egress, mut stats, now) = egress();
    for class in [Class::Control, Class::Data(lot(Cube::Best, 1, now))] {
        assert_eq!(egress.put(class, 10, |_| Ok(0)), Ok(0));
        assert_eq!(egress.put(class, 10, |_| Err("no key")), Err("no key"));
    }
    assert!(egress.pop_control().is_none());
    assert!(egress.pop_data(now, &mut stats).is_none());
    assert_eq!(egress.batches, 0);
}

#[test]
fn nothing_is_given_while_the_lower_flow_takes_nothing_and_control_goes_first_when_it_does() {
    let (mut egress, mut stats, now) = egress();
    egress.set_open(now, false);
    assert!(push(&mut egress, &lot(Cube::Voice, 1, now), 10));
    assert!(control(&mut egress, 10));
    assert!(egress.pop_control().is_none());
    assert!(egress.pop_data(now, &mut stats).is_none());
    egress.set_open(now, true);
    assert!(egress.pop_control().is_some());
    assert!(egress.pop_data(now, &mut stats).is_some());
}

#[test]
fn the_queues_are_bounded_whoever_takes_most_gives_way_and_it_is_counted() {
    let (mut egress, mut stats, now) = egress();
    egress.set_open(now, false);
    assert!(push(&mut egress, &lot(Cube::Voice, 2, now), 1));
    // Each longer than the one before, so that each needs a train of its own.
    for len in 1..500 {
        assert!(push(&mut egress, &lot(Cube::Raw, 1, now), len));
        assert!(egress.batches <= MAX_BATCHES);
    }
    for len in 1..500 {
        assert_eq!(control(&mut egress, len), len <= MAX_CONTROL);
    }
    egress.set_open(now, true);
    let first = egress.pop_data(now, &mut stats).unwrap();
    assert_eq!(first.cube, Cube::Voice);
    let rest = std::iter::from_fn(|| egress.pop_data(now, &mut stats));
    let rest: usize = rest.map(|p| p.batch.count()).sum();
    assert_eq!(rest, MAX_BATCHES - 1);
    assert_eq!(counted(&stats, "drop.full_raw"), 499 - rest as u64);
    assert_eq!(counted(&stats, "drop.full_voice"), 0);
}

#[test]
fn cubes_that_all_have_something_share_by_their_weights() {
    let now = begin();
    let sent = shares(20_000, now, |egress| {
        for cube in Cube::ALL {
            while egress.cubes[cube as usize].fair.fattest() < 2 {
                push(egress, &lot(cube, 1, now), 1400);
            }
        }
    });
    let all: usize = sent.values().sum();
    for cube in Cube::ALL {
        let share = sent[&(cube, 1)] as f64 / all as f64;
        let due = cube.weight() as f64 / 28.0;
        assert!(
            (share / due - 1.0).abs() < 0.02,
            "{cube:?}: {share} of {due}"
        );
    }
}

/// A lower flow that takes a packet every few milliseconds.
fn slow(egress: &mut Egress, now: &mut Instant) {
    for _ in 0..8 {
        egress.set_open(*now, false);
        *now += 20 * MS;
        egress.set_open(*now, true);
    }
}

#[test]
fn own_flows_have_one_share_together_and_alike_where_the_lower_flow_is_slow() {
    for flows in [1, 2, 8] {
        let (mut egress, mut stats, mut now) = egress();
        slow(&mut egress, &mut now);
        let of = |member, own| Lot {
            own: EndpointId(own),
            ..lot(Cube::Raw, member, now)
        };
        let mut sent = BTreeMap::new();
        for _ in 0..3000 {
            // Own flows have as little waiting as is wanted of them, others' as much as they like.
            for lot in (1..=flows).map(|own| of(1, own)).chain([of(2, 0)]) {
                let fair = |e: &Egress| e.cubes[Cube::Raw as usize].fair.waiting((&lot, true)).0;
                let wants = |e: &Egress| match lot.own.0 {
                    0 => fair(e) < 5,
                    _ => e.room(&lot) > Some(0),
                };
                while wants(&egress) {
                    let packet = |room: &mut [u8]| {
                        room[0] = lot.own.0 as u8;
                        Ok(room.len())
                    };
                    egress.put(Class::Data(lot), 1000, packet).unwrap();
                }
            }
            let batch = egress.pop_data(now, &mut stats).unwrap().batch;
            let first = batch.iter().next().unwrap()[0];
            *sent.entry(u64::from(first)).or_insert(0.0) += batch.bytes().len() as f64;
        }
        let all: f64 = sent.values().sum();
        let due = |own| if own == 0 { 0.5 } else { 0.5 / flows as f64 };
        for own in 0..=flows {
            let share = sent[&own] / all;
            assert!((share / due(own) - 1.0).abs() < 0.1, "{own}: {share}");
        }
    }
}

#[test]
fn a_flow_that_fills_a_link_before_it_is_slow_keeps_no_other_out_when_it_is() {
    let (mut egress, mut stats, mut now) = egress();
    let of = |own, now| Lot {
        own: EndpointId(own),
        ..lot(Cube::Raw, 1, now)
    };
    let put = |egress: &mut Egress, lot: &Lot, number: u32| {
        let packet = |room: &mut [u8]| {
            room[..4].copy_from_slice(&number.to_be_bytes());
            Ok(room.len())
        };
        // A train is no multiple of these.
        egress.put(Class::Data(*lot), 1276, packet).unwrap();
    };
    // These wait together with whatever else this member has.
    egress.set_open(now, false);
    let mut last = 0;
    while egress.room(&of(1, now)) != Some(0) {
        put(&mut egress, &of(1, now), last);
        last += 1;
    }
    slow(&mut egress, &mut now);
    let mut sent = BTreeMap::new();
    for turn in 0..200 {
        let (one, other) = (of(1, now), of(2, now));
        while egress.room(&one) > Some(0) {
            put(&mut egress, &one, last);
            last += 1;
        }
        while egress.room(&other) > Some(0) {
            put(&mut egress, &other, u32::MAX);
        }
        let batch = egress.pop_data(now, &mut stats).unwrap().batch;
        for packet in batch.iter() {
            match u32::from_be_bytes(*packet.first_chunk().unwrap()) {
                u32::MAX => *sent.entry(2).or_insert(0) += u32::from(turn >= 100),
                number => {
                    let before = sent.insert(0, number + 1);
                    assert_eq!(before.unwrap_or_default(), number, "in order");
                    *sent.entry(1).or_insert(0) += u32::from(turn >= 100);
                }
            }
        }
    }
    assert!(sent[&1].abs_diff(sent[&2]) < 10, "{sent:?}");
}

#[test]
fn what_waits_apart_has_its_turn_when_the_lower_flow_is_slow_no_longer() {
    let (mut egress, mut stats, mut now) = egress();
    slow(&mut egress, &mut now);
    let of = |own, now| Lot {
        own: EndpointId(own),
        ..lot(Cube::Raw, 1, now)
    };
    let put = |egress: &mut Egress, lot: &Lot| {
        let packet = |room: &mut [u8]| {
            room[0] = lot.own.0 as u8;
            Ok(room.len())
        };
        egress.put(Class::Data(*lot), 1000, packet).unwrap();
    };
    put(&mut egress, &of(1, now));
    // Pauses as a quick one has them: from now on own flows wait together.
    for _ in 0..8 {
        now += MS;
        egress.set_open(now, false);
        now += MS / 10;
        egress.set_open(now, true);
    }
    assert!(!egress.train.is_short(now));
    let mut sent = Vec::new();
    for _ in 0..5 {
        now += MS;
        while egress.room(&of(2, now)) != Some(0) {
            put(&mut egress, &of(2, now));
        }
        let batch = egress.pop_data(now, &mut stats).unwrap().batch;
        sent.push(batch.iter().next().unwrap()[0]);
    }
    assert!(sent.contains(&1), "{sent:?}");
}

#[test]
fn whoever_has_less_than_others_has_room_while_they_fill_all_queues() {
    let (mut egress, _, now) = egress();
    egress.set_open(now, false);
    let (flood, own) = (lot(Cube::Raw, 2, now), lot(Cube::Raw, 1, now));
    while egress.batches < MAX_BATCHES {
        assert!(push(&mut egress, &flood, 60_000));
    }
    assert_eq!(egress.room(&flood), Some(0));
    assert_ne!(egress.room(&own), Some(0));
}

#[test]
fn a_burst_of_what_is_urgent_goes_at_once_where_the_lower_flow_is_slow() {
    let (mut egress, mut stats, mut now) = egress();
    slow(&mut egress, &mut now);
    // Others have stood for some time.
    for _ in 0..50 {
        for cube in [Cube::Raw, Cube::Best, Cube::Data] {
            while egress.cubes[cube as usize]
                .fair
                .waiting((&lot(cube, 1, now), true))
                .0
                < 5
            {
                push(&mut egress, &lot(cube, 1, now), 1000);
            }
        }
        egress.pop_data(now, &mut stats).unwrap();
    }
    (0..30).for_each(|_| assert!(push(&mut egress, &lot(Cube::Video, 1, now), 1000)));
    let mut popped = || egress.pop_data(now, &mut stats).unwrap();
    let mut video = 0;
    let others = std::iter::from_fn(|| {
        let popped = popped();
        video += usize::from(popped.cube == Cube::Video) * popped.batch.count();
        (video < 30).then_some(popped.cube)
    });
    assert_eq!(others.filter(|cube| *cube != Cube::Video).count(), 0);
}

#[test]
fn a_slow_lower_flow_wants_as_much_of_each_as_is_sent_at_once() {
    let (mut egress, mut stats, mut now) = egress();
    assert_eq!(egress.room(&lot(Cube::Raw, 1, now)), None);
    slow(&mut egress, &mut now);
    let (one, other) = (lot(Cube::Raw, 1, now), lot(Cube::Raw, 2, now));
    let train = egress.room(&one).unwrap();
    assert!((1..64 << 10).contains(&train), "{train}");
    egress.set_open(now, false);
    assert!(push(&mut egress, &one, 1000));
    assert_eq!(egress.room(&one), Some(train - 1000));
    assert_eq!(egress.room(&other), Some(train));
    while egress.room(&one) > Some(0) {
        assert!(push(&mut egress, &one, 1000));
    }
    egress.set_open(now, true);
    egress.pop_data(now, &mut stats).unwrap();
    assert!(egress.room(&one) >= Some(train));
}

#[test]
fn members_share_a_cube_alike_whatever_the_size_and_number_of_their_packets() {
    let now = begin();
    let sent = shares(20_000, now, |egress| {
        for (member, len) in [(1, 1400), (2, 64), (3, 700)] {
            // The greedy one offers ten times as much.
            let most = if member == 1 { 20 } else { 2 };
            let waits = |e: &Egress| {
                e.cubes[Cube::Raw as usize]
                    .fair
                    .waiting((&lot(Cube::Raw, member, now), false))
            };
            while waits(egress).0 < most {
                push(egress, &lot(Cube::Raw, member, now), len);
            }
        }
    });
    let all: usize = sent.values().sum();
    for member in 1..=3 {
        let share = sent[&(Cube::Raw, member)] as f64 / all as f64;
        assert!((share * 3.0 - 1.0).abs() < 0.02, "{member}: {share}");
    }
}

#[test]
fn a_voice_packet_waits_for_no_more_than_the_batch_that_is_being_sent() {
    let (mut egress, mut stats, now) = egress();
    for round in 0..1000 {
        while egress.batches < MAX_BATCHES - 1 {
            push(&mut egress, &lot(Cube::Data, round % 5, now), 1400);
        }
        push(&mut egress, &lot(Cube::Voice, 9, now), 200);
        assert_eq!(egress.pop_data(now, &mut stats).unwrap().cube, Cube::Voice);
        egress.pop_data(now, &mut stats).unwrap();
    }
}

#[test]
fn a_deadline_that_is_over_drops_voice_and_counts_it_the_flows_own_before_the_cubes() {
    let (mut egress, mut stats, now) = egress();
    let own = Lot {
        max_delay_ms: 20,
        ..lot(Cube::Voice, 1, now)
    };
    push(&mut egress, &own, 100);
    push(&mut egress, &lot(Cube::Voice, 1, now), 100);
    push(&mut egress, &lot(Cube::Best, 1, now), 100);
    let at = now + MS * 20;
    assert_eq!(egress.pop_data(at, &mut stats).unwrap().cube, Cube::Voice);
    assert_eq!(counted(&stats, "drop.late_voice"), 1);
    push(&mut egress, &lot(Cube::Voice, 1, now), 100);
    let at = now + MS * 80;
    assert_eq!(egress.pop_data(at, &mut stats).unwrap().cube, Cube::Best);
    assert_eq!(counted(&stats, "drop.late_voice"), 2);
}

/// A link that takes a packet of 1000 bytes each ms is offered two for each of a cube, for `ms`.
fn overload(cube: Cube, ms: u32) -> (Vec<Popped>, Stats) {
    let (mut egress, mut stats, begin) = egress();
    let (mut out, mut credit) = (Vec::new(), 0_i64);
    for at in 0..ms {
        let now = begin + MS * at;
        credit += 1;
        egress.set_open(now, true);
        while credit > 0 {
            let Some(popped) = egress.pop_data(now, &mut stats) else {
                credit = 0;
                break;
            };
            credit -= popped.batch.count() as i64;
            out.push(popped);
        }
        egress.set_open(now, false);
        for _ in 0..2 {
            push(&mut egress, &lot(cube, 1, now), 1000);
        }
    }
    (out, stats)
}

#[test]
fn a_standing_queue_marks_what_reacts_and_drops_what_does_not() {
    let (out, stats) = overload(Cube::Data, 2000);
    let marked = out.iter().filter(|p| p.mark).count();
    assert!(marked > 3, "{marked}");
    assert_eq!(counted(&stats, "congestion.marked"), marked as u64);
    assert_eq!(counted(&stats, "drop.aged_data"), 0);
    let (out, stats) = overload(Cube::Best, 2000);
    assert!(out.iter().all(|p| !p.mark));
    assert!(counted(&stats, "drop.aged_best") > 3);
}

#[test]
fn on_a_slow_link_voice_waits_for_a_short_train_only() {
    let (mut egress, mut stats, mut now) = egress();
    let mut longest = 0;
    for round in 0..100 {
        for _ in 0..64 {
            push(&mut egress, &lot(Cube::Data, 1, now), 1400);
        }
        let popped = egress.pop_data(now, &mut stats).unwrap();
        longest = popped.batch.bytes().len();
        // 10 Mbit/s: 800 ns for each byte.
        egress.set_open(now, false);
        now += Duration::from_nanos(800) * longest as u32;
        if round == 99 {
            push(&mut egress, &lot(Cube::Voice, 2, now), 100);
        }
        egress.set_open(now, true);
    }
    assert!((1400..=6_000).contains(&longest), "{longest} bytes at once");
    assert_eq!(
        egress.pop_data(now, &mut stats).unwrap().cube,
        Cube::Voice,
        "it goes ahead of all that waits"
    );
}

proptest! {
    /// Whatever comes and goes: bounded, nothing lost uncounted, and a batch is given whenever one waits.
    #[test]
    fn what_goes_in_comes_out_or_is_counted(
        steps in prop::collection::vec((0..8_usize, 0..100_u64, 1..3000_usize, 0..30_u32), 1..600),
    ) {
        let (mut egress, mut stats, mut now) = egress();
        let (mut put, mut got) = (0_u64, 0_u64);
        for (what, member, len, ms) in steps {
            now += MS * ms;
            match what {
                6 => egress.set_open(now, ms % 2 == 0),
                7 => match egress.pop_data(now, &mut stats) {
                    Some(popped) => got += popped.batch.count() as u64,
                    None => prop_assert!(!egress.open || egress.batches == 0),
                },
                cube => put += u64::from(push(&mut egress, &lot(Cube::ALL[cube], member, now), len)),
            }
            prop_assert!(egress.batches <= MAX_BATCHES);
            let waits: usize = egress.cubes.iter().map(|c| c.fair.packets()).sum();
            prop_assert_eq!(waits == 0, egress.batches == 0);
        }
        egress.set_open(now, true);
        while let Some(popped) = egress.pop_data(now, &mut stats) {
            got += popped.batch.count() as u64;
        }
        prop_assert_eq!(egress.batches, 0);
        let dropped = stats.iter().filter(|(name, _)| name.starts_with("drop."));
        prop_assert_eq!(put, got + dropped.map(|(_, n)| n).sum::<u64>());
    }
}
