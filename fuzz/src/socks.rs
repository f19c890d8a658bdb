//! What a client of the proxy says: SOCKS 5, its login, and the datagrams of an association.

use std::net::IpAddr;

use proto::Label;

// The proxy is a part of a program, and no crate's face.
#[path = "../../irm/src/cmd/proxy/wire.rs"]
mod wire;
#[path = "../../irm/src/cmd/proxy/wish.rs"]
mod wish;

use wire::{Destination, Unfit};
use wish::Wish;

/// First which message, then its bytes; or a whole conversation. A server reads to the last byte of a message and no further, what it
/// has understood is all that was said, and what it is to reach is a name and never an address.
pub fn run(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    match which % 5 {
        0 => drop(read(bytes, wire::hello, 257)),
        1 => {
            if let Some((login, used)) = read(bytes, wire::login, 513) {
                assert_eq!(login.name.len() + login.password.len() + 3, used);
            }
        }
        2 => request(bytes),
        3 => {
            if let Some((to, at)) = wire::datagram(bytes) {
                assert_eq!(to.encode(), bytes[3..at]);
                means(&to);
            }
        }
        _ => {
            let Some((hello, used)) = read(bytes, wire::hello, 257) else {
                return;
            };
            let bytes = &bytes[used..];
            if hello.open {
                return request(bytes);
            }
            if let Some((_, used)) = read(bytes, wire::login, 513) {
                request(&bytes[used..]);
            }
        }
    }
}

fn request(bytes: &[u8]) {
    if let Some((request, used)) = read(bytes, wire::request, 262) {
        assert_eq!(request.to.encode(), bytes[3..used]);
        assert_eq!(request.command, bytes[1]);
        means(&request.to);
    }
}

fn means(to: &Destination) {
    let Ok(own) = Label::new("ovl") else { return };
    for only in [None, Some(&own)] {
        let Ok(wish) = Wish::of(to, only) else {
            continue;
        };
        assert!(matches!(wish.names.len(), 1 | 2));
        if let (Some(layer), Some(only)) = (&wish.layer, only) {
            assert_eq!(layer, only, "another layer than may be used");
        }
        for name in wish.names.iter().filter(|_| wish.layer.is_none()) {
            assert!(name.as_str().parse::<IpAddr>().is_err(), "an address");
        }
    }
}

/// Reads as the proxy does, never more than is asked for; what was read, and how long it was.
fn read<T>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, Unfit>,
    longest: usize,
) -> Option<(T, usize)> {
    let mut have = 0;
    loop {
        match parse(&bytes[..have]) {
            Ok(message) => return Some((message, have)),
            Err(Unfit::Need(more)) => {
                assert!(more > have && more <= longest, "{more} of {longest}");
                if more > bytes.len() {
                    return None;
                }
                have = more;
            }
            Err(Unfit::Bad(_) | Unfit::AddressKind) => return None,
        }
    }
}

/// Each message, with destinations of each kind, and a conversation with a login and one without.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let named = |name: &str| [&[5, 1, 0, 3, name.len() as u8], name.as_bytes(), &[0, 80]].concat();
    let [plain, inner] = ["web", "web.ovl.internal"].map(named);
    let address = named("10.0.0.1");
    let of = |which: u8, bytes: &[u8]| [&[which], bytes].concat();
    vec![
        ("hello", vec![0, 5, 2, 0, 2]),
        ("hello-4", vec![0, 4, 1, 0, 80]),
        ("login", of(1, b"\x01\x05alice\x06secret")),
        ("request-v4", vec![2, 5, 1, 0, 1, 10, 0, 0, 1, 0, 80]),
        (
            "request-v6",
            [&[2, 5, 3, 0, 4][..], &[0xfd; 16], &[1, 187]].concat(),
        ),
        ("request-name", of(2, &plain)),
        ("request-internal", of(2, &inner)),
        ("request-address", of(2, &address)),
        ("request-kind", vec![2, 5, 1, 0, 2, 0]),
        (
            "datagram",
            [&[3, 0, 0, 0][..], &plain[3..], b"payload"].concat(),
        ),
        ("fragment", [&[3, 0, 0, 1][..], &plain[3..]].concat()),
        ("open", [&[4, 5, 1, 0][..], &inner].concat()),
        (
            "with-login",
            [&[4, 5, 1, 2, 1, 1, b'a', 1, b'b'][..], &plain].concat(),
        ),
    ]
}
