//! From the host and port of a client to the name of a flow.

use std::net::IpAddr;

use proto::{Code, Label, Name, Reason};

use super::wire::{Destination, Host, Reply};

/// The names that a destination can mean, the first that is served counts, and the layer that it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// `HOST:PORT`, then `HOST`.
    pub(super) names: Vec<Name>,
    /// Where it ends in `.LAYER.internal`.
    pub(super) layer: Option<Label>,
}

/// Why a destination means no name.
pub(super) type NoWish = (Reply, Reason);

impl Wish {
    /// What a destination means, where `only` is the layer that may be used.
    pub(super) fn of(to: &Destination, only: Option<&Label>) -> Result<Self, NoWish> {
        let Host::Name(host) = &to.host else {
            return Err(address(to));
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if bare.unwrap_or(host).parse::<IpAddr>().is_ok() {
            return Err(address(to));
        }
        let (host, layer) = match internal(host) {
            None => (host, None),
            Some(inner) => {
                let (host, layer) = inner.rsplit_once('.').ok_or_else(|| nothing(to))?;
                let layer = Label::new(layer.to_ascii_lowercase()).map_err(|_| nothing(to))?;
                (host, Some(layer))
            }
        };
        if let (Some(asked), Some(only)) = (&layer, only)
            && asked != only
        {
            let text = format!("{to} is in layer {asked}, and this proxy serves {only} alone");
            return Err((Reply::NotAllowed, Reason::new(Code::Denied, text)));
        }
        let name = |text: String| Name::new(text).ok();
        let names = [format!("{host}:{}", to.port), host.to_owned()].map(name);
        let names: Vec<_> = names.into_iter().flatten().collect();
        match names.is_empty() || host.is_empty() {
            true => Err(nothing(to)),
            false => Ok(Self { names, layer }),
        }
    }
}

/// What stands before `.internal`, however that is written.
fn internal(host: &str) -> Option<&str> {
    let at = host.len().checked_sub(SUFFIX.len())?;
    let (inner, suffix) = host.split_at_checked(at)?;
    suffix.eq_ignore_ascii_case(SUFFIX).then_some(inner)
}

fn address(to: &Destination) -> NoWish {
    let text = format!(
        "{to} is an address, and flows go to names; let the proxy resolve them (curl: socks5h://, --socks5-hostname)"
    );
    (Reply::BadAddress, Reason::new(Code::Usage, text))
}

fn nothing(to: &Destination) -> NoWish {
    let text = format!("{to} can't be a name; use NAME or NAME.LAYER.internal");
    (Reply::HostUnreachable, Reason::new(Code::NotFound, text))
}

const SUFFIX: &str = ".internal";

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(host: &str, only: Option<&str>) -> Result<(Vec<String>, Option<String>), Reply> {
        let to = Destination {
            host: Host::Name(host.to_owned()),
            port: 80,
        };
        let only = only.map(|l| Label::new(l).unwrap());
        let found = Wish::of(&to, only.as_ref()).map_err(|(reply, _)| reply)?;
        let names = found.names.iter().map(Name::to_string).collect();
        Ok((names, found.layer.map(|l| l.to_string())))
    }

    fn names(host: &str) -> Vec<String> {
        vec![format!("{host}:80"), host.to_owned()]
    }

    #[test]
    fn a_host_is_a_name_with_its_port_or_without() {
        for host in ["web", "svc/web", "git.example.org", "Ünï", "internal"] {
            assert_eq!(wish(host, None), Ok((names(host), None)));
        }
        assert_eq!(wish("web.", None), Ok((names("web"), None)));
    }

    #[test]
    fn a_host_in_internal_says_the_layer_too() {
        let of = |name: &str| Ok((names(name), Some("ovl".to_owned())));
        assert_eq!(wish("web.ovl.internal", None), of("web"));
        assert_eq!(wish("a.b.OVL.Internal.", Some("ovl")), of("a.b"));
        assert_eq!(
            wish("web.net.internal", Some("ovl")),
            Err(Reply::NotAllowed)
        );
        for none in [
            "ovl.internal",
            ".ovl.internal",
            "web..internal",
            ".internal",
            ".",
        ] {
            assert_eq!(wish(none, None), Err(Reply::HostUnreachable), "{none}");
        }
    }

    #[test]
    fn an_address_is_no_name_however_it_is_said() {
        for address in ["10.0.0.1", "fd00::1", "[fd00::1]"] {
            assert_eq!(wish(address, None), Err(Reply::BadAddress));
        }
        let to = Destination {
            host: Host::Ip(IpAddr::from([10, 0, 0, 1])),
            port: 80,
        };
        let (reply, reason) = Wish::of(&to, None).unwrap_err();
        assert_eq!(reply, Reply::BadAddress);
        assert!(reason.text.contains("socks5h"), "{reason}");
    }

    #[test]
    fn a_name_that_is_too_long_with_its_port_is_one_without() {
        let long = "x".repeat(254);
        assert_eq!(wish(&long, None), Ok((vec![long], None)));
    }
}
