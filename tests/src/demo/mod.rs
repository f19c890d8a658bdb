//! Three hosts A–B–C, where A and C reach only B: an encrypted layer joins all three, and IP runs over it from A to C.

mod kept;
mod show;

use std::ffi::OsString;
use std::time::Instant;

use anyhow::ensure;
use clap::Parser;
use serde_json::Value;

use show::Show;

use crate::lab::binaries;
use crate::line::{Line, PERF_SDU, VPN_V4, VPN_V6};

#[derive(Parser)]
#[command(
    name = "cargo demo",
    about = "Three hosts, an encrypted layer over UDP, a VPN on top; takes everything down again"
)]
struct Args {
    /// Leave it up and print what to type to look around
    #[arg(long)]
    keep: bool,
    /// Take down what --keep left up
    #[arg(long)]
    down: bool,
    /// Run a program on host a, b or c of what --keep left up
    #[arg(long, value_name = "HOST", requires = "command")]
    on: Option<String>,
    /// Cut a link (ab or bc) of what --keep left up
    #[arg(long, value_name = "LINK")]
    cut: Option<String>,
    /// Mend a link that was cut
    #[arg(long, value_name = "LINK")]
    mend: Option<String>,
    /// The program for --on, with its arguments
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// Runs the demo; an error means that something of it did not hold.
pub fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(host) = &args.on {
        return kept::run_on(host, &args.command);
    }
    if let Some(link) = &args.cut {
        return kept::set_link(link, "down");
    }
    if let Some(link) = &args.mend {
        return kept::set_link(link, "up");
    }
    if args.down {
        return kept::down(&Show::new());
    }
    demo(args.keep)
}

fn demo(keep: bool) -> anyhow::Result<()> {
    let show = Show::new();
    show.title("Strata: flows to names over layers that stack on layers");
    ensure!(
        !kept::exists(),
        "a demo is still up: look around in it, or take it down with `cargo demo -- --down`"
    );
    show.step("Building the programs", binaries)?;
    let start = Instant::now();
    let dir = keep.then(kept::fresh).transpose()?;
    let mut net = show.step("Making three hosts in a line, A–B–C", || Line::new(dir))?;
    let done = run(&show, &mut net, start);
    if keep && done.is_ok() {
        // Known before it stays: what ends this between the two leaves nothing that `--down` does not find.
        kept::save(&net)?;
        net.leave()?;
        show.text(&kept::hints(&net));
        return Ok(());
    }
    let down = show.step("Taking everything down again", || net.down());
    if let Err(error) = done {
        net.show_logs();
        return Err(error);
    }
    down?;
    show.text("\nAll of it held. What to type next:\n  cargo demo -- --keep      leave it up and look around\n  cargo test --workspace    every test\n");
    Ok(())
}

fn run(show: &Show, net: &mut Line, start: Instant) -> anyhow::Result<()> {
    show.text(PICTURE);
    show.step("Starting irmd on each", || net.start_daemons())?;
    show.step(
        "UDP shims between neighbours: layers net-ab and net-bc",
        || net.shims(),
    )?;
    show.step(
        "B founds the encrypted layer 'overlay'; A and C join by invitation",
        || net.overlay(),
    )?;
    show.step("VPN up on A and C", || net.vpn())?;
    let first = show.step("First ping A → C over the VPN, through B", || {
        net.first_ping()
    })?;
    show.text(&format!(
        "    {:.2} s from nothing to the first answer",
        start.elapsed().as_secs_f64()
    ));
    ensure!(first > 0.0, "the first ping took no time, which can't be");
    for (host, line) in [
        ("b", "layer members overlay"),
        ("a", "layer routes overlay"),
        ("a", "vpn status"),
        ("a", "status"),
    ] {
        show.text(&format!(
            "\n$ irm {line}        (on {})",
            host.to_uppercase()
        ));
        show.text(&net.host(host)?.irm(line)?);
    }
    let ping = show.step("A name on C, echoed to a program on A: irm ping", || {
        net.flow_ping()
    })?;
    show.text(&format!("    {}", summary(&ping)));
    for (family, to) in [("IPv4", VPN_V4[2]), ("IPv6", VPN_V6[2])] {
        let ping = show.step(&format!("ping {to} from A ({family} over the VPN)"), || {
            net.ping(to)
        })?;
        show.text(&format!("    {}", summary(&ping)));
        ensure!(
            ping["received"].as_u64() >= Some(18),
            "more than two of 20 pings over {family} were lost"
        );
    }
    let perf = show.step(
        &format!("irm perf A → C, {PERF_SDU} B raw, for 2 s"),
        || net.perf(),
    )?;
    show.text(&format!(
        "    {:.2} Gbit/s received",
        perf["gbit_per_s"].as_f64().unwrap_or(0.0)
    ));
    let http = show.step("A fetches 100 MB from C by HTTP over the VPN", || {
        net.http(100_000_000, "")
    })?;
    let rate =
        http["bytes"].as_f64().unwrap_or(0.0) * 8.0 / http["seconds"].as_f64().unwrap_or(1.0) / 1e9;
    show.text(&format!(
        "    {rate:.2} Gbit/s, SHA-256 as it should be: {}…",
        &http["sha256"].as_str().unwrap_or_default()[..16]
    ));
    Ok(())
}

fn summary(ping: &Value) -> String {
    let us = |key: &str| ping["rtt_us"][key].as_u64().unwrap_or(0);
    format!(
        "{} of {} came back; RTT p50 {} µs, max {} µs",
        ping["received"],
        ping["sent"],
        us("p50"),
        us("max")
    )
}

const PICTURE: &str = "
      A ────────────── B ────────────── C         hosts (network namespaces)
      │    net-ab      │    net-bc      │         UDP shims, unencrypted
      ├────────────────┴────────────────┤         overlay: TLS 1.3, AES-256-GCM, end to end
   10.9.0.1                          10.9.0.3     VPN: any IP program
";
