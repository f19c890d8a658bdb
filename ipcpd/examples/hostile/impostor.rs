//! Handshakes between others, answered by this member in the place of one of them. It has only its own certificate to show.

use std::collections::BTreeSet;
use std::time::Instant;

use layer::crypt::{Handshake, Outcome, Secrets};
use layer::{Own, Sent};
use proto::{Addr, EndpointId};

use crate::desk::Desk;
use crate::packets::{HANDSHAKE, turned};

/// The handshakes that it has to do with.
#[derive(Default)]
pub(crate) struct Impostor {
    own: Vec<Handshake>,
    /// Sessions that are left to those whose they are.
    left: BTreeSet<u32>,
}

impl Impostor {
    /// What goes back to who began a handshake; `None`: this one is not meddled with here.
    pub(crate) fn answer(
        &mut self,
        desk: &mut Desk,
        own: &Own<'_>,
        pdu: &[u8],
    ) -> Option<Vec<Sent>> {
        if pdu.first() != Some(&HANDSHAKE) {
            return None;
        }
        let (head, mut bytes) = (&pdu[..HEAD], pdu[HEAD..].to_vec());
        let (session, _) = Handshake::session_of(&bytes).ok()?;
        let at = match self.own.iter().position(|h| h.session() == session) {
            Some(at) => at,
            None => self.begin(desk, own, session)?,
        };
        let mine = self.own.get_mut(at)?;
        // Whatever is wrong with it is not this member's worry.
        let _ = mine.handle(Instant::now(), &mut bytes);
        let mut sent = Vec::new();
        while let Some(answer) = mine.poll(Instant::now()) {
            sent.push(Sent::Back(turned(&[head, &answer].concat())));
        }
        if let Some(Outcome::Done(secrets)) = mine.outcome() {
            desk.report.shaken += 1;
            sent.extend(speak(head, session, &secrets));
        }
        Some(sent)
    }

    fn begin(&mut self, desk: &mut Desk, own: &Own<'_>, session: u32) -> Option<usize> {
        let wanted = desk.report.impersonated < desk.orders.impersonate;
        if !wanted || self.left.contains(&session) {
            self.left.insert(session);
            return None;
        }
        let mine = Handshake::server(own.tls, session, MTU, Instant::now()).ok()?;
        desk.report.impersonated += 1;
        self.own.push(mine);
        Some(self.own.len() - 1)
    }
}

/// A word in the other's name, sealed with the keys that the handshake gave.
fn speak(head: &[u8], session: u32, secrets: &Secrets) -> Option<Sent> {
    let (dst, src) = (head.get(4..12)?, head.get(12..20)?);
    let [me, to] = [dst, src].map(|a| Addr(a.iter().fold(0, |n, b| n << 8 | u64::from(*b))));
    let channel = EndpointId(0);
    let mut key = secrets.flow_keys(me, to, channel, channel).into_seal();
    let mut pdu = [&[2, 0, 0, 64][..], src, dst, &[0; 8]].concat();
    pdu.extend(session.to_be_bytes());
    pdu.extend(key.counter().to_be_bytes());
    let mut aad = vec![0];
    aad.extend(&pdu[4..]);
    let mut body = [&b"a frame of nothing"[..], &[0; 16]].concat();
    key.seal_with(&aad, &mut body).ok()?;
    pdu.extend(body);
    Some(Sent::Back(pdu))
}

/// Bytes before the handshake's own PDU.
const HEAD: usize = 20;
/// What fits any link.
const MTU: usize = 1000;
