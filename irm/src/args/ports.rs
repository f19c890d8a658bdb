//! `irm forward`, `expose` and `proxy`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, value_parser};
use proto::{Label, Name, QosSpec};

use super::flow::Way;
use crate::duration::duration;

#[derive(Debug, Args)]
#[group(id = "local", args = ["tcp", "udp"], required = true, multiple = false)]
pub(crate) struct Forward {
    /// To whom
    pub(crate) name: Name,
    /// Listen there, and have a flow that loses nothing for each connection; a PORT alone is one of this host only
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = local)]
    pub(crate) tcp: Option<SocketAddr>,
    /// Take datagrams there, and have a flow for each address that they come from
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = local)]
    pub(crate) udp: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) ask: Ask,
    #[command(flatten)]
    pub(crate) bounds: Bounds,
}

#[derive(Debug, Args)]
#[group(id = "target", args = ["tcp", "udp"], required = true, multiple = false)]
pub(crate) struct Expose {
    /// The name to serve
    pub(crate) name: Name,
    /// Register it in this layer too; may be given several times
    #[arg(long = "layer", value_name = "LAYER")]
    pub(crate) layers: Vec<Label>,
    /// Where each flow becomes a TCP connection to; a PORT alone is one of this host
    #[arg(long, value_name = "[HOST:]PORT")]
    pub(crate) tcp: Option<Target>,
    /// Where the datagrams of each flow go to
    #[arg(long, value_name = "[HOST:]PORT")]
    pub(crate) udp: Option<Target>,
    /// Refuse flows of any other QoS [default: for TCP any that is reliable and ordered, for UDP any]
    #[arg(long, value_name = "QOS")]
    pub(crate) qos: Option<QosSpec>,
    /// Refuse any other member than this; may be given several times
    #[arg(long = "peer", value_name = "MEMBER")]
    pub(crate) peers: Vec<Label>,
    /// How long the connection may take to stand
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) bounds: Bounds,
}

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// Listen there for clients that speak SOCKS 5; a PORT alone is one of this host only
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = local)]
    pub(crate) socks5: SocketAddr,
    /// Who may use it, a line NAME:PASSWORD each, in a file that is not for everybody; needed to listen beyond this host
    #[arg(long, value_name = "FILE")]
    pub(crate) users: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ask: Ask,
    #[command(flatten)]
    pub(crate) bounds: Bounds,
}

/// What is asked of a flow; the QoS that is usual depends on what it carries.
#[derive(Debug, Clone, Args)]
pub(crate) struct Ask {
    /// raw, best, data, video or voice, or KEY=VALUE,… with ordered, reliable, max-delay-ms, priority, timeout-ms [default: data for TCP, raw for UDP]
    #[arg(long, value_name = "QOS")]
    pub(crate) qos: Option<QosSpec>,
    #[command(flatten)]
    pub(crate) way: Way,
}

/// How many at once, and for how long.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Bounds {
    /// Flows at once; what comes beyond is refused
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = value_parser!(u32).range(1..=65_536))]
    pub(crate) most: u32,
    /// Close a flow of UDP over which nothing went for so long
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = idle)]
    pub(crate) idle: Duration,
}

/// What is carried, and where it is on this side.
#[derive(Debug, Clone)]
pub(crate) enum Port<A> {
    Tcp(A),
    Udp(A),
}

impl<A> Port<A> {
    /// The kind as a word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
        }
    }

    /// Where it is.
    pub(crate) fn at(&self) -> &A {
        match self {
            Self::Tcp(at) | Self::Udp(at) => at,
        }
    }

    fn of(tcp: Option<A>, udp: Option<A>) -> Option<Self> {
        tcp.map(Self::Tcp).or_else(|| udp.map(Self::Udp))
    }
}

impl Forward {
    /// Which port; clap sees to it that there is one.
    pub(crate) fn port(&self) -> Option<Port<SocketAddr>> {
        Port::of(self.tcp, self.udp)
    }
}

impl Expose {
    /// Which port; clap sees to it that there is one.
    pub(crate) fn port(&self) -> Option<Port<Target>> {
        Port::of(self.tcp.clone(), self.udp.clone())
    }
}

/// A host and a port of the network that IP programs know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            "use HOST:PORT, ADDR:PORT, [ADDR]:PORT or a PORT of this host, as localhost:8080"
                .to_owned()
        };
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?;
        // An IPv6 address without brackets would lose its end to the port.
        if host.is_empty() || (bare.is_none() && host.contains(':')) {
            return Err(bad());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where to listen; port 0: one that the system chooses.
fn local(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse()
        .map_err(|_| "use ADDR:PORT, [ADDR]:PORT, or a PORT for this host alone".to_owned())
}

/// A bound on silence: one of 0 would let nothing through.
fn idle(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_millis(10) {
        return Err("a flow must be allowed at least 10ms of silence".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_this_host() {
        assert_eq!(local("8080"), Ok("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(local("[::]:80"), Ok("[::]:80".parse().unwrap()));
        for bad in ["", "99999", "web:80", "10.0.0.1", "::1:80:"] {
            assert!(local(bad).is_err(), "{bad:?} was taken");
        }
        let target = "5432".parse::<Target>().unwrap();
        assert_eq!(target.to_string(), "localhost:5432");
    }

    #[test]
    fn a_target_is_printed_as_it_is_typed() {
        for good in ["web.example:80", "10.0.0.1:443", "[fd00::1]:22"] {
            assert_eq!(good.parse::<Target>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            ":80",
            "web:",
            "web:0",
            "fd00::1:22",
            "web:65536",
            "[]:1",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?} was taken");
        }
    }
}
