//! `irm flow`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum FlowVerb {
    /// Show the flows of this host
    #[command(after_help = "Example:\n  irm flow list --json")]
    List,
}
