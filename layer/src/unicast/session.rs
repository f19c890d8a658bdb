//! Handshakes: over a link, or through other members. What they leave goes to the link and to the pair's sessions.

use std::time::Duration;

use proto::{Addr, Code, FlowId, Reason};
use rand_core::RngCore;

use super::Unicast;
use super::cube::Cube;
use super::flow::Flow;
use super::forgotten::Place;
use super::link::{Link, Phase, SAFE_MTU};
use super::out::Class;
use super::pdu::{self, HOP_OVERHEAD, LINK_HANDSHAKE_LEN, RoutedHandshake, TTL};
use super::running::{Running, Step, admit, displaced};
use crate::Now;
use crate::crypt::{Handshake, OpenError, Secrets};
use crate::mtu::FLOOR;

/// Why an opened PDU is dropped, as a counter.
pub(super) fn drop_reason(error: OpenError) -> &'static str {
    match error {
        OpenError::Forged => "drop.forged",
        OpenError::Replayed => "drop.replayed",
        OpenError::TooOld => "drop.too_old",
        OpenError::Short => "drop.malformed",
        OpenError::Exhausted => "drop.key_exhausted",
    }
}

/// Over a link.
impl Unicast {
    /// Begins a handshake over a link that this side dialled.
    pub(super) fn greet(&mut self, now: Now, lower: FlowId) {
        let session = self.rng.next_u32();
        let (tls, joiner) = match (&self.me, &self.join) {
            (Some(me), _) => (&me.tls, false),
            (None, Some(join)) => match join.tls() {
                Some(tls) => (tls, true),
                None => return,
            },
            (None, None) => return,
        };
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let via = link.peer();
        let dialled = self.me.as_ref().zip(link.dialled.as_ref());
        let dialled = dialled.map(|(me, member)| me.address_of(member));
        let met = dialled.and_then(|to| self.gate.introduce(to, session));
        match Handshake::client(tls, session, handshake_mtu(link, via), now.mono) {
            Ok(mut handshake) => {
                if let Some(shown) = met {
                    handshake.introduce(shown);
                }
                let running = Running::begun(now.mono, handshake, via, joiner);
                link.handshakes.push(running);
            }
            Err(error) => {
                let reason = Reason::new(
                    Code::Failed,
                    format!("no handshake with a neighbour could begin: {error}"),
                );
                self.link_failed(now, lower, reason);
            }
        }
    }

    /// Takes a handshake PDU that came over a link: sealed by the neighbour `via`, or from whoever can write to it.
    pub(super) fn link_handshake(
        &mut self,
        now: Now,
        lower: FlowId,
        via: Option<Addr>,
        bytes: &mut [u8],
    ) {
        self.pump = true;
        let Some((session, _)) = pdu::handshake_session(bytes) else {
            return self.stats.count("drop.malformed");
        };
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let known = link
            .handshakes
            .iter_mut()
            .find(|r| r.handshake.session() == session && r.via() == via);
        let bad = if let Some(running) = known {
            running.handshake.handle(now.mono, bytes).is_err()
        } else {
            let Some(me) = &self.me else {
                return self.stats.count("drop.not_a_member");
            };
            if link.dialled.is_some() {
                return self.stats.count("drop.unknown_handshake");
            }
            let place = Place::Link(lower, via);
            if !Handshake::may_open(bytes) {
                return self.forgotten(now, place, via, session, bytes);
            }
            // The neighbour has keys to seal with. Who has none, and sees and spoofs its packets, costs nothing here.
            if via.is_none() && link.peer().is_some() {
                return self.stats.count("drop.plain_handshake");
            }
            let known = via.or_else(|| self.gate.recognise(session, bytes));
            if let Err(reason) = self.gate.admit(now.mono, known) {
                return self.stats.count(reason);
            }
            let farewell = self.farewells.promise(place.bytes(), session);
            let mtu = handshake_mtu(link, via);
            match Handshake::mindful_server(&me.tls, farewell, session, mtu, now.mono) {
                Ok(mut handshake) => {
                    let bad = handshake.handle(now.mono, bytes).is_err();
                    // A first PDU that makes no sense leaves nothing behind.
                    if !bad
                        && admit(
                            &mut link.handshakes,
                            Running::taken(now.mono, handshake, via),
                        )
                    {
                        self.stats.count("handshake.evicted");
                    }
                    bad
                }
                Err(_) => true,
            }
        };
        if bad {
            self.stats.count("drop.bad_handshake");
        }
    }

    /// Sends what the handshakes of a link have to send, and takes what they have become.
    pub(super) fn pump_link_handshakes(&mut self, now: Now, lower: FlowId) {
        let (mut steps, mut out) = (Vec::new(), Vec::new());
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        for running in &mut link.handshakes {
            while let Some(bytes) = running.handshake.poll(now.mono) {
                out.push((running.via(), bytes));
            }
            while let Some(step) = running.step() {
                if running.handshake.is_incompatible() {
                    self.stats.count("handshake.incompatible");
                }
                steps.push((
                    running.handshake.session(),
                    running.handshake.is_client(),
                    running.joiner,
                    step,
                ));
            }
        }
        link.handshakes.retain_mut(|r| !r.is_over(now.mono));
        for (via, bytes) in out {
            if let Err(reason) = link.send_handshake(via.is_some(), &bytes) {
                self.stats.count(reason);
            }
        }
        for (session, client, joiner, step) in steps {
            match step {
                Step::Keys(secrets) => self.link_keys(now, lower, session, client, joiner, secrets),
                Step::Confirmed => self.link_confirmed(now, lower, session),
                Step::Failed(reason) => {
                    self.link_handshake_failed(now, lower, session, client, reason)
                }
                Step::Forgotten(reason) => self.link_forgotten(now, lower, reason),
            }
        }
    }

    fn link_handshake_failed(
        &mut self,
        now: Now,
        lower: FlowId,
        session: u32,
        client: bool,
        reason: Reason,
    ) {
        self.stats.count("handshake.failed");
        let Some(link) = self.links.get(&lower) else {
            return;
        };
        // An adjacency lives on with the keys that it has. What the other side began may be anybody's who sees and spoofs
        // the packets of this link, and the neighbour's own may still come.
        if link.peer().is_some() || !client {
            return;
        }
        // Only silence, and who has shown its certificate, speak of the neighbour itself.
        if reason.code == Code::TimedOut || link.has_session(session) {
            return self.link_failed(now, lower, reason);
        }
        self.greet_again(now, lower, reason);
    }

    /// Anybody may have answered this side's handshake: the true neighbour has another chance, on the same link.
    pub(super) fn greet_again(&mut self, now: Now, lower: FlowId, reason: Reason) {
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        if let Some(member) = &link.dialled {
            let key = (member.clone(), link.over.clone());
            self.dialling.note(&key, reason.clone());
        }
        link.greet_again(now.mono, reason);
    }

    fn link_keys(
        &mut self,
        now: Now,
        lower: FlowId,
        session: u32,
        client: bool,
        joiner: bool,
        secrets: Box<Secrets>,
    ) {
        self.stats.count("handshake.done");
        let stream = self.rng.next_u32();
        if let Some(word) = self.refused_keys(now, &secrets) {
            return self.link_keys_refused(now, lower, word);
        }
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        link.handshake_passed(now.mono, session);
        let cert = match (secrets.peer(), joiner) {
            (Some(cert), false) => cert.clone(),
            // Once it has been shown whose link it is, a stranger can only be somebody who sees and spoofs its packets.
            _ if link.peer().is_some() => {
                return self.stats.count("drop.not_a_member");
            }
            (via, _) => {
                let via = via.map(|cert| cert.member().clone());
                if link.phase == Phase::Greeting {
                    link.phase = Phase::Joining;
                    link.since = now.mono;
                }
                link.add_joining(now.mono, session, client, stream, &secrets);
                if let Some(via) = via {
                    self.join_link_keys(now, lower, via);
                }
                return;
            }
        };
        let address = cert.address();
        if let Err(reason) = self.expected(lower, &cert) {
            self.stats.count("drop.wrong_peer");
            // Once it has been shown whose link it is, that is no news; before, the true neighbour may still answer.
            if client && self.links.get(&lower).is_some_and(|l| l.peer().is_none()) {
                self.greet_again(now, lower, reason);
            }
            return;
        }
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        link.add_session(now.mono, session, client, Some(address), &secrets);
        self.gate.met(address, secrets.acquaintance());
        let Some(peer) = self.peer_shown(now, address) else {
            return;
        };
        peer.cert = Some(cert);
        peer.sessions.add(now.mono, session, client, *secrets);
        if !client {
            self.link_confirmed(now, lower, session);
        }
    }

    /// Whether the certificate is of a member who may be at the other end of this link.
    fn expected(&self, lower: FlowId, cert: &crate::crypt::MemberCert) -> Result<(), Reason> {
        let (Some(link), Some(me)) = (self.links.get(&lower), &self.me) else {
            return Ok(());
        };
        let text = match (&link.dialled, link.peer()) {
            _ if cert.address() == me.address => format!(
                "{} answered itself; check the hosts of {}",
                cert.member(),
                link.over
            ),
            (Some(dialled), _) if dialled != cert.member() => {
                format!(
                    "{} answered where {dialled} was dialled; check the hosts of {}",
                    cert.member(),
                    link.over
                )
            }
            (_, Some(peer)) if peer != cert.address() => format!(
                "another member, {}, showed its certificate on a link",
                cert.member()
            ),
            _ => return Ok(()),
        };
        Err(Reason::new(Code::PeerMisbehaved, text))
    }

    /// Both sides have the keys.
    pub(super) fn link_confirmed(&mut self, now: Now, lower: FlowId, session: u32) {
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let Some(address) = link.confirm(session) else {
            return;
        };
        let greeting = link.peer().is_none();
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.sessions.confirm(session);
        }
        if greeting {
            self.adjacency_up(now, lower, address);
        }
        self.session_ready(now, address);
    }
}

/// Through other members.
impl Unicast {
    /// Makes sure that PDUs can be sealed to a member, now or soon.
    pub(super) fn associate(&mut self, now: Now, address: Addr) {
        let session = self.rng.next_u32();
        let Some(peer) = self.peer(now, address) else {
            return;
        };
        if !peer.may_begin(now.mono) {
            return;
        }
        let mtu = routed_mtu(self.path_mtu(address));
        let (Some(me), Some(peer)) = (&self.me, self.peers.get_mut(&address)) else {
            return;
        };
        let worn = |flow: &Flow| flow.ends.worn(now.mono, &peer.sessions);
        let mut with = self.flows.by_peer().with(address);
        let wanted = peer.estranged
            || peer.sessions.wants_fresh(now.mono)
            || peer.ends.worn(now.mono, &peer.sessions)
            || with.any(|flow| self.flows.get(flow).is_some_and(worn));
        if !wanted {
            return;
        }
        peer.estranged = false;
        peer.retry_at = now.mono + RETRY;
        match Handshake::client(&me.tls, session, mtu, now.mono) {
            Ok(handshake) => {
                self.stats.count("handshake.begun");
                let running = Running::begun(now.mono, handshake, None, false);
                peer.handshakes.push(running);
            }
            Err(_) => self.stats.count("handshake.failed"),
        }
        self.pump = true;
    }

    /// Takes a handshake PDU that came through other members, the last of them the neighbour `via`, or sends it on.
    pub(super) fn routed_handshake(
        &mut self,
        now: Now,
        via: Addr,
        header: RoutedHandshake,
        bytes: &mut [u8],
    ) {
        let Some(me) = self.me.as_ref().map(|me| me.address) else {
            return;
        };
        if header.dst != me {
            return self.forward_handshake(now, via, header, bytes);
        }
        self.pump = true;
        let Some((session, _)) = pdu::handshake_session(bytes) else {
            return self.stats.count("drop.malformed");
        };
        if header.src == me || self.path(header.src).is_none() {
            return self.stats.count("drop.foreign_handshake");
        }
        let known = self
            .peers
            .get_mut(&header.src)
            .into_iter()
            .flat_map(|p| &mut p.handshakes)
            .find(|r| r.handshake.session() == session);
        if let Some(running) = known {
            if running.handshake.handle(now.mono, bytes).is_err() {
                self.stats.count("drop.bad_handshake");
            }
        } else if Handshake::may_open(bytes) {
            self.routed_initial(now, via, header.src, session, bytes);
        } else {
            self.forgotten(now, Place::Routed(header.src), Some(via), session, bytes);
        }
    }

    /// Takes the first PDU of a handshake that came through other members: any of them may have sent it in that name.
    fn routed_initial(&mut self, now: Now, via: Addr, from: Addr, session: u32, bytes: &mut [u8]) {
        let mtu = routed_mtu(self.path_mtu(from));
        // The ways are found anew some time after a record is gone, as that of somebody who was revoked.
        if !self.knows_member(from) {
            return self.stats.count("drop.foreign_handshake");
        }
        let Some(me) = &self.me else { return };
        if let Err(reason) = self.gate.admit(now.mono, Some(via)) {
            return self.stats.count(reason);
        }
        let place = Place::Routed(from).bytes();
        let farewell = self.farewells.promise(place, session);
        let handshake = Handshake::mindful_server(&me.tls, farewell, session, mtu, now.mono);
        let Ok(mut handshake) = handshake else {
            return self.stats.count("drop.unknown_handshake");
        };
        if handshake.handle(now.mono, bytes).is_err() {
            return self.stats.count("drop.bad_handshake");
        }
        let Some(peer) = self.peer(now, from) else {
            return;
        };
        if admit(
            &mut peer.handshakes,
            Running::taken(now.mono, handshake, Some(via)),
        ) {
            self.stats.count("handshake.evicted");
        }
        self.displace();
    }

    /// Ends one of the routed handshakes that others have begun if there are too many.
    fn displace(&mut self) {
        let open = self.peers.iter().flat_map(|(address, peer)| {
            let open = peer.handshakes.iter().filter_map(Running::open);
            open.map(|(session, via, since)| ((*address, session), via, since))
        });
        let Some((address, session)) = displaced(&open.collect::<Vec<_>>(), MAX_ROUTED) else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.handshakes
                .retain(|r| r.open().is_none_or(|(s, ..)| s != session));
            self.stats.count("handshake.evicted");
        }
    }

    fn forward_handshake(&mut self, now: Now, from: Addr, header: RoutedHandshake, bytes: &[u8]) {
        if header.ttl <= 1 {
            return self.stats.count("drop.ttl");
        }
        let header = RoutedHandshake {
            ttl: header.ttl - 1,
            ..header
        };
        #[cfg(any(test, feature = "hostile"))]
        if self.meddler_introduces(&header, bytes) {
            return;
        }
        let class = self.transit(now, Cube::Signal, header.src, from);
        self.send_handshake(now, class, header, bytes);
    }

    pub(super) fn send_handshake(
        &mut self,
        now: Now,
        class: Class,
        header: RoutedHandshake,
        bytes: &[u8],
    ) {
        let Some(path) = self.path(header.dst) else {
            return self.stats.count("drop.no_route");
        };
        self.stir(now, path.lower);
        let Some(link) = self.links.get_mut(&path.lower) else {
            return self.stats.count("drop.no_route");
        };
        let sent = link.send(class, RoutedHandshake::LEN + bytes.len(), |body| {
            header.write(body);
            body[RoutedHandshake::LEN..].copy_from_slice(bytes);
            Ok(())
        });
        if let Err(reason) = sent {
            self.stats.count(reason);
        }
    }

    /// Sends what the routed handshakes with a member have to send, and takes what they have become.
    pub(super) fn pump_peer_handshakes(&mut self, now: Now, address: Addr) {
        let Some(me) = self.me.as_ref().map(|me| me.address) else {
            return;
        };
        let (mut steps, mut out) = (Vec::new(), Vec::new());
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        for running in &mut peer.handshakes {
            out.extend(std::iter::from_fn(|| running.handshake.poll(now.mono)));
            while let Some(step) = running.step() {
                if running.handshake.is_incompatible() {
                    self.stats.count("handshake.incompatible");
                }
                steps.push((
                    running.handshake.session(),
                    running.handshake.is_client(),
                    step,
                ));
            }
        }
        peer.handshakes.retain_mut(|r| !r.is_over(now.mono));
        for bytes in out {
            self.send_handshake(
                now,
                Class::Control,
                RoutedHandshake {
                    ttl: TTL,
                    dst: address,
                    src: me,
                },
                &bytes,
            );
        }
        for (session, client, step) in steps {
            match step {
                Step::Keys(secrets) => self.peer_keys(now, address, session, client, secrets),
                Step::Confirmed => {
                    if let Some(peer) = self.peers.get_mut(&address) {
                        peer.sessions.confirm(session);
                    }
                    self.session_ready(now, address);
                }
                Step::Failed(reason) => {
                    self.stats.count("handshake.failed");
                    // Anybody can begin one in the name of this member; only what it does not answer says that it is silent.
                    if client {
                        self.peer_failed(now, address, &reason);
                    }
                }
                Step::Forgotten(_) => self.routed_forgotten(address),
            }
        }
    }

    fn peer_keys(
        &mut self,
        now: Now,
        address: Addr,
        session: u32,
        client: bool,
        secrets: Box<Secrets>,
    ) {
        // Whoever sits on the way may answer in another's stead, but only with a certificate of its own.
        let Some(cert) = secrets
            .peer()
            .filter(|cert| cert.address() == address)
            .cloned()
        else {
            return self.stats.count("drop.foreign_handshake");
        };
        if let Some(word) = self.refused_keys(now, &secrets) {
            return self.stats.count(word);
        }
        self.stats.count("handshake.done");
        self.gate.met(address, secrets.acquaintance());
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        peer.cert = Some(cert);
        peer.sessions.add(now.mono, session, client, *secrets);
        if !client {
            self.session_ready(now, address);
        }
    }
}

/// The bytes of a handshake PDU of a link, sealed or not.
fn handshake_mtu(link: &Link, via: Option<Addr>) -> usize {
    let around = via.map_or(0, |_| HOP_OVERHEAD + LINK_HANDSHAKE_LEN);
    link.own_mtu().min(SAFE_MTU) as usize - around
}

/// The bytes of a routed handshake PDU on a way that takes PDUs of `mtu` bytes: some less than it could, since ways change.
fn routed_mtu(mtu: u32) -> usize {
    let around = HOP_OVERHEAD + RoutedHandshake::LEN;
    (mtu.max(FLOOR) as usize - around).min(SAFE_MTU as usize - around - 100)
}
/// The pause between two handshakes that this side begins with one member.
const RETRY: Duration = Duration::from_secs(1);
/// Routed handshakes at once that others have begun.
const MAX_ROUTED: usize = 256;
