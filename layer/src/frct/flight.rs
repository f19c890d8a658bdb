//! Packets on their way: which arrived, which are lost (RFC 9002 §6, RFC 8985).

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::ranges::Ranges;
use super::rate::{Rate, Shown, Stamp};
use super::rtt::Rtt;

/// The packets that aren't settled, by number.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    packets: VecDeque<Packet>,
    /// The number of the first of them.
    first: u64,
    /// Those that arrived, from `first` on.
    acked: Ranges,
    largest: Option<u64>,
    /// Below it none is on its way.
    scan: u64,
    in_flight: usize,
    flying: usize,
    rate: Rate,
    /// How many later numbers must have arrived before a packet is lost.
    threshold: u64,
    /// How many eighths of a round trip a packet may be late.
    late: u32,
    /// Round trips with losses since the last loss that was none, and when the last of them began.
    sure: u32,
    sure_at: Option<Instant>,
    loss_at: Option<Instant>,
    last_sent: Option<Instant>,
    fresh: Vec<Range<u64>>,
}

/// One packet.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    sent: Instant,
    /// What of the stream it carries.
    pub(super) range: Range<u64>,
    pub(super) size: usize,
    fate: Fate,
    stamp: Stamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Flying,
    Acked,
    Lost,
}

/// What an acknowledgement has brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct News {
    pub(super) bytes: usize,
    /// When the newest of the packets was sent.
    pub(super) sent: Instant,
    /// Whether that is the newest of all that arrived.
    pub(super) newest: bool,
    /// How many packets that were taken to be lost have arrived.
    pub(super) spurious: u64,
}

/// What was found lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Losses {
    pub(super) packets: u64,
    pub(super) bytes: usize,
    pub(super) first_sent: Instant,
    pub(super) last_sent: Instant,
}

impl Flight {
    /// `first` is the number of the first packet.
    pub(super) fn new(now: Instant, first: u64) -> Self {
        Self {
            packets: VecDeque::new(),
            first,
            acked: Ranges::default(),
            largest: None,
            scan: first,
            in_flight: 0,
            flying: 0,
            rate: Rate::new(now),
            threshold: THRESHOLD,
            late: 1,
            sure: 0,
            sure_at: None,
            loss_at: None,
            last_sent: None,
            fresh: Vec::new(),
        }
    }

    /// The number of the next packet.
    pub(super) fn next(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    /// Bytes on their way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.flying == 0
    }

    /// When the last packet went.
    pub(super) fn last_sent(&self) -> Option<Instant> {
        self.last_sent
    }

    /// When the oldest packet that waits below one that arrived is lost.
    pub(super) fn loss_at(&self) -> Option<Instant> {
        self.loss_at
    }

    /// A packet goes.
    pub(super) fn sent(&mut self, now: Instant, range: Range<u64>, size: usize) {
        let stamp = self.rate.sent(now, self.in_flight);
        self.packets.push_back(Packet {
            sent: now,
            range,
            size,
            fate: Fate::Flying,
            stamp,
        });
        self.in_flight += size;
        self.flying += 1;
        self.last_sent = Some(now);
    }

    /// There is nothing more to send although more might go.
    pub(super) fn idle(&mut self) {
        self.rate.idle(self.in_flight);
    }

    /// Takes the numbers that arrived, the greatest first; `arrived` hears of each packet once. `None`: nothing new.
    pub(super) fn acked(
        &mut self,
        now: Instant,
        largest: u64,
        ranges: impl Iterator<Item = Range<u64>>,
        mut arrived: impl FnMut(&Range<u64>),
    ) -> Option<News> {
        let mut fresh = std::mem::take(&mut self.fresh);
        for range in ranges {
            if range.end <= self.first {
                break;
            }
            fresh.extend(self.acked.gaps(range.start.max(self.first)..range.end));
        }
        let before = self.largest;
        let greatest = fresh.iter().map(|r| r.end).max()?;
        let sent = self.at(greatest - 1)?.sent;
        let mut news = News {
            bytes: 0,
            sent,
            newest: greatest == largest + 1 && before.is_none_or(|l| l < largest),
            spurious: 0,
        };
        for range in &fresh {
            self.acked.insert(range.clone());
            for number in range.clone() {
                let packet = &mut self.packets[(number - self.first) as usize];
                if packet.fate == Fate::Flying {
                    self.in_flight -= packet.size;
                    self.flying -= 1;
                } else {
                    news.spurious += 1;
                    let late = before.unwrap_or(number).saturating_sub(number) + 1;
                    self.threshold = self.threshold.max(late.min(MAX_THRESHOLD));
                }
                packet.fate = Fate::Acked;
                news.bytes += packet.size;
                self.rate.acked(now, packet.size, packet.stamp, packet.sent);
                arrived(&packet.range);
            }
        }
        fresh.clear();
        self.fresh = fresh;
        if news.spurious > 0 {
            self.late = (self.late * 2).min(MAX_LATE);
            self.sure = 0;
        }
        self.largest = before.max(Some(largest));
        Some(news)
    }

    /// What the acknowledgement shows of the path.
    pub(super) fn show(&mut self, least: Duration) -> Shown {
        self.rate.show(least)
    }

    /// Finds what is lost by now; `lost` hears of each packet. Then forgets what is settled.
    pub(super) fn find_lost(
        &mut self,
        now: Instant,
        rtt: &Rtt,
        mut lost: impl FnMut(&Range<u64>),
    ) -> Option<Losses> {
        self.loss_at = None;
        let mut losses: Option<Losses> = None;
        if let Some(largest) = self.largest {
            let wait = rtt.recent() + rtt.recent() * self.late / 8;
            while self.scan < largest {
                if let Some(packet) = self.at(self.scan)
                    && packet.fate == Fate::Flying
                {
                    let due = packet.sent + wait.max(GRANULE);
                    if due > now && largest - self.scan < self.threshold {
                        // Those behind it were sent later: none of them is lost before it.
                        self.loss_at = Some(due);
                        break;
                    }
                    self.lose(self.scan, &mut losses, &mut lost);
                }
                self.scan += 1;
            }
        }
        let counted = self.sure_at.is_some_and(|at| at + rtt.smooth() > now);
        if losses.is_some() && !counted {
            self.sure_at = Some(now);
            self.sure += 1;
            if self.sure > FORGIVEN {
                (self.late, self.threshold, self.sure) = (1, THRESHOLD, 0);
            }
        }
        self.forget(now, rtt);
        losses
    }

    /// Takes all packets of more than `size` bytes to be lost: the path no longer carries them.
    pub(super) fn lose_larger(&mut self, size: usize, mut lost: impl FnMut(&Range<u64>)) {
        let mut losses = None;
        for number in self.scan..self.next() {
            if self
                .at(number)
                .is_some_and(|p| p.fate == Fate::Flying && p.size > size)
            {
                self.lose(number, &mut losses, &mut lost);
            }
        }
    }

    fn lose(
        &mut self,
        number: u64,
        losses: &mut Option<Losses>,
        lost: &mut impl FnMut(&Range<u64>),
    ) {
        let Some(packet) = self.packets.get_mut((number - self.first) as usize) else {
            return;
        };
        packet.fate = Fate::Lost;
        self.in_flight -= packet.size;
        self.flying -= 1;
        lost(&packet.range);
        let losses = losses.get_or_insert(Losses {
            packets: 0,
            bytes: 0,
            first_sent: packet.sent,
            last_sent: packet.sent,
        });
        losses.packets += 1;
        losses.bytes += packet.size;
        losses.last_sent = packet.sent;
    }

    /// Lost packets are remembered for some round trips: they may only be late.
    fn forget(&mut self, now: Instant, rtt: &Rtt) {
        let keep = 4 * rtt.recent();
        while let Some(packet) = self.packets.front() {
            match packet.fate {
                Fate::Flying => break,
                Fate::Lost if packet.sent + keep > now => break,
                Fate::Acked | Fate::Lost => {}
            }
            self.packets.pop_front();
            self.first += 1;
        }
        self.acked.forget_below(self.first);
        self.scan = self.scan.max(self.first);
    }

    /// Of each packet that isn't settled: what it carries and what has become of it.
    #[cfg(test)]
    pub(super) fn fates(&self) -> String {
        let fates = self.packets.iter().map(|p| (p.range.clone(), p.fate));
        format!("{} {:?}", self.first, fates.collect::<Vec<_>>())
    }

    fn at(&self, number: u64) -> Option<&Packet> {
        let index = number.checked_sub(self.first)?;
        self.packets.get(index as usize)
    }
}

/// RFC 9002 §6.1.1, and how far it grows where packets overtake each other.
const THRESHOLD: u64 = 3;
const MAX_THRESHOLD: u64 = 256;
const MAX_LATE: u32 = 8;
/// After so many losses that were real, packets are no longer taken to overtake each other (RFC 8985 §7.1).
const FORGIVEN: u32 = 16;
const GRANULE: Duration = Duration::from_millis(1);
