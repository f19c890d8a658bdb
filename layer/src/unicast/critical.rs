//! Reading a control message by the rule that lets releases differ: an unknown field is passed over, unless its number says
//! that nobody may do that. It must not know what a message means.

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use proto::wire;
use proto::wire::message::Body;

/// Reads a message; the error is the reason of the drop.
pub(super) fn read(bytes: &[u8]) -> Result<Body, &'static str> {
    if is_critical(bytes, true).ok_or(MALFORMED)? {
        return Err("drop.critical_field");
    }
    let message = wire::Message::decode(bytes).map_err(|_| MALFORMED)?;
    message.body.ok_or("drop.unknown_message")
}

/// Whether a message, or where `deep` one in it, has a field that must be understood. `None`: it is malformed.
///
/// This version has no such field, so that each is unknown.
fn is_critical(mut bytes: &[u8], deep: bool) -> Option<bool> {
    while !bytes.is_empty() {
        let (number, kind) = decode_key(&mut bytes).ok()?;
        if number >= CRITICAL {
            return Some(true);
        }
        if kind == WireType::LengthDelimited && deep {
            let len = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            let (inner, rest) = bytes.split_at_checked(len)?;
            bytes = rest;
            if is_critical(inner, false)? {
                return Some(true);
            }
        } else {
            skip_field(kind, number, &mut bytes, DecodeContext::default()).ok()?;
        }
    }
    Some(false)
}

/// From this number on, a field of `Message` or of what it holds must be understood.
const CRITICAL: u32 = 1000;
const MALFORMED: &str = "drop.malformed_message";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::encoding::{encode_key, encode_varint};

    fn info() -> Body {
        Body::LinkInfo(wire::LinkInfo {
            mtu: 1400,
            ..Default::default()
        })
    }

    /// A varint field of that number behind what is there.
    fn with_field(mut bytes: Vec<u8>, number: u32) -> Vec<u8> {
        encode_key(number, WireType::Varint, &mut bytes);
        encode_varint(7, &mut bytes);
        bytes
    }

    /// A `Message` of a link's info with another field in it, and one behind it.
    fn message(inside: Option<u32>, behind: Option<u32>) -> Vec<u8> {
        let Body::LinkInfo(info) = info() else {
            unreachable!()
        };
        let mut body = info.encode_to_vec();
        if let Some(number) = inside {
            body = with_field(body, number);
        }
        let mut bytes = Vec::new();
        encode_key(10, WireType::LengthDelimited, &mut bytes);
        encode_varint(body.len() as u64, &mut bytes);
        bytes.extend(body);
        match behind {
            Some(number) => with_field(bytes, number),
            None => bytes,
        }
    }

    #[test]
    fn an_unknown_field_is_passed_over_unless_it_must_be_understood() {
        for plain in [None, Some(999)] {
            assert_eq!(read(&message(plain, plain)), Ok(info()));
            let critical = Err("drop.critical_field");
            assert_eq!(read(&message(Some(1000), plain)), critical);
            assert_eq!(read(&message(plain, Some(1000))), critical);
            assert_eq!(read(&message(plain, Some(500_000))), critical);
        }
        assert_eq!(
            read(&with_field(Vec::new(), 900)),
            Err("drop.unknown_message")
        );
        assert_eq!(read(&message(None, None)[..4]), Err(MALFORMED));
    }

    #[test]
    fn what_is_known_and_what_must_be_is_as_in_the_document() {
        let said = |name| read(&crate::vectors::vector(name)[4..]);
        let info = wire::LinkInfo {
            mtu: 1200,
            ..Default::default()
        };
        assert_eq!(said("message.unknown_field"), Ok(Body::LinkInfo(info)));
        assert_eq!(said("message.critical_field"), Err("drop.critical_field"));
        assert_eq!(said("message.unknown_kind"), Err("drop.unknown_message"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
