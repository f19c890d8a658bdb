//! What a flow keeps around its FRCT: what its user wrote and FRCT has no room for, what its user was told, and how far its
//! end is. It must not send anything.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::{Batch, Code, FlowId, Framing, QosSpec, Reason};

use super::stats::Stats;
use crate::frct::{Buffers, Failure, Fault, Frct, Params, State, WriteError};

/// FRCT and what is around it, at one end of a flow.
#[derive(Debug)]
pub(super) struct Transfer {
    frct: Frct,
    payload: u32,
    /// The lower flow that its PDUs go over, and what the whole way costs.
    way: Option<(FlowId, u64)>,
    /// What was read from the user and FRCT had no room for; SDUs of the first of them that it took.
    rest: VecDeque<Batch>,
    taken: usize,
    /// It waits for its turn to send.
    pub(super) queued: bool,
    /// The user is left unread.
    paused: bool,
    /// The user doesn't read.
    full: bool,
    /// The user writes nothing more.
    shut: bool,
    /// The user knows that the other side writes nothing more.
    told: bool,
    ending: Option<Ending>,
    counted: Counted,
}

/// Why a flow goes that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its user is gone: what it wrote is still on its way, at most until then if nothing of it arrives.
    Own {
        until: Instant,
        queued: usize,
        reason: Reason,
    },
    /// The other side has ended it: the user has yet to take what arrived.
    Peers { until: Instant, reason: Reason },
}

/// What was added to the counters so far.
#[derive(Debug, Default)]
struct Counted {
    again: u64,
    lost: u64,
    late: u64,
    gaps: u64,
    torn: u64,
    probes: u64,
    marked: u64,
}

/// Whether FRCT serves flows of that QoS: a raw flow is nothing but PDUs.
pub(super) fn controlled(qos: &QosSpec) -> bool {
    let QosSpec {
        ordered,
        reliable,
        max_delay_ms,
        priority: _,
        timeout_ms,
    } = *qos;
    ordered || reliable || max_delay_ms > 0 || timeout_ms > 0
}

/// The largest SDU of a flow whose path carries payloads of so many bytes: what FRCT serves is cut as needed.
pub(super) fn sdu_mtu(qos: &QosSpec, payload: u32) -> u32 {
    if controlled(qos) {
        Frct::MAX_SDU as u32
    } else {
        payload
    }
}

impl Transfer {
    /// One that begins so.
    pub(super) fn new(now: Instant, params: Params) -> Self {
        let payload = params.payload as u32;
        Self {
            frct: Frct::new(now, params),
            payload,
            way: None,
            rest: VecDeque::new(),
            taken: 0,
            queued: false,
            paused: false,
            full: false,
            shut: false,
            told: false,
            ending: None,
            counted: Counted::default(),
        }
    }

    /// Takes what the user wrote, or keeps it until there is room; gives the bytes that were taken.
    pub(super) fn write(&mut self, now: Instant, batch: Batch, stats: &mut Stats) -> u64 {
        if matches!(self.ending, Some(Ending::Peers { .. })) || self.rest.len() >= MAX_REST {
            stats.add("drop.flow_ended", batch.count() as u64);
            return 0;
        }
        self.rest.push_back(batch);
        self.feed(now, stats)
    }

    /// Gives FRCT what it has room for now; the bytes of that.
    pub(super) fn feed(&mut self, now: Instant, stats: &mut Stats) -> u64 {
        let mut bytes = 0;
        while let Some(batch) = self.rest.front() {
            for sdu in batch.iter().skip(self.taken) {
                match self.frct.write(now, sdu) {
                    Ok(()) => bytes += sdu.len() as u64,
                    Err(WriteError::Full) => return bytes,
                    Err(WriteError::TooBig(_)) => stats.count("drop.too_big"),
                    Err(WriteError::Empty) => stats.count("drop.malformed"),
                    Err(WriteError::Closed) => stats.count("drop.flow_ended"),
                }
                self.taken += 1;
            }
            self.rest.pop_front();
            self.taken = 0;
        }
        if self.shut {
            self.frct.shut();
        }
        bytes
    }

    /// The user writes nothing more, after what it wrote.
    pub(super) fn shut(&mut self) {
        self.shut = true;
        if self.rest.is_empty() {
            self.frct.shut();
        }
    }

    /// Whether the user is to be left unread from now on, or read again; `None`: as it is.
    pub(super) fn pause(&mut self) -> Option<bool> {
        if matches!(self.ending, Some(Ending::Own { .. })) {
            return None;
        }
        let pause = !self.rest.is_empty() || !self.frct.writable() && !self.shut;
        (std::mem::replace(&mut self.paused, pause) != pause).then_some(pause)
    }

    /// Whether the user reads.
    pub(super) fn set_full(&mut self, now: Instant, full: bool) {
        self.full = full;
        if let Some(Ending::Peers { until, .. }) = &mut self.ending {
            *until = now + LINGER;
        }
    }

    /// The next PDU that may go now.
    pub(super) fn poll(&mut self, now: Instant, pdu: &mut [u8]) -> Option<usize> {
        match self.ending {
            Some(Ending::Peers { .. }) => None,
            Some(Ending::Own { .. }) | None => self.frct.poll(now, pdu),
        }
    }

    /// Takes a PDU.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        pdu: &[u8],
        marked: bool,
    ) -> Result<(), &'static str> {
        let taken = self.frct.receive(now, pdu, marked);
        taken.map_err(Fault::counter)
    }

    /// Whether something is there for the user, who takes it.
    pub(super) fn has_news(&self) -> bool {
        match self.ending {
            // It is read all the same, so that the other side need not wait for room.
            Some(Ending::Own { .. }) => self.frct.next_len().is_some(),
            Some(Ending::Peers { .. }) | None => !self.full && self.holds(),
        }
    }

    /// Whether the user has yet to hear something.
    fn holds(&self) -> bool {
        self.frct.next_len().is_some() || self.frct.ended() && !self.told
    }

    /// The next SDUs for the user, who takes them now.
    pub(super) fn record(&mut self) -> Option<Batch> {
        if self.full {
            return None;
        }
        self.read()
    }

    /// The next SDUs that have arrived.
    pub(super) fn read(&mut self) -> Option<Batch> {
        let mut record: Option<Batch> = None;
        while let Some(len) = self.frct.next_len() {
            let open = record.get_or_insert_with(|| Batch::new(Framing::Record));
            let Some(room) = open.push(len) else { break };
            if let Some(sdu) = self.frct.read() {
                sdu.copy_to(room);
            }
        }
        record
    }

    /// Whether the user is to be told now, once, that the other side writes nothing more.
    pub(super) fn tells_end(&mut self) -> bool {
        let due = !self.full && self.frct.ended() && self.frct.next_len().is_none();
        due && !std::mem::replace(&mut self.told, true)
    }

    /// The user is gone for this reason, and what it wrote shall still arrive.
    pub(super) fn left(&mut self, now: Instant, reason: &Reason) {
        self.ending = Some(Ending::Own {
            until: now + LINGER,
            queued: usize::MAX,
            reason: reason.clone(),
        });
    }

    /// The other side has ended the flow. Says whether the user has to take something before it hears so.
    pub(super) fn ended_by_peer(&mut self, now: Instant, reason: &Reason) -> bool {
        match self.ending {
            Some(Ending::Own { .. }) => false,
            Some(Ending::Peers { .. }) => true,
            None => {
                let keeps = self.holds() || self.full;
                self.ending = keeps.then(|| Ending::Peers {
                    until: now + LINGER,
                    reason: reason.clone(),
                });
                keeps
            }
        }
    }

    /// Why it goes, if it does.
    pub(super) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Of a flow whose user is gone: why it ends, if it is over. A good end is none if not everything has arrived.
    pub(super) fn over(&mut self, now: Instant) -> Option<Reason> {
        let Some(Ending::Own {
            until,
            queued,
            reason,
        }) = &mut self.ending
        else {
            return None;
        };
        let left = self.frct.stats().queued + self.rest.len();
        if left < *queued {
            (*until, *queued) = (now + LINGER, left);
        }
        if self.rest.is_empty() && self.frct.sent_all() {
            return Some(reason.clone());
        }
        let late = || {
            Reason::new(
                Code::TimedOut,
                "the other side closed the flow, and not all that it wrote could be delivered in time",
            )
        };
        let good = reason.code == Code::Closed;
        (*until <= now).then(|| if good { late() } else { reason.clone() })
    }

    /// Of a flow that the other side has ended: why, once its user has taken all, or has had time enough.
    pub(super) fn drained(&self, now: Instant) -> Option<Reason> {
        match &self.ending {
            Some(Ending::Peers { until, reason }) => {
                let over = !self.holds() && !self.full || *until <= now;
                over.then(|| reason.clone())
            }
            Some(Ending::Own { .. }) | None => None,
        }
    }

    /// Why it is down, if it is.
    pub(super) fn failure(&self) -> Option<Failure> {
        match self.frct.state() {
            State::Failed(failure) => Some(failure),
            State::Open | State::Shut | State::PeerShut | State::Closing | State::Finished => None,
        }
    }

    /// The path carries payloads of so many bytes from now on.
    pub(super) fn set_payload(&mut self, payload: u32) {
        if std::mem::replace(&mut self.payload, payload) != payload {
            self.frct.set_payload(payload as usize);
        }
    }

    /// Its PDUs take this way; `back`: there was none for a while. After a change FRCT asks at once for what may be lost.
    pub(super) fn set_way(&mut self, way: (FlowId, u64), back: bool) {
        let before = self.way.replace(way);
        if back || before.is_some_and(|before| before != way) {
            self.frct.rerouted();
        }
    }

    /// How much may wait in it now, and how much should.
    pub(super) fn buffers(&self) -> (Buffers, Buffers) {
        (self.frct.buffers(), self.frct.wanted())
    }

    /// So much may wait in it from now on.
    pub(super) fn widen(&mut self, buffers: Buffers) {
        self.frct.widen(buffers);
    }

    /// FRCT can't send anything now: the other side may be silent for too long all the same.
    pub(super) fn waits(&mut self, now: Instant) {
        self.frct.mind_silence(now);
    }

    /// When it wants a look; `waits`: FRCT can't send anything now, whatever it wants.
    pub(super) fn deadline(&self, waits: bool) -> Option<Instant> {
        let until = self.ending.as_ref().map(|ending| match ending {
            Ending::Own { until, .. } | Ending::Peers { until, .. } => *until,
        });
        let frct = if waits {
            self.frct.silent_at().map(|(at, _)| at)
        } else {
            self.frct.deadline()
        };
        [until, frct].into_iter().flatten().min()
    }

    /// The round trip in microseconds, as FRCT knows it.
    pub(super) fn rtt_us(&self) -> u64 {
        u64::try_from(self.frct.stats().rtt.as_micros()).unwrap_or(u64::MAX)
    }

    /// The congestion window, and how often a mark has reduced it.
    #[cfg(test)]
    pub(super) fn window(&self) -> (usize, u64) {
        let stats = self.frct.stats();
        (stats.window, stats.marked)
    }

    /// Adds what has happened to the counters.
    pub(super) fn count(&mut self, stats: &mut Stats) {
        let now = self.frct.stats();
        let mut add = |what, now: u64, before: &mut u64| {
            if now > *before {
                stats.add(what, now - *before);
                *before = now;
            }
        };
        add("frct.sent_again", now.again, &mut self.counted.again);
        add("frct.lost", now.lost, &mut self.counted.lost);
        add("frct.probes", now.probes, &mut self.counted.probes);
        add("frct.marked", now.marked, &mut self.counted.marked);
        add("drop.deadline", now.late, &mut self.counted.late);
        add("drop.late", now.gaps, &mut self.counted.gaps);
        add("drop.torn", now.torn, &mut self.counted.torn);
    }
}

/// How long what was written may wait for a sign of progress after its user has gone, and what arrived for its user.
const LINGER: Duration = Duration::from_secs(30);
/// Records of a user that are kept: one comes when it is paused, and a few that were read with it.
const MAX_REST: usize = 16;
