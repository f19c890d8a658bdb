//! Whether there is memory for one more flow under FRCT, and whether a link has room for one more of voice or video. Members in between are not asked: there, fair queues protect.

use proto::{Addr, Code, EndpointId, QosSpec, Reason};

use super::Unicast;
use super::cube::Cube;
use super::transfer::controlled;

impl Unicast {
    /// Refuses a flow with that member if there is no memory for what may wait in it, or if the share of its cube in the link on the way there is used up, by what a flow of that
    /// cube is taken to need; `own` is the request itself.
    pub(super) fn admit(
        &mut self,
        qos: &QosSpec,
        peer: Addr,
        own: Option<EndpointId>,
    ) -> Result<(), Reason> {
        if controlled(qos)
            && let Err(limit) = self.flows.memory.room(peer, &self.bounds)
        {
            self.stats.count(limit);
            let text = format!(
                "{} has as many flows of qos {qos} as it has memory for; end some or ask for raw or best",
                self.name
            );
            return Err(Reason::new(Code::Busy, text));
        }
        let cube = Cube::of(qos);
        let (Some(kbit), Some(path)) = (needs_kbit(cube), self.path(peer)) else {
            return Ok(());
        };
        let same = |peer: Addr| self.path(peer).is_some_and(|p| p.lower == path.lower);
        let asked = self.flows.outgoing.iter().filter(|(endpoint, o)| {
            let other = Some(**endpoint) != own && Cube::of(&o.ask.qos) == cube;
            other && o.asked.is_some_and(same)
        });
        let stand = self.flows.by_peer().of(cube);
        let others = stand.chain(self.flows.incoming.of(cube));
        let others = others.filter(|(peer, _)| same(*peer)).map(|(_, n)| n);
        let carried = others.sum::<usize>() + asked.count();
        let share = share_kbit(self.rate_mbit, cube);
        if (carried as u64 + 1) * kbit <= share {
            return Ok(());
        }
        self.stats.count("limit.admission");
        let via = self.links.get(&path.lower).and_then(|link| link.peer());
        let via = via.map_or_else(String::new, |via| self.member_name(via));
        let text = format!(
            "qos {qos} is not granted: the link to {via} carries {carried} such flows, each of {kbit} kbit/s, and has {share} kbit/s for them; ask for best, or say what the link carries: irm ipcp set {} --rate MBIT",
            self.name
        );
        Err(Reason::new(Code::QosNotGranted, text))
    }
}

/// What a flow of a cube is taken to need, for cubes that promise a delay.
fn needs_kbit(cube: Cube) -> Option<u64> {
    match cube {
        Cube::Voice => Some(128),
        Cube::Video => Some(8000),
        Cube::Raw | Cube::Best | Cube::Data | Cube::Signal => None,
    }
}

/// The part of a link's rate that a cube has when all have something to send.
fn share_kbit(rate_mbit: u32, cube: Cube) -> u64 {
    let all: i64 = Cube::ALL.iter().map(|c| c.weight()).sum();
    u64::from(rate_mbit) * 1000 * cube.weight().unsigned_abs() / all.unsigned_abs()
}

/// What a link carries unless it is said.
pub(super) const RATE_MBIT: u32 = 1000;
