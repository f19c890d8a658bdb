//! The config file: everything that the commands can say. What it says is brought about and kept on trying; what it no longer
//! says is left alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::ipcp::{Bootstrap, Enroll, Offload, OffloadKind, Settings};
use proto::irm::{
    self as pb, BindRequest, Binding, RegisterNameRequest, VpnTraffic, VpnUpRequest, VpnWays,
};
use proto::{Code, Label, Name, Reason};
use serde::Deserialize;
use toml::Spanned;

use crate::daemon::Daemon;
use crate::spec::Kind;
use crate::{admin, vpns};

/// A config file that has been read and makes sense.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Config {
    items: Vec<Item>,
}

/// One thing that is to be.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Create(Label, Kind),
    Bootstrap(Label, Kind, Bootstrap),
    Enroll(Label, Enroll),
    /// With the three files of a certificate of the site, read when they are needed.
    EnrollFiles(Label, Enroll, [PathBuf; 3]),
    Set(Label, Box<Settings>),
    Connect(Label, Label),
    Name(Name, Vec<Label>),
    Bind(BindRequest),
    Vpn(VpnUpRequest),
}

/// What is wrong with a config file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    file: PathBuf,
    /// Line and column, from 1.
    at: Option<(usize, usize)>,
    what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => {
                write!(f, "{}:{line}:{column}: {}", self.file.display(), self.what)
            }
            None => write!(f, "{}: {}", self.file.display(), self.what),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    ipcp: Vec<Spanned<IpcpTable>>,
    #[serde(default)]
    name: Vec<Spanned<NameTable>>,
    #[serde(default)]
    bind: Vec<Spanned<BindTable>>,
    #[serde(default)]
    vpn: Vec<Spanned<VpnTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct IpcpTable {
    name: String,
    r#type: String,
    layer: Option<String>,
    #[serde(default)]
    over: Vec<String>,
    #[serde(default)]
    connect: Vec<String>,
    // A shim's own.
    ip: Option<String>,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    dns: String,
    #[serde(default)]
    flow_ports: String,
    #[serde(default)]
    offload: Vec<String>,
    // A unicast member's own.
    #[serde(default)]
    prefixes: Vec<String>,
    #[serde(default)]
    pools: Vec<String>,
    #[serde(default)]
    cert_life_s: u64,
    invite: Option<String>,
    dst: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameTable {
    name: String,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BindTable {
    name: String,
    #[serde(default)]
    program: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    auto: bool,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VpnTable {
    layer: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    dev: String,
    #[serde(default)]
    routes: Vec<String>,
    #[serde(default)]
    tap: bool,
    /// `auto`, `on` or `off`.
    #[serde(default)]
    offload_tun: String,
    #[serde(default)]
    offers: Vec<String>,
    #[serde(default, rename = "accept-routes")]
    accept_routes: bool,
    #[serde(default)]
    exit: String,
    #[serde(default, rename = "dns")]
    names: String,
    #[serde(default = "yes", rename = "mss-clamp")]
    mss_clamp: bool,
    /// Seconds; 0: never.
    idle: Option<u32>,
    #[serde(default = "yes")]
    dscp: bool,
}

fn yes() -> bool {
    true
}

impl Config {
    /// Reads a file.
    pub(crate) fn read(file: &Path) -> Result<Self, ConfigError> {
        let error = |at, what| ConfigError {
            file: file.to_owned(),
            at,
            what,
        };
        let bytes = std::fs::read(file).map_err(|e| {
            let what =
                format!("cannot read the config file: {e}; give --config FILE that can be read");
            error(None, what)
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|e| {
            let good = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
            let at = place(&good, good.len());
            error(Some(at), "not UTF-8; save the file as UTF-8".to_owned())
        })?;
        Self::parse(text).map_err(|(offset, what)| error(offset.map(|o| place(text, o)), what))
    }

    fn parse(text: &str) -> Result<Self, (Option<usize>, String)> {
        let file: File = toml::from_str(text)
            .map_err(|e| (e.span().map(|s| s.start), e.message().replace('\n', " ")))?;
        let mut items = Vec::new();
        // Shims first: they are what others lie over.
        let (shims, others): (Vec<_>, Vec<_>) = file
            .ipcp
            .into_iter()
            .partition(|t| t.get_ref().r#type == Kind::ShimUdp.word());
        for table in shims.into_iter().chain(others) {
            let at = table.span().start;
            ipcp_items(table.into_inner(), &mut items).map_err(|r| (Some(at), r.text))?;
        }
        for table in file.name {
            let at = table.span().start;
            items.push(name_item(table.into_inner()).map_err(|r| (Some(at), r.text))?);
        }
        for table in file.bind {
            let at = table.span().start;
            items.push(bind_item(table.into_inner()).map_err(|r| (Some(at), r.text))?);
        }
        for table in file.vpn {
            let at = table.span().start;
            let t = table.into_inner();
            Label::new(t.layer.clone()).map_err(|e| (Some(at), e.to_string()))?;
            let request = VpnUpRequest {
                layer: t.layer,
                address: t.address,
                dev: t.dev,
                routes: t.routes,
                tap: t.tap,
                offload_tun: t.offload_tun,
                timeout_ms: VPN_MS,
                ways: Some(VpnWays {
                    offers: t.offers,
                    accept: t.accept_routes,
                    exit: t.exit,
                    names: t.names,
                }),
                traffic: Some(VpnTraffic {
                    keep_mss: !t.mss_clamp,
                    idle_ms: t.idle.map(|seconds| u64::from(seconds) * 1000),
                    one_class: !t.dscp,
                }),
            };
            items.push(Item::Vpn(request));
        }
        Ok(Self { items })
    }
}

/// Whether a table says what only a shim has.
fn is_of_a_shim(t: &IpcpTable) -> bool {
    t.ip.is_some()
        || t.port != 0
        || !t.hosts.is_empty()
        || !t.dns.is_empty()
        || !t.flow_ports.is_empty()
}

fn ipcp_items(t: IpcpTable, items: &mut Vec<Item>) -> Result<(), Reason> {
    let usage = |text: &str| Reason::new(Code::Usage, text);
    let (name, kind) = (Label::new(t.name.clone())?, Kind::parse(&t.r#type)?);
    if kind == Kind::Unicast && is_of_a_shim(&t) {
        return Err(usage(
            "ip, port, hosts, dns and flow-ports are for a shim-udp",
        ));
    }
    let settings = settings(kind, &t.offload)?;
    let enroll = |invitation: String, layer: String, dst: String| {
        let message = pb::Enroll {
            invitation,
            layer,
            dst,
            over: t.over.clone(),
            timeout_ms: ENROLL_MS,
            ..pb::Enroll::default()
        };
        Enroll::try_from(message).map_err(Reason::from)
    };
    let item = match (t.layer, t.invite, t.dst) {
        (None, None, None) => Item::Create(name.clone(), kind),
        (layer, None, Some(dst)) => match (layer, t.ca, t.cert, t.key) {
            (Some(layer), Some(ca), Some(cert), Some(key)) => Item::EnrollFiles(
                name.clone(),
                enroll(String::new(), layer, dst)?,
                [ca, cert, key],
            ),
            _ => return Err(usage("dst needs layer, ca, cert and key")),
        },
        (None, Some(url), None) => {
            Item::Enroll(name.clone(), enroll(url, String::new(), String::new())?)
        }
        (_, Some(_), _) => {
            return Err(usage(
                "an invitation says layer and dst itself; leave them out",
            ));
        }
        (Some(layer), None, None) => {
            let shim_udp = t.ip.map(|ip| pb::ShimUdpConfig {
                ip,
                port: t.port.into(),
                hosts: t.hosts,
                dns: t.dns,
                flow_ports: t.flow_ports,
                offload: t.offload,
            });
            if kind == Kind::ShimUdp && shim_udp.is_none() {
                return Err(usage("a shim-udp needs ip"));
            }
            let message = pb::Bootstrap {
                layer,
                over: t.over,
                cert_life_s: t.cert_life_s,
                shim_udp,
                ..addresses(kind, t.prefixes, t.pools)
            };
            Item::Bootstrap(name.clone(), kind, message.try_into()?)
        }
    };
    items.push(item);
    if let Some(settings) = settings {
        items.push(Item::Set(name.clone(), Box::new(settings)));
    }
    for member in t.connect {
        items.push(Item::Connect(name.clone(), Label::new(member)?));
    }
    Ok(())
}

/// What is to be set once there is an IPC process, out of offload switches that its kind must have. A shim is made with its own.
fn settings(kind: Kind, offload: &[String]) -> Result<Option<Settings>, Reason> {
    let parsed: Result<Vec<Offload>, String> = offload.iter().map(|s| s.parse()).collect();
    let offload = parsed.map_err(|text| Reason::new(Code::Usage, text))?;
    if kind == Kind::ShimUdp && offload.iter().any(|s| s.kind == OffloadKind::Seal) {
        let text = "a shim-udp seals nothing; say offload seal at the unicast IPC process over it";
        return Err(Reason::new(Code::Usage, text));
    }
    let some = kind == Kind::Unicast && !offload.is_empty();
    Ok(some.then(|| Settings {
        offload,
        ..Settings::default()
    }))
}

/// What the first member has, and where others get theirs.
fn addresses(kind: Kind, prefixes: Vec<String>, pools: Vec<String>) -> pb::Bootstrap {
    let none = prefixes.is_empty() && pools.is_empty();
    pb::Bootstrap {
        prefixes,
        pools,
        default_pools: none && kind == Kind::Unicast,
        ..pb::Bootstrap::default()
    }
}

fn name_item(t: NameTable) -> Result<Item, Reason> {
    Ok(Item::Name(
        Name::new(t.name)?,
        t.layers
            .into_iter()
            .map(Label::new)
            .collect::<Result<_, _>>()?,
    ))
}

fn bind_item(t: BindTable) -> Result<Item, Reason> {
    if t.program.is_empty() == (t.pid == 0) {
        return Err(Reason::new(
            Code::Usage,
            "a bind needs either program or pid",
        ));
    }
    let name = Name::new(t.name)?.to_string();
    Ok(Item::Bind(BindRequest {
        name,
        binding: Some(Binding {
            program: t.program,
            pid: t.pid,
            auto: t.auto,
            args: t.args,
        }),
    }))
}

/// Line and column, from 1, of an offset in a text.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// Brings about what the file says, again and again until all of it is; what fails is a warning.
pub(crate) async fn apply(daemon: Arc<Daemon>, config: Config) {
    let mut left = config.items;
    let mut wait = Duration::from_secs(1);
    loop {
        let mut failed = Vec::new();
        let mut first = None;
        for item in left {
            if let Err(reason) = bring_about(&daemon, &item).await {
                first.get_or_insert(reason);
                failed.push(item);
            }
        }
        daemon.warn("config", first.map(|r| format!("the config file: {r}")));
        if failed.is_empty() {
            return daemon.events.emit(
                "config.applied",
                "all that the config file says is so",
                &[],
            );
        }
        left = failed;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}

async fn bring_about(daemon: &Arc<Daemon>, item: &Item) -> Result<(), Reason> {
    match item.clone() {
        Item::Create(name, kind) => admin::create(daemon, &name, Some(kind)).await.map(|_| ()),
        Item::Bootstrap(name, kind, b) => admin::bootstrap(daemon, &name, Some(kind), b)
            .await
            .map(|_| ()),
        Item::Enroll(name, e) => admin::enroll(daemon, &name, Some(Kind::Unicast), e)
            .await
            .map(|_| ()),
        Item::EnrollFiles(name, mut e, files) => {
            if let proto::ipcp::Entry::Certificate { ca, cert, key, .. } = &mut e.entry {
                for (to, file) in [ca, cert, key].into_iter().zip(&files) {
                    let read = std::fs::read(file);
                    *to = read.map_err(|e| {
                        Reason::new(
                            Code::NotFound,
                            format!("cannot read {}: {e}", file.display()),
                        )
                    })?;
                }
            }
            admin::enroll(daemon, &name, Some(Kind::Unicast), e)
                .await
                .map(|_| ())
        }
        Item::Set(name, settings) => {
            let ipcp = daemon.ipcp(&name)?;
            admin::set(daemon, &ipcp, *settings).await.map(|_| ())
        }
        Item::Connect(name, member) => {
            let ipcp = daemon.ipcp(&name)?;
            admin::connect(daemon, &ipcp, member, false, Duration::from_secs(10)).await
        }
        Item::Name(name, layers) if layers.is_empty() => {
            admin::create_name(daemon, name.to_string())
        }
        Item::Name(name, layers) => {
            let layers = layers.iter().map(Label::to_string).collect();
            admin::register(
                daemon,
                RegisterNameRequest {
                    name: name.to_string(),
                    layers,
                },
            )
            .await
        }
        Item::Bind(request) => admin::bind(daemon, request),
        Item::Vpn(request) => vpns::up(daemon, request).await.map(|_| ()),
    }
}

const ENROLL_MS: u64 = 30_000;
const VPN_MS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[ipcp]]
name = "ovl-a"
type = "unicast"
layer = "ovl"
prefixes = ["10.7.0.1/32"]  # né
connect = ["ovl-b"]
offload = ["seal=on", "gso=off"]

[[ipcp]]
name = "udp-a"
type = "shim-udp"
layer = "net"
ip = "dev:eth0"
flow-ports = "2000-3000"
hosts = ["ovl-b=127.0.0.2"]

[[name]]
name = "web"
layers = ["ovl"]

[[bind]]
name = "web"
program = "/bin/true"
auto = true
args = ["-x"]

[[vpn]]
layer = "ovl"
address = "10.7.0.1/32"
"#;

    #[test]
    fn a_file_says_everything_and_shims_come_first() {
        let items = Config::parse(GOOD).unwrap().items;
        assert!(
            matches!(&items[0], Item::Bootstrap(name, Kind::ShimUdp, _) if name.as_str() == "udp-a")
        );
        assert!(matches!(&items[2], Item::Set(_, settings) if settings.offload.len() == 2));
        assert!(matches!(&items[3], Item::Connect(..)) && matches!(&items[6], Item::Vpn(_)));
        assert_eq!(items.len(), 7);
    }

    #[test]
    fn errors_name_line_and_column() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        for (text, at, what) in [
            (
                "[[ipcp]]\nname = \"a\"\ntype = \"unicast\"\nnmae = 1\n",
                "4:1",
                "nmae",
            ),
            ("\n[[name]]\nname = \"\"\n", "2:1", "empty"),
            ("[[ipcp]]\nname = \"a\"\ntype = \"x\"\n", "1:1", "shim-udp"),
            ("[[name]]\nname = 5\n", "2:8", "string"),
            ("a = [", "1:", ""),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = Config::read(&file).unwrap_err().to_string();
            assert!(
                error.contains(&format!("c.toml:{at}")) && error.contains(what),
                "{error}"
            );
        }
    }

    #[test]
    fn a_good_file_cut_anywhere_says_less_or_is_an_error_in_one_line_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let all = Config::parse(GOOD).unwrap().items;
        let (mut good, mut bad) = (0, 0);
        for end in 0..GOOD.len() {
            std::fs::write(&file, &GOOD.as_bytes()[..end]).unwrap();
            match Config::read(&file) {
                // What is not there can't be missed; what is there is as it was meant, but for a value cut short.
                Ok(config) => {
                    good += 1;
                    assert!(config.items.len() <= all.len());
                }
                Err(error) => {
                    bad += 1;
                    let text = error.to_string();
                    let (line, column) = error.at.unwrap_or_else(|| panic!("{end}: {text}"));
                    let lines = GOOD[..GOOD.floor_char_boundary(end)].matches('\n').count() + 1;
                    assert!((1..=lines).contains(&line) && column > 0, "{end}: {text}");
                    assert_eq!(text.lines().count(), 1, "{end}: {text}");
                    assert!(!error.what.is_empty(), "{end}: {text}");
                }
            }
        }
        assert!(good > 10 && bad > 100, "{good} good, {bad} bad");
    }
}
