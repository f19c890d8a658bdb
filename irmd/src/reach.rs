//! Where a member of this host is below: in the layers of the host's shims. Others dial it there; it must not be told to anybody
//! but the member itself, which tells other members, and to whoever gets an invitation.

use proto::ipcp::{Command, Reach, Settings};

use crate::daemon::{COMMAND, Daemon};
use crate::ipcps::Ipcp;
use crate::spec::{Kind, Role};

/// The shims of the layers that an IPC process lies over.
pub(crate) fn of(daemon: &Daemon, ipcp: &Ipcp) -> Vec<Reach> {
    let over = daemon.over(ipcp);
    let place = |shim: &Ipcp| {
        let over = shim.layer().filter(|layer| over.contains(layer))?;
        let inner = shim.inner();
        let Role::First(first) = &inner.spec.role else {
            return None;
        };
        let udp = first.shim_udp.as_ref()?;
        let at = (udp.ip, udp.port).into();
        Some(Reach { over, at })
    };
    let shims = daemon.ipcps();
    let mut all: Vec<Reach> = shims.iter().filter_map(|shim| place(shim)).collect();
    all.sort_unstable();
    all
}

/// Tells a member where it is, unless it knows. `false`: it is to be told again.
pub(crate) async fn tell(daemon: &Daemon, ipcp: &Ipcp) -> bool {
    let seen = ipcp.seen.borrow().clone();
    if ipcp.kind != Kind::Unicast || seen.attached == 0 || !seen.configured {
        return true;
    }
    let reach = of(daemon, ipcp);
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
