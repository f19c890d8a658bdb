//! `irm layer`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use proto::Label;

use crate::duration::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum LayerVerb {
    /// Print one line that lets a new member join
    #[command(
        after_help = "Example:\n  irm layer invite ovl --member ovl-b --prefix 10.9.0.2/32 --expires 1h"
    )]
    Invite(Invite),
    /// Believe a member no more: all others part with it at once; its name is free again
    #[command(after_help = "Example:\n  irm layer revoke ovl ovl-b")]
    Revoke {
        /// Of which layer; a member of this host must hold its authority
        layer: Label,
        /// Whom
        member: Label,
    },
    /// Let a member issue certificates too, and invite
    #[command(after_help = "Example:\n  irm layer delegate ovl ovl-b --prefix 10.9.0.0/16")]
    Delegate {
        /// Of which layer; a member of this host must hold its root key
        layer: Label,
        /// Whom
        member: Label,
        /// A prefix out of which it may grant [default: any]
        #[arg(long = "prefix", value_name = "CIDR", value_parser = super::prefix)]
        prefixes: Vec<IpNet>,
    },
    /// Let a member issue no longer; what it has issued counts until it ends
    #[command(after_help = "Example:\n  irm layer undelegate ovl ovl-b")]
    Undelegate {
        /// Of which layer; a member of this host must hold its root key
        layer: Label,
        /// Whom
        member: Label,
    },
    /// Write the authority of a layer into a file, sealed under a passphrase
    #[command(after_help = "Example:\n  irm layer export ovl --file ovl.key --passphrase-file -")]
    Export(Sealed),
    /// Hold the authority of a layer that was exported elsewhere
    #[command(after_help = "Example:\n  irm layer import ovl --file ovl.key --passphrase-file -")]
    Import(Sealed),
    /// Show the members of a layer
    #[command(after_help = "Example:\n  irm layer members ovl")]
    Members {
        /// Which layer
        layer: Label,
    },
    /// Show the routes of this host's member
    #[command(after_help = "Example:\n  irm layer routes ovl")]
    Routes {
        /// Which layer
        layer: Label,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Sealed {
    /// Of which layer; this host must have a member
    pub(crate) layer: Label,
    /// The file; to export, it must not exist yet
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Its first line is the passphrase, of at least 12 bytes; - is the standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// To which layer; a member of this host must be its authority
    pub(crate) layer: Label,
    /// How long the line can be used
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(crate) expires: Duration,
    /// How often it can be used
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: u32,
    /// The member name that is granted [default: the joiner's choice]
    #[arg(long, value_name = "NAME")]
    pub(crate) member: Option<Label>,
    /// A prefix that is granted: what the member's VPN may send from
    #[arg(long = "prefix", value_name = "CIDR", value_parser = super::prefix)]
    pub(crate) prefixes: Vec<IpNet>,
    /// A group that stands in the member's certificate, for policies
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Label>,
}
