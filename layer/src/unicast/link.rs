//! One N-1 flow: its keys, its signs of life and what waits to be sent on it. It must not know of flows or routes.

mod arrivals;
mod cost;
mod joining;
mod keys;
mod life;
mod probing;
mod unsealed;

use std::time::{Duration, Instant};

use proto::{Addr, Batch, FlowId, Framing, Label, Reason};

use super::cube::CONTROL_DSCP;
use super::out::{Class, Egress, Popped};
use super::pdu::{self, HOP_OVERHEAD, Hello, LINK_HANDSHAKE_LEN, SEALED_LEN};
use super::running::Running;
use super::stats::Stats;
use crate::channel::Channel;
use crate::mtu::{BASE, FLOOR, PathMtu};
use crate::tokens::Used;
use arrivals::Arrivals;
use cost::Cost;
use joining::Joining;
use keys::Hop;
pub(super) use keys::{KEY_LIFE, KEY_USE};
use life::Life;
pub use unsealed::Unsealed;

/// One N-1 flow.
pub(super) struct Link {
    pub(super) lower: FlowId,
    pub(super) over: Label,
    /// Whom this side dialled; `None`: the other side did.
    pub(super) dialled: Option<Label>,
    pub(super) phase: Phase,
    pub(super) since: Instant,
    pub(super) handshakes: Vec<Running>,
    pub(super) channel: Channel,
    pub(super) tx: Egress,
    /// The queue of what has come and waits to be read.
    pub(super) arrivals: Arrivals,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) cost: Cost,
    /// A digest is owed to the other side, because a message to it did not fit.
    pub(super) owes_digest: bool,
    pub(super) next_digest: Instant,
    /// The sessions without certificate.
    pub(super) joining: Vec<Joining>,
    /// Why the last handshake of this side came to nothing.
    pub(super) refusal: Option<Reason>,
    /// The records that came on it.
    pub(super) records: Used,
    regreet: Regreet,
    path: PathMtu,
    their_mtu: u32,
    hops: Vec<Hop>,
    life: Life,
    /// This host can't send on it.
    mute: bool,
    /// When packets of flows came on it last.
    carried: Option<Instant>,
}

/// How far a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No handshake has ended yet.
    Greeting,
    /// The other side showed no certificate, or this one has none: enrolment only.
    Joining,
    /// An adjacency.
    Up(Addr),
    /// An adjacency that ends then on purpose: whoever has another way is to use it.
    Leaving(Addr, Instant),
    /// Another link to the same member or another way took over: nothing more is sent on it, what is under way is still taken.
    Retired(Addr, Instant),
}

/// When a handshake is begun again that somebody, who need not be the neighbour, has brought to nothing.
struct Regreet {
    at: Option<Instant>,
    wait: Duration,
}

impl Link {
    pub(super) fn new(up: Stands, dialled: Option<Label>, stream: u32, now: Instant) -> Self {
        let mtu = up.mtu.clamp(MIN_MTU, MAX_MTU);
        Self {
            lower: up.lower,
            over: up.over,
            dialled,
            phase: Phase::Greeting,
            since: now,
            handshakes: Vec::new(),
            channel: Channel::new(stream, frame_size(mtu)),
            tx: Egress::new(up.framing),
            arrivals: Arrivals::new(now),
            rx_bytes: 0,
            tx_bytes: 0,
            cost: Cost::UNKNOWN,
            owes_digest: false,
            next_digest: now,
            joining: Vec::new(),
            refusal: None,
            records: Used::default(),
            regreet: Regreet {
                at: None,
                wait: FIRST_REGREET,
            },
            path: PathMtu::new(mtu, now),
            their_mtu: u32::MAX,
            hops: Vec::new(),
            life: Life::new(now),
            mute: false,
            carried: None,
        }
    }

    /// Begins the channel anew, as the other side does: what was said before the certificates were shown is over.
    pub(super) fn begin_channel(&mut self, stream: u32) {
        self.channel = Channel::new(stream, frame_size(self.mtu()));
    }

    /// The member at the other end, once it is known by its certificate.
    pub(super) fn peer(&self) -> Option<Addr> {
        match self.phase {
            Phase::Greeting | Phase::Joining => None,
            Phase::Up(peer) | Phase::Leaving(peer, _) | Phase::Retired(peer, _) => Some(peer),
        }
    }

    /// The member to which this is an adjacency.
    pub(super) fn up(&self) -> Option<Addr> {
        match self.phase {
            Phase::Up(peer) => Some(peer),
            Phase::Greeting | Phase::Joining | Phase::Leaving(..) | Phase::Retired(..) => None,
        }
    }

    /// The member to which packets may still be sent on it.
    pub(super) fn leads_to(&self) -> Option<Addr> {
        match self.phase {
            Phase::Up(peer) | Phase::Leaving(peer, _) => Some(peer),
            Phase::Greeting | Phase::Joining | Phase::Retired(..) => None,
        }
    }

    /// The largest PDU that gets through both ways, in bytes.
    pub(super) fn mtu(&self) -> u32 {
        self.path.mtu().min(self.their_mtu)
    }

    /// The largest PDU that gets through this way.
    pub(super) fn own_mtu(&self) -> u32 {
        self.path.mtu()
    }

    /// The other side's MTU. Says whether that of the link changed.
    pub(super) fn set_their_mtu(&mut self, mtu: u32) -> bool {
        let before = self.mtu();
        self.their_mtu = mtu.max(MIN_MTU);
        self.mtu_changed(before)
    }

    /// Frames of the channel follow the MTU of the link. Says whether it is another than before.
    fn mtu_changed(&mut self, before: u32) -> bool {
        let mtu = self.mtu();
        if mtu != before {
            self.channel.set_frame_size(frame_size(mtu));
            let joining = self.joining.iter_mut();
            joining.for_each(|j| j.channel.set_frame_size(frame_size(mtu)));
        }
        mtu != before
    }

    /// A handshake of this side came to nothing, by whom is not known: another begins soon, the later the more often.
    pub(super) fn greet_again(&mut self, now: Instant, why: Reason) {
        self.refusal = Some(why);
        self.regreet.at = Some(now + self.regreet.wait);
        self.regreet.wait = (self.regreet.wait * 2).min(MAX_REGREET);
    }

    /// Whether that other handshake is due; says so once.
    pub(super) fn takes_regreet(&mut self, now: Instant) -> bool {
        self.regreet.at.take_if(|at| *at <= now).is_some()
    }

    /// Takes the path for one that was found to carry what the lower network says.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn path_is_known(&mut self, now: Instant) {
        self.path.is_known(now);
    }

    /// Sends a PDU of `len` bytes, written by `fill` where it will be sealed; the error is the reason of the drop.
    pub(super) fn send(
        &mut self,
        class: Class,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let hop = self.sealing().ok_or("drop.no_key")?;
        self.send_with(hop, class, len, whole(fill)).map(drop)
    }

    /// Sends a PDU of at most `most` bytes: `fill` says how many it wrote, 0 if there is nothing to send. Gives that number;
    /// the error is the reason of the drop.
    pub(super) fn send_upto(
        &mut self,
        class: Class,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, &'static str>,
    ) -> Result<usize, &'static str> {
        let hop = self.sealing().ok_or("drop.no_key")?;
        self.send_with(hop, class, most, fill)
    }

    /// Whether all of a batch whose packets have a margin for their headers, and at most `mtu` bytes, can be sent where it lies.
    pub(super) fn takes_batch(&self, class: Class, batch: &Batch, mtu: usize) -> bool {
        let Class::Data(lot) = class else {
            return false;
        };
        batch.stride().saturating_sub(batch.margin().len()) <= mtu
            && batch.stride() <= self.path.mtu() as usize
            && self.sealing().is_some()
            && self.tx.takes_whole(&lot, batch)
    }

    /// Sends PDUs that lie in their batch as they are to be sealed, after [`Link::takes_batch`].
    pub(super) fn send_batch(&mut self, class: Class, batch: Batch) {
        if let Class::Data(lot) = class {
            self.path.sent(batch.stride() as u32);
            self.tx_bytes += batch.bytes().len() as u64;
            self.tx.put_whole(&lot, batch);
        }
    }

    /// Sends a PDU of a handshake over this link, sealed or as it is.
    pub(super) fn send_handshake(&mut self, seal: bool, bytes: &[u8]) -> Result<(), &'static str> {
        if seal {
            return self.send(Class::Control, LINK_HANDSHAKE_LEN + bytes.len(), |body| {
                pdu::write_link_handshake(body);
                body[LINK_HANDSHAKE_LEN..].copy_from_slice(bytes);
                Ok(())
            });
        }
        let copy = |pdu: &mut [u8]| {
            pdu.copy_from_slice(bytes);
            Ok(pdu.len())
        };
        self.tx.put(Class::Control, bytes.len(), copy).map(drop)
    }

    fn send_with(
        &mut self,
        hop: usize,
        class: Class,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, &'static str>,
    ) -> Result<usize, &'static str> {
        if most + HOP_OVERHEAD > self.path.mtu() as usize {
            return Err("drop.too_big");
        }
        let len = self.send_whole(hop, class, most, fill)?;
        if len > 0 {
            self.path.sent((len + HOP_OVERHEAD) as u32);
        }
        Ok(len)
    }

    /// The same, however large it is.
    fn send_whole(
        &mut self,
        hop: usize,
        class: Class,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, &'static str>,
    ) -> Result<usize, &'static str> {
        let hop = &mut self.hops[hop];
        let sent = self.tx.put(class, most + HOP_OVERHEAD, |pdu| {
            let len = fill(&mut pdu[SEALED_LEN..][..most])?;
            if len == 0 {
                return Ok(0);
            }
            let pdu = &mut pdu[..len + HOP_OVERHEAD];
            match class {
                Class::Control => hop.seal(pdu)?,
                Class::Data(_) => {}
            }
            Ok(pdu.len())
        })?;
        self.tx_bytes += sent as u64;
        Ok(sent.saturating_sub(HOP_OVERHEAD))
    }

    /// The next batch of control, if the lower flow takes any.
    pub(super) fn pop_control(&mut self) -> Option<Batch> {
        let mut batch = self.tx.pop_control()?;
        batch.set_dscp(CONTROL_DSCP);
        Some(batch)
    }

    /// The next batch of flows' PDUs, to be sealed now: what others overtake in the queue must not be too old for the other
    /// side's replay window, and a mark must be sealed with the rest.
    pub(super) fn pop_data(&mut self, now: Instant, stats: &mut Stats) -> Option<Unsealed> {
        while let Some(Popped {
            mut batch,
            cube,
            mark,
            free,
        }) = self.tx.pop_data(now, stats)
        {
            if mark && let Some(pdu) = batch.iter_mut().next() {
                pdu::mark_congestion(&mut pdu[SEALED_LEN..]);
            }
            batch.set_dscp(cube.dscp());
            let (hop, count) = (self.sealing(), batch.count() as u64);
            let unsealed = hop
                .ok_or("drop.no_key")
                .and_then(|hop| Unsealed::new(&mut self.hops[hop], batch, free));
            match unsealed {
                Ok(unsealed) => return Some(unsealed),
                Err(reason) => stats.add(reason, count),
            }
        }
        None
    }

    /// Something authentic came. Says whether the link was thought to be mute.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        self.life.heard(now);
        std::mem::take(&mut self.mute)
    }

    /// This host can't send on it: no way leads over it until something is heard again, and soon it is dead. Says whether that
    /// is new.
    pub(super) fn mute(&mut self, now: Instant) -> bool {
        self.life.stir(now);
        self.up().is_some() && !std::mem::replace(&mut self.mute, true)
    }

    /// Packets of flows have come. Says whether they are the first after a pause.
    pub(super) fn carries(&mut self, now: Instant) -> bool {
        let before = self.carried.replace(now);
        before.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE)
    }

    /// Whether packets of flows came on it a moment ago.
    pub(super) fn carried_lately(&self, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < LATELY;
        self.carried.is_some_and(lately)
    }

    /// When packets of flows came or went on it last.
    pub(super) fn last_carried(&self) -> Instant {
        self.life.last_carried()
    }

    /// Whether this host could not send on it when it last tried.
    pub(super) fn is_mute(&self) -> bool {
        self.mute
    }

    /// Packets of flows come or go. Says whether the link needs a look now, since there were none for some time.
    pub(super) fn stir(&mut self, now: Instant) -> bool {
        self.up().is_some() && self.life.stir(now)
    }

    /// Whether all keys have expired, and with them all that could be said.
    pub(super) fn is_keyless(&self) -> bool {
        self.hops.is_empty()
    }

    /// Whether an adjacency has been silent for too long.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        self.peer().is_some() && now >= self.life.dead_at()
    }

    /// When the link needs a look: a hello is due, or it will have been silent for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Greeting => Some(self.first(self.since + GREETING)),
            Phase::Joining => Some(self.first(self.since + JOINING)),
            Phase::Up(_) => {
                let keys = self.hops.iter().map(|hop| hop.born + KEY_LIFE).max();
                let life = self.life.next().min(self.life.dead_at());
                [keys, self.probe_at(), Some(life)]
                    .into_iter()
                    .flatten()
                    .min()
            }
            Phase::Leaving(_, until) | Phase::Retired(_, until) => Some(until),
        }
    }

    fn first(&self, end: Instant) -> Instant {
        self.regreet.at.map_or(end, |at| at.min(end))
    }

    /// The hello that is due; `None` if none is.
    pub(super) fn hello_due(&mut self, now: Instant, micros: u64) -> Option<Hello> {
        self.up()?;
        let keys = self.can_seal();
        self.life.due(now, micros, keys)
    }

    /// Takes the other side's hello.
    pub(super) fn hello(&mut self, now: Instant, micros: u64, hello: &Hello) {
        self.life.take(now, micros, hello);
    }

    /// The round trip in microseconds, the least of the newest; 0: not measured yet.
    pub(super) fn rtt_us(&self) -> u32 {
        self.life.rtt_us()
    }

    /// How many of 1,000 packets are lost on their way to the other side.
    pub(super) fn loss_permille(&self) -> u32 {
        self.life.loss_permille()
    }

    /// Makes the cost from what was measured. Says whether it changed.
    pub(super) fn update_cost(&mut self, now: Instant) -> bool {
        self.cost.update(now, self.rtt_us(), self.loss_permille())
    }
}

/// What the lower network says of a flow that stands.
pub(super) struct Stands {
    pub(super) lower: FlowId,
    pub(super) over: Label,
    pub(super) mtu: u32,
    pub(super) framing: Framing,
}

/// Fills all of a PDU.
pub(super) fn whole(
    fill: impl FnOnce(&mut [u8]) -> Result<(), &'static str>,
) -> impl FnOnce(&mut [u8]) -> Result<usize, &'static str> {
    |body| {
        fill(body)?;
        Ok(body.len())
    }
}

/// The bytes of a frame of the link channel.
fn frame_size(mtu: u32) -> usize {
    (mtu.min(SAFE_MTU) as usize).saturating_sub(HOP_OVERHEAD + 1)
}

/// How long the first handshake may take.
pub(super) const GREETING: Duration = Duration::from_secs(12);
/// How long a link without certificate may last.
pub(super) const JOINING: Duration = Duration::from_secs(30);
/// How long what is under way on a link that was replaced is still taken.
pub(super) const RETIRING: Duration = Duration::from_secs(1);
/// The pauses before a handshake is begun again.
const FIRST_REGREET: Duration = Duration::from_millis(50);
const MAX_REGREET: Duration = Duration::from_secs(1);
/// What gets through anywhere.
pub(super) const SAFE_MTU: u32 = BASE;
const MIN_MTU: u32 = FLOOR;
/// The largest packet that fits a batch in either framing.
const MAX_MTU: u32 = Batch::MAX_PACKET as u32;
/// Without packets for so long, those of a flow may have been moved to another link.
const PAUSE: Duration = Duration::from_millis(10);
const LATELY: Duration = Duration::from_secs(1);
#[cfg(test)]
mod tests;
