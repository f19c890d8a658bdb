use super::*;
use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// Two channels, a link that harms what it carries, and a clock that jumps to the next thing that happens.
struct Link {
    ends: [Channel; 2],
    got: [Vec<Vec<u8>>; 2],
    resets: [u32; 2],
    rng: ChaCha20Rng,
    loss: u32,
    now: Instant,
    /// What is on its way: when, a tie-breaker, to whom, what.
    air: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
}

impl Link {
    fn new(seed: u64, loss: u32) -> Self {
        Self {
            ends: [Channel::new(11, 200), Channel::new(22, 200)],
            got: [Vec::new(), Vec::new()],
            resets: [0, 0],
            rng: ChaCha20Rng::seed_from_u64(seed),
            loss,
            now: begin(),
            air: BTreeMap::new(),
            sent: 0,
        }
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.rng.next_u32() % 100 < chance
    }

    fn flush(&mut self) {
        for end in 0..2 {
            while let Some(frame) = self.ends[end].poll(self.now) {
                let copies = if self.percent(self.loss) {
                    0
                } else {
                    1 + u32::from(self.loss > 0 && self.percent(10))
                };
                for _ in 0..copies {
                    // Up to 40 ms of difference: frames overtake each other.
                    let spread = if self.loss > 0 {
                        u64::from(self.rng.next_u32() % 40)
                    } else {
                        0
                    };
                    self.sent += 1;
                    self.air.insert(
                        (self.now + Duration::from_millis(5 + spread), self.sent),
                        (1 - end, frame.clone()),
                    );
                }
            }
            while let Some(message) = self.ends[end].recv() {
                self.got[end].push(message);
            }
            self.resets[end] += u32::from(self.ends[end].lost().is_some());
        }
    }

    /// Goes on until nothing happens any more or `limit` has passed; gives what passed.
    fn run(&mut self, limit: Duration) -> Duration {
        let begin = self.now;
        loop {
            self.flush();
            let timers = self.ends.iter().filter_map(Channel::deadline);
            let Some(next) = timers.chain(self.air.keys().map(|(at, _)| *at)).min() else {
                break;
            };
            if next > begin + limit {
                break;
            }
            self.now = next.max(self.now);
            if self
                .air
                .first_key_value()
                .is_some_and(|((at, _), _)| *at <= self.now)
                && let Some((_, (to, frame))) = self.air.pop_first()
            {
                let _ = self.ends[to].handle(self.now, &frame);
            }
        }
        self.now - begin
    }
}

fn messages(count: usize, salt: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| vec![(i + salt) as u8; (i * 37 + salt) % 900])
        .collect()
}

#[test]
fn messages_arrive_whole_and_in_order_through_a_bad_link() {
    for seed in 0..20 {
        let mut link = Link::new(seed, 30);
        let sent = [messages(120, 1), messages(90, 5)];
        for (end, all) in sent.iter().enumerate() {
            all.iter().for_each(|m| link.ends[end].send(m).unwrap());
        }
        link.run(Duration::from_secs(600));
        assert_eq!(link.got[1], sent[0], "seed {seed}");
        assert_eq!(link.got[0], sent[1], "seed {seed}");
        assert_eq!(link.resets, [0, 0], "seed {seed}");
        assert!(
            link.ends.iter().all(|end| end.is_idle() && !end.dead()),
            "seed {seed}"
        );
    }
}

#[test]
fn a_large_message_passes_quickly_on_a_good_link() {
    let mut link = Link::new(1, 0);
    let big = vec![7; Channel::MAX_MESSAGE];
    link.ends[0].send(&big).unwrap();
    let took = link.run(Duration::from_secs(60));
    assert_eq!(link.got[1], [big]);
    // 6000 frames of 175 bytes in windows of up to 256, 10 ms each.
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[test]
fn nothing_is_sent_when_idle() {
    let mut link = Link::new(3, 0);
    link.run(Duration::from_secs(60));
    assert_eq!(link.sent, 0);
    link.ends[0].send(b"one").unwrap();
    link.run(Duration::from_secs(60));
    let after_one = link.sent;
    assert_eq!(after_one, 2, "one frame and one acknowledgement");
    link.now += Duration::from_secs(3600);
    link.run(Duration::from_secs(60));
    assert_eq!(
        (link.sent, link.ends[0].deadline(), link.ends[1].deadline()),
        (after_one, None, None)
    );
}

/// Two that have heard of each other.
fn acquainted() -> Link {
    let mut link = Link::new(8, 0);
    link.ends[0].send(b"hello").unwrap();
    link.run(Duration::from_secs(1));
    link.ends[1].send(b"hello to you").unwrap();
    link.run(Duration::from_secs(1));
    link.sent = 0;
    link
}

#[test]
fn an_acknowledgement_rides_on_what_goes_back_in_time_or_goes_alone() {
    let mut link = acquainted();
    link.ends[0].send(b"question").unwrap();
    link.run(Duration::from_millis(20));
    link.ends[1].send(b"answer").unwrap();
    link.run(Duration::from_secs(1));
    assert_eq!(link.sent, 3, "question, answer, and what acknowledges that");
    assert!(link.ends.iter().all(Channel::is_idle));
    let mut link = acquainted();
    link.ends[0].send(b"remark").unwrap();
    let took = link.run(Duration::from_secs(1));
    assert_eq!(link.sent, 2);
    assert_eq!(took, Duration::from_millis(5 + 25 + 5));
}

#[test]
fn no_acknowledgement_waits_that_something_waits_for() {
    let mut link = acquainted();
    (0..40).for_each(|_| link.ends[0].send(&[7; 171]).unwrap());
    let took = link.run(Duration::from_secs(1));
    // Windows of 16 frames, then of 24 and more, a round trip of 10 ms each.
    assert_eq!(took, Duration::from_millis(20));
    assert_eq!(link.sent, 40 + 20, "one for two");
    // What came before, because its acknowledgement was lost.
    link.ends[0].send(b"said twice").unwrap();
    let now = link.now;
    let frame = link.ends[0].poll(now).unwrap();
    link.ends[1].handle(now, &frame).unwrap();
    assert_eq!(link.ends[1].poll(now), None);
    link.ends[1].handle(now, &frame).unwrap();
    assert!(link.ends[1].poll(now).is_some());
    // What fills a gap, and what came before it.
    for order in [[1, 0], [0, 2]] {
        let mut link = acquainted();
        (0..3).for_each(|_| link.ends[0].send(&[7; 171]).unwrap());
        let frames: Vec<_> = std::iter::from_fn(|| link.ends[0].poll(now)).collect();
        for place in order {
            link.ends[1].handle(now, &frames[place]).unwrap();
        }
        let acks = std::iter::from_fn(|| link.ends[1].poll(now)).count();
        assert_eq!((acks, link.ends[1].is_idle()), (2, true), "{order:?}");
    }
}

#[test]
fn nothing_is_said_again_only_because_its_acknowledgement_waits() {
    let mut link = acquainted();
    for _ in 0..200 {
        // Much that is acknowledged within 10 ms, so that nothing longer is expected, and then something alone.
        (0..4).for_each(|_| link.ends[0].send(&[7; 171]).unwrap());
        link.run(Duration::from_secs(1));
        link.sent = 0;
        link.ends[0].send(b"alone").unwrap();
        link.run(Duration::from_secs(1));
        assert_eq!(link.sent, 2);
    }
}

#[test]
fn a_single_lost_frame_is_sent_again_before_the_time_out() {
    let mut link = Link::new(4, 0);
    // Establishes the streams and measures the RTT.
    link.ends[0].send(b"hello").unwrap();
    link.run(Duration::from_secs(1));
    (0..10).for_each(|i| link.ends[0].send(&[i; 171]).unwrap());
    let _lost = link.ends[0].poll(link.now).unwrap();
    let took = link.run(Duration::from_secs(5));
    assert_eq!(link.got[1].len(), 11);
    // There, the acknowledgements back, there again, and back: two round trips of 10 ms.
    assert_eq!(took, Duration::from_millis(20));
}

#[test]
fn a_side_that_begins_anew_is_noticed_by_both_and_the_channel_goes_on() {
    for seed in 0..20 {
        let mut link = Link::new(seed, 30);
        messages(20, 3)
            .iter()
            .for_each(|m| link.ends[0].send(m).unwrap());
        messages(20, 3)
            .iter()
            .for_each(|m| link.ends[1].send(m).unwrap());
        link.run(Duration::from_secs(600));
        link.ends[1] = Channel::new(4000, 200);
        link.got = [Vec::new(), Vec::new()];
        // The survivor speaks first, in the middle of its stream: it has to be told, and says it again.
        link.ends[0].send(b"lost").unwrap();
        link.run(Duration::from_secs(600));
        assert_eq!((link.resets[0], link.got[1].len()), (1, 0), "seed {seed}");
        link.ends[0].send(b"again").unwrap();
        link.ends[1].send(b"here I am").unwrap();
        link.run(Duration::from_secs(600));
        assert_eq!(
            (&link.got[1], &link.got[0]),
            (&vec![b"again".to_vec()], &vec![b"here I am".to_vec()]),
            "seed {seed}"
        );
        assert_eq!(
            link.resets[0], 2,
            "seed {seed}: the other side's new stream is seen too"
        );
    }
}

#[test]
fn what_the_survivor_says_again_arrives_at_once() {
    for seed in 0..20 {
        let mut link = Link::new(seed, 30);
        link.ends[0].send(b"before").unwrap();
        link.ends[1].send(b"before").unwrap();
        link.run(Duration::from_secs(60));
        link.ends[1] = Channel::new(4000, 200);
        link.got = [Vec::new(), Vec::new()];
        link.ends[1].send(b"who is there?").unwrap();
        link.run(Duration::from_secs(60));
        assert_eq!((link.resets, link.got[0].len()), ([1, 0], 1), "seed {seed}");
        // The owner has been told once, and what it says now is not dropped again.
        link.ends[0].send(b"all that I know").unwrap();
        link.run(Duration::from_secs(60));
        assert_eq!(link.got[1], [b"all that I know".to_vec()], "seed {seed}");
        assert_eq!(link.resets, [1, 0], "seed {seed}");
    }
}

#[test]
fn no_sequence_of_frames_panics_or_grows() {
    for seed in 0..200 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut number = move |below: u64| rng.next_u64() % below;
        let (now, mut end) = (begin(), Channel::new(5, 200));
        for step in 0..300 {
            let now = now + Duration::from_millis(step * 7);
            let bytes: Vec<u8> = (0..1 + number(40)).map(|_| number(3) as u8).collect();
            let (stream, ack_stream, ack) = (number(4) as u32, 4 + number(3) as u32, number(600));
            let offset = if number(20) == 0 {
                u64::MAX - number(30)
            } else {
                number(300)
            };
            let frame = match number(12) {
                0 => Frame::Reset { stream: ack_stream },
                1..4 => Frame::Ack { ack_stream, ack },
                _ => Frame::Data {
                    stream,
                    offset,
                    ack_stream,
                    ack,
                    bytes: &bytes,
                },
            };
            let _ = end.handle(now, &frame.encode());
            if number(2) == 0 {
                let _ = end.send(&bytes);
            }
            let sent = (0..40).take_while(|_| end.poll(now).is_some()).count();
            assert!(sent < 40, "seed {seed}: it never stops sending");
            while end.recv().is_some() {}
        }
    }
}

#[test]
fn an_acknowledgement_of_the_stream_that_only_begins_with_it_is_none() {
    let (now, mut end) = (begin(), Channel::new(5, 200));
    end.send(b"x").unwrap();
    end.poll(now).unwrap();
    let data = |stream, ack_stream, ack| {
        let frame = Frame::Data {
            stream,
            offset: 0,
            ack_stream,
            ack,
            bytes: b"y",
        };
        frame.encode()
    };
    end.handle(now, &data(1, 5, 5)).unwrap();
    // Another life, which has never heard of stream 5, can't know 6 either.
    end.handle(now, &data(2, 6, 600)).unwrap();
    assert_eq!(end.lost(), Some(Lost::Both));
    end.send(b"z").unwrap();
    let sent = end.poll(now).unwrap();
    let sent = Frame::parse(&sent).unwrap();
    assert!(matches!(
        sent,
        Frame::Data {
            stream: 6,
            offset: 0,
            ..
        }
    ));
}

#[test]
fn a_beginning_anew_is_noticed_once_when_both_speak_at_the_same_time() {
    let mut link = Link::new(1, 0);
    link.ends[0].send(b"before").unwrap();
    link.ends[1].send(b"before").unwrap();
    link.run(Duration::from_secs(600));
    link.ends[1] = Channel::new(4000, 200);
    link.got = [Vec::new(), Vec::new()];
    link.ends[0].send(b"for the earlier one").unwrap();
    link.ends[1].send(b"here I am").unwrap();
    link.run(Duration::from_secs(600));
    assert_eq!(link.got[0], [b"here I am".to_vec()]);
    link.ends[0].send(b"agreed").unwrap();
    link.run(Duration::from_secs(600));
    assert_eq!(link.got[1], [b"agreed".to_vec()]);
    assert_eq!(link.resets, [1, 0]);
}

#[test]
fn a_new_life_is_noticed_though_the_earlier_one_never_spoke() {
    for seed in 0..20 {
        let mut link = Link::new(seed, 30);
        link.ends[0].send(b"before").unwrap();
        link.run(Duration::from_secs(60));
        link.ends[1] = Channel::new(4000, 200);
        link.got = [Vec::new(), Vec::new()];
        link.ends[1].send(b"who is there?").unwrap();
        link.run(Duration::from_secs(60));
        assert_eq!(link.got[0], [b"who is there?".to_vec()], "seed {seed}");
        link.ends[0].send(b"it is me").unwrap();
        link.run(Duration::from_secs(60));
        assert_eq!(link.got[1], [b"it is me".to_vec()], "seed {seed}");
        assert_eq!(link.resets, [1, 0], "seed {seed}");
    }
}

#[test]
fn a_first_frame_that_was_overtaken_by_an_acknowledgement_begins_nothing_anew() {
    let now = begin();
    let (mut a, mut b) = (Channel::new(1, 200), Channel::new(2, 200));
    a.send(b"from a").unwrap();
    b.send(b"from b").unwrap();
    let (to_b, late) = (a.poll(now).unwrap(), b.poll(now).unwrap());
    b.handle(now, &to_b).unwrap();
    a.handle(now, &b.poll(now).unwrap()).unwrap();
    assert_eq!(a.handle(now, &late), Err(BadFrame::Early));
    let again = now + Duration::from_secs(1);
    a.handle(again, &b.poll(again).unwrap()).unwrap();
    assert_eq!(
        (a.recv(), b.recv()),
        (Some(b"from b".to_vec()), Some(b"from a".to_vec()))
    );
    assert_eq!((a.lost(), b.lost()), (None, None));
}

#[test]
fn a_late_frame_of_a_replaced_stream_changes_nothing() {
    let now = begin();
    let (mut old, mut new, mut end) = (
        Channel::new(1, 200),
        Channel::new(9, 200),
        Channel::new(5, 200),
    );
    old.send(b"old").unwrap();
    new.send(b"new").unwrap();
    let (late, fresh) = (old.poll(now).unwrap(), new.poll(now).unwrap());
    end.handle(now, &late).unwrap();
    end.handle(now, &fresh).unwrap();
    assert_eq!((end.lost(), end.lost()), (Some(Lost::Theirs), None));
    assert_eq!(end.handle(now, &late), Err(BadFrame::OldStream));
    assert_eq!(end.lost(), None);
    assert_eq!(
        (end.recv().unwrap(), end.recv().unwrap(), end.recv()),
        (b"old".to_vec(), b"new".to_vec(), None)
    );
}

#[test]
fn a_silent_other_side_is_noticed_after_15_seconds() {
    let mut link = Link::new(5, 100);
    link.ends[0].send(b"anybody there?").unwrap();
    let took = link.run(Duration::from_secs(100));
    assert_eq!(took, Duration::from_secs(15));
    assert!(link.ends[0].dead() && !link.ends[1].dead());
    assert_eq!(link.ends[0].poll(link.now), None);
}

#[test]
fn a_path_that_shrinks_under_way_gets_smaller_frames() {
    let mut link = Link::new(6, 0);
    let all = messages(100, 7);
    all.iter().for_each(|m| link.ends[0].send(m).unwrap());
    link.run(Duration::from_millis(25));
    link.flush();
    // What is in the air now is too large and vanishes.
    link.air.clear();
    link.ends[0].set_frame_size(90);
    while let Some(frame) = link.ends[0].poll(link.now) {
        assert!(frame.len() <= 90);
    }
    assert!(!link.ends[0].is_idle());
    link.run(Duration::from_secs(60));
    assert_eq!(link.got[1], all);
}

#[test]
fn the_queue_is_bounded_and_a_message_too() {
    let mut channel = Channel::new(1, 1200);
    assert_eq!(
        channel.send(&vec![0; Channel::MAX_MESSAGE + 1]),
        Err(Full::Message(Channel::MAX_MESSAGE + 1))
    );
    let taken = (0..10)
        .take_while(|_| channel.send(&vec![0; Channel::MAX_MESSAGE]).is_ok())
        .count();
    assert_eq!(taken, 3);
    assert_eq!(
        channel.send(&vec![0; Channel::MAX_MESSAGE]),
        Err(Full::Queue)
    );
    assert!(channel.send(b"small").is_ok());
}

#[test]
fn nonsense_is_refused_and_bounded() {
    let now = begin();
    let data = |stream, offset, bytes: &[u8]| {
        Frame::Data {
            stream,
            offset,
            ack_stream: 0,
            ack: 0,
            bytes,
        }
        .encode()
    };
    let mut end = Channel::new(5, 200);
    assert_eq!(end.handle(now, &[]), Err(BadFrame::Malformed));
    assert_eq!(
        end.handle(
            now,
            &Frame::Ack {
                ack_stream: 5,
                ack: 1
            }
            .encode()
        ),
        Err(BadFrame::AckTooFar)
    );
    assert_eq!(
        end.handle(now, &Frame::Reset { stream: 6 }.encode()),
        Ok(())
    );
    assert_eq!(end.lost(), None, "the reset of another stream");
    end.handle(now, &data(1, 0, &[0, 0, 0, 9])).unwrap();
    assert_eq!(
        end.handle(now, &data(1, u64::MAX, b"x")),
        Err(BadFrame::Malformed)
    );
    assert_eq!(
        end.handle(now, &data(1, 2 << 20, b"x")),
        Err(BadFrame::TooMuch)
    );
    let kept = (1..10_000)
        .take_while(|i| end.handle(now, &data(1, 4 + i * 2, b"x")).is_ok())
        .count();
    assert_eq!(kept, 4096);
    assert!(!end.dead());
    assert_eq!(
        end.handle(now, &data(2, 0, &[1, 0, 0, 0])),
        Err(BadFrame::TooLong)
    );
    assert!(end.dead());
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
fn begin() -> Instant {
    Instant::now()
}

#[test]
fn who_begins_anew_and_acknowledges_what_we_say_now_has_lost_none_of_it() {
    let now = begin();
    let (mut end, mut other) = (Channel::new(5, 200), Channel::new(9, 200));
    other.send(b"hello").unwrap();
    end.handle(now, &other.poll(now).unwrap()).unwrap();
    end.send(b"first").unwrap();
    other.handle(now, &end.poll(now).unwrap()).unwrap();
    end.handle(now, &other.poll(now).unwrap()).unwrap();
    // A new life, which knows nothing of the stream that goes on.
    let mut new = Channel::new(77, 200);
    end.send(b"question").unwrap();
    new.handle(now, &end.poll(now).unwrap()).unwrap();
    end.handle(now, &new.poll(now).unwrap()).unwrap();
    assert_eq!(end.lost(), Some(Lost::Both));
    end.send(b"question").unwrap();
    new.handle(now, &end.poll(now).unwrap()).unwrap();
    new.send(b"answer").unwrap();
    end.handle(now, &new.poll(now).unwrap()).unwrap();
    assert_eq!(
        end.lost(),
        Some(Lost::Theirs),
        "the question is known there"
    );
    assert_eq!(new.lost(), None);
    let got: Vec<_> = std::iter::from_fn(|| end.recv()).collect();
    assert_eq!(got, [b"hello".to_vec(), b"answer".to_vec()]);
    assert_eq!((new.recv(), new.recv()), (Some(b"question".to_vec()), None));
}

#[test]
fn a_late_frame_that_brings_a_dead_stream_back_does_not_keep_the_living_one_out() {
    let now = begin();
    let (mut end, mut dead, mut other) = (
        Channel::new(5, 200),
        Channel::new(8, 200),
        Channel::new(9, 200),
    );
    dead.send(b"from before").unwrap();
    let late = dead.poll(now).unwrap();
    other.send(b"hello").unwrap();
    end.handle(now, &other.poll(now).unwrap()).unwrap();
    other.handle(now, &end.poll(now).unwrap()).unwrap();
    // For the first time here: nothing tells it from a new life.
    end.handle(now, &late).unwrap();
    while end.recv().is_some() {}
    other.send(b"still here").unwrap();
    let frame = other.poll(now).unwrap();
    assert_eq!(end.handle(now, &frame), Err(BadFrame::OldStream));
    while let Some(frame) = end.poll(now) {
        other.handle(now, &frame).unwrap();
    }
    assert_eq!(other.lost(), Some(Lost::Both));
    other.send(b"said again").unwrap();
    end.handle(now, &other.poll(now).unwrap()).unwrap();
    assert_eq!(end.recv(), Some(b"said again".to_vec()));
}

#[test]
fn a_channel_that_had_no_way_goes_on_at_once_when_it_has_one_again() {
    let now = begin();
    let mut end = Channel::new(5, 200);
    end.send(b"still of interest").unwrap();
    let first = end.poll(now).unwrap();
    let later = now + Duration::from_secs(60);
    end.resume(later);
    assert_eq!(end.poll(later), Some(first));
    assert!(!end.dead());
    let _ = end.poll(later + Duration::from_secs(15));
    assert!(end.dead(), "from then on, silence counts");
}
