//! A certificate that a stranger shows, and the files that an identity and an authority lie in.

use std::time::Duration;

use layer::crypt::{Authority, Identity, MemberCert, Roots};

use super::member::Layer;
use super::script::{Script, edited};

/// The first byte tells what: bytes as they are, or a true certificate or identity with edits. No change of a true
/// certificate is believed.
pub fn run(bytes: &[u8]) {
    let layer = Layer::get();
    let mut script = Script(bytes);
    let verify = |der: &[u8]| {
        let issuer = &layer.issuer;
        MemberCert::verify(
            der,
            &[],
            issuer.roots(),
            issuer.layer(),
            layer.at(Duration::ZERO).wall,
        )
    };
    match script.byte() {
        0 => {
            assert!(verify(script.0).is_err(), "a stranger is believed");
            let _ = Roots::new(vec![script.0.to_vec()]);
        }
        1 => {
            let der = layer.member.cert().der();
            let other = edited(der, script.0);
            assert_eq!(verify(&other).is_ok(), other == der);
        }
        2 => {
            let root = &layer.issuer.roots().ders()[0];
            let _ = Roots::new(vec![edited(root, script.0)]);
        }
        3 => {
            let _ = Identity::from_bytes(&edited(&layer.member.to_bytes(), script.0));
        }
        _ => {
            let _ = (
                Identity::from_bytes(script.0),
                Authority::from_bytes(script.0),
            );
        }
    }
}

/// The true ones, each with an edit, and bytes that begin like a certificate.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "der",
            vec![0, 0x30, 0x82, 0, 8, 0x30, 6, 0xa0, 3, 2, 1, 2, 0],
        ),
        ("true", vec![1]),
        ("cut", vec![1, 0, 0, 99, 0]),
        ("longer", vec![1, 1, 0, 0, 0]),
        ("changed", vec![1, 3, 0, 120, 1]),
        ("root", vec![2]),
        ("root-changed", vec![2, 3, 0, 40, 4]),
        ("identity", vec![3]),
        ("identity-changed", vec![3, 3, 0, 10, 1]),
        ("file", vec![4, 0, 0, 0, 0, 0, 0, 0, 1]),
    ]
}
