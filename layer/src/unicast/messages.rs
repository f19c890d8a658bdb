//! The messages between members: over the channel of a link, and over the channel between two members.

use prost::Message;
use proto::wire::{self, message::Body};
use proto::{Addr, FlowId};
use rand_core::RngCore;

use super::Unicast;
use super::critical;
use super::out::Class;
use super::pdu;
use crate::Now;
use crate::channel::{Channel, Lost};

/// Over a link.
impl Unicast {
    /// Says something to the other end of a link.
    pub(super) fn tell_link(&mut self, lower: FlowId, body: Body) {
        #[cfg(any(test, feature = "hostile"))]
        let body = self.meddler_tells(body);
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let message = wire::Message { body: Some(body) }.encode_to_vec();
        if link.channel.send(&message).is_err() {
            // What a neighbour misses of the records it asks for by its next digest, or we by ours.
            link.owes_digest = true;
            self.stats.count("drop.channel_full");
        }
        self.pump = true;
    }

    /// Takes a frame of the channel of a link.
    pub(super) fn link_frame(&mut self, now: Now, lower: FlowId, frame: &[u8]) {
        self.pump = true;
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        if link.channel.handle(now.mono, frame).is_err() {
            self.stats.count("drop.bad_frame");
        }
        while let Some(message) = self.links.get_mut(&lower).and_then(|l| l.channel.recv()) {
            match critical::read(&message) {
                Ok(body) => self.link_message(now, lower, body),
                Err(reason) => self.stats.count(reason),
            }
        }
    }

    fn link_message(&mut self, now: Now, lower: FlowId, body: Body) {
        let Some(link) = self.links.get(&lower) else {
            return;
        };
        if link.peer().is_none() {
            return self.stats.count("drop.unexpected_message");
        }
        let leads = link.leads_to().is_some();
        match (leads, body) {
            (_, Body::Digest(digest)) => self.take_digest(now, lower, &digest),
            (_, Body::Summary(summary)) => self.take_summary(lower, &summary),
            (_, Body::Records(records)) => self.take_records(now, lower, records),
            (_, Body::DecreeDigest(digest)) => self.take_decree_digest(lower, &digest),
            (_, Body::Decrees(decrees)) => self.take_decrees(now, lower, decrees),
            (_, Body::Directory(message)) => self.take_directory(now, lower, message),
            (_, Body::EnrolRelayReply(reply)) => self.enrol_relay_reply(now, lower, reply),
            (true, Body::EnrolRelay(relay)) => self.enrol_relay(now, lower, relay),
            (true, Body::LinkInfo(info)) => self.link_info(now, lower, &info),
            _ => self.stats.count("drop.unexpected_message"),
        }
    }

    /// Says something in a session without certificate.
    pub(super) fn tell_joining(&mut self, lower: FlowId, session: u32, body: Body) {
        #[cfg(any(test, feature = "hostile"))]
        let body = self.meddler_tells(body);
        let link = self.links.get_mut(&lower);
        let Some(joining) = link.and_then(|l| l.joining(session)) else {
            return;
        };
        let message = wire::Message { body: Some(body) }.encode_to_vec();
        if joining.channel.send(&message).is_err() {
            self.stats.count("drop.channel_full");
        }
        self.pump = true;
    }

    /// Takes a frame that came in a session without certificate: whoever has shown none is heard on enrolment only.
    pub(super) fn joining_frame(&mut self, now: Now, lower: FlowId, session: u32, frame: &[u8]) {
        self.pump = true;
        let link = self.links.get_mut(&lower);
        let Some(joining) = link.and_then(|l| l.joining(session)) else {
            return;
        };
        if joining.channel.handle(now.mono, frame).is_err() {
            self.stats.count("drop.bad_frame");
        }
        while let Some((dialled, message)) = self.joining_message(lower, session) {
            match (dialled, critical::read(&message)) {
                (false, Ok(Body::EnrolRequest(request))) => {
                    self.enrol_request(now, lower, session, request)
                }
                (true, Ok(Body::EnrolReply(reply))) => self.enrol_reply(now, lower, &reply),
                (_, Ok(_)) => self.stats.count("drop.unexpected_message"),
                (_, Err(reason)) => self.stats.count(reason),
            }
        }
    }

    /// The next message in a session without certificate, and whether this side dialled.
    fn joining_message(&mut self, lower: FlowId, session: u32) -> Option<(bool, Vec<u8>)> {
        let link = self.links.get_mut(&lower)?;
        let dialled = link.dialled.is_some();
        Some((dialled, link.joining(session)?.channel.recv()?))
    }

    fn pump_joining(&mut self, now: Now, lower: FlowId) {
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let sessions = link.joining.iter().map(|j| j.session);
        let sessions: Vec<u32> = sessions.filter(|s| link.is_confirmed(*s)).collect();
        for session in sessions {
            while let Some(frame) = link.joining(session).and_then(|j| j.channel.poll(now.mono)) {
                let sent = link.send_joining(session, 1 + frame.len(), |body| {
                    pdu::write_link_channel(body);
                    body[1..].copy_from_slice(&frame);
                    Ok(())
                });
                if let Err(reason) = sent {
                    self.stats.count(reason);
                    break;
                }
            }
        }
    }

    /// Sends the frames of a link's channels that are due.
    pub(super) fn pump_link_channel(&mut self, now: Now, lower: FlowId) {
        self.pump_joining(now, lower);
        let Some(link) = self.links.get_mut(&lower).filter(|l| l.peer().is_some()) else {
            return;
        };
        if !link.can_seal() {
            return;
        }
        while let Some(frame) = link.channel.poll(now.mono) {
            let sent = link.send(Class::Control, 1 + frame.len(), |body| {
                pdu::write_link_channel(body);
                body[1..].copy_from_slice(&frame);
                Ok(())
            });
            if let Err(reason) = sent {
                self.stats.count(reason);
                break;
            }
        }
        if link.channel.dead() {
            // Hellos get through and frames don't: begin anew, the digest that follows makes up for what was lost.
            let stream = self.rng.next_u32();
            link.begin_channel(stream);
            link.owes_digest = true;
            self.pump = true;
            self.stats.count("channel.dead");
        }
    }
}

/// Between two members.
impl Unicast {
    /// Says something to a member, now or as soon as there are keys. Says whether there was room to keep it.
    pub(super) fn tell_peer(&mut self, now: Now, address: Addr, body: Body) -> bool {
        self.pump = true;
        let Some(peer) = self.peer(now, address) else {
            return false;
        };
        let message = wire::Message { body: Some(body) }.encode_to_vec();
        let kept = peer.channel.send(&message).is_ok();
        if !kept {
            self.stats.count("drop.channel_full");
        }
        kept
    }

    /// Takes a frame of the channel with a member.
    pub(super) fn peer_frame(&mut self, now: Now, from: Addr, frame: &[u8]) {
        self.pump = true;
        let Some(peer) = self.peer(now, from) else {
            return;
        };
        let bad = peer.channel.handle(now.mono, frame).is_err();
        let lost = peer.channel.lost();
        if bad {
            self.stats.count("drop.bad_frame");
        }
        if let Some(lost) = lost {
            self.stats.count("channel.reset");
            self.peer_restarted(now, from, None);
            if lost == Lost::Both {
                self.say_deallocs_again(now, from);
                self.ask_again(now, from, true);
            }
        }
        while let Some(message) = self.peers.get_mut(&from).and_then(|p| p.channel.recv()) {
            match critical::read(&message) {
                Ok(body) => self.peer_message(now, from, body),
                Err(reason) => self.stats.count(reason),
            }
        }
    }

    fn peer_message(&mut self, now: Now, from: Addr, body: Body) {
        match body {
            Body::FlowRequest(request) => self.flow_request(now, from, request),
            Body::FlowReply(reply) => self.flow_reply(now, from, reply),
            Body::FlowDealloc(dealloc) => self.flow_dealloc(now, from, dealloc),
            Body::FlowDeallocAck(ack) => self.flow_dealloc_ack(from, &ack),
            Body::Reach(reach) => self.reach(now, from, &reach),
            Body::EnrolRelay(_)
            | Body::EnrolRelayReply(_)
            | Body::EnrolRequest(_)
            | Body::EnrolReply(_)
            | Body::Digest(_)
            | Body::Summary(_)
            | Body::Records(_)
            | Body::LinkInfo(_)
            | Body::Directory(_)
            | Body::DecreeDigest(_)
            | Body::Decrees(_) => {
                self.stats.count("drop.unexpected_message");
            }
        }
    }

    /// Sends the frames of the channel with a member that are due, once there are keys and a way.
    pub(super) fn pump_peer_channel(&mut self, now: Now, address: Addr) {
        let idle = |p: &super::peer::Peer| p.channel.is_idle() && !p.channel.dead();
        if self.peers.get(&address).is_none_or(idle) {
            return;
        }
        let Some(path) = self.path(address) else {
            return;
        };
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        if !path.direct && !peer.channel.is_idle() && peer.sessions.wants_fresh(now.mono) {
            self.associate(now, address);
        }
        if !self.can_tell(now, address, path.direct) {
            return;
        }
        while let Some(frame) = self
            .peers
            .get_mut(&address)
            .and_then(|p| p.channel.poll(now.mono))
        {
            if !self.send_peer_frame(now, address, &frame) {
                break;
            }
        }
        if self.peers.get(&address).is_some_and(|p| p.channel.dead()) {
            self.channel_dead(now, address);
        }
    }

    fn can_tell(&self, now: Now, address: Addr, direct: bool) -> bool {
        direct
            || self
                .peers
                .get(&address)
                .is_some_and(|p| p.sessions.usable(now.mono))
    }

    fn channel_dead(&mut self, now: Now, address: Addr) {
        self.stats.count("channel.dead");
        let stream = self.rng.next_u32();
        let frame = super::peer::frame_size(self.path_mtu(address));
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.channel = Channel::new(stream, frame);
        }
        let reason = proto::Reason::new(proto::Code::TimedOut, "it acknowledged nothing any more");
        self.peer_silent(now, address, &reason);
        self.flows_mute(now, address);
    }

    /// When the channel with a member wants to be looked at; a channel that can't send waits for what lets it.
    pub(super) fn peer_deadline(&self, now: Now, address: Addr) -> Option<std::time::Instant> {
        let peer = self.peers.get(&address)?;
        let idle = peer.channel.is_idle();
        if idle && peer.channel.deadline().is_none() {
            return None;
        }
        let path = self.path(address)?;
        let retry = (!path.direct && !idle && peer.sessions.wants_fresh(now.mono))
            .then_some(peer.retry_at)
            .filter(|at| *at > now.mono);
        let frames = self
            .can_tell(now, address, path.direct)
            .then(|| peer.channel.deadline())
            .flatten();
        [retry, frames].into_iter().flatten().min()
    }
}
