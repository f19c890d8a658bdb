//! `irm ipcp`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use proto::Label;
use proto::ipcp::{Congestion, Dns, Host, Offload, Place};

use crate::duration::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum IpcpVerb {
    /// Start an IPC process that is in no layer yet
    #[command(
        after_help = "Examples:\n  irm ipcp create w1 --type shim-udp\n  irm ipcp create type shim-udp name w1"
    )]
    Create {
        /// Its name; of a unicast IPCP also its member name
        name: Label,
        /// What it is
        #[arg(long = "type", value_enum, value_name = "TYPE")]
        kind: Kind,
    },
    /// Make a layer, or serve a shim layer, as its first member
    #[command(after_help = BOOTSTRAP)]
    Bootstrap(Box<Bootstrap>),
    /// Join a layer
    #[command(after_help = ENROLL)]
    Enroll(Box<Enroll>),
    /// Keep an adjacency to another member
    #[command(after_help = "Example:\n  irm ipcp connect ovl-a --dst ovl-b")]
    Connect(Adjacency),
    /// Give an adjacency up
    #[command(after_help = "Example:\n  irm ipcp disconnect ovl-a --dst ovl-b")]
    Disconnect(Adjacency),
    /// Change settings of a running IPCP
    #[command(
        after_help = "Examples:\n  irm ipcp set w1 --host ovl-c=10.0.0.3\n  irm ipcp set w1 --ip 10.0.0.7\n  irm ipcp set w1 --ip dev:eth0\n  irm ipcp set w1 --offload gso=off --offload gro=off\n  irm ipcp set ovl-a --offload seal=on"
    )]
    Set(Set),
    /// Show the IPCPs of this host
    #[command(after_help = "Example:\n  irm ipcp list --json")]
    List,
    /// End an IPCP and forget it
    #[command(after_help = "Example:\n  irm ipcp destroy w1")]
    Destroy {
        /// Which
        name: Label,
        /// Even if it holds a layer's authority
        #[arg(long)]
        force: bool,
    },
}

/// What an IPCP is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Flows over UDP, as IP hosts have it; not authenticated
    ShimUdp,
    /// A member of an encrypted layer over other layers ("normal" is the same)
    #[value(alias = "normal")]
    Unicast,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ShimUdp => "shim-udp",
            Self::Unicast => "unicast",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Bootstrap {
    /// Which IPCP; with --type it is created if there is none
    pub(crate) name: Label,
    /// What it is, to create it
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<Kind>,
    /// The layer
    #[arg(long, value_name = "LAYER")]
    pub(crate) layer: Label,
    #[command(flatten)]
    pub(crate) shim: ShimOptions,
    /// unicast: a prefix that this first member may send from
    #[arg(long = "prefix", value_name = "CIDR", value_parser = super::prefix)]
    pub(crate) prefixes: Vec<IpNet>,
    /// unicast: a network out of which each member that is let in without --prefix, this first one too, gets the next free address;
    /// several, of both families, may be given [default, without --prefix: a 10.X.Y.0/18 and an fdXX::/64 of the layer's own]
    #[arg(long = "pool", value_name = "CIDR", value_parser = super::prefix)]
    pub(crate) pools: Vec<IpNet>,
    /// unicast: how long the certificates of members live; they renew themselves [default: 90d]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) cert_life: Option<Duration>,
    /// unicast: keep the root key on disk under a passphrase only, the first line of this file, of at least 12 bytes; - is the
    /// standard input. After each start it has to be unlocked: irm layer unlock
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// unicast: a lower layer [default: every shim layer of this host]
    #[arg(long, value_name = "LAYER")]
    pub(crate) over: Vec<Label>,
}

#[derive(Debug, Args)]
pub(crate) struct ShimOptions {
    /// shim-udp: the address of this host that it binds; dev:INTERFACE: that which the interface has, followed when it changes
    /// (dev6: the IPv6 one); auto or auto6: of the interface that the default route goes by
    #[arg(long, value_name = "ADDR|dev:INTERFACE|auto")]
    pub(crate) ip: Option<Place>,
    /// shim-udp: the port that flow requests come to [default: 3359]
    #[arg(long, value_name = "PORT", requires = "ip", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// shim-udp: the host of a name
    #[arg(long = "host", value_name = "NAME=ADDR[:PORT]", requires = "ip")]
    pub(crate) hosts: Vec<Host>,
    /// shim-udp: look host names up at this server, or as the system does
    #[arg(long, value_name = "ADDR|system", requires = "ip")]
    pub(crate) dns: Option<Dns>,
    /// shim-udp: the UDP ports of flows, for firewalls
    #[arg(long, value_name = "LO-HI", requires = "ip", value_parser = ports)]
    pub(crate) flow_ports: Option<(u16, u16)>,
    /// shim-udp: gso or gro (trains of UDP packets in one call) = auto, on or off, also for layers over it
    #[arg(long, value_name = "KIND=MODE", requires = "ip")]
    pub(crate) offload: Vec<Offload>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("way").required(true).args(["invite", "dst"]))]
pub(crate) struct Enroll {
    /// Which IPCP: the member name that was invited; with --type it is created if there is none
    pub(crate) name: Label,
    /// What it is, to create it
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<Kind>,
    /// The line that `irm layer invite` printed; '-' reads it from standard input
    #[arg(long, value_name = "URL|-", conflicts_with_all = ["layer", "dst"])]
    pub(crate) invite: Option<String>,
    /// The layer, where a certificate of your own PKI lets you in
    #[arg(long, value_name = "LAYER", requires = "dst")]
    pub(crate) layer: Option<Label>,
    /// The member to join through
    #[arg(long, value_name = "MEMBER", requires = "layer")]
    pub(crate) dst: Option<Label>,
    /// Root certificates (PEM or DER)
    #[arg(long, value_name = "FILE", requires_all = ["dst", "cert", "key"])]
    pub(crate) ca: Option<PathBuf>,
    /// This member's certificate and its chain
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub(crate) key: Option<PathBuf>,
    /// A lower layer [default: every shim layer of this host]
    #[arg(long, value_name = "LAYER")]
    pub(crate) over: Vec<Label>,
    /// How long to try
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Adjacency {
    /// Which IPCP of this host
    pub(crate) name: Label,
    /// The other member
    #[arg(long, value_name = "MEMBER")]
    pub(crate) dst: Label,
    /// How long to try
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(["ip", "hosts", "offload", "over", "rate", "congestion"]))]
pub(crate) struct Set {
    /// Which IPCP
    pub(crate) name: Label,
    /// shim-udp: the address of this host that it binds from now on; flows go on where their address does
    #[arg(long, value_name = "ADDR|dev:INTERFACE|auto")]
    pub(crate) ip: Option<Place>,
    /// shim-udp: add or change the host of a name
    #[arg(long = "host", value_name = "NAME=ADDR[:PORT]")]
    pub(crate) hosts: Vec<Host>,
    /// gso or gro (trains of UDP packets in one call) = auto, on or off. shim-udp: for all its sockets, also those that layers over
    /// it have; unicast: for those of this layer. Off by either counts. unicast also: seal (on more cores)
    #[arg(long, value_name = "KIND=MODE")]
    pub(crate) offload: Vec<Offload>,
    /// unicast: the lower layers from now on
    #[arg(long, value_name = "LAYER")]
    pub(crate) over: Vec<Label>,
    /// unicast: what each link carries in Mbit/s, of which voice and video get their share; 1000 at first
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    /// unicast: the congestion control of flows from now on: cubic, as at first, or bbr
    #[arg(long, value_name = "KIND")]
    pub(crate) congestion: Option<Congestion>,
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let range = text
        .split_once('-')
        .and_then(|(lo, hi)| Some((lo.parse().ok()?, hi.parse().ok()?)));
    range
        .filter(|(lo, hi)| 1024 <= *lo && lo <= hi)
        .ok_or_else(|| "use LO-HI with 1024 <= LO <= HI".to_owned())
}

const BOOTSTRAP: &str = "\
Examples:
  irm ipcp bootstrap w1 --type shim-udp --layer net --ip 10.0.0.1 --host ovl-b=10.0.0.2
  irm ipcp bootstrap w1 --type shim-udp --layer net --ip dev:eth0
  irm ipcp bootstrap ovl-a --type unicast --layer ovl --prefix 10.9.0.1/32
  irm ipcp bootstrap type shim-udp name w1 layer net ip 10.0.0.1";

const ENROLL: &str = "\
Examples:
  irm layer invite ovl --member ovl-b | ssh host-b irm ipcp enroll ovl-b --type unicast --invite -
  irm ipcp enroll ovl-b --layer ovl --dst ovl-a --ca ca.pem --cert b.pem --key b.key";
