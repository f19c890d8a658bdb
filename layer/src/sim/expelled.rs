//! Members that are believed no more. Each comes back with the files that it had, as a thief would, until it joins anew under
//! another name; whoever must know by then that it is out has nothing to do with it.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::ipcp::{AuthorityAct, Command, Enroll, Entry};
use proto::{Addr, Label};
use zeroize::Zeroizing;

use super::acts::{Act, over};
use super::host::What;
use super::net::Cable;
use super::programs::Usage;
use super::world::World;

/// A member that was revoked.
pub(super) struct Expelled {
    host: usize,
    member: Label,
    address: Addr,
    /// What was on its disk.
    files: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// For each host: since when it has been connected without a pause to one that knows.
    reached: Vec<Option<Duration>>,
}

/// How long it may take until everybody knows who is out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct WordOut {
    pub(super) within: Duration,
    /// Only the time counts in which the network is quiet: who knows how bad it is else.
    pub(super) quiet: bool,
}

impl WordOut {
    /// As the layer promises it.
    pub(super) const PROMISED: Duration = Duration::from_secs(5);
}

/// What happens.
impl World {
    /// The authority revokes a member. The first, which holds it, can't be.
    pub(super) fn expel(&mut self, host: usize) {
        if host == 0 || !self.hosts[0].alive() || !self.hosts[host].member {
            return;
        }
        self.counts.expelled += 1;
        self.tell_all(host, "is revoked");
        let of = &mut self.hosts[host];
        (of.ghost, of.member) = (true, false);
        self.expelled.push(Expelled {
            host,
            member: of.name.clone(),
            address: of.address,
            files: of.files.clone(),
            reached: vec![None; self.hosts.len()],
        });
        let revoke = AuthorityAct::Revoke(self.hosts[host].name.clone());
        self.command(0, What::Must, Command::Authority(revoke));
        let after = self.chance.millis(0, 2000);
        self.later(after, Act::Haunt(host));
        if self.expelled.len() == 1 {
            self.later(LOOK, Act::Watch);
        }
    }

    /// One that is out starts with what it had before, and wants what it wanted.
    pub(super) fn haunt(&mut self, host: usize) {
        let mut expelled = self.expelled.iter().rev();
        let expelled = expelled.find(|e| e.host == host);
        let Some(files) = expelled.map(|e| e.files.clone()) else {
            return;
        };
        if !self.hosts[host].ghost {
            return;
        }
        self.tell_all(host, "starts again with what was revoked");
        self.stop(host);
        self.hosts[host].files = files;
        self.boot(host);
        let ask = Enroll {
            entry: Entry::Rejoin,
            over: over(),
            timeout_ms: 30_000,
        };
        self.command(host, What::Other, Command::Enroll(ask));
        let names: Vec<_> = self.hosts[host].names.iter().cloned().collect();
        for name in names {
            self.command(host, What::Other, Command::Register(name));
        }
        for after in [500, 1500, 3000] {
            let (from, to) = (host, self.chance.below(self.hosts.len()));
            let usage = Usage::Drawn;
            let open = |from, to| Act::Open { from, to, usage };
            self.later(Duration::from_millis(after), open(from, to));
            self.later(Duration::from_millis(after), open(to, from));
        }
    }

    /// It is another member from now on, of which nothing is known yet.
    pub(super) fn become_another(&mut self, host: usize) {
        let lives = self.hosts[host].life;
        let name = super::label(format!("m{host}-{lives}"));
        let address = crate::crypt::address(&self.layer, &name);
        self.rename(host, name, address);
        let of = &mut self.hosts[host];
        of.files.clear();
        of.names.clear();
        (of.member, of.ghost) = (false, false);
        for expelled in &mut self.expelled {
            expelled.reached[host] = None;
        }
    }
}

/// What must hold.
impl World {
    /// Looks who has been told of each that is out, and what they have to do with it.
    pub(super) fn watch(&mut self) {
        let mut all = std::mem::take(&mut self.expelled);
        let beside: Vec<Vec<usize>> = (0..self.hosts.len()).map(|h| self.beside(h)).collect();
        for expelled in &mut all {
            let tells = |host: &usize| *host == 0 || self.knows(expelled, *host);
            let mut todo: Vec<usize> = (0..self.hosts.len()).filter(tells).collect();
            todo.retain(|host| self.hosts[*host].alive() && !self.hosts[*host].ghost);
            let mut told = vec![false; self.hosts.len()];
            todo.iter().for_each(|host| told[*host] = true);
            while let Some(at) = todo.pop() {
                for next in &beside[at] {
                    if !std::mem::replace(&mut told[*next], true) {
                        todo.push(*next);
                    }
                }
            }
            let counts = self.net.quiet || !self.word_out.quiet;
            for (host, told) in told.into_iter().enumerate() {
                if told && counts {
                    expelled.reached[host].get_or_insert(self.elapsed);
                } else if !self.knows(expelled, host) {
                    expelled.reached[host] = None;
                }
            }
        }
        self.expelled = all;
        for host in 0..self.hosts.len() {
            self.shuns(host);
        }
        self.later(LOOK, Act::Watch);
    }

    /// The hosts with which a host shares a link that both know, over a cable that works.
    fn beside(&self, host: usize) -> Vec<usize> {
        let has = |a: usize, b: usize| {
            let (a, b) = (&self.hosts[a], &self.hosts[b]);
            let honest = a.alive() && !a.ghost && !b.ghost;
            let machine = a.machine.as_ref().filter(|_| honest);
            machine.is_some_and(|machine| machine.is_beside(b.address))
        };
        let near = self.net.neighbours(host).into_iter();
        near.filter(|n| has(host, *n) && has(*n, host))
            .filter(|n| self.net.cable(host, *n).is_some_and(Cable::works))
            .collect()
    }

    fn knows(&self, expelled: &Expelled, host: usize) -> bool {
        let since = expelled.reached[host];
        since.is_some_and(|since| self.elapsed - since >= self.word_out.within)
    }

    /// Whether a host has nothing to do with those of whom it must know that they are out.
    fn shuns(&mut self, host: usize) {
        let now = self.now(host);
        let of = &self.hosts[host];
        let machine = of.machine.as_ref().filter(|_| of.alive() && !of.ghost);
        let with = |e: &Expelled| {
            let what = machine?.dealings(now, e.address)?;
            Some(format!(
                "m{host} still has {what} of {}, which was revoked, {:?} after it could hear of that",
                e.member, self.word_out.within
            ))
        };
        let known = self.expelled.iter().filter(|e| self.knows(e, host));
        if let Some(what) = known.filter_map(with).next() {
            self.fail(what);
        }
    }

    /// Something gets from one host to another, which must not be where one of them is out and the other must know it.
    pub(super) fn may_meet(&mut self, what: &str, from: usize, to: usize) {
        for (one, other) in [(from, to), (to, from)] {
            let mut all = self.expelled.iter().rev();
            let expelled = all.find(|e| e.host == one && self.hosts[one].ghost);
            if expelled.is_some_and(|e| self.knows(e, other)) {
                return self.fail(format!(
                    "{what} got from m{from} to m{to}, though m{one} was revoked"
                ));
            }
        }
    }
}

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(250);
