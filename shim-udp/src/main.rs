//! The UDP shim as a program: `irmd` starts it. It must not hold logic of its own.

use anyhow::Context;
use clap::Parser;
use shim_udp::{Shim, UdpLower};

/// The IPC process of a layer over UDP. irmd starts it, and tells it the rest.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: irm ipcp bootstrap w1 --type shim-udp --layer net --ip 192.0.2.1"
)]
struct Args {
    #[command(flatten)]
    ipcp: ipcp::Arguments,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = args.ipcp.begin("shim-udp")?;
    let shim = Shim::new(ipcp::seed()?);
    let sockets = UdpLower::new().context("can't make the set of sockets")?;
    ipcp::block_on(ipcp::run(shim, sockets, config))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }
}
