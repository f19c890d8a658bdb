//! Where the policy insists on the hybrid key exchange: keys that were agreed on without it count for nothing. It must not
//! change what this member offers, which is the hybrid exchange first in any case.

use proto::{Addr, Code, FlowId, Reason};

use super::Unicast;
use super::law::Law;
use crate::Now;
use crate::crypt::{KeyExchange, Secrets};

impl Unicast {
    /// Whether keys that were agreed on may not be used; under which word that is counted.
    pub(super) fn refused_keys(&self, now: Now, secrets: &Secrets) -> Option<&'static str> {
        if self.is_out(now, secrets) {
            return Some("drop.revoked");
        }
        let weak = self.insists_on_hybrid() && !secrets.key_exchange().is_hybrid();
        weak.then_some(NOT_HYBRID)
    }

    /// Keys for a link may not be used: the link ends with the reason, unless it has a peer, whom nobody may cut off so.
    pub(super) fn link_keys_refused(&mut self, now: Now, lower: FlowId, word: &'static str) {
        self.stats.count(word);
        let stranger = self.links.get(&lower).is_some_and(|l| l.peer().is_none());
        if word == NOT_HYBRID && stranger {
            self.link_failed(now, lower, not_hybrid());
        }
    }

    /// The policy is another: what stands on keys that it doesn't let count ends.
    pub(super) fn review_keys(&mut self, now: Now) {
        if !self.insists_on_hybrid() {
            return;
        }
        let weak = |exchange: Option<KeyExchange>| exchange.is_some_and(|e| !e.is_hybrid());
        let links = self.links.values().filter(|l| weak(l.key_exchange()));
        let links: Vec<FlowId> = links.map(|l| l.lower).collect();
        let peers = self.peers.iter();
        let peers = peers.filter(|(_, peer)| weak(peer.sessions.key_exchange(now.mono)));
        let peers: Vec<Addr> = peers.map(|(address, _)| *address).collect();
        for address in peers {
            self.stats.count(NOT_HYBRID);
            for endpoint in self.flows.with(address) {
                self.say_dealloc(now, endpoint, &not_hybrid());
                self.flow_down(now, endpoint, not_hybrid());
            }
            if let Some(peer) = self.peers.get_mut(&address) {
                peer.sessions.forget(now.mono, false);
            }
        }
        for lower in links {
            // It learns why: the policy waits in the channel.
            self.pump_link_channel(now, lower);
            self.link_failed(now, lower, not_hybrid());
        }
    }

    fn insists_on_hybrid(&self) -> bool {
        let law = self.me.as_ref().map(|me| &me.law);
        matches!(law, Some(Law::Rules(_, _, policy)) if policy.insists_on_hybrid())
    }
}

fn not_hybrid() -> Reason {
    let text = "the policy of the layer insists on the hybrid key exchange X25519MLKEM768, which the other side lacks; update it";
    Reason::new(Code::Denied, text)
}

const NOT_HYBRID: &str = "drop.not_hybrid";
