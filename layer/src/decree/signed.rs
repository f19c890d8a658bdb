//! The bytes of a decree: on the wire, under the signature, and on disk.

use prost::Message;
use proto::Label;
use proto::wire::{self, Decree as Body, SignedDecree};
use ring::digest::{SHA256, digest};

use super::{Decree, DecreeError, Kind, MAX_CONTENT};
use crate::crypt::{Authority, Corrupt, unwrap_file, wrap_file};

/// A decree whose form is right; whether it is true is another question.
pub(super) struct Parsed {
    pub(super) decree: Decree,
    pub(super) hash: [u8; 8],
}

/// Reads a decree and checks every bound, without believing it.
pub(super) fn parse(signed: &SignedDecree) -> Result<Parsed, DecreeError> {
    // The length comes first, so that nothing large is ever decoded.
    if signed.body.len() > MAX_CONTENT + MAX_FRAME {
        return Err(DecreeError::TooLarge {
            found: signed.body.len(),
        });
    }
    let body = Body::decode(signed.body.as_slice())
        .map_err(|_| DecreeError::Malformed("it is no protobuf message"))?;
    if body.content.len() > MAX_CONTENT {
        return Err(DecreeError::TooLarge {
            found: body.content.len(),
        });
    }
    let kind =
        Kind::from_wire(body.kind).ok_or(DecreeError::Malformed("its kind is out of range"))?;
    let signer = body.signer.as_slice().try_into();
    let signer = signer.map_err(|_| DecreeError::Malformed("its signer has not 32 bytes"))?;
    if body.number == 0 {
        return Err(DecreeError::Malformed("its number is 0"));
    }
    Ok(Parsed {
        decree: Decree {
            kind,
            number: body.number,
            signer,
            signed_at: body.signed_at,
            content: body.content,
        },
        hash: hash(&signed.body),
    })
}

pub(super) fn sign(authority: &Authority, layer: &Label, decree: &Decree) -> SignedDecree {
    let body = Body {
        kind: decree.kind.0,
        number: decree.number,
        signer: decree.signer.to_vec(),
        signed_at: decree.signed_at,
        content: decree.content.clone(),
    };
    let body = body.encode_to_vec();
    SignedDecree {
        signature: authority
            .sign_as(&decree.signer, &signed_bytes(layer, &body))
            .to_vec(),
        body,
    }
}

/// What the signature covers.
pub(super) fn signed_bytes(layer: &Label, body: &[u8]) -> Vec<u8> {
    [CONTEXT, layer.as_str().as_bytes(), &[0], body].concat()
}

/// Tells two decrees of one number apart.
pub(super) fn hash(body: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&digest(&SHA256, body).as_ref()[..8]);
    out
}

pub(super) fn seal_file(decrees: &[u8]) -> Vec<u8> {
    wrap_file(KIND, VERSION, decrees).to_vec()
}

pub(super) fn open_file(bytes: &[u8]) -> Result<wire::Decrees, Corrupt> {
    let decrees = unwrap_file(KIND, VERSION, bytes)?;
    wire::Decrees::decode(decrees).map_err(|_| Corrupt::Damaged {
        kind: KIND,
        what: "it is no protobuf message",
    })
}

const CONTEXT: &[u8] = b"strata decree v1";
const KIND: &str = "decrees";
const VERSION: u16 = 1;
/// All of a body but its content.
const MAX_FRAME: usize = 128;
