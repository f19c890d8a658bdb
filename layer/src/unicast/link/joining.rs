//! Sessions without certificate on a link: enrolment. What is said in them is for `messages` and `relay` to know.

use std::time::Instant;

use super::{Link, frame_size, whole};
use crate::channel::Channel;
use crate::crypt::Secrets;
use crate::unicast::out::Class;

/// A session without certificate. Each may be the joiner's, or that of somebody who sees and spoofs its packets: they have
/// nothing in common, so that none shuts another out.
pub(in crate::unicast) struct Joining {
    pub(in crate::unicast) session: u32,
    /// The TLS exporter: what an enrolment request is bound to.
    pub(in crate::unicast) exporter: [u8; 32],
    pub(in crate::unicast) channel: Channel,
}

impl Link {
    /// Takes the keys of a session without certificate into use, whose channel begins with `stream`.
    pub(in crate::unicast) fn add_joining(
        &mut self,
        now: Instant,
        session: u32,
        client: bool,
        stream: u32,
        secrets: &Secrets,
    ) {
        self.add_session(now, session, client, None, secrets);
        self.joining.push(Joining {
            session,
            exporter: *secrets.exporter(),
            channel: Channel::new(stream, frame_size(self.mtu())),
        });
    }

    /// What belongs to a session without certificate.
    pub(in crate::unicast) fn joining(&mut self, session: u32) -> Option<&mut Joining> {
        self.joining.iter_mut().find(|j| j.session == session)
    }

    /// Whether the other side is known to have the keys of this session.
    pub(in crate::unicast) fn is_confirmed(&self, session: u32) -> bool {
        self.hops
            .iter()
            .any(|h| h.session == session && h.confirmed)
    }

    /// Seals a PDU as [`Link::send`] does, with the keys of a session without certificate.
    pub(in crate::unicast) fn send_joining(
        &mut self,
        session: u32,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let hop = self.hops.iter().position(|h| h.session == session);
        let hop = hop.ok_or("drop.no_key")?;
        self.send_with(hop, Class::Control, len, whole(fill))
            .map(drop)
    }
}
