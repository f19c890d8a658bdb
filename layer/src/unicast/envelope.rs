//! What a payload is put into for its way to a member: for a neighbour only a header, since the link's seal is enough; for any
//! other also a seal of its own, which those between can't open. It must not choose the way.

use proto::{Addr, Batch, EndpointId, Margin};

use super::dt::Path;
use super::link::Link;
use super::out::Class;
use super::pdu::{Direct, Routed, TAG_LEN, TTL};
use super::peer::{Ends, Sessions};
use super::whole;
use crate::Now;

/// Header and seal of the payloads of one flow, or of the channel between two members.
pub(super) enum Envelope<'a> {
    /// The link leads to the member itself.
    Direct(Direct),
    /// Others lie between.
    Routed(Way, &'a mut Ends, &'a Sessions),
}

/// From whom to whom a payload goes.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) src: Addr,
    pub(super) dst: Addr,
    pub(super) cube: u8,
    pub(super) endpoint: EndpointId,
}

impl<'a> Envelope<'a> {
    /// For payloads that take that path; `None` if others lie on it and nothing is shared with the member behind them. This is
    /// the one place that decides whether a payload needs a seal of its own.
    pub(super) fn new(
        path: Path,
        way: Way,
        ends: &'a mut Ends,
        sessions: Option<&'a Sessions>,
    ) -> Option<Self> {
        if !path.direct {
            return Some(Self::Routed(way, ends, sessions?));
        }
        Some(Self::Direct(Direct {
            flags: 0,
            cube: way.cube,
            endpoint: way.endpoint,
        }))
    }

    /// What it puts around a payload, with the link's seal.
    pub(super) fn margin(&self) -> Margin {
        match self {
            Self::Direct(_) => whole::DIRECT,
            Self::Routed(..) => whole::ROUTED,
        }
    }

    /// Puts it around all payloads of a batch that has this margin. Only the link's seal is missing then, which has its place in
    /// the packets; the error is the reason of the drop.
    pub(super) fn wrap(&mut self, now: Now, batch: &mut Batch) -> Result<(), &'static str> {
        let sealed = batch.set_margin(whole::SEALED);
        debug_assert!(sealed, "the margin has shrunk");
        match self {
            Self::Direct(header) => {
                for body in batch.iter_mut() {
                    header.write(&mut body[..Direct::LEN]);
                }
            }
            Self::Routed(way, ends, sessions) => {
                let (session, key) = ends.sealer(now.mono, sessions).ok_or("drop.no_session")?;
                for body in batch.iter_mut() {
                    let (head, payload) = body.split_at_mut(Routed::LEN);
                    let header = way.header(session, key.counter());
                    header.write(head);
                    let sealed = key.seal_with(&header.aad(), payload);
                    sealed.map_err(|_| "drop.key_exhausted")?;
                }
            }
        }
        batch.set_margin(Margin::NONE);
        Ok(())
    }

    /// Sends a copy of a payload over a link; the error is the reason of the drop.
    pub(super) fn send(
        &mut self,
        now: Now,
        link: &mut Link,
        class: Class,
        payload: &[u8],
    ) -> Result<(), &'static str> {
        let copy = |to: &mut [u8]| {
            to.copy_from_slice(payload);
            to.len()
        };
        self.fill(now, link, class, payload.len(), copy).map(drop)
    }

    /// Sends a payload of at most `most` bytes, written by `fill` where it will be sealed: it says how many, 0 if there is
    /// nothing to send. Says whether there was; the error is the reason of the drop.
    pub(super) fn fill(
        &mut self,
        now: Now,
        link: &mut Link,
        class: Class,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<bool, &'static str> {
        let sent = match self {
            Self::Direct(header) => link.send_upto(class, Direct::LEN + most, |body| {
                let (head, payload) = body.split_at_mut(Direct::LEN);
                header.write(head);
                let len = fill(payload);
                Ok(if len == 0 { 0 } else { Direct::LEN + len })
            }),
            Self::Routed(way, ends, sessions) => {
                let (session, key) = ends.sealer(now.mono, sessions).ok_or("drop.no_session")?;
                link.send_upto(class, Routed::LEN + most + TAG_LEN, |body| {
                    let (head, payload) = body.split_at_mut(Routed::LEN);
                    let len = fill(&mut payload[..most]);
                    if len == 0 {
                        return Ok(0);
                    }
                    let header = way.header(session, key.counter());
                    header.write(head);
                    let sealed = key.seal_with(&header.aad(), &mut payload[..len + TAG_LEN]);
                    sealed.map_err(|_| "drop.key_exhausted")?;
                    Ok(Routed::LEN + len + TAG_LEN)
                })
            }
        };
        Ok(sent? > 0)
    }
}

impl Way {
    fn header(&self, session: u32, counter: u64) -> Routed {
        Routed {
            flags: 0,
            cube: self.cube,
            ttl: TTL,
            dst: self.dst,
            src: self.src,
            endpoint: self.endpoint,
            session,
            counter,
        }
    }
}
