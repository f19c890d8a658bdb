//! The program: brings the device up, owns the pump, and does what irmd says and what the pump asks for.

use std::time::Duration;

use frames::TunPort;
use libflow::{Irm, RunDir};
use proto::irm::{VpnConfig, VpnFlow, VpnInfo, VpnOffer, VpnPeer, VpnTraffic, VpnWays};
use proto::{Batch, Code, Reason};
use rtnl::{Netlink, Watch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::config::Config;
use crate::control::{Control, Hello, Order};
use crate::device::{self, DeviceName};
use crate::flow::{FlowPort, Lane};
use crate::forwarding;
use crate::links::{Kind, Links, News};
use crate::names::Answering;
use crate::netlink::{self, Device};
use crate::pump::{FlowStatus, Happening, PeerStatus, Pump};
use crate::strangers::Strangers;
use crate::traffic::Traffic;
use crate::upkeep::{Healed, Upkeep};
use crate::ways::Offered;

/// Runs until irmd or a signal ends it; then nothing of it is left. An error says why it could not go on.
pub async fn run(run_dir: RunDir, hello: Hello) -> Result<(), Reason> {
    let mut signals = Signals::new()?;
    let secret = hello.secret.clone();
    let asked_dev = hello.dev.clone();
    let mut control = Control::open(run_dir.clone(), hello).await?;
    let started = tokio::select! {
        started = start(&mut control, &run_dir, secret, &asked_dev) => started,
        () = signals.next() => Ok(None),
    };
    let ended = match started {
        Ok(Some(mut vpn)) => {
            let ended = vpn.serve(&mut control, &mut signals).await;
            vpn.device.clear(&vpn.config).await;
            ended
        }
        Ok(None) => Ok(()),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = &ended {
        control.fail(reason.clone()).await;
    }
    ended
}

/// A VPN that is up.
struct Vpn {
    config: Config,
    wire_ways: VpnWays,
    dev: DeviceName,
    device: Device,
    watch: Watch,
    upkeep: Upkeep,
    mtu: u32,
    pump: Pump<frames::Tun, Lane>,
    links: Links,
    strangers: Strangers<Lane>,
    names: Answering,
    deaf: Option<Reason>,
    narrow: bool,
    /// What to do since the kernel takes routers of the segment.
    routers: Option<String>,
    report: Option<Instant>,
}

/// `None`: irmd wants an end before there was a beginning.
async fn start(
    control: &mut Control,
    run_dir: &RunDir,
    secret: Option<libflow::Secret>,
    asked_dev: &str,
) -> Result<Option<Vpn>, Reason> {
    let wire = match first_config(control).await {
        Ok(Some(wire)) => wire,
        Ok(None) => return Ok(None),
        Err(gone) => return Err(gone),
    };
    let dev = DeviceName::new(if wire.dev.is_empty() {
        asked_dev
    } else {
        &wire.dev
    })?;
    let wire_ways = wire.ways.clone().unwrap_or_default();
    let config = Config::try_from(*wire)?;
    let options = libflow::Options {
        run_dir: Some(run_dir.path().to_owned()),
        secret,
        program: Some("vpn".to_owned()),
    };
    let irm = Irm::connect_with(options).await?;
    let (netlink, watch) = (Netlink::open()?, netlink::watch()?);
    netlink::free(&netlink, &dev, LINGER).await?;
    let (tun, kind, routers) = match config.tap {
        true => {
            let tap = device::create_tap(&dev)?;
            (tap, Kind::Tap, device::refuse_routers(&dev))
        }
        false => (device::create(&dev, config.offload)?, Kind::Tun, None),
    };
    let mut device = Device::up(netlink, dev.clone(), FIRST_MTU, tun.queue(), config.mac).await?;
    device.apply(&config).await?;
    let mut pump = Pump::new(tun).map_err(|e| {
        let text = format!("can't wait on the device {}: {e}", dev.as_str());
        Reason::new(Code::Failed, text)
    })?;
    pump.configure(&config);
    if let Some(mac) = device.mac() {
        pump.set_mac(mac);
    }
    let mut names = Answering::default();
    let now = std::time::Instant::now();
    names.keep(now, &config, device.index()).await;
    let links = Links::start(irm, config.layer.clone(), config.me.clone(), kind);
    tracing::info!(
        "{} is up as {} in {}",
        dev.as_str(),
        config.me,
        config.layer
    );
    let report = Some(Instant::now());
    Ok(Some(Vpn {
        config,
        wire_ways,
        dev,
        device,
        watch,
        upkeep: Upkeep::default(),
        mtu: FIRST_MTU,
        pump,
        links,
        strangers: Strangers::default(),
        names,
        deaf: None,
        narrow: false,
        routers,
        report,
    }))
}

/// As long as the layer isn't up, irmd has nothing to say; the stream's end, or a shutdown, ends the wait.
async fn first_config(control: &mut Control) -> Result<Option<Box<VpnConfig>>, Reason> {
    loop {
        match control.next().await {
            Order::Config(config) => return Ok(Some(config)),
            Order::Shutdown => return Ok(None),
            Order::Gone(reason) => return Err(reason),
            Order::Status | Order::Attached => {}
        }
    }
}

impl Vpn {
    async fn serve(&mut self, control: &mut Control, signals: &mut Signals) -> Result<(), Reason> {
        loop {
            let happened = tokio::select! {
                turn = self.pump.turn() => turn.map_err(|e| self.device_gone(&e.to_string()))?,
                news = self.links.next() => self.heard(news),
                order = control.next() => match order {
                    Order::Config(wire) => self.reconfigure(*wire).await?,
                    Order::Status | Order::Attached => {
                        self.report = Some(Instant::now());
                        Vec::new()
                    }
                    Order::Shutdown => return Ok(()),
                    Order::Gone(reason) => {
                        tracing::info!("ending: {reason}");
                        return Ok(());
                    }
                },
                () = signals.next() => return Ok(()),
                () = at(self.strangers.deadline().map(Instant::from_std)) => {
                    self.strangers.expire(std::time::Instant::now());
                    Vec::new()
                }
                () = self.watch.changed(), if self.upkeep.due().is_none() => {
                    self.upkeep.changed(std::time::Instant::now());
                    Vec::new()
                }
                () = at(self.upkeep.due().map(Instant::from_std)) => {
                    self.heal().await?;
                    Vec::new()
                }
                () = at(self.names.due().map(Instant::from_std)) => {
                    self.keep_names().await;
                    Vec::new()
                }
                () = at(self.report) => {
                    self.report = None;
                    control.tell(self.info());
                    Vec::new()
                }
            };
            if !happened.is_empty() {
                self.act(happened).await?;
            }
        }
    }

    /// Does what the pump asks for.
    async fn act(&mut self, happened: Vec<Happening>) -> Result<(), Reason> {
        let mut mtu = false;
        for happening in happened {
            match happening {
                Happening::Dial(id) => {
                    if let Some(peer) = self.pump.name(id) {
                        let class = self.pump.class(id);
                        self.links.dial(id, peer, class);
                    }
                }
                Happening::Mtu => mtu = true,
                Happening::State => self.report_soon(),
                Happening::Down(id, reason) => {
                    if let Some(peer) = self.pump.name(id) {
                        tracing::info!(%peer, "flow down: {reason}");
                    }
                }
            }
        }
        if mtu { self.follow_mtu().await } else { Ok(()) }
    }

    fn heard(&mut self, news: News) -> Vec<Happening> {
        match news {
            News::Dialled(id, Ok(lane)) => self.pump.dialled(id, lane),
            News::Dialled(id, Err(reason)) => {
                if let Some(peer) = self.pump.name(id) {
                    tracing::debug!(%peer, "no flow: {reason}");
                }
                self.pump.dial_failed(id, reason);
            }
            News::Accepted(member, _) if self.config.kept_out.contains(&member) => {
                tracing::info!(%member, "a flow was refused: the policy keeps it out of the segment");
            }
            News::Accepted(member, lane) => {
                if let Err(lane) = self.pump.accepted(&member, lane) {
                    tracing::info!(%member, "a flow from a member that irmd has not told of waits for that");
                    let (now, class) = (std::time::Instant::now(), lane.class());
                    self.strangers.keep(now, member, class, lane);
                }
            }
            News::Listening(trouble) => {
                self.deaf = trouble;
                self.report_soon();
            }
        }
        self.pump.take_happenings()
    }

    async fn reconfigure(&mut self, wire: VpnConfig) -> Result<Vec<Happening>, Reason> {
        let config = Config::try_from(wire)?;
        let who = |c: &Config| (c.layer.clone(), c.me.clone(), c.tap);
        if who(&config) != who(&self.config) {
            return Err(Reason::new(
                Code::Conflict,
                format!(
                    "this host is now {} in {}; the VPN starts anew",
                    config.me, config.layer
                ),
            ));
        }
        if config != self.config {
            self.pump.configure(&config);
            self.device.apply(&config).await?;
            self.config = config;
            self.keep_names().await;
            for (member, class, lane, until) in self.strangers.take() {
                if let Err(lane) = self.pump.accepted(&member, lane) {
                    self.strangers.put_back(member, class, lane, until);
                }
            }
        }
        self.report_soon();
        Ok(self.pump.take_happenings())
    }

    async fn keep_names(&mut self) {
        let (now, before) = (std::time::Instant::now(), self.names.warning());
        self.names
            .keep(now, &self.config, self.device.index())
            .await;
        if self.names.warning() != before {
            self.report_soon();
        }
    }

    /// Puts back what somebody took from the device, and sees what clashes now. An error says that the device is gone: whoever it
    /// was handed over to says nothing of that.
    async fn heal(&mut self) -> Result<(), Reason> {
        let began = std::time::Instant::now();
        self.watch.forget();
        let before = self.device.warnings().to_vec();
        let healed = self.device.heal(&self.config).await;
        let now = std::time::Instant::now();
        match healed {
            Ok(None) => return Err(self.device_gone("the kernel has no such device any more")),
            Ok(Some(healed)) => {
                if healed != Healed::default() {
                    tracing::warn!("somebody changed {}; put back: {healed}", self.dev.as_str());
                }
                self.upkeep.looked(now, now - began, healed);
                if let Some(mac) = self.device.mac() {
                    self.pump.set_mac(mac);
                }
            }
            Err(reason) => {
                tracing::warn!("{reason}");
                self.upkeep.failed(now);
            }
        }
        if self.device.warnings() != before {
            self.report_soon();
        }
        Ok(())
    }

    /// Gives the device the smallest MTU of all flows. Without flows it keeps what it has.
    async fn follow_mtu(&mut self) -> Result<(), Reason> {
        let Some(smallest) = self.pump.mtu() else {
            return Ok(());
        };
        let v6 = self.config.addresses.iter().any(|a| a.addr().is_ipv6());
        // The hosts of a segment may give themselves addresses of either family at any time.
        let least = if v6 || self.config.tap {
            LEAST_V6
        } else {
            LEAST_V4
        };
        let head = if self.config.tap { FRAME_HEAD } else { 0 };
        let room = smallest.saturating_sub(head);
        self.narrow = room < least;
        let mtu = room.clamp(least, Batch::MAX_PACKET as u32 - head);
        if mtu != self.mtu {
            self.device.set_mtu(mtu).await?;
            tracing::info!("the MTU of {} is {mtu}", self.dev.as_str());
            self.mtu = mtu;
            self.report_soon();
        }
        Ok(())
    }

    fn report_soon(&mut self) {
        self.report.get_or_insert_with(|| Instant::now() + REPORT);
    }

    /// Whether the way out that was asked for is none.
    fn no_exit(&self) -> Option<String> {
        let exit = self.config.exit.as_ref()?;
        let none = self.config.ways_out().next().is_none();
        none.then(|| {
            let offers = self.config.offered.iter().filter(|o| o.member == *exit);
            let mut why = offers.filter(|o| o.net.prefix_len() == 0 && !o.taken);
            let why = why.next().map_or_else(
                || "it offers none that this host has an address for".to_owned(),
                |o| o.why.clone(),
            );
            format!("nothing goes out by {exit}: {why}")
        })
    }

    fn device_gone(&self, why: &str) -> Reason {
        Reason::new(
            Code::Failed,
            format!(
                "the device {} is gone ({why}); was it removed by hand? irmd has it made again",
                self.dev.as_str()
            ),
        )
    }

    fn info(&self) -> VpnInfo {
        VpnInfo {
            layer: self.config.layer.to_string(),
            dev: self.dev.as_str().to_owned(),
            state: "up".to_owned(),
            addresses: self
                .config
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
            mtu: self.mtu,
            pid: std::process::id(),
            peers: self.peers(),
            counters: self
                .pump
                .counters()
                .to_map()
                .into_iter()
                .chain(self.upkeep.counters())
                .chain(self.tally())
                .chain(self.learned())
                .chain([(
                    "filter_conversations".to_owned(),
                    self.pump.conversations() as u64,
                )])
                .collect(),
            detail: self.detail(),
            ways: Some(self.wire_ways.clone()),
            offers: self.config.offered.iter().map(offer_info).collect(),
            traffic: Some(shown(&self.config.traffic)),
            tap: self.config.tap,
            offload: self
                .pump
                .device()
                .offloads()
                .map(|o| o.to_string())
                .unwrap_or_default(),
        }
    }

    /// Those that take part, and those that may not.
    fn peers(&self) -> Vec<VpnPeer> {
        let kept_out = self.config.kept_out.iter().map(|name| VpnPeer {
            name: name.to_string(),
            state: "denied".to_owned(),
            filtered: true,
            ..VpnPeer::default()
        });
        let all = self.pump.peers().map(peer_info);
        let mut all: Vec<VpnPeer> = all.chain(kept_out).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// What the switch knows, if this is a segment.
    fn learned(&self) -> impl Iterator<Item = (String, u64)> + use<> {
        let learned = self.pump.learned().into_iter();
        let named = learned.flat_map(|l| {
            [
                ("macs", l.macs as u64),
                ("mac_moves", l.moves),
                ("mac_overflows", l.overflows),
            ]
        });
        named.map(|(name, n)| (name.to_owned(), n))
    }

    /// What this process did with super-packets; the layer's has counters of its own.
    fn tally(&self) -> impl Iterator<Item = (String, u64)> + use<> {
        let named = self.pump.device().tally().named().into_iter();
        named.map(|(name, n)| (name.to_owned(), n))
    }

    /// What a person should know, in one line; empty when all is well.
    fn detail(&self) -> String {
        let deaf = self
            .deaf
            .as_ref()
            .map(|why| format!("others can't reach this VPN: {why}"));
        let narrow = self.narrow.then(|| {
            format!(
                "a flow carries less than {} bytes, which IP needs{}; raise the MTU below",
                self.mtu,
                if self.config.tap { " in a frame" } else { "" }
            )
        });
        let warnings = self.device.warnings();
        let more = warnings.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("and {more} more of that kind"));
        let contested = self.upkeep.contested(std::time::Instant::now());
        let contested = contested.map(|rest| {
            format!(
                "somebody changes the device {} again and again; what is taken is put back after {} s",
                self.dev.as_str(),
                rest.as_secs()
            )
        });
        let shown = warnings.iter().take(SHOWN).cloned();
        shown
            .chain(forwarding::warning(&self.config.behind()))
            .chain(self.no_exit())
            .chain(self.names.warning())
            .chain(self.routers.clone())
            .chain(more)
            .chain(contested)
            .chain(deaf)
            .chain(narrow)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

fn offer_info(offered: &Offered) -> VpnOffer {
    VpnOffer {
        network: offered.net.to_string(),
        member: offered.member.to_string(),
        taken: offered.taken,
        why: offered.why.clone(),
    }
}

fn peer_info(peer: PeerStatus) -> VpnPeer {
    VpnPeer {
        name: peer.name.to_string(),
        prefixes: peer.prefixes.iter().map(ToString::to_string).collect(),
        state: peer.state.to_owned(),
        path: if peer.neighbour { "direct" } else { "routed" }.to_owned(),
        // Known to the layer, not to its user: irmd fills it in.
        rtt_us: 0,
        rx_bytes: peer.moved.rx_bytes,
        tx_bytes: peer.moved.tx_bytes,
        flows: peer.flows.iter().map(flow_info).collect(),
        filtered: peer.filtered,
        macs: peer.macs as u32, // at most the switch's share
    }
}

fn flow_info(flow: &FlowStatus) -> VpnFlow {
    VpnFlow {
        qos: flow.class.word().to_owned(),
        state: flow.state.to_owned(),
        flow: flow.flow.map_or(0, |id| id.0),
        rx_bytes: flow.moved.rx_bytes,
        tx_bytes: flow.moved.tx_bytes,
    }
}

/// With what was not said, as it is done.
fn shown(traffic: &Traffic) -> VpnTraffic {
    let idle = traffic.idle.unwrap_or_default();
    VpnTraffic {
        keep_mss: !traffic.mss_clamp,
        idle_ms: Some(idle.as_millis() as u64), // a u64 at first
        one_class: !traffic.classes,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The signals that end a program.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Reason> {
        let failed = |e| Reason::new(Code::Failed, format!("can't listen to signals: {e}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How long a device of a process that was just killed may take to go away.
const LINGER: Duration = Duration::from_secs(2);
/// Changes are told at most this late, and together.
const REPORT: Duration = Duration::from_millis(100);
/// The device's MTU before there is a flow: every flow should carry it, and IPv6 needs it.
const FIRST_MTU: u32 = 1280;
/// Clashes that are shown at once.
const SHOWN: usize = 4;
/// What a device needs for IPv6 (RFC 8200) and for IPv4 in practice (RFC 791).
const LEAST_V6: u32 = 1280;
const LEAST_V4: u32 = 576;
/// What a frame has before its packet: addresses and kind, and the tag of a VLAN.
const FRAME_HEAD: u32 = 18;
