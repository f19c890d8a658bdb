//! What must hold once the network is quiet, and what may be left over at the end: nothing.

use std::collections::{BTreeMap, BTreeSet};

use proto::Addr;
use proto::ipcp::Command;
use proto::irm::IpcpStatus;

use super::host::What;
use super::names::Names;
use super::net::Cable;
use super::world::World;

impl World {
    /// Asks a machine how it is.
    pub(super) fn status(&mut self, host: usize) -> Option<Box<IpcpStatus>> {
        self.command(host, What::Status, Command::Status);
        self.hosts[host].status.take()
    }

    /// Asks all of them; `None` for those that are down.
    pub(super) fn statuses(&mut self) -> Vec<Option<Box<IpcpStatus>>> {
        (0..self.hosts.len())
            .map(|host| self.status(host))
            .collect()
    }

    /// Which hosts a host can reach over cables that are up and machines that run, itself included.
    pub(super) fn reach(&self, from: usize) -> BTreeSet<usize> {
        let (mut found, mut todo) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = todo.pop() {
            for next in self.net.neighbours(at) {
                let up =
                    self.net.cable(at, next).is_some_and(Cable::works) && self.hosts[next].alive();
                if up && found.insert(next) {
                    todo.push(next);
                }
            }
        }
        found
    }

    /// Whether everybody knows a way to everybody who can be reached, to nobody else, and all names; says what is wrong.
    pub(super) fn agree(&mut self) -> Result<(), String> {
        let statuses = self.statuses();
        let tables: Vec<BTreeMap<Addr, &str>> = statuses
            .iter()
            .map(|s| {
                s.iter()
                    .flat_map(|s| &s.routes)
                    .map(|r| (Addr(r.address), r.next_hop.as_str()))
                    .collect()
            })
            .collect();
        let mut names = Names::default();
        for (host, status) in statuses.iter().enumerate() {
            let Some(status) = status else { continue };
            let expected = self.reach(host);
            let addresses: BTreeSet<_> = expected
                .iter()
                .filter(|h| **h != host)
                .map(|h| self.hosts[*h].address)
                .collect();
            let known: BTreeSet<_> = tables[host].keys().copied().collect();
            if known != addresses {
                let lacks = addresses.difference(&known).count();
                return Err(format!(
                    "m{host} lacks ways to {lacks} members and has {} to nowhere",
                    known.difference(&addresses).count()
                ));
            }
            for to in expected.iter().filter(|to| **to != host) {
                self.follow(&tables, host, *to)?;
            }
            self.check_members(host, status, &expected)?;
            names = names.among(self, &expected);
            names.check(host, status)?;
        }
        Ok(())
    }

    /// Goes the way of a packet through everybody's tables.
    fn follow(
        &self,
        tables: &[BTreeMap<Addr, &str>],
        from: usize,
        to: usize,
    ) -> Result<(), String> {
        let (mut at, mut way) = (from, BTreeSet::from([from]));
        while at != to {
            let next = tables[at].get(&self.hosts[to].address).copied();
            let next = next.and_then(|name| self.host_of(name));
            let Some(next) = next.filter(|n| self.net.cable(at, *n).is_some_and(Cable::works))
            else {
                return Err(format!("the way from m{from} to m{to} ends at m{at}"));
            };
            if !way.insert(next) {
                return Err(format!(
                    "the way from m{from} to m{to} is a circle through m{next}"
                ));
            }
            at = next;
        }
        Ok(())
    }

    /// The members and links that a host shows.
    fn check_members(
        &self,
        host: usize,
        status: &IpcpStatus,
        expected: &BTreeSet<usize>,
    ) -> Result<(), String> {
        let names: BTreeSet<_> = expected
            .iter()
            .map(|h| self.hosts[*h].name.as_str())
            .collect();
        let reachable: BTreeSet<_> = status
            .members
            .iter()
            .filter(|m| m.reachable)
            .map(|m| m.name.as_str())
            .collect();
        if reachable != names {
            return Err(format!("m{host} can reach {reachable:?}, not {names:?}"));
        }
        let cables = self
            .net
            .neighbours(host)
            .into_iter()
            .filter(|n| expected.contains(n));
        let cables = cables
            .filter(|n| self.net.cable(host, *n).is_some_and(Cable::works))
            .count();
        let up = status.links.iter().filter(|l| l.state == "up").count();
        if up != cables {
            return Err(format!("m{host} has {up} links over {cables} cables"));
        }
        Ok(())
    }

    /// A counter, over all machines that run.
    pub(super) fn total(&mut self, counter: &str) -> u64 {
        self.statuses()
            .iter()
            .flatten()
            .filter_map(|s| s.counters.get(counter))
            .sum()
    }

    /// What was dropped so far and why, over all machines that run.
    pub(super) fn drops(&mut self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for status in self.statuses().into_iter().flatten() {
            // The order in which they are added up doesn't matter, and the sum is sorted.
            for (what, n) in status.counters {
                if what.starts_with("drop.") {
                    *drops.entry(what).or_default() += n;
                }
            }
        }
        drops
    }

    /// Flows of which only one end is left.
    pub(super) fn check_halves(&self) -> Result<(), String> {
        for tag in 0..u32::try_from(self.ledger.count()).unwrap_or(u32::MAX) {
            let ends = [self.end(tag, 0), self.end(tag, 1)];
            if ends[0].is_some() != ends[1].is_some() {
                return Err(format!("flow {tag} has only one end left: {ends:?}"));
            }
        }
        Ok(())
    }

    /// After all flows were closed and all names taken back.
    pub(super) fn check_leftovers(&mut self) -> Result<(), String> {
        for (host, status) in self.statuses().into_iter().enumerate() {
            let Some(status) = status else { continue };
            // What was found is remembered for a while. Names of a member that is gone for good stay until they have aged.
            let names = status.directory.iter().filter(|e| e.kind != "cached");
            let names = names.filter(|entry| {
                self.host_of(&entry.member)
                    .is_some_and(|h| self.hosts[h].name.as_str() == entry.member)
            });
            let (open, flows, names) = (
                self.hosts[host].open.len(),
                status.flows.len(),
                names.count(),
            );
            if open + flows + names > 0 {
                return Err(format!(
                    "m{host} has {open} data ends, {flows} flows and {names} names left over"
                ));
            }
            let cables = self.net.neighbours(host).len();
            if status.links.len() != cables {
                return Err(format!(
                    "m{host} has {} links left over {cables} cables",
                    status.links.len()
                ));
            }
            if !self.hosts[host].pending.is_empty() {
                return Err(format!(
                    "m{host} owes {} answers",
                    self.hosts[host].pending.len()
                ));
            }
        }
        Ok(())
    }
}
