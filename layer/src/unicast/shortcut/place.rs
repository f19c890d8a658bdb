//! Where members say that they are below: read, and believed only as far as that it may be tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proto::Label;
use proto::ipcp::Reach;
use proto::wire;

/// What goes over the wire for a place.
pub(super) fn to_wire(reach: &Reach) -> wire::Below {
    wire::Below {
        layer: reach.over.to_string(),
        ip: match reach.at.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        },
        port: u32::from(reach.at.port()),
    }
}

/// The places of another member that may be tried from here: in a layer that this one lies over too, at an address at which one
/// other host can be. `own` is where this one is.
pub(super) fn believable(said: &wire::Reach, over: &[Label], own: &[Reach]) -> Vec<Reach> {
    let places = said.at.iter().take(MOST).filter_map(from_wire);
    let places = places.filter(|r| over.contains(&r.over) && !own.contains(r));
    let at_home = |r: &Reach| {
        own.iter()
            .any(|o| o.over == r.over && o.at.ip().is_loopback())
    };
    let places =
        places.filter(|r| is_one_host(r.at.ip()) && (!r.at.ip().is_loopback() || at_home(r)));
    let mut places: Vec<Reach> = places.collect();
    places.sort_unstable();
    places.dedup();
    places
}

fn from_wire(below: &wire::Below) -> Option<Reach> {
    let ip: IpAddr = match below.ip.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(below.ip.as_slice()).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(below.ip.as_slice()).ok()?).into(),
    };
    let port = u16::try_from(below.port).ok().filter(|port| *port != 0)?;
    Some(Reach {
        over: Label::new(below.layer.as_str()).ok()?,
        at: SocketAddr::new(ip.to_canonical(), port),
    })
}

fn is_one_host(ip: IpAddr) -> bool {
    let all = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(ip.is_unspecified() || ip.is_multicast() || all)
}

/// More places than that nobody needs.
pub(super) const MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reach(text: &str) -> Reach {
        text.parse().unwrap()
    }

    fn said(places: &[&str]) -> wire::Reach {
        let at = places.iter().map(|text| to_wire(&reach(text))).collect();
        wire::Reach { at, asks: false }
    }

    #[test]
    fn only_places_in_common_layers_at_which_one_other_host_can_be_are_tried() {
        let (net, own) = (Label::new("net").unwrap(), [reach("net=10.0.0.1:3359")]);
        let all = said(&[
            "net=10.0.0.2:3359",
            "net=10.0.0.2:3359",
            "else=10.0.0.3:3359",
            "net=10.0.0.1:3359",
            "net=0.0.0.0:3359",
            "net=224.0.0.1:3359",
            "net=255.255.255.255:3359",
            "net=127.0.0.1:3359",
        ]);
        let tried = believable(&all, std::slice::from_ref(&net), &own);
        assert_eq!(tried, [reach("net=10.0.0.2:3359")]);
        let home = [reach("net=127.0.0.2:3359")];
        let tried = believable(&said(&["net=127.0.0.1:3359"]), &[net], &home);
        assert_eq!(tried, [reach("net=127.0.0.1:3359")]);
    }

    #[test]
    fn a_place_without_a_port_or_with_half_an_address_is_none() {
        let below = |ip: &[u8], port| wire::Below {
            layer: "net".to_owned(),
            ip: ip.to_vec(),
            port,
        };
        assert!(from_wire(&below(&[10, 0, 0, 1], 1)).is_some());
        for (ip, port) in [
            (&[10, 0, 0, 1][..], 0),
            (&[10, 0, 0, 1], 65_536),
            (&[10, 0, 0], 1),
            (&[], 1),
        ] {
            assert_eq!(from_wire(&below(ip, port)), None, "{ip:?} {port}");
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(ip: [u8; 16], four: bool, port in 1_u16..) {
            let v6 = Ipv6Addr::from(ip);
            let ip = match four {
                true => IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])),
                false => IpAddr::V6(v6),
            };
            let place = Reach { over: Label::new("net").unwrap(), at: SocketAddr::new(ip.to_canonical(), port) };
            prop_assert_eq!(from_wire(&to_wire(&place)), Some(place));
        }
    }
}
