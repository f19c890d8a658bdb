//! The textual parameters of a shim: `NAME=ADDR[:PORT]`, `system|ADDR`, `LO-HI`, `gso=auto`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::id::{Label, Name};
use crate::ipcp::{
    Below, Congestion, Dns, Family, Host, Offload, OffloadKind, OffloadMode, Place, Reach, ShimUdp,
};

impl FromStr for Host {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("{text:?} is no host; use NAME=ADDR or NAME=ADDR:PORT ([ADDR]:PORT for IPv6)")
        };
        // A name may hold '=', an address can't.
        let (name, at) = text.rsplit_once('=').ok_or_else(bad)?;
        let name = Name::new(name).map_err(|e| e.to_string())?;
        Ok(Self {
            name,
            at: socket_addr(at, ShimUdp::PORT).ok_or_else(bad)?,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.at)
    }
}

impl FromStr for Reach {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no place in a layer; use LAYER=ADDR or LAYER=ADDR:PORT");
        let (over, at) = text.split_once('=').ok_or_else(bad)?;
        Ok(Self {
            over: Label::new(over).map_err(|e| e.to_string())?,
            at: socket_addr(at, ShimUdp::PORT).ok_or_else(bad)?,
        })
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.over, self.at)
    }
}

impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, device) = text.split_once(':').unwrap_or((text, ""));
        let place = match (kind, device) {
            ("auto", "") if text == "auto" => Some(Self::Auto(Family::V4)),
            ("auto6", "") if text == "auto6" => Some(Self::Auto(Family::V6)),
            ("dev", device) if is_device(device) => Some(Self::Of(Family::V4, device.to_owned())),
            ("dev6", device) if is_device(device) => Some(Self::Of(Family::V6, device.to_owned())),
            _ => {
                let ip = text.parse::<IpAddr>().ok();
                let specific = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast();
                ip.filter(specific).map(Self::At)
            }
        };
        place.ok_or_else(|| {
            format!(
                "{text:?} is no address of this host; use one specific address, dev:INTERFACE or auto (of IPv6: dev6:INTERFACE or auto6)"
            )
        })
    }
}

/// Whether an interface can have this name.
fn is_device(name: &str) -> bool {
    let sound = |c: char| c != '/' && !c.is_whitespace() && !c.is_control();
    (1..16).contains(&name.len()) && ![".", ".."].contains(&name) && name.chars().all(sound)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(ip) => ip.fmt(f),
            Self::Of(Family::V4, device) => write!(f, "dev:{device}"),
            Self::Of(Family::V6, device) => write!(f, "dev6:{device}"),
            Self::Auto(Family::V4) => f.write_str("auto"),
            Self::Auto(Family::V6) => f.write_str("auto6"),
        }
    }
}

impl FromStr for Dns {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "system" => Ok(Self::System),
            _ => socket_addr(text, 53)
                .map(Self::Server)
                .ok_or_else(|| format!("{text:?} is no DNS server; use an address or 'system'")),
        }
    }
}

impl fmt::Display for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Server(at) => at.fmt(f),
        }
    }
}

impl FromStr for Congestion {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cubic" => Ok(Self::Cubic),
            "bbr" => Ok(Self::Bbr),
            _ => Err(format!(
                "{text:?} is no congestion control; use cubic or bbr"
            )),
        }
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        })
    }
}

impl FromStr for Offload {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, mode) = text.split_once('=').unwrap_or((text, ""));
        let kind = match kind {
            "gso" => Some(OffloadKind::Gso),
            "gro" => Some(OffloadKind::Gro),
            "seal" => Some(OffloadKind::Seal),
            _ => None,
        };
        match (kind, mode.parse()) {
            (Some(kind), Ok(mode)) => Ok(Self { kind, mode }),
            _ => Err(format!(
                "{text:?} is no offload switch; use gso, gro or seal = auto, on or off"
            )),
        }
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OffloadKind::Gso => "gso",
            OffloadKind::Gro => "gro",
            OffloadKind::Seal => "seal",
        };
        write!(f, "{kind}={}", self.mode)
    }
}

impl FromStr for Below {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no switch of a layer; use LAYER=KIND=MODE");
        let (over, offload) = text.split_once('=').ok_or_else(bad)?;
        Ok(Self {
            over: Label::new(over).map_err(|e| e.to_string())?,
            offload: offload.parse()?,
        })
    }
}

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.over, self.offload)
    }
}

impl FromStr for OffloadMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!(
                "{text:?} is no mode of an offload; use auto, on or off"
            )),
        }
    }
}

impl fmt::Display for OffloadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// `LO-HI`, both at least 1024 and in order.
pub(super) fn port_range(text: &str) -> Result<(u16, u16), String> {
    let range = text
        .split_once('-')
        .and_then(|(lo, hi)| Some((lo.parse().ok()?, hi.parse().ok()?)));
    match range {
        Some((lo, hi)) if 1024 <= lo && lo <= hi => Ok((lo, hi)),
        _ => Err(format!(
            "{text:?} is no port range; use LO-HI with 1024 <= LO <= HI"
        )),
    }
}

fn socket_addr(text: &str, port: u16) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| {
        text.parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::new(ip, port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_a_default_port_and_names_may_hold_an_equals_sign() {
        let host: Host = "a=b=10.0.0.1".parse().unwrap();
        assert_eq!(
            (host.name.as_str(), host.at),
            ("a=b", "10.0.0.1:3359".parse().unwrap())
        );
        assert_eq!(
            "x=[::1]:99".parse::<Host>().unwrap().at,
            "[::1]:99".parse().unwrap()
        );
        assert_eq!(
            "x=::1".parse::<Host>().unwrap().at,
            "[::1]:3359".parse().unwrap()
        );
        for bad in ["", "x", "x=", "=1.2.3.4", "x=1.2.3.4:99999"] {
            assert!(bad.parse::<Host>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_shim_is_at_an_address_or_at_that_of_an_interface() {
        let places = [
            ("10.0.0.1", Place::At([10, 0, 0, 1].into())),
            ("fd00::1", Place::At("fd00::1".parse().unwrap())),
            ("dev:eth0", Place::Of(Family::V4, "eth0".to_owned())),
            ("dev:eth0:1", Place::Of(Family::V4, "eth0:1".to_owned())),
            ("dev6:wg-0.5", Place::Of(Family::V6, "wg-0.5".to_owned())),
            ("auto", Place::Auto(Family::V4)),
            ("auto6", Place::Auto(Family::V6)),
        ];
        for (text, place) in places {
            assert_eq!(text.parse::<Place>().as_ref(), Ok(&place));
            assert_eq!(place.to_string(), text);
        }
        let long = "dev:interface-of-16b";
        let bad =
            "0.0.0.0 :: 224.0.0.1 ff02::1 eth0 dev: dev6: dev:a/b dev:.. auto: auto:eth0 auto4";
        for bad in bad.split(' ').chain(["", "dev:a b", long]) {
            let told = bad.parse::<Place>().unwrap_err();
            assert!(told.contains("specific address"), "{bad:?}: {told}");
        }
    }

    #[test]
    fn ranges_and_switches() {
        assert_eq!(port_range("2000-3000"), Ok((2000, 3000)));
        for bad in ["", "5-6", "3000-2000", "2000", "2000-70000"] {
            assert!(port_range(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!("gso=off".parse::<Offload>().unwrap().to_string(), "gso=off");
        assert!("gso".parse::<Offload>().is_err());
        let below: Below = "net-1=gro=off".parse().unwrap();
        assert_eq!(below.to_string(), "net-1=gro=off");
        for bad in ["", "net", "net=gro", "=gro=off", "Net=gro=off"] {
            assert!(bad.parse::<Below>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn of_two_switches_off_counts_most_and_auto_least() {
        use OffloadMode::{Auto, Off, On};
        for (one, other, both) in [
            (Auto, Auto, Auto),
            (Auto, On, On),
            (On, Off, Off),
            (Auto, Off, Off),
        ] {
            assert_eq!((one.and(other), other.and(one)), (both, both));
        }
    }
}
