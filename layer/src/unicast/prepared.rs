//! A member in the middle of its life, for the simulator: thousands are made so, where each would take a minute to grow up.
//! What is made here must be what growing up would have left: the same files, links, keys and records.

use proto::wire::SignedRecord;
use proto::{FlowId, Framing, Label, Reason};
use rand_core::RngCore;

use super::Unicast;
use super::hold::Hold;
use super::link::{Link, Phase, Stands};
use super::pdu::Hello;
use crate::Now;
use crate::crypt::{Authority, Identity, Kept, MemberCert, Secrets};
use crate::route::Lsdb;

/// One end of a link that has stood for a while.
pub struct Standing<'a> {
    /// The lower flow and the layer that it belongs to.
    pub lower: (FlowId, &'a Label),
    /// The largest packet in bytes, and how several are put together.
    pub carries: (u32, Framing),
    /// Who is at the other end.
    pub peer: &'a MemberCert,
    /// Whether this side dialled.
    pub dialled: bool,
    /// The number of the session, and its master secret.
    pub session: (u32, [u8; 32]),
    /// The round trip in microseconds.
    pub rtt_us: u64,
}

impl Unicast {
    /// Makes a member of a machine that is none, with links that stand already; tells nobody.
    pub fn stands(
        &mut self,
        now: Now,
        identity: Identity,
        authority: Option<Authority>,
        links: &[Standing<'_>],
    ) -> Result<Vec<SignedRecord>, Reason> {
        self.epoch.get_or_insert(now.mono);
        self.clock.set(now.wall);
        self.save("identity", identity.to_bytes());
        if let Some(authority) = &authority {
            self.save("authority", authority.to_bytes());
        }
        let over = links.first().map(|link| link.lower.1.clone());
        let kept = authority.map(|authority| Kept::Open(Box::new(authority)));
        self.become_member(now, identity, kept, over.into_iter().collect())?;
        self.state(proto::ipcp::State::Up, "");
        for standing in links {
            self.standing(now, standing);
        }
        self.save_neighbours();
        self.rewant(now);
        for standing in links {
            self.dialling
                .reached(standing.peer.member().as_str(), standing.lower.1);
        }
        self.hold = Hold::default();
        self.links_changed(now);
        // The neighbours know it.
        for link in self.links.values_mut() {
            link.begin_channel(self.rng.next_u32());
        }
        let own = self.me.as_ref();
        let own = own.and_then(|me| me.routing.lsdb.record(now.mono, me.address, 1));
        Ok(own.into_iter().collect())
    }

    fn standing(&mut self, now: Now, standing: &Standing<'_>) {
        let stream = self.rng.next_u32();
        let peer = standing.peer.address();
        let stands = Stands {
            lower: standing.lower.0,
            over: standing.lower.1.clone(),
            mtu: standing.carries.0,
            framing: standing.carries.1,
        };
        let dialled = standing.dialled.then(|| standing.peer.member().clone());
        if let (Some(member), Some(me)) = (&dialled, &mut self.me) {
            me.kept.insert(member.clone());
        }
        let mut link = Link::new(stands, dialled, stream, now.mono);
        let (session, master) = standing.session;
        let secrets = Secrets::made(master, standing.peer.clone());
        link.phase = Phase::Up(peer);
        link.add_session(now.mono, session, standing.dialled, Some(peer), &secrets);
        link.confirm(session);
        link.set_their_mtu(standing.carries.0);
        link.path_is_known(now.mono);
        let heard = Hello {
            sequence: 0,
            // Nobody has sent it: an echo of it would tell half a round trip.
            time: 0,
            echo: 1,
            ..Hello::default()
        };
        link.hello(now.mono, 1 + standing.rtt_us, &heard);
        link.update_cost(now.mono);
        link.next_digest = now.mono + super::flood::DIGEST * (self.rng.next_u32() % 1000) / 1000;
        self.links.insert(standing.lower.0, link);
    }

    /// Lets it know what another member of the same layer knows, and finds its ways.
    pub fn knows_like(&mut self, now: Now, known: &Lsdb) {
        if let Some(me) = &mut self.me {
            me.routing.lsdb.adopt(now, known);
            me.routing.refresh(now.mono, true);
        }
        self.wake = self.next_wake(now);
    }
}
