//! What becomes of each frame on an impaired link. It must not send, wait or look at a clock: seed and times are given.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

/// What a link does to frames. Chances are 0.0..=1.0, the same for both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Impairment {
    /// The chance that a frame is lost.
    pub loss: f64,
    /// How long each frame takes, in µs.
    pub delay_us: u64,
    /// At most so much more, in µs; later frames may overtake.
    pub jitter_us: u64,
    /// The chance that a frame comes twice.
    pub duplicate: f64,
    /// The chance that a frame takes 2 ms more than its successors.
    pub reorder: f64,
    /// The chance that one bit of an IP packet is flipped. A datagram of UDP over IPv4 has no checksum then, so that it is not
    /// the kernel who finds out.
    pub corrupt: f64,
    /// Frames beyond so many Mbit/s wait; 0: no bound.
    pub rate_mbit: u64,
    /// Frames that would wait longer for that are lost, in µs; 0: they wait.
    pub queue_us: u64,
    /// Of the UDP datagrams from the second host to the first, each so-manieth is lost; 0: none.
    pub drop_every: u64,
    /// Frames of more bytes, without the header of Ethernet, are lost without a word; 0: none.
    pub largest: usize,
    /// Nothing passes.
    pub cut: bool,
}

/// Decides frame by frame. The same seed, impairments and frames have the same fates.
pub(super) struct Fates {
    /// What is done to the frames from now on.
    pub(super) how: Impairment,
    chance: ChaCha8Rng,
    datagrams: u64,
    free_at: [Instant; 2],
}

/// Of a frame that is not lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fate {
    /// When it arrives.
    pub(super) due: Instant,
    /// Whether it does so twice.
    pub(super) twice: bool,
}

impl Fates {
    /// A link that does nothing to frames yet.
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        Self {
            how: Impairment::default(),
            chance: ChaCha8Rng::seed_from_u64(seed),
            datagrams: 0,
            free_at: [now; 2],
        }
    }

    /// Of a frame that an end, 0 or 1, sends now, and whose bits may flip here; `None`: it is lost.
    pub(super) fn decide(&mut self, from: usize, bytes: &mut [u8], now: Instant) -> Option<Fate> {
        let how = self.how;
        if from == 1 && how.drop_every > 0 && is_udp(bytes) {
            self.datagrams += 1;
            if self.datagrams.is_multiple_of(how.drop_every) {
                return None;
            }
        }
        let swallowed = how.largest > 0 && bytes.len() > ETHERNET + how.largest;
        if how.cut || swallowed || self.hit(how.loss) {
            return None;
        }
        if bytes.len() > SPARED && self.hit(how.corrupt) {
            let bit = self.chance.next_u64() as usize % ((bytes.len() - SPARED) * 8);
            bytes[SPARED + bit / 8] ^= 1 << (bit % 8);
            if bytes[12..15] == IPV4 && is_udp(bytes) && bytes.len() > UDP_CHECKSUM.end {
                bytes[UDP_CHECKSUM].fill(0);
            }
        }
        let twice = self.hit(how.duplicate);
        let mut delay = Duration::from_micros(how.delay_us);
        if how.jitter_us > 0 {
            delay += Duration::from_micros(self.chance.next_u64() % how.jitter_us);
        }
        if self.hit(how.reorder) {
            delay += REORDERED;
        }
        let mut sent = now;
        if let Some(ns) = (bytes.len() as u64 * 8000).checked_div(how.rate_mbit) {
            sent = sent.max(self.free_at[from]) + Duration::from_nanos(ns);
            if how.queue_us > 0 && sent - now > Duration::from_micros(how.queue_us) {
                return None;
            }
            self.free_at[from] = sent;
        }
        Some(Fate {
            due: sent + delay,
            twice,
        })
    }

    fn hit(&mut self, chance: f64) -> bool {
        chance > 0.0 && (self.chance.next_u64() as f64) < chance * u64::MAX as f64
    }
}

fn is_udp(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&17),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&17),
        _ => false,
    }
}

/// The headers of Ethernet and IPv4: a frame for nobody would just be lost.
const SPARED: usize = 34;
const ETHERNET: usize = 14;
/// The type of the frame, and the first byte of the header: without options.
const IPV4: [u8; 3] = [0x08, 0x00, 0x45];
/// Behind such a header.
const UDP_CHECKSUM: std::ops::Range<usize> = 40..42;
/// How much later a frame comes that its successors overtake.
const REORDERED: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of so many frames of 1250 bytes that are sent at one moment: how late each comes, whether twice, and with
    /// which bytes.
    fn fates(seed: u64, count: usize, how: Impairment) -> Vec<Option<(Duration, bool, Vec<u8>)>> {
        let now = Instant::now();
        let mut fates = Fates::new(seed, now);
        fates.how = how;
        let mut one = || {
            let mut bytes = vec![0; 1250];
            let fate = fates.decide(0, &mut bytes, now)?;
            Some((fate.due - now, fate.twice, bytes))
        };
        (0..count).map(|_| one()).collect()
    }

    fn micros(delay: Duration) -> u64 {
        delay.as_micros().try_into().unwrap_or(u64::MAX)
    }

    #[test]
    fn a_link_without_impairment_changes_nothing() {
        let unchanged = Some((Duration::ZERO, false, vec![0; 1250]));
        let all = fates(1, 100, Impairment::default());
        assert!(all.iter().all(|f| *f == unchanged));
    }

    #[test]
    fn the_same_seed_gives_the_same_fates_and_another_seed_others() {
        let how = Impairment {
            loss: 0.1,
            delay_us: 500,
            jitter_us: 500,
            duplicate: 0.1,
            reorder: 0.1,
            corrupt: 0.1,
            ..Impairment::default()
        };
        assert_eq!(fates(7, 500, how), fates(7, 500, how));
        assert_ne!(fates(7, 500, how), fates(8, 500, how));
    }

    #[test]
    fn loss_and_duplication_come_as_often_as_told() {
        let how = Impairment {
            loss: 0.25,
            duplicate: 0.5,
            ..Impairment::default()
        };
        let all = fates(1, 10_000, how);
        let came = all.iter().flatten().count();
        let twice = all.iter().flatten().filter(|f| f.1).count();
        assert!((7_300..7_700).contains(&came), "{came} of 10000 came");
        assert!(twice.abs_diff(came / 2) < 200, "{twice} of {came} twice");
    }

    #[test]
    fn what_is_certain_always_happens_and_a_cut_link_passes_nothing() {
        let sure = |how| fates(1, 1000, how);
        let lost = Impairment {
            loss: 1.0,
            ..Impairment::default()
        };
        let cut = Impairment {
            cut: true,
            ..Impairment::default()
        };
        let twice = Impairment {
            duplicate: 1.0,
            ..Impairment::default()
        };
        assert!(sure(lost).iter().all(Option::is_none));
        assert!(sure(cut).iter().all(Option::is_none));
        assert!(sure(twice).iter().all(|f| matches!(f, Some((_, true, _)))));
    }

    #[test]
    fn delay_is_at_least_what_was_set_and_jitter_is_spread_above_it() {
        let how = Impairment {
            delay_us: 1_000,
            jitter_us: 400,
            ..Impairment::default()
        };
        let all = fates(1, 1000, how);
        let late: Vec<u64> = all.iter().flatten().map(|f| micros(f.0)).collect();
        assert_eq!(late.len(), 1000);
        assert!(late.iter().all(|us| (1_000..1_400).contains(us)));
        for from in [1_000, 1_100, 1_200, 1_300] {
            let here = late.iter().filter(|us| (from..from + 100).contains(*us));
            assert!(here.count() > 150, "{from}");
        }
    }

    #[test]
    fn a_reordered_frame_comes_after_its_successors() {
        let how = Impairment {
            delay_us: 100,
            reorder: 0.2,
            ..Impairment::default()
        };
        let all = fates(1, 1000, how);
        let late: Vec<u64> = all.iter().flatten().map(|f| micros(f.0)).collect();
        let overtaken = late.windows(2).filter(|w| w[0] > w[1]).count();
        assert!(late.iter().all(|us| [100, 2_100].contains(us)));
        assert!((100..220).contains(&overtaken), "{overtaken}");
    }

    #[test]
    fn frames_that_are_too_large_are_lost_and_no_others() {
        let now = Instant::now();
        let mut fates = Fates::new(1, now);
        fates.how.largest = 1000;
        let mut comes = |len| fates.decide(0, &mut vec![0; len], now).is_some();
        assert_eq!(
            [60, 1014, 1015, 1500].map(&mut comes),
            [true, true, false, false]
        );
    }

    #[test]
    fn corruption_flips_one_bit_behind_the_headers() {
        let how = Impairment {
            corrupt: 1.0,
            ..Impairment::default()
        };
        for (_, _, bytes) in fates(1, 1000, how).into_iter().flatten() {
            let flipped: u32 = bytes.iter().map(|b| b.count_ones()).sum();
            assert_eq!(flipped, 1);
            assert!(bytes[..SPARED].iter().all(|b| *b == 0));
        }
        let mut udp = [0; 100];
        (udp[12], udp[14], udp[23]) = (8, 0x45, 17);
        udp[UDP_CHECKSUM].fill(9);
        let mut fates = Fates::new(1, Instant::now());
        fates.how = how;
        assert!(fates.decide(0, &mut udp, Instant::now()).is_some());
        assert_eq!(udp[UDP_CHECKSUM], [0, 0]);
        let mut short = [0; SPARED];
        let mut fates = Fates::new(1, Instant::now());
        fates.how = how;
        assert!(fates.decide(0, &mut short, Instant::now()).is_some());
        assert_eq!(short, [0; SPARED]);
    }

    #[test]
    fn frames_beyond_the_rate_wait_and_each_direction_has_its_own() {
        let now = Instant::now();
        let mut fates = Fates::new(1, now);
        fates.how.rate_mbit = 10;
        // 1250 bytes take a millisecond.
        let mut late = |from| {
            let fate = fates.decide(from, &mut [0; 1250], now);
            fate.map(|f| micros(f.due - now))
        };
        assert_eq!(
            [0; 3].map(&mut late),
            [Some(1_000), Some(2_000), Some(3_000)]
        );
        assert_eq!(late(1), Some(1_000));
        // Nothing is saved up while the link is idle.
        let later = now + Duration::from_secs(1);
        let fate = fates.decide(0, &mut [0; 1250], later);
        assert_eq!(fate.map(|f| micros(f.due - later)), Some(1_000));
    }

    #[test]
    fn each_third_datagram_of_the_second_end_is_lost_and_nothing_else() {
        let now = Instant::now();
        let mut fates = Fates::new(1, now);
        fates.how.drop_every = 3;
        let mut udp = [0; 100];
        (udp[12], udp[23]) = (8, 17);
        let mut tcp = udp;
        tcp[23] = 6;
        let mut lost = |from, mut frame: [u8; 100]| fates.decide(from, &mut frame, now).is_none();
        let there = [1; 6].map(|from| lost(from, udp));
        assert_eq!(there, [false, false, true, false, false, true]);
        assert_eq!([1; 6].map(|from| lost(from, tcp)), [false; 6]);
        assert_eq!([0; 6].map(|from| lost(from, udp)), [false; 6]);
    }
}
