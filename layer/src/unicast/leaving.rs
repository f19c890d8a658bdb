//! Planned ends: a link that is given up, and a member that shuts down. Whoever sends over them is led another way before
//! anything breaks. It must not be asked to end what has failed already.

use std::time::{Duration, Instant};

use proto::ipcp::{Answer, CommandId};
use proto::{Code, FlowId, Label, Reason};

use super::Unicast;
use super::link::{Link, Phase};
use crate::{Now, Output};

/// When this member exits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exit {
    /// Others may still be sending through it until then.
    earliest: Instant,
    /// It waits no longer until its last words are acknowledged.
    latest: Instant,
}

impl Exit {
    /// When it is to be thought of again.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        if self.earliest > now {
            self.earliest
        } else {
            self.latest
        }
    }
}

/// Links.
impl Unicast {
    /// Gives up the links to a member.
    pub(super) fn part_with(&mut self, now: Now, member: &Label) {
        let address = self.me.as_ref().map(|me| me.address_of(member));
        let links = self.links.values();
        let links = links.filter(|l| l.up().is_some() && l.up() == address);
        let links: Vec<FlowId> = links.map(|l| l.lower).collect();
        for lower in links {
            self.say_link_info(lower, true);
            self.leave(now, lower, Reason::new(Code::Closed, "given up here"));
        }
    }

    /// Leads all off a link, which is to end when that is done.
    pub(super) fn leave(&mut self, now: Now, lower: FlowId, reason: Reason) {
        let until = now.mono + self.handover();
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let Some(peer) = link.up() else { return };
        link.phase = Phase::Leaving(peer, until);
        let (dialled, over) = (link.dialled.clone(), link.over.clone());
        self.dial_again(now, dialled, &over, &reason);
        self.links_changed(now);
        self.adjacency_down(now, peer, &over, &reason);
    }

    /// How long others may take to send another way: until they have heard of it, and what they had sent has come.
    fn handover(&self) -> Duration {
        let farthest = self.links.values().map(Link::rtt_us).max();
        let farthest = Duration::from_micros(farthest.unwrap_or(0).into());
        (HANDOVER + farthest * 2).min(LONGEST)
    }
}

/// The member.
impl Unicast {
    /// Ends all in good order; what was said of it is given a moment to arrive.
    pub(super) fn shutdown(&mut self, now: Now, id: CommandId) {
        self.close_all_flows(now);
        self.done(id, Ok(Answer::Ok));
        if self.exit.is_none() {
            // Nobody sends through a member that has one neighbour.
            let transit = self.adjacent.len() > 1;
            let wait = if transit {
                self.handover()
            } else {
                Duration::ZERO
            };
            self.exit = Some(Exit {
                earliest: now.mono + wait,
                latest: now.mono + wait.max(FAREWELL),
            });
            self.links_changed(now);
        }
        self.pump = true;
    }

    /// Exits once everything is said, or there was time enough for it.
    pub(super) fn exit_in_time(&mut self, now: Now) {
        let Some(exit) = self.exit else { return };
        let quiet = || self.peers.values().all(|p| p.channel.is_idle());
        if exit.latest <= now.mono || exit.earliest <= now.mono && quiet() {
            self.exit = None;
            let links: Vec<FlowId> = self.links.keys().copied().collect();
            for lower in links {
                self.say_link_info(lower, true);
                self.pump_link_channel(now, lower);
                self.link_failed(now, lower, Reason::new(Code::Closed, "given up here"));
            }
            self.out.push_back(Output::Exit);
        }
    }
}

/// Whether a link is one that is to be used by those only who have no other way.
pub(super) fn is_leaving(link: &Link, exit: Option<Exit>) -> bool {
    exit.is_some() || matches!(link.phase, Phase::Leaving(..))
}

/// Between members that are near: news spreads, and routes are found, the more news the later.
const HANDOVER: Duration = Duration::from_millis(300);
/// For those that are far.
const LONGEST: Duration = Duration::from_secs(2);
/// How long the last words may take to be acknowledged.
const FAREWELL: Duration = Duration::from_millis(500);
