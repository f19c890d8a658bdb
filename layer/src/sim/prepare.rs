//! Hosts in the middle of their lives: every certificate, key and record is what growing up would have left.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::ipcp::Invite;
use proto::{Addr, FlowId, Framing, Label, Reason};

use super::chance::Chance;
use super::world::World;
use crate::Standing;
use crate::crypt::{Authority, Identity, Invitation, MemberCert};
use crate::route::Lsdb;

impl World {
    /// Lets the first `members` hosts be members with a link over each cable between them, all of which know all.
    pub(super) fn prepare(&mut self, members: usize, chance: &mut Chance) -> Result<(), Reason> {
        let (authority, identities) = self.identities(members)?;
        let certs: Vec<MemberCert> = identities.iter().map(|i| i.cert().clone()).collect();
        let mut ends = self.wire(members, chance);
        let mut authority = Some(authority);
        let over = super::label("cable".to_owned());
        let first = &identities[0];
        // It is nobody's: what comes from whoever it belongs to would be taken for something of an earlier life.
        let mut known = Lsdb::new(Addr(0), first.layer().clone(), 0);
        known.share(self.pool.clone().unwrap_or_default());
        let judge = Identity::from_bytes(&first.to_bytes()).map_err(broken)?;
        for (host, identity) in identities.into_iter().enumerate() {
            let now = self.now(host);
            self.boot(host);
            let standing: Vec<Standing<'_>> = ends
                .remove(&host)
                .unwrap_or_default()
                .into_iter()
                .map(|end| end.standing(&certs, &over))
                .collect();
            let machine = self.hosts[host].machine.as_mut();
            let Some(machine) = machine else { continue };
            for record in machine.stands(now, identity, authority.take(), &standing)? {
                known.insert(now, &judge, record).map_err(broken)?;
            }
            self.hosts[host].member = true;
        }
        for host in 0..members {
            let now = self.now(host);
            if let Some(machine) = self.hosts[host].machine.as_mut() {
                machine.knows_like(now, &known);
            }
            self.drain(host);
        }
        Ok(())
    }

    /// The layer's authority, and who its members are.
    fn identities(&self, members: usize) -> Result<(Authority, Vec<Identity>), Reason> {
        let wall = self.now(0).wall;
        let first = &self.hosts[0].name;
        let (mut authority, identity) = Authority::create(&self.layer, first, &[], wall)?;
        let mut identities = vec![identity];
        let ask = |prefixes, uses| Invite {
            member: None,
            prefixes,
            expires_ms: 3_600_000,
            uses,
            hints: Vec::new(),
            groups: Vec::new(),
        };
        let via = std::slice::from_ref(first);
        // One for all, where they are alike: no more than 1,024 can be open.
        let all = ask(Vec::new(), u32::try_from(members).unwrap_or(u32::MAX));
        let all = authority.invite(&all, first, via, wall)?;
        for (number, host) in self.hosts[..members].iter().enumerate().skip(1) {
            let own = self
                .granted
                .map(|of| authority.invite(&ask(of(number), 1), first, via, wall))
                .transpose()?;
            let url = own.as_ref().unwrap_or(&all);
            let joiner = Invitation::parse(url, wall)?.start(&host.name)?;
            let reply = authority.redeem(&joiner.request(&[0; 32]), &[0; 32], wall)?;
            identities.push(joiner.finish(&reply, wall)?);
        }
        Ok((authority, identities))
    }

    /// A lower flow over each cable between the first hosts; gives both ends of each, by host.
    fn wire(&mut self, members: usize, chance: &mut Chance) -> BTreeMap<usize, Vec<End>> {
        let mut ends: BTreeMap<usize, Vec<End>> = BTreeMap::new();
        for (number, (a, b)) in self.net.edges().into_iter().enumerate() {
            let Some(cable) = self.net.cable(a, b).filter(|_| b < members).cloned() else {
                continue;
            };
            let (at_a, at_b) = self.net.connect(a, b, Framing::Train);
            let session = u32::try_from(number).unwrap_or(u32::MAX);
            let master = chance.seed();
            let end = |lower, peer, dialled| End {
                lower,
                peer,
                dialled,
                session: (session, master),
                mtu: cable.mtu,
                delay: cable.delay,
            };
            ends.entry(a).or_default().push(end(at_a, b, true));
            ends.entry(b).or_default().push(end(at_b, a, false));
        }
        ends
    }
}

/// One end of a lower flow.
struct End {
    lower: FlowId,
    peer: usize,
    dialled: bool,
    session: (u32, [u8; 32]),
    mtu: u32,
    delay: Duration,
}

impl End {
    fn standing<'a>(&self, certs: &'a [MemberCert], over: &'a Label) -> Standing<'a> {
        let rtt = u64::try_from((self.delay * 2).as_micros()).unwrap_or(0);
        Standing {
            lower: (self.lower, over),
            carries: (self.mtu, Framing::Train),
            peer: &certs[self.peer],
            dialled: self.dialled,
            session: self.session,
            rtt_us: rtt,
        }
    }
}

fn broken(error: impl std::fmt::Display) -> Reason {
    Reason::new(
        proto::Code::Failed,
        format!("what was prepared is wrong: {error}"),
    )
}
