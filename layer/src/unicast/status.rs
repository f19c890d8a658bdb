//! What this machine tells of itself.

use proto::ipcp::{Event, Notice, State};
use proto::{Addr, irm, record};

use super::Unicast;
use super::link::{Link, Phase};
use crate::crypt::KeyExchange;
use crate::{Now, Output};

impl Unicast {
    /// The answer to `status`.
    pub(super) fn status(&self, now: Now) -> irm::IpcpStatus {
        let me = self.me.as_ref();
        let mut counters: std::collections::HashMap<String, u64> = self
            .stats
            .iter()
            .map(|(what, n)| (what.to_owned(), n))
            .collect();
        counters.insert("forwarded".to_owned(), self.forwarded);
        let mut members = self.status_members();
        let filters = me.map(|me| me.status_filters(&mut members));
        irm::IpcpStatus {
            state: self.state.word().to_owned(),
            layer: me.map(|me| me.layer().to_string()).unwrap_or_default(),
            address: me.map_or(0, |me| me.address.0),
            members,
            routes: self.status_routes(),
            flows: self.status_flows(now),
            counters,
            links: self.links.values().map(|l| self.status_link(l)).collect(),
            warnings: self.status_warnings(now),
            member: me.map(|me| me.label().to_string()).unwrap_or_default(),
            cert_expires: me.map_or(0, |me| me.identity.cert().not_after().secs()),
            names: me
                .map(|me| me.names().map(ToString::to_string).collect())
                .unwrap_or_default(),
            settings: self.status_settings().collect(),
            prefixes: me
                .map(|me| {
                    me.identity
                        .cert()
                        .prefixes()
                        .iter()
                        .map(ToString::to_string)
                        .collect()
                })
                .unwrap_or_default(),
            directory: self.status_directory(now),
            trust: self.status_trust(now),
            filters: filters.unwrap_or_default(),
        }
    }

    fn status_settings(&self) -> impl Iterator<Item = (String, String)> {
        let me = self.me.as_ref();
        let join = |labels: Vec<String>| labels.join(",");
        let over = me.map(|me| join(me.over.iter().map(ToString::to_string).collect()));
        let kept = me.map(|me| join(me.kept.iter().map(ToString::to_string).collect()));
        let issuer = me
            .and_then(|me| me.issuer.as_ref())
            .map(ToString::to_string);
        let held = me.and_then(|me| me.authority.as_ref());
        // Of what is locked nobody knows.
        let alone = me
            .zip(held)
            .map(|(me, held)| held.is_alone(me.label()).to_string());
        let held = held.map(|a| if a.is_root() { "root" } else { "issuer" }.to_owned());
        let sealed = me.and_then(|me| me.sealed.as_ref());
        let held = held.or_else(|| sealed.map(|_| "root".to_owned()));
        [
            ("over", over),
            ("neighbours", kept),
            ("issuer", issuer),
            ("authority", held),
            ("alone", alone),
            ("congestion", Some(self.congestion.to_string())),
            (
                "reach",
                Some(join(
                    self.shortcuts
                        .own()
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                )),
            ),
        ]
        .into_iter()
        .filter_map(|(k, v)| Some((k.to_owned(), v?)))
    }

    fn status_link(&self, link: &Link) -> irm::Link {
        let state = match link.phase {
            Phase::Greeting => "handshake",
            Phase::Joining => "enrolling",
            Phase::Up(_) if link.is_mute() => "faulty",
            Phase::Up(_) => "up",
            Phase::Leaving(..) => "leaving",
            Phase::Retired(..) => "retired",
        };
        let dialled = link
            .dialled
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        irm::Link {
            member: link.peer().map_or(dialled, |peer| self.member_name(peer)),
            lower_layer: link.over.to_string(),
            state: state.to_owned(),
            rtt_us: u64::from(link.rtt_us()),
            loss_permille: link.loss_permille(),
            mtu: link.mtu(),
            cost: link.cost.value,
            rx_bytes: link.rx_bytes,
            tx_bytes: link.tx_bytes,
            key_exchange: exchange_name(link.key_exchange()),
        }
    }

    fn status_flows(&self, now: Now) -> Vec<irm::FlowInfo> {
        let layer = self.me.as_ref().map(|me| me.layer().clone());
        let stands = self.flows.iter().map(|f| {
            let member = proto::Label::new(self.member_name(f.peer)).ok();
            irm::FlowInfo {
                id: f.id.0,
                name: f.name.to_string(),
                layer: layer.as_ref().map(ToString::to_string).unwrap_or_default(),
                state: "allocated".to_owned(),
                qos: Some(f.qos.into()),
                peer: Some(
                    record::Peer {
                        name: f.peer_name.clone(),
                        layer: layer.clone(),
                        member,
                    }
                    .into(),
                ),
                encrypted: true,
                rx_bytes: f.rx_bytes,
                tx_bytes: f.tx_bytes,
                rtt_us: f
                    .transfer
                    .as_ref()
                    .map_or_else(|| self.rtt_us(f.peer), |t| t.rtt_us()),
                uid: f.uid,
                mtu: f.mtu,
                incoming: f.incoming,
                key_exchange: exchange_name(self.key_exchange(now, f.peer)),
            }
        });
        let pending = self.flows.outgoing.values().map(|o| irm::FlowInfo {
            id: o.ask.flow.0,
            name: o.ask.name.to_string(),
            layer: layer.as_ref().map(ToString::to_string).unwrap_or_default(),
            state: "pending".to_owned(),
            qos: Some(o.ask.qos.into()),
            uid: o.ask.user.uid,
            ..irm::FlowInfo::default()
        });
        stands.chain(pending).collect()
    }

    /// The round trip to a member in microseconds, 0: not known. A neighbour's is that of hellos, another's that of the
    /// control messages that were acknowledged since the way to it changed last.
    pub(super) fn rtt_us(&self, peer: Addr) -> u64 {
        let link = self
            .path(peer)
            .filter(|path| path.direct)
            .and_then(|path| self.links.get(&path.lower));
        let routed = || self.peers.get(&peer).and_then(|p| p.channel.rtt());
        link.map_or_else(
            || routed().map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            |link| u64::from(link.rtt_us()),
        )
    }

    /// How the keys were agreed on that protect what goes to a member: those of the link to a neighbour, else the pair's own.
    fn key_exchange(&self, now: Now, peer: Addr) -> Option<KeyExchange> {
        let direct = self.path(peer).filter(|path| path.direct);
        match direct.and_then(|path| self.links.get(&path.lower)) {
            Some(link) => link.key_exchange(),
            None => self
                .peers
                .get(&peer)
                .and_then(|p| p.sessions.key_exchange(now.mono)),
        }
    }

    fn status_warnings(&self, now: Now) -> Vec<String> {
        let ending = self.status_ending(now);
        let rolling = self.status_rolling(now);
        let said = self.warnings.values().cloned();
        let clashes = self.status_clashes();
        said.chain(ending).chain(rolling).chain(clashes).collect()
    }

    /// Tells a person. A warning stays until another word of its kind on the same subject.
    pub(super) fn notice(&mut self, kind: &str, text: String, member: &str, warning: bool) {
        let subject = format!("{}/{member}", kind.split('.').next().unwrap_or(kind));
        match warning {
            true => self.warnings.insert(subject, text.clone()),
            false => self.warnings.remove(&subject),
        };
        while self.warnings.len() > MAX_WARNINGS {
            self.warnings.pop_first();
        }
        let fields = vec![("member".to_owned(), member.to_owned())];
        self.out.push_back(Output::Control(Event::Notice(Notice {
            kind: kind.to_owned(),
            text,
            fields,
            warning,
        })));
    }

    /// The members are others, or something else that the status says of them; links, flows and counters don't count.
    pub(super) fn members_changed(&mut self) {
        if std::mem::take(&mut self.asked) {
            self.out.push_back(Output::Control(Event::Members));
        }
    }

    /// Enters another state, and says so.
    pub(super) fn state(&mut self, state: State, detail: &str) {
        if self.state != state {
            self.state = state;
            self.out
                .push_back(Output::Control(Event::State(state, detail.to_owned())));
        }
    }
}

fn exchange_name(exchange: Option<KeyExchange>) -> String {
    exchange.map(|e| e.name().to_owned()).unwrap_or_default()
}

const MAX_WARNINGS: usize = 64;
