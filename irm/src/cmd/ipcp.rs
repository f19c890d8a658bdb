//! `irm ipcp`.

use std::io::Read;
use std::path::{Path, PathBuf};

use proto::irm as pb;
use proto::{Code, Reason};
use serde_json::json;

use super::layer::passphrase;
use super::{Context, texts};
use crate::args::{Adjacency, Bootstrap, Enroll, IpcpVerb, Kind, Set};
use crate::client::{GRACE, QUICK, answer};
use crate::duration::millis;
use crate::out::{json, table};
use crate::progress::progress;

pub(crate) async fn run(c: &Context, verb: IpcpVerb) -> Result<(), Reason> {
    match verb {
        IpcpVerb::Create { name, kind } => {
            let request = pb::CreateIpcpRequest {
                name: name.to_string(),
                r#type: kind.word().to_owned(),
            };
            told(
                c,
                answer(QUICK, c.admin().await?.rpc.create_ipcp(request)).await?,
            )
        }
        IpcpVerb::Bootstrap(args) => bootstrap(c, *args).await,
        IpcpVerb::Enroll(args) => enroll(c, *args).await,
        IpcpVerb::Connect(args) => adjacency(c, args, false).await,
        IpcpVerb::Disconnect(args) => adjacency(c, args, true).await,
        IpcpVerb::Set(args) => set(c, args).await,
        IpcpVerb::List => list(c).await,
        IpcpVerb::Destroy { name, force } => {
            answer(
                QUICK,
                c.admin().await?.rpc.destroy_ipcp(pb::IpcpRef {
                    name: name.to_string(),
                    force,
                }),
            )
            .await?;
            c.out.done()
        }
    }
}

async fn bootstrap(c: &Context, args: Bootstrap) -> Result<(), Reason> {
    let request = bootstrap_request(args)?;
    let mut admin = c.admin().await?;
    let call = answer(QUICK, admin.rpc.bootstrap_ipcp(request));
    told(c, progress("making the layer", call).await?)
}

async fn enroll(c: &Context, args: Enroll) -> Result<(), Reason> {
    let limit = args.timeout + GRACE;
    let request = enroll_request(args)?;
    let mut admin = c.admin().await?;
    let call = answer(limit, admin.rpc.enroll_ipcp(request));
    told(c, progress("enrolling", call).await?)
}

async fn adjacency(c: &Context, args: Adjacency, disconnect: bool) -> Result<(), Reason> {
    let request = pb::ConnectIpcpRequest {
        name: args.name.to_string(),
        member: args.dst.to_string(),
        disconnect,
        timeout_ms: millis(args.timeout),
    };
    let mut admin = c.admin().await?;
    progress(
        "connecting",
        answer(args.timeout + GRACE, admin.rpc.connect_ipcp(request)),
    )
    .await?;
    c.out.done()
}

async fn set(c: &Context, args: Set) -> Result<(), Reason> {
    let config = pb::Set {
        hosts: texts(&args.hosts),
        offload: texts(&args.offload),
        over: texts(&args.over),
        rate_mbit: args.rate.unwrap_or(0),
        ip: args.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        congestion: args.congestion.map(|c| c.to_string()),
        reach: None,
        below: None,
    };
    let request = pb::SetIpcpRequest {
        name: args.name.to_string(),
        config: Some(config),
    };
    told(
        c,
        answer(QUICK, c.admin().await?.rpc.set_ipcp(request)).await?,
    )
}

async fn list(c: &Context) -> Result<(), Reason> {
    let list = answer(QUICK, c.admin().await?.rpc.list_ipcps(pb::Empty {}))
        .await?
        .ipcps;
    let shown = json!({"ipcps": list.iter().map(json::ipcp).collect::<Vec<_>>()});
    c.out.answer(shown, || table::ipcps(&list))
}

/// Shows the IPCP that a command made or changed.
fn told(c: &Context, reply: pb::IpcpReply) -> Result<(), Reason> {
    let ipcp = reply.ipcp.unwrap_or_default();
    c.out.answer(json::ipcp(&ipcp), || sentence(&ipcp))
}

/// As `w1: shim-udp in layer net, up, pid 12`.
fn sentence(i: &pb::IpcpInfo) -> String {
    let layer = if i.layer.is_empty() {
        "in no layer".to_owned()
    } else {
        format!("in layer {}", i.layer)
    };
    let mut text = format!("{}: {} {layer}, {}", i.name, i.r#type, i.state);
    if !i.detail.is_empty() {
        text.push_str(&format!(" ({})", i.detail));
    }
    if i.pid != 0 {
        text.push_str(&format!(", pid {}", i.pid));
    }
    if i.address != 0 {
        text.push_str(&format!(", address {}", table::address(i.address)));
    }
    text
}

fn bootstrap_request(args: Bootstrap) -> Result<pb::BootstrapIpcpRequest, Reason> {
    let shim = args.shim;
    let shim_only = shim.ip.is_some();
    let unicast_only = !args.prefixes.is_empty()
        || !args.pools.is_empty()
        || !args.over.is_empty()
        || args.cert_life.is_some()
        || args.passphrase_file.is_some();
    match args.kind {
        Some(Kind::ShimUdp) if !shim_only => {
            return Err(usage(
                "a shim-udp needs --ip ADDR, the address of this host that it binds, or --ip dev:INTERFACE",
            ));
        }
        Some(Kind::ShimUdp) if unicast_only => {
            return Err(usage(
                "--prefix, --pool, --cert-life, --passphrase-file and --over are for unicast, not for shim-udp",
            ));
        }
        Some(Kind::Unicast) if shim_only => {
            return Err(usage(
                "--ip is for shim-udp; a unicast IPCP stands on layers (--over)",
            ));
        }
        Some(Kind::ShimUdp | Kind::Unicast) | None => {}
    }
    if shim_only && unicast_only {
        return Err(usage(
            "--ip is for shim-udp, --prefix, --pool, --cert-life, --passphrase-file and --over are for unicast; give one or the other",
        ));
    }
    let passphrase = args
        .passphrase_file
        .as_deref()
        .map(passphrase)
        .transpose()?;
    let shim_udp = shim.ip.map(|ip| pb::ShimUdpConfig {
        ip: ip.to_string(),
        port: shim.port.map_or(0, u32::from),
        hosts: texts(&shim.hosts),
        dns: shim.dns.map(|d| d.to_string()).unwrap_or_default(),
        flow_ports: shim
            .flow_ports
            .map(|(lo, hi)| format!("{lo}-{hi}"))
            .unwrap_or_default(),
        offload: texts(&shim.offload),
    });
    let config = pb::Bootstrap {
        layer: args.layer.to_string(),
        over: texts(&args.over),
        prefixes: texts(&args.prefixes),
        default_pools: !shim_only && args.prefixes.is_empty() && args.pools.is_empty(),
        pools: texts(&args.pools),
        cert_life_s: args.cert_life.map_or(0, |life| life.as_secs()),
        passphrase,
        shim_udp,
    };
    Ok(pb::BootstrapIpcpRequest {
        name: args.name.to_string(),
        r#type: word(args.kind),
        config: Some(config),
    })
}

fn enroll_request(args: Enroll) -> Result<pb::EnrollIpcpRequest, Reason> {
    if args.kind == Some(Kind::ShimUdp) {
        return Err(usage(
            "a shim-udp has no members to join; use irm ipcp bootstrap",
        ));
    }
    let file = |path: Option<PathBuf>| {
        path.map(|p| read(&p))
            .transpose()
            .map(Option::unwrap_or_default)
    };
    let config = pb::Enroll {
        invitation: args.invite.map(invitation).transpose()?.unwrap_or_default(),
        layer: args.layer.map(|l| l.to_string()).unwrap_or_default(),
        dst: args.dst.map(|m| m.to_string()).unwrap_or_default(),
        over: texts(&args.over),
        ca: file(args.ca)?,
        cert: file(args.cert)?,
        key: file(args.key)?,
        timeout_ms: millis(args.timeout),
    };
    Ok(pb::EnrollIpcpRequest {
        name: args.name.to_string(),
        r#type: word(args.kind),
        config: Some(config),
    })
}

/// The invitation itself; `-` stands for the first line of standard input, so that it is in no process list.
fn invitation(said: String) -> Result<String, Reason> {
    let line = match said.as_str() {
        "-" => first_line(std::io::stdin().lock())?,
        _ => said,
    };
    if line.is_empty() {
        return Err(usage(
            "the invitation is empty; give the line that irm layer invite printed",
        ));
    }
    Ok(line)
}

fn first_line(input: impl Read) -> Result<String, Reason> {
    let mut text = String::new();
    input
        .take(LARGEST_INPUT)
        .read_to_string(&mut text)
        .map_err(|e| {
            Reason::new(
                Code::Usage,
                format!("can't read the invitation from standard input: {e}"),
            )
        })?;
    Ok(text
        .lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or_default()
        .to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, Reason> {
    let told = |e: std::io::Error| {
        let code = if e.kind() == std::io::ErrorKind::NotFound {
            Code::NotFound
        } else {
            Code::Failed
        };
        Reason::new(code, format!("can't read {}: {e}", path.display()))
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(LARGEST_INPUT + 1).read_to_end(&mut bytes))
        .map_err(told)?;
    match bytes.len() as u64 {
        1..=LARGEST_INPUT => Ok(bytes),
        _ => Err(usage(&format!(
            "{} is no certificate or key: it must have 1 to {LARGEST_INPUT} bytes",
            path.display()
        ))),
    }
}

fn word(kind: Option<Kind>) -> String {
    kind.map(Kind::word).unwrap_or_default().to_owned()
}

fn usage(text: &str) -> Reason {
    Reason::new(Code::Usage, text)
}

/// Of a certificate chain, a key or an invitation: 256 KiB.
const LARGEST_INPUT: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Noun};
    use clap::Parser;

    fn verb(line: &str) -> IpcpVerb {
        match Cli::try_parse_from(line.split(' ')).unwrap().noun {
            Some(Noun::Ipcp(verb)) => verb,
            other => panic!("{other:?}"),
        }
    }

    fn bootstrapped(line: &str) -> Result<pb::BootstrapIpcpRequest, Reason> {
        let IpcpVerb::Bootstrap(args) = verb(line) else {
            panic!("{line}")
        };
        bootstrap_request(*args)
    }

    #[test]
    fn a_shim_is_bootstrapped_with_its_address_and_hosts() {
        let line = "irm ipcp bootstrap w1 --type shim-udp --layer net --ip 10.0.0.1 --host ovl-b=10.0.0.2 --flow-ports 2000-3000 --offload gso=off";
        let request = bootstrapped(line).unwrap();
        let config = request.config.unwrap();
        assert_eq!(
            (request.r#type.as_str(), config.layer.as_str()),
            ("shim-udp", "net")
        );
        let shim = config.shim_udp.unwrap();
        assert_eq!(
            (shim.ip.as_str(), shim.port, shim.flow_ports.as_str()),
            ("10.0.0.1", 0, "2000-3000")
        );
        assert_eq!(
            (shim.hosts, shim.offload),
            (
                vec!["ovl-b=10.0.0.2:3359".to_owned()],
                vec!["gso=off".to_owned()]
            )
        );
    }

    #[test]
    fn options_of_the_other_type_are_refused_with_advice() {
        for (line, told) in [
            (
                "irm ipcp bootstrap w1 --type shim-udp --layer net",
                "needs --ip",
            ),
            (
                "irm ipcp bootstrap w1 --type unicast --layer net --ip ::1",
                "--ip is for shim-udp",
            ),
            (
                "irm ipcp bootstrap w1 --layer net --ip ::1 --over x",
                "one or the other",
            ),
        ] {
            let reason = bootstrapped(line).unwrap_err();
            assert_eq!(reason.code, Code::Usage);
            assert!(reason.text.contains(told), "{reason}");
        }
    }

    #[test]
    fn normal_is_unicast() {
        let request =
            bootstrapped("irm ipcp bootstrap a --type normal --layer ovl --prefix 10.9.0.1/32")
                .unwrap();
        assert_eq!(
            (request.r#type.as_str(), request.config.unwrap().prefixes),
            ("unicast", vec!["10.9.0.1/32".to_owned()])
        );
    }

    #[test]
    fn the_invitation_is_the_first_line_that_says_something() {
        assert_eq!(
            first_line(b"\n  strata://x \nrest".as_slice()).unwrap(),
            "strata://x"
        );
        assert_eq!(first_line(b"".as_slice()).unwrap(), "");
        assert_eq!(
            first_line([0xff_u8].as_slice()).unwrap_err().code,
            Code::Usage
        );
    }

    #[test]
    fn a_missing_key_file_is_not_found() {
        let line = "irm ipcp enroll b --layer ovl --dst a --ca /nonexistent/ca --cert /nonexistent/c --key /nonexistent/k";
        let IpcpVerb::Enroll(args) = verb(line) else {
            panic!("{line}")
        };
        assert_eq!(enroll_request(*args).unwrap_err().code, Code::NotFound);
    }
}
