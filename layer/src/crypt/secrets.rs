//! What a handshake leaves: one master secret, and every key that follows from it.

use std::fmt;

use proto::{Addr, EndpointId};
use ring::hkdf;
use zeroize::Zeroizing;

use super::{Acquaintance, Aead, Agreed, FlowKey, KeyExchange, MemberCert, OpenKey, SealKey};

/// The result of a handshake.
pub struct Secrets {
    pub(super) master: Zeroizing<[u8; 32]>,
    pub(super) exporter: [u8; 32],
    pub(super) aead: Aead,
    pub(super) exchange: KeyExchange,
    pub(super) agreed: Agreed,
    pub(super) peer: Option<MemberCert>,
}

impl Secrets {
    /// What a handshake would have left, for the simulator.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn made(master: [u8; 32], peer: MemberCert) -> Self {
        Self {
            master: Zeroizing::new(master),
            exporter: [0; 32],
            aead: Aead::Aes256Gcm,
            exchange: KeyExchange::X25519MlKem768,
            agreed: Agreed {
                version: super::version::VERSION,
                features: 0,
            },
            peer: Some(peer),
        }
    }

    /// The TLS exporter that an enrolment is bound to. It is no secret between the two ends.
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// The cipher of the negotiated suite.
    pub fn aead(&self) -> Aead {
        self.aead
    }

    /// The version and the features that both sides speak.
    pub fn agreed(&self) -> Agreed {
        self.agreed
    }

    /// How the first secret was agreed on.
    pub fn key_exchange(&self) -> KeyExchange {
        self.exchange
    }

    /// The other side's verified certificate; `None`: a joiner that has none yet, to be heard on enrolment only.
    pub fn peer(&self) -> Option<&MemberCert> {
        self.peer.as_ref()
    }

    /// The keys of the link that the handshake ran over. To be called once: keys made twice would use the same counters
    /// twice.
    pub fn hop_keys(&self, is_client: bool) -> (SealKey, OpenKey) {
        let (client, server) = (self.derive(&[b"hop", &[0]]), self.derive(&[b"hop", &[1]]));
        if is_client {
            (client.into_seal(), server.into_open())
        } else {
            (server.into_seal(), client.into_open())
        }
    }

    /// The key of one direction of a flow, from the end at `src` to the end at `dst`.
    pub fn flow_keys(
        &self,
        src: Addr,
        dst: Addr,
        src_endpoint: EndpointId,
        dst_endpoint: EndpointId,
    ) -> FlowKey {
        let parts = [src.0, dst.0, src_endpoint.0, dst_endpoint.0].map(u64::to_be_bytes);
        self.derive(&[b"flow", parts.as_flattened()])
    }

    /// What the two sides know each other by when they shake hands again.
    pub fn acquaintance(&self) -> Acquaintance {
        let material = self.derive(&[b"met"]).material;
        let (bytes, _) = material
            .split_first_chunk()
            .expect("an acquaintance takes less than what is derived");
        Acquaintance::new(bytes)
    }

    /// HKDF-SHA256 with the salt of this version; the first 32 bytes are the key, the next 12 the IV.
    fn derive(&self, info: &[&[u8]]) -> FlowKey {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"strata v1").extract(&*self.master);
        let mut material = Zeroizing::new([0; FlowKey::LEN]);
        prk.expand(info, Material)
            .and_then(|okm| okm.fill(&mut *material))
            .expect("44 bytes are far below HKDF's limit");
        FlowKey {
            aead: self.aead,
            material,
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("aead", &self.aead)
            .field("exchange", &self.exchange)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

struct Material;

impl hkdf::KeyType for Material {
    fn len(&self) -> usize {
        FlowKey::LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        Secrets {
            master: Zeroizing::new([5; 32]),
            exporter: [6; 32],
            aead: Aead::Aes256Gcm,
            exchange: KeyExchange::X25519MlKem768,
            agreed: Agreed {
                version: 1,
                features: 0,
            },
            peer: None,
        }
    }

    /// The table of docs/protocol.md.
    #[test]
    fn every_key_is_that_of_the_protocol() {
        let secrets = Secrets {
            master: Zeroizing::new([7; 32]),
            ..secrets()
        };
        let flow = secrets.flow_keys(Addr(1), Addr(2), EndpointId(3), EndpointId(4));
        let keys = [
            (
                "key and IV, master 32 × 07, `hop` 0",
                secrets.derive(&[b"hop", &[0]]),
            ),
            ("the same, `hop` 1", secrets.derive(&[b"hop", &[1]])),
            ("the same, `flow`", flow),
        ];
        for (what, key) in keys {
            assert_eq!([key.material.to_vec()], crate::vectors::row(what), "{what}");
        }
    }

    #[test]
    fn each_direction_of_a_link_has_its_own_key() {
        let ((mut seal, _), (_, mut open)) = (secrets().hop_keys(true), secrets().hop_keys(false));
        let (mut header, mut body) = ([0; 16], *b"hello...................");
        seal.seal(&mut header, &mut body).unwrap();
        let (_, mut wrong) = secrets().hop_keys(true);
        assert!(wrong.open(&header, &mut body.clone()).is_err());
        assert_eq!(open.open(&header, &mut body).unwrap(), b"hello...");
    }

    #[test]
    fn each_direction_of_each_flow_has_its_own_key() {
        let key = |s, d, se, de| {
            *secrets()
                .flow_keys(Addr(s), Addr(d), EndpointId(se), EndpointId(de))
                .material
        };
        let one = key(1, 2, 3, 4);
        assert_eq!(one, key(1, 2, 3, 4));
        for other in [
            key(2, 1, 4, 3),
            key(1, 2, 3, 5),
            key(1, 2, 4, 3),
            key(2, 1, 3, 4),
        ] {
            assert_ne!(one, other);
        }
    }
}
