//! The bytes of SOCKS 5 (RFC 1928) and of its login (RFC 1929) as a server reads and writes them. It does no IO.
//!
//! Of our own, since the crates for it either read the socket themselves and know no bound, or bring ten others along.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use proto::Code;

/// Why bytes are not what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// So many are needed in all before more can be said.
    Need(usize),
    /// The client speaks something else.
    Bad(&'static str),
    /// The address is of a kind that nobody has defined.
    AddressKind,
}

/// The ways to log in that a client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    /// None.
    pub(super) open: bool,
    /// Name and password.
    pub(super) password: bool,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) name: Vec<u8>,
    pub(super) password: Vec<u8>,
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// One of [`CONNECT`], [`ASSOCIATE`], or something that isn't done here.
    pub(super) command: u8,
    pub(super) to: Destination,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) host: Host,
    pub(super) port: u16,
}

/// By name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Host {
    Name(String),
    Ip(IpAddr),
}

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reply {
    Done = 0,
    Failed = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    Expired = 6,
    BadCommand = 7,
    BadAddress = 8,
}

/// The first message.
pub(super) fn hello(bytes: &[u8]) -> Result<Hello, Unfit> {
    let version = one(bytes, 0)?;
    if version != VERSION {
        return Err(Unfit::Bad("it speaks no SOCKS 5"));
    }
    let count = usize::from(one(bytes, 1)?);
    let methods = part(bytes, 2, count)?;
    Ok(Hello {
        open: methods.contains(&OPEN),
        password: methods.contains(&PASSWORD),
    })
}

/// The answer to it: the way that is taken, or none.
pub(super) fn way(method: Option<u8>) -> [u8; 2] {
    [VERSION, method.unwrap_or(NO_WAY)]
}

/// The message with name and password.
pub(super) fn login(bytes: &[u8]) -> Result<Login, Unfit> {
    if one(bytes, 0)? != LOGIN_VERSION {
        return Err(Unfit::Bad("its login is of another version"));
    }
    let len = usize::from(one(bytes, 1)?);
    let name = part(bytes, 2, len)?;
    let second = usize::from(one(bytes, 2 + len)?);
    let password = part(bytes, 3 + len, second)?;
    Ok(Login {
        name: name.to_vec(),
        password: password.to_vec(),
    })
}

/// The answer to it.
pub(super) fn logged_in(good: bool) -> [u8; 2] {
    [LOGIN_VERSION, u8::from(!good)]
}

/// What is wanted.
pub(super) fn request(bytes: &[u8]) -> Result<Request, Unfit> {
    let command = one(bytes, 1)?;
    if bytes[0] != VERSION {
        return Err(Unfit::Bad("its request is of another version"));
    }
    let (to, _) = destination(bytes, 3)?;
    Ok(Request { command, to })
}

/// The answer to it.
pub(super) fn answer(reply: Reply, at: SocketAddr) -> Vec<u8> {
    let at = Destination {
        host: Host::Ip(at.ip()),
        port: at.port(),
    };
    let mut bytes = vec![VERSION, reply as u8, 0];
    bytes.extend(at.encode());
    bytes
}

/// Where a datagram of the client goes, and where in it the payload begins. One in fragments is not taken, as RFC 1928 allows.
pub(super) fn datagram(bytes: &[u8]) -> Option<(Destination, usize)> {
    match bytes {
        [0, 0, 0, ..] => destination(bytes, 3).ok(),
        _ => None,
    }
}

impl Destination {
    /// As it stands in a message; names longer than a message holds can't have come from one.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32);
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => {
                bytes.push(V4);
                bytes.extend(ip.octets());
            }
            Host::Ip(IpAddr::V6(ip)) => {
                bytes.push(V6);
                bytes.extend(ip.octets());
            }
            Host::Name(name) => {
                let name = &name.as_bytes()[..name.len().min(255)];
                bytes.extend([NAME, name.len() as u8]);
                bytes.extend_from_slice(name);
            }
        }
        bytes.extend(self.port.to_be_bytes());
        bytes
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => write!(f, "{}", SocketAddr::new(*ip, self.port)),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl From<Code> for Reply {
    fn from(code: Code) -> Self {
        match code {
            Code::NotFound => Self::HostUnreachable,
            Code::Denied => Self::NotAllowed,
            Code::TimedOut => Self::Expired,
            Code::Refused | Code::Closed => Self::Refused,
            Code::Unreachable => Self::NetworkUnreachable,
            Code::Failed
            | Code::Usage
            | Code::Conflict
            | Code::Busy
            | Code::QosNotGranted
            | Code::PeerMisbehaved => Self::Failed,
        }
    }
}

/// The destination that begins at `at`, and where it ends.
fn destination(bytes: &[u8], at: usize) -> Result<(Destination, usize), Unfit> {
    let (host, end) = match one(bytes, at)? {
        V4 => {
            let mut ip = [0; 4];
            ip.copy_from_slice(part(bytes, at + 1, 4)?);
            (Host::Ip(IpAddr::from(ip)), at + 5)
        }
        V6 => {
            let mut ip = [0; 16];
            ip.copy_from_slice(part(bytes, at + 1, 16)?);
            (Host::Ip(IpAddr::from(ip)), at + 17)
        }
        NAME => {
            let len = usize::from(one(bytes, at + 1)?);
            let name = part(bytes, at + 2, len)?;
            match std::str::from_utf8(name) {
                Ok(name) if !name.is_empty() => (Host::Name(name.to_owned()), at + 2 + len),
                _ => return Err(Unfit::Bad("a host has a name of 1 to 255 bytes of UTF-8")),
            }
        }
        _ => return Err(Unfit::AddressKind),
    };
    let mut port = [0; 2];
    port.copy_from_slice(part(bytes, end, 2)?);
    let port = u16::from_be_bytes(port);
    Ok((Destination { host, port }, end + 2))
}

fn one(bytes: &[u8], at: usize) -> Result<u8, Unfit> {
    bytes.get(at).copied().ok_or(Unfit::Need(at + 1))
}

fn part(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], Unfit> {
    bytes.get(at..at + len).ok_or(Unfit::Need(at + len))
}

/// To a destination, by a connection.
pub(super) const CONNECT: u8 = 1;
/// To many, by datagrams.
pub(super) const ASSOCIATE: u8 = 3;
/// Without login.
pub(super) const OPEN: u8 = 0;
/// With name and password.
pub(super) const PASSWORD: u8 = 2;
const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_WAY: u8 = 0xff;
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn destinations() -> impl Strategy<Value = Destination> {
        let host = prop_oneof![
            "[a-z./é-]{1,60}".prop_map(Host::Name),
            any::<IpAddr>().prop_map(Host::Ip),
        ];
        (host, any::<u16>()).prop_map(|(host, port)| Destination { host, port })
    }

    /// Reads as a server does: never more than is needed.
    fn read<T>(
        bytes: &[u8],
        parse: impl Fn(&[u8]) -> Result<T, Unfit>,
    ) -> Result<(T, usize), Unfit> {
        let mut have = 0;
        loop {
            match parse(&bytes[..have]) {
                Err(Unfit::Need(more)) if more <= bytes.len() => {
                    assert!(more > have, "it asks for what it has");
                    have = more;
                }
                other => return other.map(|done| (done, have)),
            }
        }
    }

    proptest! {
        #[test]
        fn a_request_is_read_to_its_last_byte_and_no_further(command: u8, to in destinations(), rest: Vec<u8>) {
            let whole = [&[VERSION, command, 0][..], &to.encode(), &rest].concat();
            let (got, used) = read(&whole, request).unwrap();
            prop_assert_eq!(got, Request { command, to });
            prop_assert_eq!(used, whole.len() - rest.len());
        }

        #[test]
        fn a_datagram_is_told_from_its_payload(to in destinations(), payload: Vec<u8>) {
            let whole = [&[0, 0, 0][..], &to.encode(), &payload].concat();
            let (got, at) = datagram(&whole).unwrap();
            prop_assert_eq!(got, to);
            prop_assert_eq!(&whole[at..], &payload[..]);
            let fragment = [&[0, 0, 1][..], &whole[3..]].concat();
            prop_assert_eq!(datagram(&fragment), None);
        }

        #[test]
        fn a_login_is_read_to_its_last_byte(name in prop::collection::vec(any::<u8>(), 0..256), password in prop::collection::vec(any::<u8>(), 0..256)) {
            let whole = [&[1, name.len() as u8][..], &name, &[password.len() as u8], &password].concat();
            let (got, used) = read(&whole, login).unwrap();
            prop_assert!(got.name == name && got.password == password);
            prop_assert_eq!(used, whole.len());
        }

        #[test]
        fn no_bytes_panic_and_none_ask_for_more_than_a_message_has(bytes: Vec<u8>) {
            let needs = [
                hello(&bytes).map(drop),
                login(&bytes).map(drop),
                request(&bytes).map(drop),
            ];
            for need in needs {
                if let Err(Unfit::Need(n)) = need {
                    prop_assert!(n > bytes.len() && n <= 513);
                }
            }
            let _ = datagram(&bytes);
        }
    }

    #[test]
    fn who_speaks_something_else_is_told_from_who_has_not_said_all() {
        assert_eq!(hello(&[]), Err(Unfit::Need(1)));
        assert_eq!(hello(&[5, 2, 0]), Err(Unfit::Need(4)));
        let both = Hello {
            open: true,
            password: true,
        };
        assert_eq!(hello(&[5, 2, 0, 2]), Ok(both));
        // SOCKS 4, and HTTP.
        assert!(matches!(hello(&[4, 1]), Err(Unfit::Bad(_))));
        assert!(matches!(hello(b"GET / HTTP/1.1"), Err(Unfit::Bad(_))));
        assert_eq!(request(&[5, 1, 0, 9, 0]), Err(Unfit::AddressKind));
        assert!(matches!(
            request(&[5, 1, 0, 3, 0, 0, 80]),
            Err(Unfit::Bad(_))
        ));
    }

    #[test]
    fn a_client_hears_why_in_the_words_that_it_knows() {
        for (code, reply) in [
            (Code::Denied, 2),
            (Code::Unreachable, 3),
            (Code::NotFound, 4),
            (Code::Refused, 5),
            (Code::TimedOut, 6),
            (Code::Busy, 1),
        ] {
            assert_eq!(Reply::from(code) as u8, reply, "{code:?}");
        }
    }

    #[test]
    fn an_answer_is_as_the_rfc_has_it() {
        let at = "127.0.0.1:258".parse().unwrap();
        assert_eq!(answer(Reply::Expired, at), [5, 6, 0, 1, 127, 0, 0, 1, 1, 2]);
        assert_eq!(way(None), [5, 0xff]);
        assert_eq!((logged_in(true), logged_in(false)), ([1, 0], [1, 1]));
    }
}
