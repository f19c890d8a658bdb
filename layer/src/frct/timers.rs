//! When a flow end fails, keeps alive, forgets and is done.

use std::time::{Duration, Instant};

use super::{Failure, Frct};

impl Frct {
    /// What the time brings.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Some((at, failure)) = self.fails_at()
            && at <= now
        {
            self.failed = Some(failure);
            return;
        }
        self.incoming.measure(now, self.sender.rtt().least());
        match self.incoming.expire(now) {
            Ok(true) => self.acks.push(),
            Ok(false) => {}
            Err(reason) => self.failed = Some(Failure::Misbehaved(reason)),
        }
        if self.incoming.wider(self.params.payload) {
            self.acks.push();
        }
        let pause = self.params.mpl + self.params.a + self.params.r;
        self.sender.pause(now, pause, pause + 2 * self.params.mpl);
        self.sender.expire(now);
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.sender.ping();
        }
        if self.forgets_at().is_some_and(|at| at <= now) {
            self.sender.stream.release();
            self.incoming.release();
        }
        if self.is_done() {
            self.done.get_or_insert(now);
            self.finished |= self.lingers_until().is_some_and(|at| at <= now);
        }
    }

    /// When it fails if nothing is heard.
    pub(super) fn fails_at(&self) -> Option<(Instant, Failure)> {
        if self.is_done() {
            return None;
        }
        let params = &self.params;
        let waits = params.qos.reliable && (self.sender.stream.waits() || !self.sender.is_quiet());
        let answer = self
            .sender
            .stalled()
            .filter(|_| waits)
            .map(|at| (at + params.r, Failure::NoAnswer(params.r)));
        let silence = self.silent_at();
        answer.into_iter().chain(silence).min_by_key(|(at, _)| *at)
    }

    /// When the peer will have been silent for too long.
    pub fn silent_at(&self) -> Option<(Instant, Failure)> {
        let most = self.timeout().filter(|_| !self.is_done())?;
        Some((self.heard + most, Failure::Silence(most)))
    }

    /// Fails if the peer is silent for too long, and does nothing else: for whoever can't send and so doesn't poll.
    pub fn mind_silence(&mut self, now: Instant) {
        if let Some((at, failure)) = self.silent_at()
            && at <= now
        {
            self.failed.get_or_insert(failure);
        }
    }

    /// When a packet must go so that the other side hears something.
    pub(super) fn keep_alive_at(&self) -> Option<Instant> {
        let pause = self.timeout().filter(|_| !self.is_done())? / 4;
        Some(self.sender.last_sent().unwrap_or(self.begun) + pause)
    }

    fn timeout(&self) -> Option<Duration> {
        let ms = self.params.qos.timeout_ms;
        (ms > 0).then(|| Duration::from_millis(ms.into()))
    }

    /// Until when it answers an end whose acknowledgement was lost.
    pub(super) fn lingers_until(&self) -> Option<Instant> {
        let done = self.done.filter(|_| !self.finished)?;
        Some(done + 3 * self.sender.probe_timeout())
    }

    /// When memory that nothing lies in is given back.
    pub(super) fn forgets_at(&self) -> Option<Instant> {
        if !self.sender.stream.is_wasteful() && !self.incoming.is_wasteful() {
            return None;
        }
        let sent = self.sender.last_sent().unwrap_or(self.heard);
        Some(self.heard.max(sent) + self.forgets_after())
    }

    /// How long after the last packet a receiver knows its numbers.
    pub(super) fn forgets_after(&self) -> Duration {
        2 * self.params.mpl + self.params.a + self.params.r
    }

    /// Whether both streams have arrived with their ends.
    fn is_done(&self) -> bool {
        self.sender.stream.is_done() && self.incoming.complete()
    }
}
