//! What a handshake sends: hellos padded to the path's size, sealed flights, acknowledgements, and its end.

use super::frame::{Frame, Header, Level};
use super::{Handshake, TAG};

impl Handshake {
    pub(super) fn close_pdu(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.close.1) || self.close.2 == 0 {
            return None;
        }
        self.close.2 -= 1;
        let mut frames = Vec::new();
        Frame::Close(self.close.0).encode(&mut frames);
        let level = if self.keys.is_some() {
            Level::Handshake
        } else {
            Level::Initial
        };
        self.pdu(level, frames)
    }

    pub(super) fn initial_pdu(&mut self) -> Option<Vec<u8>> {
        if self.close.1 {
            return self.close_pdu();
        }
        if !self.out[0].pending() {
            return None;
        }
        let mut frames = Vec::with_capacity(self.path_mtu);
        if let Some(shown) = self.introduction {
            Frame::Met(shown).encode(&mut frames);
        }
        let contiguous = self.into[0].contiguous();
        if contiguous > 0 {
            Frame::Ack {
                level: Level::Initial,
                contiguous,
            }
            .encode(&mut frames);
        }
        let room = self.path_mtu - Header::LEN - frames.len() - Frame::CRYPTO_HEADER;
        let (offset, bytes) = self.out[0].take(room)?;
        Frame::Crypto { offset, bytes }.encode(&mut frames);
        if self.client {
            // A hello of full size shows whether the path takes it.
            frames.resize(self.path_mtu - Header::LEN, 0);
        }
        self.pdu(Level::Initial, frames)
    }

    pub(super) fn sealed_pdu(&mut self) -> Option<Vec<u8>> {
        if self.keys.is_none() || !(self.ack_due || self.out[1].pending()) {
            return None;
        }
        self.ack_due = false;
        let mut frames = Vec::with_capacity(self.path_mtu);
        let contiguous = self.into[1].contiguous();
        if contiguous > 0 {
            Frame::Ack {
                level: Level::Handshake,
                contiguous,
            }
            .encode(&mut frames);
        }
        let room = self.path_mtu - Header::LEN - frames.len() - Frame::CRYPTO_HEADER - TAG;
        if let Some((offset, bytes)) = self.out[1].take(room) {
            Frame::Crypto { offset, bytes }.encode(&mut frames);
        }
        self.pdu(Level::Handshake, frames)
    }

    /// Puts the header before the frames and seals them. No number is used twice.
    fn pdu(&mut self, level: Level, mut frames: Vec<u8>) -> Option<Vec<u8>> {
        let number = self.number;
        self.number = number.checked_add(1)?;
        let header = Header {
            level,
            session: self.session,
            number,
        }
        .encode();
        let mut pdu = header.to_vec();
        if level == Level::Handshake {
            let tag = self
                .keys
                .as_ref()?
                .local
                .packet
                .encrypt_in_place(u64::from(number), &header, &mut frames)
                .ok()?;
            frames.extend(tag.as_ref());
        }
        pdu.append(&mut frames);
        Some(pdu)
    }
}
