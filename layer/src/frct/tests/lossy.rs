use std::time::Duration;

use proptest::prelude::*;
use proto::QosSpec;

use super::link::{Link, Pair, sdu};
use crate::frct::{Params, State};

const MS: Duration = Duration::from_millis(1);

fn params(qos: QosSpec) -> Params {
    Params {
        send_buffer: 200_000,
        ..Params::new(qos, 1200, 7)
    }
}

/// The numbers of the SDUs that were read; each must be whole.
fn numbers(pair: &Pair, len: impl Fn(u32) -> usize) -> Vec<u32> {
    pair.read[1]
        .iter()
        .map(|read| {
            let n = u32::from_be_bytes(*read.first_chunk().unwrap());
            assert_eq!(*read, sdu(n, len(n)), "changed");
            n
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn what_a_lossy_flow_delivers_is_whole_in_order_and_once(
        seed: u64, loss in 0u32..500, doubled in 0u32..300, jitter in 0u64..20, lens in prop::collection::vec(4usize..5000, 1..80),
    ) {
        let link = Link { loss, doubled, jitter: MS * jitter as u32, ..Link::default() };
        let mut pair = Pair::new(&params(QosSpec::BEST), link, seed);
        pair.ends[1].shut();
        for (n, len) in lens.iter().enumerate() {
            while pair.ends[0].write(pair.now, &sdu(n as u32, *len)).is_err() {
                let until = pair.now + MS * 10_000;
                prop_assert!(pair.step(until), "stuck {:?}", pair.ends);
            }
        }
        pair.ends[0].shut();
        pair.settle(MS * 200_000);
        prop_assert_eq!(pair.ends.each_ref().map(|end| end.state()), [State::Finished; 2], "{:?}", pair.ends);
        let read = numbers(&pair, |n| lens[n as usize]);
        prop_assert!(read.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", read);
        if loss == 0 && jitter == 0 {
            prop_assert_eq!(read.len(), lens.len());
        }
        prop_assert_eq!(pair.ends[0].stats().queued, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn large_sdus_past_their_deadline_leave_a_lossy_flow_whole(
        seed: u64, loss in 0u32..300, pauses in prop::collection::vec(0u32..300, 20..40), lens in prop::collection::vec(4usize..65_000, 20),
    ) {
        let link = Link { loss, ..Link::default() };
        let params = Params { receive_buffer: 66_000, ..params(QosSpec::VIDEO) };
        let mut pair = Pair::new(&params, link, seed);
        let mut written = 0;
        for (n, pause) in pauses.iter().enumerate() {
            pair.reads[1] = n % 3 != 0;
            let len = lens[written as usize % lens.len()];
            written += u32::from(pair.ends[0].write(pair.now, &sdu(written, len)).is_ok());
            pair.run(MS * *pause);
        }
        pair.reads[1] = true;
        for end in &mut pair.ends {
            end.shut();
        }
        pair.settle(MS * 200_000);
        prop_assert_eq!(pair.ends.each_ref().map(|end| end.state()), [State::Finished; 2], "{:?}", pair.ends);
        let read = numbers(&pair, |n| lens[n as usize % lens.len()]);
        prop_assert!(read.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", read);
    }
}

#[test]
fn a_lost_sdu_delays_those_behind_it_by_a_moment_only() {
    let mut pair = Pair::new(&params(QosSpec::VOICE), Link::default(), 1);
    for n in 0..100 {
        pair.link.loss = if n % 10 == 5 { 1000 } else { 0 };
        let before = pair.now;
        assert_eq!(pair.ends[0].write(pair.now, &sdu(n, 160)), Ok(()));
        pair.flush();
        pair.link.loss = 0;
        pair.run(16 * MS);
        let read = numbers(&pair, |_| 160);
        let due = if n % 10 == 5 { n - 1 } else { n };
        assert_eq!(read.last(), Some(&due), "after {:?}", pair.now - before);
        pair.run(4 * MS);
    }
    assert_eq!(pair.read[1].len(), 90);
    assert_eq!(pair.ends[0].stats().again, 0, "nothing is sent twice");
}

#[test]
fn an_sdu_past_its_deadline_is_dropped_at_the_sender_and_counted() {
    // 10 packets of window and no answer: the rest waits until it is worth nothing.
    let link = Link {
        delay: 500 * MS,
        ..Link::default()
    };
    let mut pair = Pair::new(&params(QosSpec::VOICE), link, 1);
    for n in 0..60 {
        assert_eq!(pair.ends[0].write(pair.now, &sdu(n, 1150)), Ok(()));
    }
    pair.run(79 * MS);
    assert_eq!(pair.ends[0].stats().late, 0);
    pair.run(2 * MS);
    let stats = pair.ends[0].stats();
    assert!(stats.late >= 45 && stats.queued == 0, "{stats:?}");
    // What comes later isn't held up by a gap that was never sent.
    pair.run(1000 * MS);
    assert_eq!(pair.ends[0].write(pair.now, &sdu(60, 1150)), Ok(()));
    pair.run(501 * MS);
    let read = numbers(&pair, |_| 1150);
    assert_eq!(read.last(), Some(&60));
    assert_eq!(read.len() as u64 + stats.late, 61);
    assert_eq!(pair.ends[1].stats().gaps, 0);
}

#[test]
fn a_lossy_flow_lives_on_after_all_of_its_window_was_lost() {
    let mut pair = Pair::new(&params(QosSpec::BEST), Link::default(), 1);
    pair.link.loss = 1000;
    let mut n = 0;
    for _ in 0..2000 {
        n += u32::from(pair.ends[0].write(pair.now, &sdu(n, 1000)).is_ok());
        pair.run(MS);
    }
    pair.link.loss = 0;
    pair.run(9000 * MS);
    assert_eq!(pair.ends[0].write(pair.now, &sdu(n, 1000)), Ok(()));
    pair.run(1000 * MS);
    let read = numbers(&pair, |_| 1000);
    assert_eq!(read.last(), Some(&n), "{:?}", pair.ends);
}

#[test]
fn an_sdu_that_fits_stays_whole_while_acknowledgements_wait() {
    let mut pair = Pair::new(&params(QosSpec::BEST), Link::default(), 1);
    let most = 1200 - crate::frct::Frct::HEADER - 2;
    for n in 0..50 {
        for end in &mut pair.ends {
            assert_eq!(end.write(pair.now, &sdu(n, most)), Ok(()));
        }
        pair.run(MS);
    }
    pair.run(MS * 100);
    assert_eq!(pair.ends.each_ref().map(|end| end.stats().sent), [50; 2]);
    assert_eq!(pair.read[0].len(), 50);
}

#[test]
fn an_sdu_of_which_a_piece_is_lost_is_dropped_as_a_whole_and_counted() {
    for lost in 0..5 {
        let mut pair = Pair::new(&params(QosSpec::BEST), Link::default(), 1);
        let mut pdu = [0; 1200];
        for n in 0..3 {
            assert_eq!(pair.ends[0].write(pair.now, &sdu(n, 5000)), Ok(()));
            let now = pair.now;
            let mut piece = 0;
            while let Some(len) = pair.ends[0].poll(now, &mut pdu) {
                if n != 1 || piece != lost {
                    let _ = pair.ends[1].receive(now, &pdu[..len], false);
                }
                piece += 1;
            }
            assert_eq!(piece, 5, "an SDU of 5000 bytes goes in five pieces");
            pair.run(20 * MS);
        }
        assert_eq!(numbers(&pair, |_| 5000), [0, 2], "piece {lost} was lost");
        let stats = pair.ends[1].stats();
        let counted = (stats.torn, stats.gaps);
        assert_eq!(counted, (1, 1), "piece {lost} was lost");
    }
}

#[test]
fn the_rest_of_an_sdu_that_was_given_up_is_no_gap_however_late_it_comes() {
    let mut pair = Pair::new(&params(QosSpec::BEST), Link::default(), 1);
    let mut pdu = [0; 1200];
    for n in 0..2 {
        assert_eq!(pair.ends[0].write(pair.now, &sdu(n, 5000)), Ok(()));
    }
    let now = pair.now;
    let poll = || {
        pair.ends[0]
            .poll(now, &mut pdu)
            .map(|len| pdu[..len].to_vec())
    };
    let mut pieces: Vec<_> = std::iter::from_fn(poll).collect();
    assert_eq!(pieces.len(), 10);
    // A piece in the middle of the last SDU takes a way that is shorter by more than anybody waits.
    let first = pieces.remove(7);
    pieces.insert(0, first);
    for piece in pieces {
        let _ = pair.ends[1].receive(pair.now, &piece, false);
        pair.run(6 * MS);
    }
    let stats = pair.ends[1].stats();
    assert_eq!((stats.torn, stats.gaps), (1, 1));
    assert_eq!(pair.ends[0].write(pair.now, &sdu(2, 5000)), Ok(()));
    pair.run(20 * MS);
    assert_eq!(numbers(&pair, |_| 5000), [2]);
    assert_eq!(pair.ends[1].stats().gaps, 1);
}
