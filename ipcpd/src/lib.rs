//! The unicast IPC process as a program. It must not hold logic of its own: nothing but arguments.

use clap::Parser;
use ipcp::{Config, FlowLower, Store};
use layer::Unicast;

/// The IPC process of a unicast layer. irmd starts it, and tells it the rest.
#[derive(Debug, Parser)]
#[command(
    name = "ipcpd",
    version,
    after_help = "Example: irm ipcp bootstrap ovl-a --type unicast --layer ovl --over net"
)]
struct Args {
    #[command(flatten)]
    ipcp: ipcp::Arguments,
}

/// Runs the IPC process that the command line says, to its end. `prepare` sees the machine before its first input.
pub fn run(prepare: impl FnOnce(&Config, &mut Unicast)) -> anyhow::Result<()> {
    let args = Args::parse();
    let config = args.ipcp.begin("unicast")?;
    let files = Store::open(&config.state_dir)?.files()?;
    let mut machine = Unicast::new(config.name.clone(), ipcp::seed()?, files);
    prepare(&config, &mut machine);
    let flows = FlowLower::new(&config);
    ipcp::block_on(ipcp::run(machine, flows, config))
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
