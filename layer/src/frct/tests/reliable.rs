use std::time::Duration;

use proptest::prelude::*;
use proto::QosSpec;

use super::link::{Link, Pair, sdu};
use crate::frct::{Failure, Frct, Params, State, WriteError};

fn data() -> Params {
    Params::new(QosSpec::DATA, 1200, 7)
}

/// Writes SDUs to one end as it takes them, shuts both, and runs until all is over.
fn carry(pair: &mut Pair, sdus: &[Vec<u8>]) {
    let mut left = sdus.iter();
    let mut next = left.next();
    pair.ends[1].shut();
    while let Some(sdu) = next {
        match pair.ends[0].write(pair.now, sdu) {
            Ok(()) => next = left.next(),
            Err(WriteError::Full) => {
                let until = pair.now + Duration::from_secs(60);
                assert!(pair.step(until), "nothing happens: {:?}", pair.ends);
            }
            Err(WriteError::Closed) => return,
            Err(other) => panic!("{other}"),
        }
    }
    pair.ends[0].shut();
    pair.settle(Duration::from_secs(3600));
}

#[test]
fn sdus_of_all_sizes_arrive_in_order() {
    let mut pair = Pair::new(&data(), Link::default(), 1);
    let sdus: Vec<_> = [4, 5, 1100, 1200, 1201, 9000, 65_505, 4]
        .into_iter()
        .enumerate()
        .map(|(n, len)| sdu(n as u32, len))
        .collect();
    carry(&mut pair, &sdus);
    assert_eq!(pair.read[1], sdus);
    assert_eq!(
        pair.ends.each_ref().map(|e| e.state()),
        [State::Finished; 2]
    );
    assert_eq!(pair.ends[0].stats().again, 0);
    assert!(pair.refused.is_empty(), "{:?}", pair.refused);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_sdu_arrives_once_and_in_order_or_the_flow_says_why(
        seed: u64, loss in 0u32..500, doubled in 0u32..300, jitter in 0u64..30,
        payload in 64usize..1500, lens in prop::collection::vec(4usize..4000, 1..60),
    ) {
        let link = Link { loss, doubled, jitter: Duration::from_millis(jitter), ..Link::default() };
        let params = Params { payload, send_buffer: 70_000, receive_buffer: 70_000, ..data() };
        let mut pair = Pair::new(&params, link, seed);
        let sdus: Vec<_> = lens.iter().enumerate().map(|(n, len)| sdu(n as u32, *len)).collect();
        carry(&mut pair, &sdus);
        let states = pair.ends.each_ref().map(|e| e.state());
        match states {
            [State::Finished, State::Finished] => prop_assert_eq!(&pair.read[1], &sdus),
            [State::Failed(Failure::NoAnswer(_)), _] | [_, State::Failed(Failure::NoAnswer(_))] => {
                prop_assert!(loss > 300, "{:?}", states);
                prop_assert_eq!(&pair.read[1], &sdus[..pair.read[1].len()]);
            }
            other => prop_assert!(false, "{:?} {:?}", other, pair.ends),
        }
    }
}

#[test]
fn a_path_that_loses_half_each_way_holds_a_file_up_by_moments() {
    let mut took: Vec<Duration> = (0..200)
        .map(|seed| {
            let link = Link {
                loss: 510,
                delay: Duration::from_micros(150),
                jitter: Duration::from_micros(200),
                ..Link::default()
            };
            let params = Params {
                rtt: Duration::from_millis(1),
                ..data()
            };
            let mut pair = Pair::new(&params, link, seed);
            let begin = pair.now;
            let sdus: Vec<_> = (0..100).map(|n| sdu(n, 1000)).collect();
            for sdu in &sdus {
                assert_eq!(pair.ends[0].write(pair.now, sdu), Ok(()));
            }
            pair.ends.iter_mut().for_each(Frct::shut);
            while pair.read[1].len() < sdus.len() && pair.step(begin + Duration::from_secs(60)) {}
            let took = pair.now - begin;
            pair.settle(Duration::from_secs(600));
            let states = pair.ends.each_ref().map(Frct::state);
            assert_eq!((states, &pair.read[1]), ([State::Finished; 2], &sdus));
            took
        })
        .collect();
    took.sort();
    let (median, most) = (took[100], took[199]);
    let well = median < Duration::from_secs(1) && most < Duration::from_secs(3);
    assert!(well, "half of them within {median:?}, all within {most:?}");
}
