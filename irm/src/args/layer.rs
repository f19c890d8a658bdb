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
    Import {
        #[command(flatten)]
        sealed: Sealed,
        /// Keep it under that passphrase here too
        #[arg(long = "sealed")]
        keep_sealed: bool,
    },
    /// Give a layer another root: two are believed until that is finished, and all members renew in between
    #[command(
        after_help = "Example:\n  irm layer rollover ovl\n  irm layer show ovl\n  irm layer rollover ovl --finish"
    )]
    Rollover(Rollover),
    /// Keep the root key of a layer on disk under a passphrase only; it has to be unlocked after each start
    #[command(after_help = "Example:\n  irm layer seal ovl --passphrase-file -")]
    Seal {
        /// Of which layer; a member of this host must hold its root key
        layer: Label,
        /// Its first line is the passphrase, of at least 12 bytes; - is the standard input
        #[arg(long, value_name = "FILE", required_unless_present = "off")]
        passphrase_file: Option<PathBuf>,
        /// Keep it as a file of mode 0600 again
        #[arg(long, conflicts_with = "passphrase_file")]
        off: bool,
    },
    /// Take the root key of a layer into use that is kept under a passphrase, until this member's next start
    #[command(after_help = "Example:\n  irm layer unlock ovl --passphrase-file -")]
    Unlock {
        /// Of which layer; a member of this host must hold its root key
        layer: Label,
        /// Its first line is the passphrase; - is the standard input
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
    },
    /// Forget the root key of a layer that is kept under a passphrase until it is unlocked again
    #[command(after_help = "Example:\n  irm layer lock ovl")]
    Lock {
        /// Of which layer; a member of this host must hold its root key
        layer: Label,
    },
    /// Show whom the members of a layer believe: roots, issuers, and what is held here
    #[command(after_help = "Example:\n  irm layer show ovl")]
    Show {
        /// Which layer
        layer: Label,
    },
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
pub(crate) struct Rollover {
    /// Of which layer; a member of this host must hold its root key
    pub(crate) layer: Label,
    /// Believe the root before no longer
    #[arg(long)]
    pub(crate) finish: bool,
    /// Though members that have not renewed will be out
    #[arg(long, requires = "finish")]
    pub(crate) force: bool,
    /// Finish by itself after this time [default: when --finish is said]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "finish")]
    pub(crate) ends: Option<Duration>,
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
