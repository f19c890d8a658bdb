//! `irm name`.

use clap::{Args, Subcommand};
use proto::{Label, Name};

#[derive(Debug, Subcommand)]
pub(crate) enum NameVerb {
    /// Make a name known on this host
    #[command(after_help = "Example:\n  irm name create hello")]
    Create {
        /// The name
        name: Name,
    },
    /// Offer a name in a layer, so that its members can reach it
    #[command(
        after_help = "Examples:\n  irm name register hello --layer ovl\n  irm name register hello layer ovl"
    )]
    Register(Register),
    /// No longer offer a name in a layer
    #[command(after_help = "Example:\n  irm name unregister hello --layer ovl")]
    Unregister(Register),
    /// Forget a name
    #[command(after_help = "Example:\n  irm name destroy hello")]
    Destroy {
        /// The name
        name: Name,
    },
    /// Show the names of this host
    #[command(after_help = "Example:\n  irm name list --json")]
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Register {
    /// The name
    pub(crate) name: Name,
    /// The layer; may be given several times
    #[arg(long = "layer", value_name = "LAYER", required = true)]
    pub(crate) layers: Vec<Label>,
}
