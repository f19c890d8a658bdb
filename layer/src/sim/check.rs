//! What must hold once the network is quiet, and what may be left over at the end: nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::Addr;
use proto::ipcp::Command;
use proto::irm::IpcpStatus;

use super::host::What;
use super::names::Names;
use super::net::Cable;
use super::world::World;
use crate::Unicast;

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

    /// Whether it can be that all agree, by as much as costs little to know: a full look at large layers again and again
    /// would take longer than all that they do.
    pub(super) fn may_agree(&self) -> bool {
        let mut looked = BTreeSet::new();
        for first in 0..self.hosts.len() {
            if !self.hosts[first].alive() || looked.contains(&first) {
                continue;
            }
            let reach = self.reach(first);
            let works = |at: usize, near: &usize| {
                reach.contains(near) && self.net.cable(at, *near).is_some_and(Cable::works)
            };
            let agrees = |at: &usize| {
                let near = self.net.neighbours(*at).into_iter();
                let near = near.filter(|near| works(*at, near)).count();
                let machine = self.hosts[*at].machine.as_ref();
                machine.is_some_and(|m| m.reachable() + 1 == reach.len() && m.neighbours() == near)
            };
            if !reach.iter().all(agrees) {
                return false;
            }
            looked.extend(reach);
        }
        true
    }

    /// Whether everybody knows a way to everybody who can be reached, to nobody else, and all names; says what is wrong.
    pub(super) fn agree(&mut self) -> Result<(), String> {
        let statuses = self.statuses();
        let tables = tables(&statuses);
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

    /// Goes the way of a packet through everybody's tables; gives how long the packet takes.
    fn follow(&self, tables: &[Table<'_>], from: usize, to: usize) -> Result<Duration, String> {
        let (mut at, mut way) = (from, BTreeSet::from([from]));
        let mut takes = Duration::ZERO;
        while at != to {
            let next = tables[at].get(&self.hosts[to].address).copied();
            let next = next.and_then(|name| self.host_of(name));
            let cable = next.and_then(|n| Some((n, self.net.cable(at, n)?)));
            let Some((next, cable)) = cable.filter(|(_, cable)| cable.works()) else {
                return Err(format!("the way from m{from} to m{to} ends at m{at}"));
            };
            takes += cable.delay;
            if !way.insert(next) {
                return Err(format!(
                    "the way from m{from} to m{to} is a circle through m{next}"
                ));
            }
            at = next;
        }
        Ok(takes)
    }

    /// The longest that a packet and its answer take between any two hosts that reach each other, on the ways that all have
    /// agreed on. What a way costs may be a quarter off what it takes, so another of the same cost may take 5/3 of that.
    pub(super) fn longest_round_trip(&mut self) -> Duration {
        let statuses = self.statuses();
        let tables = tables(&statuses);
        let mut longest = Duration::ZERO;
        for from in 0..tables.len() {
            for to in 0..from {
                let there = self.follow(&tables, from, to);
                let back = self.follow(&tables, to, from);
                if let (Ok(there), Ok(back)) = (there, back) {
                    longest = longest.max(there + back);
                }
            }
        }
        longest * 5 / 3
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
    pub(super) fn total(&self, counter: &str) -> u64 {
        self.running().map(|machine| machine.counter(counter)).sum()
    }

    fn running(&self) -> impl Iterator<Item = &Unicast> {
        let alive = self.hosts.iter().filter(|host| host.alive());
        alive.filter_map(|host| host.machine.as_ref())
    }

    /// What was dropped so far and why, over all machines that run.
    pub(super) fn drops(&self) -> BTreeMap<&'static str, u64> {
        let mut drops = BTreeMap::new();
        for (what, n) in self.running().flat_map(Unicast::counters) {
            if what.starts_with("drop.") {
                *drops.entry(what).or_default() += n;
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

    /// Whether a host keeps nothing of flows that were closed, and owes and awaits no acknowledgement.
    pub(super) fn check_windows(&self, host: usize) -> Result<(), String> {
        let of = &self.hosts[host];
        let machine = of.machine.as_ref().filter(|_| of.alive());
        match machine.and_then(|m| m.leftover(self.now(host))) {
            Some(what) => Err(format!("m{host} has {what} though all is closed")),
            None => Ok(()),
        }
    }

    /// Whether nobody remembers flows that could not be ended in good order, nor names that were taken back, of members that
    /// are there still.
    pub(super) fn check_forgotten(&self) -> Result<(), String> {
        for (host, of) in self.hosts.iter().enumerate() {
            let Some(machine) = of.machine.as_ref().filter(|_| of.alive()) else {
                continue;
            };
            if machine.unacknowledged_ends() > 0 {
                return Err(format!("m{host} still waits for the end of a flow"));
            }
            let mut others = self.hosts.iter().filter(|other| other.alive());
            if let Some(other) = others.find(|other| machine.remembers_name_of(other.address)) {
                let name = &other.name;
                return Err(format!(
                    "m{host} remembers a name that {name} has taken back"
                ));
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
            let names = names.map(|e| format!("{} {} of {}", e.kind, e.name_hash, e.member));
            let (open, flows, names) = (
                self.hosts[host].open.len(),
                status.flows.len(),
                names.collect::<Vec<_>>(),
            );
            if open + flows + names.len() > 0 {
                return Err(format!(
                    "m{host} has {open} data ends, {flows} flows and names left over: {names:?}"
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

/// Over whom a host sends to each member.
type Table<'a> = BTreeMap<Addr, &'a str>;

fn tables(statuses: &[Option<Box<IpcpStatus>>]) -> Vec<Table<'_>> {
    fn table(status: &Option<Box<IpcpStatus>>) -> Table<'_> {
        let routes = status.iter().flat_map(|s| &s.routes);
        routes
            .map(|r| (Addr(r.address), r.next_hop.as_str()))
            .collect()
    }
    statuses.iter().map(table).collect()
}
