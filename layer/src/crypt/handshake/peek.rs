//! What a PDU shows whose handshake is not known, and what is said of it. It must not compute anything that costs.

use super::frame::{Frame, Header, Level};
use super::{Handshake, HandshakeError};
use crate::crypt::{Farewell, Introduction};

impl Handshake {
    /// The session that a handshake PDU belongs to, and whether its level is the initial one.
    pub fn session_of(pdu: &[u8]) -> Result<(u32, bool), HandshakeError> {
        let header = Header::parse(pdu)?;
        Ok((header.session, header.level == Level::Initial))
    }

    /// Whether a PDU may be of a client's hello, so that a server may begin for it. What a server says of a session that was
    /// forgotten here, its hello or its end, stands at the initial level too; but a server has always heard something, and a
    /// client that has will say the first piece of its hello again.
    pub fn may_open(pdu: &[u8]) -> bool {
        let initial = Header::parse(pdu).is_ok_and(|header| header.level == Level::Initial);
        let Ok(frames) = Frame::parse_all(pdu.get(Header::LEN..).unwrap_or_default()) else {
            // Who takes it says what is wrong with it.
            return initial;
        };
        let has_heard = frames.iter().any(|f| matches!(f, Frame::Ack { .. }));
        let mut hello = frames.iter().filter_map(|frame| match frame {
            Frame::Crypto { offset: 0, bytes } => Some(bytes.first() == Some(&CLIENT_HELLO)),
            Frame::Crypto { .. } => Some(!has_heard),
            Frame::Ack { .. } | Frame::Close(_) | Frame::Met(_) | Frame::Forgotten(_) => None,
        });
        let first = hello.next();
        initial && first == Some(true) && hello.all(|may| may)
    }

    /// What the sender of a first PDU shows to be no stranger; [`crate::crypt::Acquaintance::recognises`] tells whether it is true.
    pub fn introduction_of(pdu: &[u8]) -> Option<Introduction> {
        let frames = Frame::parse_all(pdu.get(Header::LEN..)?).ok()?;
        frames.into_iter().find_map(|frame| match frame {
            Frame::Met(shown) => Some(shown),
            Frame::Crypto { .. } | Frame::Ack { .. } | Frame::Close(_) | Frame::Forgotten(_) => {
                None
            }
        })
    }

    /// What is said of a handshake that is not known here to who goes on with it as its client, if `pdu` shows that: only
    /// who has keys has been promised anything, and gets no more bytes than it sent.
    pub fn farewell(pdu: &[u8], said: Farewell) -> Option<Vec<u8>> {
        let asked = Header::parse(pdu).ok()?;
        let header = Header {
            level: Level::Initial,
            session: asked.session,
            number: 0,
        };
        let mut answer = header.encode().to_vec();
        Frame::Forgotten(said).encode(&mut answer);
        let due = asked.level == Level::Handshake && pdu.len() >= answer.len();
        due.then_some(answer)
    }
}

/// The type of the message that a client begins with (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::crypt::Farewells;
    use crate::crypt::fixtures::{NOW, begin, config, enrolled, first};
    use crate::crypt::handshake::Outcome;

    /// A client that waits for its server's last word, which has forgotten it all; and a PDU with which it asks for that.
    fn abandoned(said: Farewell, now: Instant) -> (Handshake, Handshake, Vec<u8>) {
        let (mut authority, a) = first("ovl");
        let b = enrolled(&mut authority, "b");
        let mut client = Handshake::client(&config(&a, NOW), 77, 1200, now).unwrap();
        let server = config(&b, NOW);
        let mut server = Handshake::mindful_server(&server, said, 77, 1200, now).unwrap();
        for _ in 0..2 {
            while let Some(mut pdu) = client.poll(now) {
                if pdu[1] == Level::Handshake as u8 && client.outcome().is_some() {
                    return (client, server, pdu);
                }
                server.handle(now, &mut pdu).unwrap();
            }
            while let Some(mut pdu) = server.poll(now) {
                client.handle(now, &mut pdu).unwrap();
            }
        }
        panic!("the client has nothing to say at the end");
    }

    #[test]
    fn a_client_whose_server_has_forgotten_it_is_told_so_and_gives_up_at_once() {
        let (now, said) = (begin(), Farewells::new(&[7; 32]).promise([1, 2, 3], 77));
        let (mut client, _, asks) = abandoned(said, now);
        let mut answer = Handshake::farewell(&asks, said).unwrap();
        assert!(answer.len() <= asks.len() && !Handshake::may_open(&answer));
        assert_eq!(Handshake::farewell(&answer, said), None, "it ends there");
        assert_eq!(client.handle(now, &mut answer), Ok(()));
        assert!(matches!(client.outcome(), Some(Outcome::Failed(_))));
        assert!(client.is_forgotten() && client.is_mute() && client.poll(now).is_none());
    }

    /// The table of docs/protocol.md.
    #[test]
    fn what_is_said_of_a_forgotten_handshake_is_that_of_the_protocol() {
        let asks = [&[0x11, 1, 1, 2, 3, 4][..], &[9; 21]].concat();
        let said = Handshake::farewell(&asks, Farewell(std::array::from_fn(|i| i as u8)));
        let hex: String = said.unwrap().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "1100010203040000000005000102030405060708090a0b0c0d0e0f"
        );
    }

    #[test]
    fn nobody_but_the_server_ends_a_handshake_that_lives() {
        let mut farewells = Farewells::new(&[7; 32]);
        let (now, said) = (begin(), farewells.promise([1, 2, 3], 77));
        let (mut client, mut server, mut asks) = abandoned(said, now);
        let others = [
            Farewell([0; 16]),
            // What the server says of the same session elsewhere, or of another.
            farewells.promise([1, 2, 4], 77),
            farewells.promise([1, 2, 3], 78),
        ];
        for other in others {
            let mut forged = Handshake::farewell(&asks, other).unwrap();
            assert_eq!(client.handle(now, &mut forged), Ok(()));
        }
        // Nor is a client believed, nor is anything said to one that has no keys yet.
        let mut echoed = Handshake::farewell(&asks, said).unwrap();
        assert_eq!(server.handle(now, &mut echoed), Ok(()));
        assert_eq!(
            Handshake::farewell(&[&[0x11, 0][..], &[0; 1198]].concat(), said),
            None
        );
        assert_eq!(
            Handshake::farewell(&asks[..26], said),
            None,
            "never more than it got"
        );
        server.handle(now, &mut asks).unwrap();
        for _ in 0..5 {
            let later = now + Duration::from_millis(500);
            while let Some(mut pdu) = client.poll(later) {
                server.handle(later, &mut pdu).unwrap();
            }
            while let Some(mut pdu) = server.poll(later) {
                client.handle(later, &mut pdu).unwrap();
            }
        }
        assert!(client.confirmed() && server.confirmed() && !client.is_forgotten());
        // What comes after its end changes nothing, though it be true.
        assert_eq!(client.handle(now, &mut echoed), Ok(()));
        assert!(client.confirmed());
    }
}
