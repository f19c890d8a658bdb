//! `irm policy`.

use std::path::PathBuf;

use clap::Subcommand;
use ipnet::IpNet;
use proto::{Label, Name};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Let the rules in a file hold in a layer from now on, for what stands already too
    #[command(
        after_help = "Example:\n  irm policy set --layer ovl rules.txt\n\nA rule is a line; the first that fits decides, and what none fits is denied:\n  allow register,accept svc/* vpn/* by group servers member web-?\n  deny allocate svc/secret by any\n  allow allocate * by any"
    )]
    Set {
        /// Of which layer; a member of this host must hold its authority
        #[arg(long)]
        layer: Label,
        /// The rules; -: from stdin
        file: PathBuf,
    },
    /// Let no policy hold in a layer any longer: every member may do everything
    #[command(after_help = "Example:\n  irm policy unset --layer ovl")]
    Unset {
        /// Of which layer; a member of this host must hold its authority
        #[arg(long)]
        layer: Label,
    },
    /// Show the rules that hold in a layer
    #[command(after_help = "Example:\n  irm policy show --layer ovl")]
    Show {
        /// Of which layer [default: the only one of this host that has members]
        #[arg(long)]
        layer: Option<Label>,
    },
    /// Say whether a member may have a flow to a name, offer a network, or send packets to another, and which rule decides; exit code 5 if not
    #[command(
        after_help = "Examples:\n  irm policy check --from ovl-a --to svc/web --at ovl-c\n  irm policy check --from ovl-c --offer 10.1.0.0/16 --at ovl-a\n  irm policy check --from ovl-a --at ovl-c --send tcp/443"
    )]
    Check {
        /// The member that asks for the flow, offers the network, or sends
        #[arg(long, value_name = "MEMBER")]
        from: Label,
        /// The name
        #[arg(long, value_name = "NAME", required_unless_present_any = ["offer", "send"])]
        to: Option<Name>,
        /// A network, instead of a name
        #[arg(long, value_name = "CIDR", value_parser = super::prefix, conflicts_with = "to")]
        offer: Option<IpNet>,
        /// What packets over the VPN are for, instead of a name: tcp/443, udp/53-54, icmp, proto/47, or * for all
        #[arg(long, value_name = "WHAT", conflicts_with_all = ["to", "offer"], requires = "at")]
        send: Option<String>,
        /// The member that serves the name, takes the network, or gets the packets
        #[arg(long, value_name = "MEMBER")]
        at: Option<Label>,
        /// In which layer [default: the only one of this host that has members]
        #[arg(long)]
        layer: Option<Label>,
    },
}
