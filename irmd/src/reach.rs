//! Where a member of this host is below: in the layers of the host's shims. Others dial it there; it must not be told to anybody
//! but the member itself, which tells other members, and to whoever gets an invitation.

use std::net::IpAddr;

use futures_util::future::join_all;
use proto::Label;
use proto::ipcp::{Command, Reach, Settings, State};

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

/// Tells a member where it is, unless it knows. `false`: it is to be told again.
pub(crate) async fn tell(daemon: &Daemon, ipcp: &Ipcp) -> bool {
    let seen = ipcp.seen.borrow().clone();
    if ipcp.kind != Kind::Unicast || seen.attached == 0 || !seen.configured {
        return true;
    }
    let reach = of(daemon, ipcp).await;
    if ipcp.inner().reach.as_deref().unwrap_or_default() == reach {
        return true;
    }
    let settings = Settings {
        reach: Some(reach.clone()),
        ..Settings::default()
    };
    match ipcp.call(Command::Set(settings), COMMAND).await {
        Ok(_) => {
            ipcp.inner().reach = Some(reach);
            true
        }
        Err(reason) => {
            tracing::debug!(%reason, ipcp = %ipcp.name, "was not told where it is");
            false
        }
    }
}
