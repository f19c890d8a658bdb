use std::time::Duration;

use proto::QosSpec;

use super::link::{Link, Pair, sdu};
use crate::frct::{Failure, Params, State, WriteError};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn small() -> Params {
    Params {
        send_buffer: 100_000,
        receive_buffer: 70_000,
        ..Params::new(QosSpec::DATA, 1200, 7)
    }
}

fn states(pair: &Pair) -> [State; 2] {
    pair.ends.each_ref().map(|end| end.state())
}

#[test]
fn a_closed_window_stops_the_sender_and_questions_open_it_again() {
    let mut pair = Pair::new(&small(), Link::default(), 1);
    pair.reads[1] = false;
    let mut written = 0;
    while pair.ends[0].write(pair.now, &sdu(written, 1000)).is_ok() {
        written += 1;
    }
    assert!(!pair.ends[0].writable());
    pair.run(2 * SECOND);
    let (sent, stats) = (pair.ends[0].stats().sent, pair.ends[0].stats());
    assert!(stats.queued >= 100_000 - 70_000 - 1002, "{stats:?}");
    // A minute of a shut window: it asks each 2 s at least, and the answers keep the flow up beyond R.
    pair.run(90 * SECOND);
    let asked = pair.ends[0].stats().sent - sent;
    assert!((44..56).contains(&asked), "{asked} questions");
    assert_eq!(states(&pair), [State::Open; 2]);
    // All news of the wider window are lost: a question brings it.
    pair.reads[1] = true;
    pair.link.loss = 1000;
    pair.fetch(1);
    pair.flush();
    pair.link.loss = 0;
    pair.run(6 * SECOND);
    assert_eq!(pair.read[1].len(), written as usize);
    assert!(pair.ends[0].writable());
}

#[test]
fn a_window_opens_by_no_less_than_a_packet() {
    let mut pair = Pair::new(&small(), Link::default(), 1);
    pair.reads[1] = false;
    for n in 0..1500 {
        assert_eq!(pair.ends[0].write(pair.now, &sdu(n, 50)), Ok(()));
    }
    pair.run(SECOND);
    let sent = pair.ends[0].stats().sent;
    // Reads one SDU of 52 bytes at a time, and lets the other side react.
    for _ in 0..230 {
        assert!(pair.ends[1].read().is_some());
        pair.run(MS);
    }
    let packets = pair.ends[0].stats().sent - sent;
    assert!((1..=12).contains(&packets), "{packets} packets for 12 kB");
}

#[test]
fn each_side_shuts_by_itself() {
    let mut pair = Pair::new(&small(), Link::default(), 1);
    assert_eq!(pair.ends[0].write(pair.now, b"last"), Ok(()));
    pair.ends[0].shut();
    assert_eq!(
        pair.ends[0].write(pair.now, b"more"),
        Err(WriteError::Closed)
    );
    pair.run(SECOND);
    assert_eq!(pair.read[1], [b"last"]);
    assert!(pair.ends[1].ended());
    assert_eq!(states(&pair), [State::Shut, State::PeerShut]);
    for n in 0..20 {
        assert_eq!(pair.ends[1].write(pair.now, &sdu(n, 3000)), Ok(()));
    }
    pair.ends[1].shut();
    pair.run(SECOND);
    assert_eq!(pair.read[0].len(), 20);
    assert_eq!(states(&pair), [State::Finished; 2]);
    assert_eq!(
        pair.ends[0].deadline().map(|at| at > pair.now + SECOND),
        Some(true)
    );
}

#[test]
fn an_end_that_is_lost_goes_again_and_so_does_its_acknowledgement() {
    for seed in 0..20 {
        let link = Link {
            loss: 500,
            ..Link::default()
        };
        let mut pair = Pair::new(&small(), link, seed);
        pair.ends[0].shut();
        pair.ends[1].shut();
        pair.settle(300 * SECOND);
        assert_eq!(pair.ends[0].state(), State::Finished, "seed {seed}");
    }
}

#[test]
fn a_path_that_carries_less_gets_what_was_lost_in_smaller_packets() {
    let mut pair = Pair::new(&small(), Link::default(), 1);
    let sdus: Vec<_> = (0..40).map(|n| sdu(n, 2000)).collect();
    for sdu in &sdus {
        assert_eq!(pair.ends[0].write(pair.now, sdu), Ok(()));
    }
    pair.run(25 * MS);
    pair.link.mtu = 576;
    pair.run(50 * MS);
    assert!(pair.read[1].len() < 40);
    pair.ends[0].set_payload(576);
    pair.ends[1].set_payload(576);
    pair.run(2 * SECOND);
    assert_eq!(pair.read[1], sdus);
}

#[test]
fn a_peer_that_answers_nothing_ends_the_flow_after_r() {
    let mut pair = Pair::new(&small(), Link::default(), 1);
    assert_eq!(pair.ends[0].write(pair.now, b"hello"), Ok(()));
    pair.run(SECOND);
    pair.link.loss = 1000;
    assert_eq!(pair.ends[0].write(pair.now, b"lost"), Ok(()));
    pair.run(59 * SECOND);
    assert_eq!(states(&pair), [State::Open; 2]);
    pair.run(2 * SECOND);
    let failure = Failure::NoAnswer(60 * SECOND);
    assert_eq!(states(&pair), [State::Failed(failure), State::Open]);
    assert_eq!(pair.ends[0].write(pair.now, b"x"), Err(WriteError::Closed));
    let reason = proto::Reason::from(failure);
    assert_eq!(reason.code, proto::Code::TimedOut);
}

#[test]
fn a_path_that_loses_only_large_packets_ends_the_flow_after_r() {
    let link = Link {
        mtu: 300,
        ..Link::default()
    };
    let mut pair = Pair::new(&small(), link, 1);
    assert_eq!(pair.ends[0].write(pair.now, &sdu(0, 1000)), Ok(()));
    // The other direction keeps both busy.
    for n in 0..70 {
        assert_eq!(pair.ends[1].write(pair.now, &sdu(n, 100)), Ok(()));
        pair.run(SECOND);
    }
    assert!(matches!(
        pair.ends[0].state(),
        State::Failed(Failure::NoAnswer(_))
    ));
}

#[test]
fn keep_alives_hold_a_flow_up_and_silence_ends_it() {
    let qos = QosSpec {
        timeout_ms: 2000,
        ..QosSpec::DATA
    };
    let params = Params { qos, ..small() };
    let mut pair = Pair::new(&params, Link::default(), 1);
    pair.run(60 * SECOND);
    assert_eq!(states(&pair), [State::Open; 2]);
    let sent = pair.ends[0].stats().sent;
    assert!((110..=130).contains(&sent), "{sent} keep-alives");
    pair.link.loss = 1000;
    pair.run(1900 * MS);
    assert_eq!(states(&pair), [State::Open; 2]);
    pair.run(600 * MS);
    assert_eq!(
        states(&pair),
        [State::Failed(Failure::Silence(2 * SECOND)); 2]
    );
}

#[test]
fn after_a_long_pause_a_run_begins_anew_and_memory_is_given_back() {
    let mut pair = Pair::new(&small(), Link::default(), 1);
    for n in 0..20 {
        assert_eq!(pair.ends[0].write(pair.now, &sdu(n, 3000)), Ok(()));
    }
    pair.run(SECOND);
    assert!(pair.ends.iter().all(|end| end.stats().memory > 0));
    // Less than 2 MPL + A + R, then more than 3 MPL + A + R.
    for pause in [69, 76, 300] {
        pair.run(pause * SECOND);
        let memory = pair.ends.each_ref().map(|end| end.stats().memory);
        assert_eq!(memory == [0; 2], pause > 70, "{memory:?}");
        assert_eq!(pair.ends[0].write(pair.now, &sdu(pause, 3000)), Ok(()));
        pair.run(SECOND);
        assert_eq!(pair.read[1].last(), Some(&sdu(pause, 3000)));
    }
    assert!(pair.refused.is_empty(), "{:?}", pair.refused);
    assert_eq!(pair.ends[0].stats().again, 0);
}

#[test]
fn the_last_packet_is_probed_for_and_a_path_that_is_back_at_once() {
    let mut pair = Pair::new(&small(), Link::default(), 1);
    assert_eq!(pair.ends[0].write(pair.now, &sdu(0, 100)), Ok(()));
    pair.run(SECOND);
    pair.link.loss = 1000;
    assert_eq!(pair.ends[0].write(pair.now, &sdu(1, 100)), Ok(()));
    pair.flush();
    pair.link.loss = 0;
    // The first answer took 25 ms with its delay: three of them, the delay, and the way.
    pair.run(95 * MS);
    assert_eq!(pair.read[1].len(), 2);
    assert_eq!(pair.ends[0].stats().probes, 1);

    pair.link.loss = 1000;
    assert_eq!(pair.ends[0].write(pair.now, &sdu(2, 100)), Ok(()));
    pair.run(10 * SECOND);
    pair.link.loss = 0;
    for end in &mut pair.ends {
        end.rerouted();
    }
    pair.run(11 * MS);
    assert_eq!(pair.read[1].len(), 3);
}
