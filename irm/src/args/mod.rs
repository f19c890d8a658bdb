//! What can be typed. Values are parsed here, once; the commands get types.

mod bind;
mod flow;
mod ipcp;
mod layer;
mod name;
mod policy;
mod ports;
mod vpn;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) use bind::{BindVerb, UnbindVerb};
pub(crate) use flow::{Cat, Echo, FlowOptions, FlowVerb, Perf, Ping, Way};
pub(crate) use ipcp::{Adjacency, Bootstrap, Enroll, IpcpVerb, Kind, Set};
pub(crate) use layer::{Invite, LayerVerb, Rollover, Sealed};
pub(crate) use name::{NameVerb, Register};
pub(crate) use policy::PolicyVerb;
pub(crate) use ports::{Ask, Bounds, Expose, Forward, Port, Proxy, Target};
pub(crate) use vpn::{Up, VpnVerb, Which};

use crate::duration::duration;

/// Tells irmd, the daemon that gives programs flows to names, what to do, and shows how it is.
#[derive(Debug, Parser)]
#[command(name = "irm", version, infer_subcommands = true, after_help = HELP)]
pub(crate) struct Cli {
    /// The run directory of irmd [default: $IRM_RUN_DIR, $XDG_RUNTIME_DIR/irm if an irmd lives there, /run/irm]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Answer (and fail) in JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) noun: Option<Noun>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Show the daemon, layers, flows, certificates and warnings; `irm` alone is the same
    #[command(after_help = "Example:\n  irm status --json")]
    Status,
    /// IPC processes: the members of layers on this host
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm ipcp create w1 --type shim-udp"
    )]
    Ipcp(IpcpVerb),
    /// Layers: invitations, members, routes
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm layer members ovl"
    )]
    Layer(LayerVerb),
    /// Names that flows are allocated to
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm name register hello --layer ovl"
    )]
    Name(NameVerb),
    /// Let a program or a process accept the flows to a name
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm bind program /usr/bin/httpd --name web"
    )]
    Bind(BindVerb),
    /// Undo `bind`
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm unbind program /usr/bin/httpd --name web"
    )]
    Unbind(UnbindVerb),
    /// Who may do what with which names of a layer
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm policy check --from ovl-a --to svc/web"
    )]
    Policy(PolicyVerb),
    /// Flows of this host
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm flow list"
    )]
    Flow(FlowVerb),
    /// Serve a name and send every SDU back, until stopped
    #[command(after_help = "Example:\n  irm echo hello --layer ovl")]
    Echo(Echo),
    /// Measure the round trip to a name that `irm echo` serves
    #[command(
        after_help = "Examples:\n  irm ping hello -c 5\n  irm ping hello --qos raw -i 200ms -s 1000 --peer ovl-c"
    )]
    Ping(Ping),
    /// Measure the throughput to a name that `irm perf --server` serves
    #[command(
        after_help = "Examples:\n  irm perf meter --layer ovl --server\n  irm perf meter -t 5 --qos raw\n  irm perf meter -t 5 --flows 4 --reverse -s 1200"
    )]
    Perf(Perf),
    /// Carry stdin to a name, and what comes back to stdout, over a flow that loses nothing
    ///
    /// Ends when both sides have ended: each does so with its stdin.
    #[command(
        after_help = "Examples:\n  irm cat backup --listen --layer ovl\n  irm cat backup --peer ovl-c"
    )]
    Cat(Cat),
    /// Carry a TCP or UDP port of this host to a name, for programs that know no flows
    ///
    /// `irm expose` is the other end. Needs no root. What one side ends, the other side sees end: half-closed, closed or reset.
    #[command(
        after_help = "Examples:\n  irm forward --tcp 8080 web\n  irm forward --tcp 127.0.0.1:8080 web --peer ovl-c\n  irm forward --udp 5353 dns --idle 30s"
    )]
    Forward(Forward),
    /// Serve a name by a TCP or UDP port that this host reaches
    ///
    /// `irm forward` and `irm proxy` are the other end. Flows reach this one port and nothing else.
    #[command(
        after_help = "Examples:\n  irm expose web --layer ovl --tcp 80\n  irm expose ovl-c:22 --layer ovl --tcp localhost:22 --peer ovl-a\n  irm expose dns --layer ovl --udp 10.0.0.53:53"
    )]
    Expose(Expose),
    /// Give programs that know SOCKS 5 flows to names
    ///
    /// A program asks for HOST:PORT, and gets a flow to the name HOST:PORT or, if nobody serves that, to the name HOST. HOST is the
    /// name as it is, or NAME.LAYER.internal to say the layer too. Addresses are refused: let the proxy resolve (socks5h).
    #[command(
        after_help = "Examples:\n  irm proxy --socks5 1080\n  irm proxy --socks5 0.0.0.0:1080 --users /etc/irm-users --layer ovl\n\nThen: curl --proxy socks5h://127.0.0.1:1080 http://web.ovl.internal/"
    )]
    Proxy(Proxy),
    /// The VPN: IP over flows
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm vpn up --layer ovl"
    )]
    Vpn(VpnVerb),
    /// Wait until something has a state; exit code 7 if that takes too long
    #[command(
        after_help = "Examples:\n  irm wait ipcp ovl-a\n  irm wait name hello --state registered --timeout 2s"
    )]
    Wait(Wait),
    /// Show what has happened lately, one JSON object a line
    #[command(after_help = "Examples:\n  irm events\n  irm events --follow")]
    Events(Events),
    /// The daemon itself
    #[command(
        subcommand,
        infer_subcommands = true,
        after_help = "Example:\n  irm daemon restart"
    )]
    Daemon(DaemonVerb),
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// What kind of thing: ipcp, name, flow or vpn
    #[arg(value_enum)]
    pub(crate) kind: Thing,
    /// Which: the name of an IPCP or a name, the number of a flow, the layer or device of a VPN
    #[arg(value_name = "X")]
    pub(crate) what: proto::Name,
    /// The state to wait for [default: up, registered or allocated]
    ///
    /// ipcp: waiting, enrolling, up, down; name: registered, unregistered; flow: pending, allocated, down; vpn: up, down.
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Thing {
    Ipcp,
    Name,
    Flow,
    Vpn,
}

impl Thing {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ipcp => "ipcp",
            Self::Name => "name",
            Self::Flow => "flow",
            Self::Vpn => "vpn",
        }
    }

    /// Its states; the first is the one that is waited for unless another is said.
    pub(crate) fn states(self) -> &'static [&'static str] {
        match self {
            Self::Ipcp => &["up", "waiting", "enrolling", "down"],
            Self::Name => &["registered", "unregistered"],
            Self::Flow => &["allocated", "pending", "down"],
            Self::Vpn => &["up", "down"],
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Instead, what happens from now on, until stopped
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonVerb {
    /// End irmd and start it again; flows and IPCPs stay
    #[command(after_help = "Example:\n  irm daemon restart")]
    Restart,
}

/// An address prefix; the word itself is in clap's own message.
fn prefix(text: &str) -> Result<ipnet::IpNet, String> {
    text.parse().map_err(|_| {
        "use ADDR/LENGTH, as 10.9.0.1/32 or fd00::1/64: at most /32 for IPv4, /128 for IPv6"
            .to_owned()
    })
}

/// The number of a process.
fn pid(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|pid| *pid > 0);
    number.ok_or_else(|| "use the number of a process, 1 or more, as `ps` shows it".to_owned())
}

const HELP: &str = "\
Names are 1 to 255 bytes of UTF-8; layers and members are a-z, 0-9 and '-', at most 63. Times are 500ms, 10s, 10m, 2h, 7d.
Nouns and verbs may be shortened; ipcp, name and bind also take keywords: irm ipcp create type unicast name ovl-a

Exit code: 0 done, 1 failed, 2 usage, 3 irmd unreachable, 4 not found, 5 denied, 6 exists or conflict, 7 timed out

Examples:
  irm ipcp bootstrap w1 --type shim-udp --layer net --ip 10.0.0.1
  irm ipcp bootstrap ovl-a --type unicast --layer ovl
  irm echo hello --layer ovl
  irm ping hello -c 3";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory};

    /// Every command but `irm` itself, with the words that lead to it.
    fn verbs(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
        if path != "irm" {
            found.push((path.to_owned(), command.clone()));
        }
        for sub in command.get_subcommands() {
            verbs(sub, &format!("{path} {}", sub.get_name()), found);
        }
    }

    fn all() -> Vec<(String, Command)> {
        let mut found = Vec::new();
        verbs(&Cli::command(), "irm", &mut found);
        found
    }

    #[test]
    fn the_description_of_the_commands_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_help_with_an_example_of_itself() {
        assert!(all().len() > 20, "the walk found too few verbs");
        for (path, command) in all() {
            let after = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                command.get_about().is_some(),
                "{path} doesn't say what it does"
            );
            assert!(
                after.starts_with("Example") && after.contains(&path),
                "{path} has no example: {after:?}"
            );
        }
    }

    #[test]
    fn every_example_can_be_typed() {
        let root = Cli::command()
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let texts = all()
            .into_iter()
            .filter_map(|(_, c)| c.get_after_help().map(ToString::to_string));
        for text in texts.chain([root]) {
            // A pipeline holds several commands, the second behind an ssh.
            let lines = text
                .lines()
                .filter(|l| l.starts_with("  irm "))
                .flat_map(|l| l.split(" | "));
            for line in lines.filter_map(|l| l.find("irm ").map(|at| &l[at..])) {
                let argv = line.split(' ').map(Into::into).collect();
                let argv = crate::keywords::translate(argv, &Cli::command()).unwrap();
                assert!(Cli::try_parse_from(argv).is_ok(), "{line}");
            }
        }
    }

    /// The `irm` commands in a page: of indented lines, and between backticks where there is no ellipsis.
    fn commands(page: &str) -> Vec<String> {
        let of_line = |line: &str| line.strip_prefix("    irm ").map(|l| format!("irm {l}"));
        let mut found: Vec<String> = page.lines().filter_map(of_line).collect();
        found.extend(
            page.split('`')
                .skip(1)
                .step_by(2)
                .filter(|c| c.starts_with("irm "))
                .map(str::to_owned),
        );
        let bare = |c: &String| {
            c.split(" #")
                .next()
                .unwrap_or_default()
                .split(" | ")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let concrete = |c: &String| {
            !c.contains('…')
                && !c
                    .split(' ')
                    .any(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_uppercase()))
        };
        found.iter().map(bare).filter(concrete).collect()
    }

    #[test]
    fn what_the_pages_say_can_be_typed() {
        let pages = [
            include_str!("../../../README.md"),
            include_str!("../../../docs/operations.md"),
        ];
        let typed: Vec<String> = pages.iter().flat_map(|p| commands(p)).collect();
        assert!(
            typed.len() > 20,
            "the pages hold hardly a command: {typed:?}"
        );
        for line in typed {
            let argv = line
                .split_whitespace()
                .map(|w| w.trim_matches('\'').into())
                .collect();
            let argv = crate::keywords::translate(argv, &Cli::command()).unwrap();
            if let Err(error) = Cli::try_parse_from(argv) {
                // A sentence may name a command without its arguments.
                let named = error.kind() == clap::error::ErrorKind::MissingRequiredArgument;
                assert!(named || !error.use_stderr(), "{line}: {error}");
            }
        }
    }

    #[test]
    fn what_comes_later_is_not_promised() {
        let mut help = Cli::command().render_long_help().to_string();
        for (_, mut command) in all() {
            help.push_str(&command.render_long_help().to_string());
        }
        let later = "broadcast";
        assert!(!help.contains(later), "{later} is promised");
    }
}
