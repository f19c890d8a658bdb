//! Ways follow what links cost, by what is measured on them, and don't swing with it.

use proto::QosSpec;

use super::flows::{flow, register, write};
use super::routes::triangle;
use super::*;

/// A triangle, and a raw flow of a and b.
struct Measured {
    net: Net,
    back: FlowId,
    b: proto::Addr,
}

impl Measured {
    fn new() -> Self {
        let mut net = triangle();
        register(&mut net, "b", "server");
        flow(&mut net, "a", "b", "server", 5, QosSpec::RAW);
        let back = net.node("b").open.iter().next().copied().unwrap();
        let b = crate::crypt::address(&label("ovl"), &label("b"));
        let mut measured = Self { net, back, b };
        measured.run(20);
        assert!(measured.straight());
        measured
    }

    fn straight(&mut self) -> bool {
        self.net.node("a").machine.path(self.b).unwrap().direct
    }

    /// Half a second with packets each way every 50 ms.
    fn step(&mut self) {
        for _ in 0..10 {
            write(&mut self.net, "a", 5, &[b"there"]);
            write(&mut self.net, "b", self.back.0, &[b"and back"]);
            self.net.run(Duration::from_millis(50));
        }
    }

    fn run(&mut self, seconds: u32) {
        (0..2 * seconds).for_each(|_| self.step());
    }

    /// How long it takes until the flow goes straight, or no longer does, at most so many seconds.
    fn until(&mut self, straight: bool, seconds: u32) -> Duration {
        let begun = self.net.elapsed;
        for _ in 0..2 * seconds {
            if self.straight() == straight {
                return self.net.elapsed - begun;
            }
            self.step();
        }
        panic!("after {seconds} s still the same way");
    }

    fn slow(&mut self, by: Duration) {
        self.net.slow = [("a", "b"), ("b", "a")].map(|way| (way, by)).into();
    }
}

#[test]
fn a_link_that_became_slow_is_gone_round_soon_and_taken_again_when_it_is_fast() {
    let mut measured = Measured::new();
    measured.slow(Duration::from_millis(30));
    let left = measured.until(false, 60);
    measured.run(30);
    assert!(!measured.straight());
    measured.slow(Duration::ZERO);
    let taken = measured.until(true, 120);
    println!("FIGURE a slow link: left after {left:?}, taken again after {taken:?}");
    assert!(left <= Duration::from_secs(10), "{left:?}");
    assert!(taken <= Duration::from_secs(60), "{taken:?}");
}

/// A link loses a quarter until its flow goes round it, and for so many seconds more, then nothing.
fn lossy(seconds: u32) {
    let mut measured = Measured::new();
    let mut count = 0_u64;
    measured.net.tamper = Some(Box::new(move |from, to, pdu| {
        count += 1;
        let chance = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        if from != "c" && to != "c" && chance < 64 {
            pdu.clear();
        }
    }));
    let left = measured.until(false, 60);
    for _ in 0..seconds {
        measured.run(1);
        assert!(!measured.straight());
    }
    measured.net.tamper = None;
    let taken = measured.until(true, 1_800);
    println!(
        "FIGURE a link lossy for {seconds} s: left after {left:?}, taken again after {taken:?}"
    );
    assert!(left <= Duration::from_secs(10), "{left:?}");
    assert!(taken <= Duration::from_secs(240), "{taken:?}");
}

#[test]
fn a_link_that_loses_packets_is_gone_round_soon_and_taken_again_when_it_loses_none() {
    lossy(0);
}

#[test]
fn a_link_that_has_lost_packets_for_long_is_taken_again_as_soon_as_another() {
    lossy(900);
}

#[test]
fn a_link_that_swings_moves_the_way_twice_a_minute_at_most() {
    for period in [1, 4, 10, 20, 30] {
        let mut measured = Measured::new();
        let mut moves = Vec::new();
        for second in 0..300_u64 {
            let far = second % period < period / 2 || period == 1 && second % 2 == 0;
            measured.slow(Duration::from_millis(if far { 30 } else { 0 }));
            let before = measured.straight();
            measured.run(1);
            if measured.straight() != before {
                moves.push(second);
            }
        }
        println!("FIGURE a link that swings every {period} s moves the way at {moves:?} s");
        let most = moves.iter().map(|from| {
            let minute = moves.iter().filter(|at| (*from..from + 60).contains(at));
            minute.count()
        });
        assert!(most.max() <= Some(2), "every {period} s: {moves:?}");
    }
}

#[test]
fn a_new_link_that_is_long_draws_no_traffic() {
    let mut measured = Measured::new();
    for (at, from) in [("a", "b"), ("b", "a")] {
        let apart = Command::Disconnect(label(from));
        assert_eq!(measured.net.ask(at, apart), Ok(Answer::Ok));
    }
    measured.run(3);
    assert!(!measured.straight());
    measured.slow(Duration::from_millis(200));
    let connect = Command::Connect(label("b"), None);
    assert_eq!(measured.net.ask("a", connect), Ok(Answer::Ok));
    for _ in 0..10 {
        assert!(!measured.straight());
        measured.step();
    }
}
