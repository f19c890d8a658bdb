//! What a member of this host is told of the host's shims below it. Where it is there: others dial it there; it must not be told to
//! anybody but the member itself, which tells other members, and to whoever gets an invitation. And how their offloads are switched,
//! since it has the sockets that they have handed over.

use std::net::IpAddr;

use futures_util::future::join_all;
use proto::Label;
use proto::ipcp::{Below, Command, Reach, Settings, State};

use crate::daemon::{COMMAND, Daemon};
use crate::ipcps::Ipcp;
use crate::spec::{Kind, Role};
use crate::status;

/// The shims of the layers that an IPC process lies over.
pub(crate) async fn of(daemon: &Daemon, ipcp: &Ipcp) -> Vec<Reach> {
    let over = daemon.over(ipcp);
    let shims = daemon.ipcps();
    let places = shims.iter().map(|shim| place(shim, &over));
    let mut all: Vec<Reach> = join_all(places).await.into_iter().flatten().collect();
    all.sort_unstable();
    all
}

async fn place(shim: &Ipcp, over: &[Label]) -> Option<Reach> {
    let over = shim.layer().filter(|layer| over.contains(layer))?;
    let (place, port) = {
        let inner = shim.inner();
        let Role::First(first) = &inner.spec.role else {
            return None;
        };
        let udp = first.shim_udp.as_ref()?;
        (udp.ip.clone(), udp.port)
    };
    let ip = match place.fixed() {
        Some(ip) => ip,
        None => followed(shim).await?,
    };
    let at = (ip, port).into();
    Some(Reach { over, at })
}

/// The address of a shim that follows an interface; while it has none, the one that it had.
async fn followed(shim: &Ipcp) -> Option<IpAddr> {
    let moved = shim.inner().moved;
    if moved && shim.state() == State::Up {
        // What it says is kept there.
        status::ask(shim).await;
    }
    shim.inner().at
}

/// The switches of the shims of the layers that an IPC process lies over.
fn switches(daemon: &Daemon, ipcp: &Ipcp) -> Vec<Below> {
    let over = daemon.over(ipcp);
    let mut all = Vec::new();
    for shim in daemon.ipcps() {
        let Some(over) = shim.layer().filter(|layer| over.contains(layer)) else {
            continue;
        };
        if shim.kind == Kind::ShimUdp {
            let switches = shim.inner().spec.switches().into_iter();
            all.extend(switches.map(|offload| Below {
                over: over.clone(),
                offload,
            }));
        }
    }
    // One layer has one shim on this host: the order within a layer stays.
    all.sort_by(|a, b| a.over.cmp(&b.over));
    all
}

/// Switches of a shim were set: whoever has sockets of it hears so, also that they are as before, since what has ended by itself is
/// tried anew then.
pub(crate) async fn switched(daemon: &Daemon, shim: &Ipcp) {
    let Some(layer) = shim.layer() else {
        return;
    };
    let uppers = daemon.ipcps().into_iter();
    let uppers = uppers.filter(|upper| daemon.over(upper).contains(&layer));
    join_all(uppers.map(|upper| async move {
        upper.inner().told = None;
        tell(daemon, &upper).await
    }))
    .await;
}

/// Tells a member what it is to know of the shims below, unless it knows. `false`: it is to be told again.
pub(crate) async fn tell(daemon: &Daemon, ipcp: &Ipcp) -> bool {
    let seen = ipcp.seen.borrow().clone();
    if ipcp.kind != Kind::Unicast || seen.attached == 0 || !seen.configured {
        return true;
    }
    let news = (of(daemon, ipcp).await, switches(daemon, ipcp));
    let told = ipcp.inner().told.clone();
    if told.unwrap_or_default() == news {
        return true;
    }
    let settings = Settings {
        reach: Some(news.0.clone()),
        below: Some(news.1.clone()),
        ..Settings::default()
    };
    match ipcp.call(Command::Set(settings), COMMAND).await {
        Ok(_) => {
            ipcp.inner().told = Some(news);
            true
        }
        Err(reason) => {
            tracing::debug!(%reason, ipcp = %ipcp.name, "was not told of the shims below");
            false
        }
    }
}
