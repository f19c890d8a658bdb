//! VPNs: the vpn processes that irmd keeps alive, and what they are told of their layer.

mod service;
mod traffic;
mod ways;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proto::irm::{Shutdown, StatusWanted, VpnCommand, VpnInfo, VpnUpRequest, vpn_command};
use proto::{Code, Label, Reason};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::daemon::{Daemon, failed};
use crate::process::{Backoff, Child, find, set};
use crate::running::Instance;
use crate::spec::Kind;
use crate::state::{StateError, Store};
use crate::stream::Sender;
pub(crate) use service::Service;
use traffic::Traffic;
use ways::Ways;

/// One VPN.
#[derive(Debug)]
pub(crate) struct Vpn {
    /// What it should be, but for how it carries packets.
    pub(crate) spec: VpnSpec,
    /// That may change while it is up.
    traffic: watch::Sender<Traffic>,
    inner: Mutex<Inner>,
    /// Counts what it said; others wait for a change.
    said: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    gone: watch::Sender<bool>,
}

/// What a VPN should be; kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VpnSpec {
    pub(crate) layer: String,
    pub(crate) dev: String,
    pub(crate) address: String,
    pub(crate) routes: Vec<String>,
    pub(crate) tap: bool,
    #[serde(default)]
    pub(crate) offload_tun: String,
    #[serde(default)]
    pub(crate) ways: Ways,
    #[serde(default)]
    pub(crate) traffic: Traffic,
}

impl VpnSpec {
    /// An Ethernet segment knows no addresses of IP, and its flows stay.
    fn makes_sense(&self) -> Result<(), Reason> {
        let packets = [
            (!self.routes.is_empty(), "--route"),
            (self.offload_tun == "on", "--offload tun=on"),
            (self.traffic.asks_for_idle(), "--idle"),
        ];
        let asked = packets.into_iter().chain(self.ways.asked());
        let asked: Vec<_> = asked.filter(|(is, _)| *is).map(|(_, what)| what).collect();
        if !self.tap || asked.is_empty() {
            return Ok(());
        }
        let text = format!(
            "--tap carries Ethernet frames, of whatever addresses; leave {} out, or --tap",
            asked.join(", ")
        );
        Err(Reason::new(Code::Usage, text))
    }
}

#[derive(Debug, Default)]
struct Inner {
    tx: Option<Sender<VpnCommand>>,
    info: Option<VpnInfo>,
    failure: Option<Reason>,
    pid: Option<u32>,
    detail: String,
    /// It has been up, so it is on disk and stays until it is taken down.
    kept: bool,
    /// How many wait for it to come up.
    callers: usize,
}

impl Vpn {
    fn new(spec: VpnSpec) -> Arc<Self> {
        Arc::new(Self {
            traffic: watch::Sender::new(spec.traffic.clone()),
            spec,
            inner: Mutex::default(),
            said: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            gone: watch::Sender::new(false),
        })
    }

    /// What it should be by now.
    fn wanted(&self) -> VpnSpec {
        let traffic = self.traffic.borrow().clone();
        VpnSpec {
            traffic,
            ..self.spec.clone()
        }
    }

    /// As the administrator sees it.
    pub(crate) fn info(&self) -> VpnInfo {
        let inner = self.inner();
        let mut info = inner.info.clone().unwrap_or_else(|| VpnInfo {
            state: "down".to_owned(),
            ..VpnInfo::default()
        });
        info.layer.clone_from(&self.spec.layer);
        info.dev.clone_from(&self.spec.dev);
        info.tap = self.spec.tap;
        info.pid = inner.pid.unwrap_or_default();
        if info.detail.is_empty() {
            info.detail.clone_from(&inner.detail);
        }
        info
    }

    /// Asks the process how it is and waits a moment for what it says.
    pub(crate) async fn fresh(&self) -> VpnInfo {
        let mut said = self.said.subscribe();
        let tx = self.inner().tx.clone();
        let wanted = vpn_command::Command::Status(StatusWanted {});
        if tx.is_some_and(|tx| {
            tx.try_send(Ok(VpnCommand {
                command: Some(wanted),
            }))
            .is_ok()
        }) {
            // Silence: what it said last is shown.
            let _ = tokio::time::timeout(Duration::from_secs(1), said.changed()).await;
        }
        self.info()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner());
        self.said.send_modify(|n| *n += 1);
    }
}

/// Reads the VPNs that are on disk.
pub(crate) fn load(daemon: &Daemon) -> Result<(), StateError> {
    for (dev, spec) in saved(&daemon.store)? {
        let vpn = Vpn::new(spec);
        vpn.inner().kept = true;
        daemon.vpns.insert(dev, vpn);
    }
    Ok(())
}

fn saved(store: &Store) -> Result<BTreeMap<String, VpnSpec>, StateError> {
    store.load("vpns", |saved: BTreeMap<String, VpnSpec>| {
        for (dev, spec) in &saved {
            Label::new(spec.layer.clone()).map_err(|e| e.to_string())?;
            if *dev != spec.dev || !is_device(dev) {
                return Err(format!("{dev:?} is no device of a VPN"));
            }
        }
        Ok(saved)
    })
}

/// Starts all that are known.
pub(crate) fn start_all(daemon: &Arc<Daemon>) {
    for vpn in all(daemon) {
        start(daemon, vpn);
    }
}

/// All VPNs, by device.
pub(crate) fn all(daemon: &Daemon) -> Vec<Arc<Vpn>> {
    let mut all: Vec<_> = daemon.vpns.iter().map(|v| v.value().clone()).collect();
    all.sort_by(|a, b| a.spec.dev.cmp(&b.spec.dev));
    all
}

/// Ends all, at once.
pub(crate) async fn end_all(daemon: &Daemon) {
    join_all(
        all(daemon)
            .into_iter()
            .map(|vpn| async move { end(&vpn).await }),
    )
    .await;
}

/// Makes a VPN and waits until its device is up. The same again is fine; how it carries packets is changed; other arguments are a
/// conflict. One that doesn't
/// come up, or that nobody waits for any more before it did, is forgotten.
pub(crate) async fn up(daemon: &Arc<Daemon>, request: VpnUpRequest) -> Result<VpnInfo, Reason> {
    let timeout = crate::broker::bounded(request.timeout_ms);
    let layer = Label::new(request.layer)?;
    let ipcp = daemon.in_layer(&layer)?;
    if ipcp.kind != Kind::Unicast {
        let text = format!(
            "layer {layer} is served by a shim, which carries no VPN; name a unicast layer"
        );
        return Err(Reason::new(Code::Usage, text));
    }
    let dev = match request.dev.is_empty() {
        true => default_dev(&layer, request.tap),
        false => request.dev,
    };
    if !is_device(&dev) {
        return Err(Reason::new(
            Code::Usage,
            format!("{dev:?} is no device name; use 1 to {DEV} letters, digits, '-', '_' or '.'"),
        ));
    }
    let spec = VpnSpec {
        layer: layer.to_string(),
        dev: dev.clone(),
        address: request.address,
        routes: request.routes,
        tap: request.tap,
        offload_tun: request.offload_tun,
        ways: Ways::parse(request.ways.unwrap_or_default())?,
        traffic: request.traffic.unwrap_or_default().into(),
    };
    spec.makes_sense()?;
    spec.ways.fits(daemon, &spec.dev)?;
    let vpn = wanted(daemon, spec).await?;
    let caller = Caller::new(daemon, &vpn);
    let outcome = match wait_up(&vpn, timeout).await {
        Ok(info) => keep(daemon, &vpn).map(|()| info),
        Err(reason) => Err(reason),
    };
    if outcome.is_err() && caller.is_last_of_a_vpn_that_never_was() {
        down(daemon, &vpn).await?;
    }
    outcome
}

/// The VPN of this specification: the one that there is, or a new one that is started.
async fn wanted(daemon: &Arc<Daemon>, spec: VpnSpec) -> Result<Arc<Vpn>, Reason> {
    // A layer has one of each kind.
    let same = |v: &VpnSpec| (&v.layer, v.tap) == (&spec.layer, spec.tap);
    let fits = |v: &Arc<Vpn>| v.spec.dev == spec.dev || same(&v.spec);
    let stops = |v: &Arc<Vpn>| *v.stop.borrow();
    if let Some(vpn) = all(daemon).into_iter().find(fits).filter(stops) {
        // An earlier one is on its way out.
        down(daemon, &vpn).await?;
    }
    if let Some(vpn) = all(daemon).into_iter().find(fits) {
        let now = vpn.wanted();
        if now == spec {
            return Ok(vpn);
        }
        let traffic = spec.traffic.clone();
        if (VpnSpec { traffic, ..now }) == spec {
            carry(daemon, &vpn, spec.traffic).await?;
            return Ok(vpn);
        }
        let text = format!(
            "the VPN {} of layer {} exists with other arguments; take it down first with `irm vpn down`",
            vpn.spec.dev, vpn.spec.layer
        );
        return Err(Reason::new(Code::Conflict, text));
    }
    let vpn = Vpn::new(spec);
    daemon.vpns.insert(vpn.spec.dev.clone(), vpn.clone());
    start(daemon, vpn.clone());
    Ok(vpn)
}

/// Has a VPN carry packets so from now on, and waits a moment for it to say so.
async fn carry(daemon: &Daemon, vpn: &Vpn, traffic: Traffic) -> Result<(), Reason> {
    let (mut said, shown) = (vpn.said.subscribe(), vpn.info());
    let before = vpn.traffic.send_replace(traffic);
    if vpn.inner().kept
        && let Err(reason) = save(daemon)
    {
        vpn.traffic.send_replace(before);
        return Err(reason);
    }
    // Where its process isn't up it hears of it when it is.
    if shown.state == "up" {
        let other =
            async { while vpn.info().traffic == shown.traffic && said.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), other).await;
    }
    Ok(())
}

/// Somebody who waits for a VPN to come up. When the last of them goes away before it ever was up, so does the VPN.
struct Caller<'a> {
    daemon: &'a Arc<Daemon>,
    vpn: &'a Arc<Vpn>,
}

impl<'a> Caller<'a> {
    fn new(daemon: &'a Arc<Daemon>, vpn: &'a Arc<Vpn>) -> Self {
        vpn.inner().callers += 1;
        Self { daemon, vpn }
    }

    fn is_last_of_a_vpn_that_never_was(&self) -> bool {
        let inner = self.vpn.inner();
        inner.callers == 1 && !inner.kept
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let desert = self.is_last_of_a_vpn_that_never_was();
        self.vpn.inner().callers -= 1;
        if desert {
            // From now on nobody else takes it for one that may come up.
            self.vpn.stop.send_replace(true);
            let (daemon, vpn) = (self.daemon.clone(), self.vpn.clone());
            tokio::spawn(async move {
                if let Err(reason) = down(&daemon, &vpn).await {
                    daemon.warn("state", Some(reason.text));
                }
            });
        }
    }
}

/// Keeps a VPN that has been up, also over restarts.
fn keep(daemon: &Daemon, vpn: &Vpn) -> Result<(), Reason> {
    if std::mem::replace(&mut vpn.inner().kept, true) {
        return Ok(());
    }
    let saved = save(daemon);
    vpn.inner().kept = saved.is_ok();
    saved
}

async fn wait_up(vpn: &Vpn, timeout: Duration) -> Result<VpnInfo, Reason> {
    let mut said = vpn.said.subscribe();
    let wait = async {
        loop {
            if let Some(reason) = vpn.inner().failure.clone() {
                return Err(reason);
            }
            let info = vpn.info();
            if info.state == "up" {
                return Ok(info);
            }
            if said.changed().await.is_err() {
                return Ok(info);
            }
        }
    };
    tokio::time::timeout(timeout, wait)
        .await
        .unwrap_or_else(|_| {
            let detail = vpn.info().detail;
            let why = if detail.is_empty() {
                "its program has not said why"
            } else {
                &detail
            };
            Err(Reason::new(
                Code::TimedOut,
                format!(
                    "the VPN {} did not come up in time: {why}; see `irm vpn status`",
                    vpn.spec.dev
                ),
            ))
        })
}

/// Takes a VPN down and forgets it.
pub(crate) async fn down(daemon: &Daemon, vpn: &Vpn) -> Result<(), Reason> {
    end(vpn).await;
    let same = |_: &String, v: &Arc<Vpn>| std::ptr::eq(&**v, vpn);
    daemon.vpns.remove_if(&vpn.spec.dev, same);
    vpn.spec.ways.withdraw(daemon, &vpn.spec.layer).await;
    save(daemon)
}

async fn end(vpn: &Vpn) {
    vpn.stop.send_replace(true);
    // Its task ends it within bounds of its own.
    let _ = tokio::time::timeout(Duration::from_secs(5), set(&vpn.gone)).await;
}

fn save(daemon: &Daemon) -> Result<(), Reason> {
    let specs: BTreeMap<String, VpnSpec> = all(daemon)
        .into_iter()
        .filter(|v| v.inner().kept)
        .map(|v| (v.spec.dev.clone(), v.wanted()))
        .collect();
    daemon.store.save("vpns", &specs).map_err(failed)
}

fn start(daemon: &Arc<Daemon>, vpn: Arc<Vpn>) {
    let daemon = daemon.clone();
    tokio::spawn(async move { run(&daemon, &vpn).await });
}

async fn run(daemon: &Arc<Daemon>, vpn: &Arc<Vpn>) {
    let instance = Instance::Vpn(vpn.spec.dev.clone());
    let mut survivor = daemon.running.survivor(&instance);
    let mut backoff = Backoff::new();
    let mut stop = vpn.stop.subscribe();
    while !*stop.borrow_and_update() {
        let began = Instant::now();
        let child = survivor.take().map_or_else(|| spawn(daemon, vpn), Ok);
        let why = match child {
            Err(why) => why,
            Ok(child) => {
                vpn.change(|i| i.pid = Some(child.pid));
                live(daemon, vpn, &child).await;
                vpn.change(|i| (i.pid, i.info) = (None, None));
                if let Err(error) = daemon.running.ended(&instance) {
                    daemon.warn("state", Some(error.to_string()));
                }
                "its process ended".to_owned()
            }
        };
        if *stop.borrow_and_update() {
            break;
        }
        let wait = backoff.after(began.elapsed());
        vpn.change(|i| {
            i.detail = i
                .failure
                .as_ref()
                .map_or_else(|| why.clone(), |f| f.text.clone())
        });
        let dev = vpn.spec.dev.as_str();
        daemon.events.emit(
            "vpn.down",
            format!("the VPN {dev} is down: {}", vpn.info().detail),
            &[("dev", dev)],
        );
        // Set or not: the loop looks.
        let _ = tokio::time::timeout(wait, stop.changed()).await;
    }
    vpn.gone.send_replace(true);
}

fn spawn(daemon: &Arc<Daemon>, vpn: &Arc<Vpn>) -> Result<Child, String> {
    let program = find(&daemon.exe, "vpn")?;
    let secret = zeroize::Zeroizing::new(daemon.random::<32>().map_err(|r| r.text)?);
    let run_dir: OsString = daemon.dirs.run.clone().into();
    let args: [OsString; 6] = [
        "--layer".into(),
        vpn.spec.layer.clone().into(),
        "--dev".into(),
        vpn.spec.dev.clone().into(),
        "--run-dir".into(),
        run_dir,
    ];
    let instance = Instance::Vpn(vpn.spec.dev.clone());
    daemon.running.expect(instance.clone(), &*secret);
    let child = Child::spawn(&program, &args, &daemon.dirs.run, &*secret);
    let child = child.map_err(|e| format!("cannot start {}: {e}", program.display()))?;
    if let Err(error) = daemon.running.started(&instance, &child) {
        daemon.warn("state", Some(error.to_string()));
    }
    Ok(child)
}

/// One life, until the process is gone.
async fn live(daemon: &Arc<Daemon>, vpn: &Arc<Vpn>, child: &Child) {
    tokio::select! {
        () = child.wait() => {}
        () = deserted(vpn) => {
            daemon.tally.add("ended.vpn_without_stream");
            child.end(Duration::from_secs(1)).await;
        }
        () = set(&vpn.stop) => {
            let tx = vpn.inner().tx.clone();
            if let Some(tx) = tx {
                // One that does not read is signalled below.
                let _ = tx.try_send(Ok(VpnCommand { command: Some(vpn_command::Command::Shutdown(Shutdown {})) }));
            }
            if !child.wait_for(Duration::from_secs(2)).await {
                child.end(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Returns when the process has had no stream for a while: it can't be talked to.
async fn deserted(vpn: &Vpn) {
    let mut said = vpn.said.subscribe();
    loop {
        let back = async { while vpn.inner().tx.is_none() && said.changed().await.is_ok() {} };
        if tokio::time::timeout(Duration::from_secs(10), back)
            .await
            .is_err()
        {
            return;
        }
        while vpn.inner().tx.is_some() && said.changed().await.is_ok() {}
    }
}

fn is_device(dev: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=DEV).contains(&dev.len()) && dev.bytes().all(good) && !dev.starts_with('.')
}

fn default_dev(layer: &Label, tap: bool) -> String {
    let kind = if tap { "tap" } else { "vpn" };
    let mut dev = format!("{kind}-{layer}");
    dev.truncate(DEV);
    dev
}

/// The longest name of a network device.
const DEV: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::torn;

    #[test]
    fn a_torn_file_of_vpns_is_never_none_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let spec = VpnSpec {
            layer: "ovl".to_owned(),
            dev: "strata0".to_owned(),
            address: "10.9.0.1/24".to_owned(),
            routes: vec!["10.8.0.0/16=ovl-b".to_owned()],
            tap: false,
            offload_tun: String::new(),
            ways: Ways::default(),
            traffic: Traffic::default(),
        };
        let vpns = BTreeMap::from([(spec.dev.clone(), spec)]);
        store.save("vpns", &vpns).unwrap();
        assert_eq!(saved(&store).unwrap(), vpns);
        torn::is_never_a_fresh_start(dir.path(), "vpns", || saved(&store));
    }

    #[test]
    fn a_device_name_fits_the_kernel() {
        let layer = Label::new("a-very-long-layer-name").unwrap();
        let dev = default_dev(&layer, false);
        assert_eq!(dev, "vpn-a-very-long");
        assert_eq!(dev.len(), DEV);
        assert_eq!(default_dev(&layer, true), "tap-a-very-long");
    }

    #[test]
    fn a_segment_takes_nothing_that_only_packets_have() {
        let spec = |table: &str| VpnSpec {
            tap: true,
            ..toml::from_str(&format!(
                "layer = 'ovl'\ndev = 'tap0'\naddress = ''\nroutes = []\ntap = false\n{table}"
            ))
            .unwrap()
        };
        assert_eq!(spec("").makes_sense(), Ok(()));
        for (table, option) in [
            ("ways = { offers = ['10.0.0.0/8'] }", "--offer"),
            ("ways = { accept = true }", "--accept-routes"),
            ("ways = { exit = 'b' }", "--exit"),
            ("ways = { names = 'on' }", "--dns"),
            ("traffic = { idle_ms = 5 }", "--idle"),
            ("offload_tun = 'on'", "--offload tun=on"),
        ] {
            let refused = spec(table).makes_sense().unwrap_err();
            assert_eq!(refused.code, Code::Usage);
            assert!(refused.text.contains(option), "{refused}");
            let tun = VpnSpec {
                tap: false,
                ..spec(table)
            };
            assert_eq!(tun.makes_sense(), Ok(()));
        }
        let routed = VpnSpec {
            routes: vec!["10.8.0.0/16=b".to_owned()],
            ..spec("")
        };
        assert!(routed.makes_sense().unwrap_err().text.contains("--route"));
    }
}
