//! What an IPC process should be: what is kept on disk, so that a new process can take the place of a dead one.

use std::collections::BTreeMap;

use proto::ipcp::{Bootstrap, Command, Congestion, Enroll, Entry, Host, Offload, Settings};
use proto::{Code, Label, Reason};
use serde::{Deserialize, Serialize};

use crate::state::{StateError, Store};

/// What an IPC process should be.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Spec {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its layer, once known.
    pub(crate) layer: Option<Label>,
    /// How it gets into its layer.
    pub(crate) role: Role,
    /// The lower layers that were named; empty: every shim layer of the host.
    pub(crate) over: Vec<Label>,
    /// Hosts that were set since.
    pub(crate) hosts: Vec<Host>,
    /// Offload switches that were set since, by kind.
    pub(crate) offload: Vec<Offload>,
    /// What each link carries, in Mbit/s; 0: not said.
    pub(crate) rate_mbit: u32,
    /// The congestion control of flows; `None`: not said.
    pub(crate) congestion: Option<Congestion>,
    /// Adjacencies that an administrator wants.
    pub(crate) connect: Vec<Label>,
}

/// The kinds of IPC processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Over UDP.
    #[default]
    ShimUdp,
    /// Over flows of other layers.
    Unicast,
}

/// How it gets into its layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Role {
    /// Not told yet.
    #[default]
    None,
    /// As the first member.
    First(Box<Bootstrap>),
    /// With the certificate that it got when it enrolled.
    Member,
}

impl Kind {
    /// Reads the word of the command line.
    pub(crate) fn parse(word: &str) -> Result<Self, Reason> {
        match word {
            "shim-udp" => Ok(Self::ShimUdp),
            "unicast" | "normal" => Ok(Self::Unicast),
            "broadcast" | "local" => Err(Reason::new(
                Code::Usage,
                format!(
                    "type {word} does not exist yet; use shim-udp or unicast (programs of one host need no IPC process)"
                ),
            )),
            "" => Err(Reason::new(
                Code::Usage,
                "the field type is missing; use --type shim-udp or unicast",
            )),
            other => Err(Reason::new(
                Code::Usage,
                format!("{other:?} is no type of IPC process; use shim-udp or unicast"),
            )),
        }
    }

    /// The word of the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ShimUdp => "shim-udp",
            Self::Unicast => "unicast",
        }
    }

    /// The file name of its program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::ShimUdp => "shim-udp",
            Self::Unicast => "ipcpd",
        }
    }
}

impl Spec {
    /// The command that makes a new process what the spec says; `over` are the lower layers of now.
    pub(crate) fn command(&self, over: Vec<Label>) -> Option<Command> {
        match &self.role {
            Role::None => None,
            Role::First(b) => Some(Command::Bootstrap(Bootstrap {
                over,
                ..(**b).clone()
            })),
            Role::Member => Some(Command::Enroll(Enroll {
                entry: Entry::Rejoin,
                over,
                timeout_ms: 0,
            })),
        }
    }

    /// What was set since, to be sent after [`Spec::command`].
    pub(crate) fn settings(&self) -> Option<Settings> {
        let settings = Settings {
            hosts: self.hosts.clone(),
            offload: self.offload.clone(),
            over: Vec::new(),
            rate_mbit: self.rate_mbit,
            ip: None,
            congestion: self.congestion,
            reach: None,
            below: None,
        };
        (settings != Settings::default()).then_some(settings)
    }

    /// All switches of a shim, those that it was made with first: the last word counts.
    pub(crate) fn switches(&self) -> Vec<Offload> {
        let made = match &self.role {
            Role::First(first) => first.shim_udp.as_ref(),
            Role::None | Role::Member => None,
        };
        let made = made.map(|shim| &shim.offload[..]).unwrap_or_default();
        made.iter().chain(&self.offload).copied().collect()
    }

    /// Takes new settings in: the last word for a host or switch counts. An address is part of what it is bootstrapped with.
    pub(crate) fn merge(&mut self, settings: &Settings) {
        for host in &settings.hosts {
            self.hosts.retain(|h| h.name != host.name);
            self.hosts.push(host.clone());
        }
        for switch in &settings.offload {
            self.offload.retain(|o| o.kind != switch.kind);
            self.offload.push(*switch);
        }
        if !settings.over.is_empty() {
            self.over.clone_from(&settings.over);
        }
        if settings.rate_mbit > 0 {
            self.rate_mbit = settings.rate_mbit;
        }
        if let (Some(ip), Role::First(first)) = (&settings.ip, &mut self.role)
            && let Some(shim) = &mut first.shim_udp
        {
            shim.ip = ip.clone();
        }
        self.congestion = settings.congestion.or(self.congestion);
    }
}

/// The form in which specs are kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedSpecs {
    ipcps: BTreeMap<String, SavedSpec>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedSpec {
    r#type: Kind,
    layer: Option<String>,
    role: SavedRole,
    over: Vec<String>,
    hosts: Vec<String>,
    offload: Vec<String>,
    connect: Vec<String>,
    /// Missing before there were cubes.
    #[serde(default)]
    rate_mbit: u32,
    /// Missing before it could be chosen.
    #[serde(default)]
    congestion: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum SavedRole {
    None,
    First {
        prefixes: Vec<String>,
        /// Missing before there were any.
        #[serde(default)]
        pools: Vec<String>,
        #[serde(default)]
        default_pools: bool,
        #[serde(default)]
        cert_life_s: u64,
        shim_udp: Option<SavedShim>,
    },
    Member,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedShim {
    ip: String,
    port: u16,
    hosts: Vec<String>,
    dns: String,
    flow_ports: String,
    offload: Vec<String>,
}

/// What is on disk.
pub(crate) fn load(store: &Store) -> Result<Vec<(Label, Spec)>, StateError> {
    store.load("ipcps", SavedSpecs::parse)
}

impl SavedSpecs {
    /// What belongs on disk.
    pub(crate) fn of<'a>(specs: impl Iterator<Item = (&'a Label, Spec)>) -> Self {
        Self {
            ipcps: specs
                .map(|(name, spec)| (name.to_string(), SavedSpec::of(&spec)))
                .collect(),
        }
    }

    fn parse(self) -> Result<Vec<(Label, Spec)>, Reason> {
        self.ipcps
            .into_iter()
            .map(|(name, saved)| Ok((Label::new(name)?, saved.parse()?)))
            .collect()
    }
}

impl SavedSpec {
    fn of(spec: &Spec) -> Self {
        let role = match &spec.role {
            Role::None => SavedRole::None,
            Role::Member => SavedRole::Member,
            Role::First(b) => {
                let message = proto::irm::Bootstrap::from((**b).clone());
                let shim_udp =
                    message
                        .shim_udp
                        .zip(b.shim_udp.as_ref())
                        .map(|(s, shim)| SavedShim {
                            ip: s.ip,
                            port: shim.port,
                            hosts: s.hosts,
                            dns: s.dns,
                            flow_ports: s.flow_ports,
                            offload: s.offload,
                        });
                SavedRole::First {
                    prefixes: message.prefixes,
                    pools: message.pools,
                    default_pools: message.default_pools,
                    cert_life_s: message.cert_life_s,
                    shim_udp,
                }
            }
        };
        Self {
            r#type: spec.kind,
            layer: spec.layer.as_ref().map(Label::to_string),
            role,
            over: texts(&spec.over),
            hosts: texts(&spec.hosts),
            offload: texts(&spec.offload),
            connect: texts(&spec.connect),
            rate_mbit: spec.rate_mbit,
            congestion: spec.congestion.map(|c| c.to_string()),
        }
    }

    fn parse(self) -> Result<Spec, Reason> {
        let settings = Settings::try_from(proto::irm::Set {
            hosts: self.hosts,
            offload: self.offload,
            over: self.over,
            rate_mbit: self.rate_mbit,
            ip: String::new(),
            congestion: self.congestion,
            reach: None,
            below: None,
        })?;
        let role = match self.role {
            SavedRole::None => Role::None,
            SavedRole::Member => Role::Member,
            SavedRole::First {
                prefixes,
                pools,
                default_pools,
                cert_life_s,
                shim_udp,
            } => {
                let shim_udp = shim_udp.map(|s| proto::irm::ShimUdpConfig {
                    ip: s.ip,
                    port: s.port.into(),
                    hosts: s.hosts,
                    dns: s.dns,
                    flow_ports: s.flow_ports,
                    offload: s.offload,
                });
                let layer = self.layer.clone().unwrap_or_default();
                let message = proto::irm::Bootstrap {
                    layer,
                    over: Vec::new(),
                    prefixes,
                    pools,
                    default_pools,
                    cert_life_s,
                    passphrase: None,
                    shim_udp,
                };
                Role::First(Box::new(message.try_into()?))
            }
        };
        Ok(Spec {
            kind: self.r#type,
            layer: self.layer.map(Label::new).transpose()?,
            role,
            over: settings.over,
            hosts: settings.hosts,
            offload: settings.offload,
            rate_mbit: settings.rate_mbit,
            congestion: settings.congestion,
            connect: self
                .connect
                .into_iter()
                .map(Label::new)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::torn;

    fn label(s: &str) -> Label {
        Label::new(s).unwrap()
    }

    #[test]
    fn a_spec_survives_the_disk_and_torn_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let shim = proto::irm::ShimUdpConfig {
            ip: "127.0.0.1".into(),
            hosts: vec!["b=127.0.0.2".into()],
            ..Default::default()
        };
        let message = proto::irm::Bootstrap {
            layer: "net".into(),
            shim_udp: Some(shim),
            ..Default::default()
        };
        let first = Bootstrap::try_from(message).unwrap();
        let mut spec = Spec {
            layer: Some(label("net")),
            role: Role::First(Box::new(first)),
            ..Spec::default()
        };
        spec.merge(&Settings {
            hosts: vec!["c=10.0.0.1:99".parse().unwrap()],
            offload: vec!["gso=off".parse().unwrap()],
            over: vec![],
            rate_mbit: 250,
            ip: "dev:eth0".parse().ok(),
            congestion: Some(Congestion::Bbr),
            reach: None,
            below: None,
        });
        let command = spec.command(Vec::new());
        assert!(matches!(
            command,
            Some(Command::Bootstrap(Bootstrap { shim_udp: Some(shim), .. })) if shim.ip.to_string() == "dev:eth0"
        ));
        let member = Spec {
            kind: Kind::Unicast,
            role: Role::Member,
            over: vec![label("net")],
            connect: vec![label("b")],
            ..Spec::default()
        };
        let specs = vec![(label("a"), spec), (label("b"), member)];
        let saved = SavedSpecs::of(specs.iter().map(|(n, s)| (n, s.clone())));
        store.save("ipcps", &saved).unwrap();
        assert_eq!(load(&store).unwrap(), specs);
        torn::is_never_a_fresh_start(dir.path(), "ipcps", || load(&store));
    }

    #[test]
    fn the_last_word_for_a_host_counts() {
        let mut spec = Spec::default();
        for at in ["x=10.0.0.1", "x=10.0.0.2"] {
            spec.merge(&Settings {
                hosts: vec![at.parse().unwrap()],
                ..Settings::default()
            });
        }
        assert_eq!(spec.hosts, ["x=10.0.0.2".parse().unwrap()]);
    }

    #[test]
    fn unknown_types_are_refused_with_what_there_is() {
        assert_eq!(Kind::parse("normal"), Ok(Kind::Unicast));
        assert!(Kind::parse("").unwrap_err().text.contains("missing"));
        assert!(Kind::parse("x").unwrap_err().text.contains("shim-udp"));
    }
}
