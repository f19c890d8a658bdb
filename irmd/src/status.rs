//! How everything is: what irmd knows, and what every process says of itself within a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use proto::Label;
use proto::ipcp::{Answer, Command};
use proto::irm::program_command::Command as ToProgram;
use proto::irm::{
    CountersWanted, DaemonInfo, FlowInfo, IpcpInfo, IpcpStatus, LayerInfo, NameInfo, StatusReply,
    VpnInfo,
};

use crate::daemon::Daemon;
use crate::flows::{Carrier, Phase};
use crate::ipcps::Ipcp;
use crate::spec::Kind;
use crate::vpns;

/// All of it.
pub(crate) async fn reply(daemon: &Arc<Daemon>) -> StatusReply {
    let ((ipcps, flows), vpns) = tokio::join!(
        async {
            let (ipcps, ()) = tokio::join!(ipcps(daemon), count_direct(daemon));
            let flows = merge(daemon, &ipcps);
            (ipcps, flows)
        },
        vpn_infos(daemon)
    );
    let warnings = warnings(daemon, &ipcps);
    StatusReply {
        daemon: Some(info(daemon)),
        layers: layers(&ipcps),
        ipcps,
        flows,
        names: names(daemon),
        vpns,
        warnings,
        counters: daemon
            .tally
            .read()
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect(),
    }
}

/// Every IPC process with what it says of itself.
pub(crate) async fn ipcps(daemon: &Arc<Daemon>) -> Vec<IpcpInfo> {
    let all = daemon.ipcps();
    join_all(
        all.iter()
            .map(|ipcp| async { ipcp_info(daemon, ipcp, ask(ipcp).await) }),
    )
    .await
}

/// What an IPC process says of itself, if it does in time.
pub(crate) async fn ask(ipcp: &Ipcp) -> Option<IpcpStatus> {
    match ipcp.call(Command::Status, PATIENCE).await {
        Ok(Answer::Status(status)) => {
            ipcp.learn(&status);
            Some(*status)
        }
        Ok(_) | Err(_) => None,
    }
}

/// As the administrator sees it.
pub(crate) fn ipcp_info(daemon: &Daemon, ipcp: &Ipcp, status: Option<IpcpStatus>) -> IpcpInfo {
    let seen = ipcp.seen.borrow().clone();
    let over = daemon.over(ipcp).iter().map(Label::to_string).collect();
    let inner = ipcp.inner();
    IpcpInfo {
        name: ipcp.name.to_string(),
        r#type: ipcp.kind.word().to_owned(),
        layer: inner
            .layer
            .as_ref()
            .map(Label::to_string)
            .unwrap_or_default(),
        state: seen.state.word().to_owned(),
        pid: inner.pid.unwrap_or_default(),
        address: inner.address,
        detail: seen.detail,
        status,
        over,
        restarts: inner.restarts,
    }
}

/// All flows, with what the processes that carry them count.
pub(crate) async fn flows(daemon: &Arc<Daemon>) -> Vec<FlowInfo> {
    let (ipcps, ()) = tokio::join!(ipcps(daemon), count_direct(daemon));
    merge(daemon, &ipcps)
}

/// Every VPN.
pub(crate) async fn vpn_infos(daemon: &Arc<Daemon>) -> Vec<VpnInfo> {
    let all = vpns::all(daemon);
    join_all(all.iter().map(|v| v.fresh())).await
}

/// Every name.
pub(crate) fn names(daemon: &Daemon) -> Vec<NameInfo> {
    let there: BTreeSet<(Label, proto::Name)> = daemon
        .ipcps()
        .iter()
        .filter_map(|i| i.layer().map(|layer| (layer, i.inner().registered.clone())))
        .flat_map(|(layer, names)| names.into_iter().map(move |n| (layer.clone(), n)))
        .collect();
    let label = |id| daemon.session(id).map(|s| s.label()).unwrap_or_default();
    daemon.registry().infos(
        |layer, name| there.contains(&(layer.clone(), name.clone())),
        label,
    )
}

/// irmd's own table, overlaid with what the IPC processes know better.
fn merge(daemon: &Daemon, ipcps: &[IpcpInfo]) -> Vec<FlowInfo> {
    let mut all: BTreeMap<u64, FlowInfo> = daemon
        .flows()
        .iter()
        .map(|(id, f)| (id.0, f.info(id)))
        .collect();
    for ipcp in ipcps {
        for said in ipcp.status.iter().flat_map(|s| &s.flows) {
            let mut flow = said.clone();
            if flow.layer.is_empty() {
                flow.layer.clone_from(&ipcp.layer);
            }
            if let Some(known) = all.get(&flow.id) {
                if flow.name.is_empty() {
                    flow.name.clone_from(&known.name);
                }
                flow.incoming = known.incoming;
                flow.uid = known.uid;
                // The process knows of a flow before irmd has the answer of the other side.
                if known.state == "pending" {
                    flow.state.clone_from(&known.state);
                }
            }
            all.insert(flow.id, flow);
        }
    }
    all.into_values().collect()
}

/// Asks the programs that accepted direct flows what these have carried, and waits a moment for the answers.
async fn count_direct(daemon: &Arc<Daemon>) {
    let acceptors: BTreeSet<_> = {
        let flows = daemon.flows();
        flows
            .iter()
            .filter(|(_, f)| f.phase == Phase::Allocated)
            .filter_map(|(_, f)| match f.carrier {
                Carrier::Direct(session) => Some(session),
                Carrier::Ipcp(..) => None,
            })
            .collect()
    };
    if acceptors.is_empty() {
        return;
    }
    let round = daemon.round.fetch_add(1, Ordering::Relaxed) + 1;
    let wanted = acceptors.into_iter().filter_map(|id| daemon.session(id));
    let asked: BTreeSet<_> = wanted
        .filter(|s| s.send(ToProgram::Counters(CountersWanted {})))
        .map(|s| s.id)
        .collect();
    let all_there = async {
        loop {
            let heard = daemon.counted.notified();
            let missing = daemon.flows().iter().any(|(_, f)| {
                matches!(f.carrier, Carrier::Direct(s) if asked.contains(&s))
                    && f.phase == Phase::Allocated
                    && f.counters.round < round
            });
            if !missing {
                return;
            }
            heard.await;
        }
    };
    // What does not come in time is shown as it was.
    let _ = tokio::time::timeout(Duration::from_millis(300), all_there).await;
}

fn info(daemon: &Daemon) -> DaemonInfo {
    DaemonInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        run_dir: daemon.dirs.run.display().to_string(),
        state_dir: daemon.dirs.state.display().to_string(),
        uptime_ms: u64::try_from(daemon.since.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

fn layers(ipcps: &[IpcpInfo]) -> Vec<LayerInfo> {
    let mut layers: BTreeMap<&str, LayerInfo> = BTreeMap::new();
    for ipcp in ipcps.iter().filter(|i| !i.layer.is_empty()) {
        let layer = layers.entry(&ipcp.layer).or_default();
        layer.name.clone_from(&ipcp.layer);
        layer.r#type.clone_from(&ipcp.r#type);
        layer.ipcps.push(ipcp.name.clone());
        let members = ipcp.status.as_ref().map_or(0, |s| s.members.len());
        layer.members = layer
            .members
            .max(u32::try_from(members).unwrap_or(u32::MAX));
    }
    layers.into_values().collect()
}

fn warnings(daemon: &Daemon, ipcps: &[IpcpInfo]) -> Vec<String> {
    let own = daemon
        .warnings
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut all: Vec<String> = own.values().cloned().collect();
    drop(own);
    // A member that says how it is says what it warns of now.
    let speaks = |name: &Label| {
        let said = ipcps.iter().find(|i| i.name == name.as_str());
        said.is_some_and(|i| i.status.is_some() && i.r#type == Kind::Unicast.word())
    };
    for ipcp in daemon.ipcps().iter().filter(|i| !speaks(&i.name)) {
        all.extend(
            ipcp.inner()
                .warnings
                .values()
                .map(|text| format!("{}: {text}", ipcp.name)),
        );
    }
    for ipcp in ipcps {
        all.extend(
            ipcp.status
                .iter()
                .flat_map(|s| &s.warnings)
                .map(|text| format!("{}: {text}", ipcp.name)),
        );
    }
    all.sort();
    all.dedup();
    all
}

/// How long a process may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);
