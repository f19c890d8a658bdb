//! One name or prefix that was given twice by members that issue and didn't see each other: who counts, and what people are
//! told to do.

use proto::{Addr, Label};

use super::Unicast;
use crate::Now;
use crate::crypt::MemberCert;
use crate::route::{Clash, yields};

impl Unicast {
    /// Parts with whoever has a name that another has who counts.
    pub(super) fn part_with_doubles(&mut self, now: Now) {
        let Some(me) = &self.me else { return };
        let own = me.identity.cert().public_key();
        let shown = |clash: &Clash| {
            let peer = self.peers.get(&clash.refused.address());
            let cert = peer.and_then(|peer| peer.cert.as_ref());
            cert.is_some_and(|cert| cert.public_key() == clash.refused.public_key())
        };
        let lost = me.routing.lsdb.clashes();
        let lost = lost.filter(|c| c.refused.public_key() != own && shown(c));
        let lost: Vec<(Addr, Label)> = lost
            .map(|c| (c.refused.address(), c.refused.member().clone()))
            .collect();
        for (address, member) in lost {
            self.part_with_revoked(now, address, &member, "is a second one of that name");
        }
    }

    /// Whether a member of that name counts that has another key.
    pub(super) fn is_double(&self, cert: &MemberCert) -> bool {
        let Some(me) = &self.me else { return false };
        let other = match cert.address() == me.address {
            true => Some(me.identity.cert()),
            false => me.routing.member(cert.address()),
        };
        me.identity.roots().has_issuers() && other.is_some_and(|other| yields(cert, other))
    }

    /// What `status` warns of.
    pub(super) fn status_clashes(&self) -> Vec<String> {
        let Some(me) = &self.me else {
            return Vec::new();
        };
        let own = me.identity.cert().public_key();
        let layer = me.layer();
        let name = |clash: &Clash| {
            let (member, refused) = (clash.counts.member(), &clash.refused);
            let (issuer, serial) = (refused.issuer(), refused.serial());
            match refused.public_key() == own {
                true => format!(
                    "another member of {layer} is called {member} too and counts: this one is heard by nobody; destroy it and enroll it under another name"
                ),
                false => format!(
                    "two members of {layer} are called {member}: that with serial {serial}, issued by {issuer}, is heard by nobody; enroll it under another name"
                ),
            }
        };
        let names = me.routing.lsdb.clashes().map(name);
        names.chain(self.shared_prefixes()).collect()
    }

    /// Of two members with one prefix that counts whose name comes first.
    fn shared_prefixes(&self) -> Vec<String> {
        let members = self.me.iter().flat_map(|me| me.routing.lsdb.members());
        let mut owned: Vec<_> = members
            .flat_map(|cert| cert.prefixes().iter().map(move |p| (*p, cert.member())))
            .collect();
        owned.sort_unstable();
        let pairs = owned.windows(2);
        let same = pairs.filter(|pair| pair[0].0 == pair[1].0);
        same.take(MAX_SHOWN)
            .map(|pair| {
                let (prefix, first, second) = (pair[0].0, pair[0].1, pair[1].1);
                format!(
                    "the prefix {prefix} is granted to {first} and to {second}: it is that of {first}; revoke {second} and enroll it with another"
                )
            })
            .collect()
    }
}

const MAX_SHOWN: usize = 8;
