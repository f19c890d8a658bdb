//! What the sockets of a process do of what they may, for its status. It is looked at when it is asked for, and costs nothing until
//! then.

use std::net::{Ipv4Addr, UdpSocket};

use proto::irm::IpcpStatus;
use quinn_udp::UdpSocketState;

use super::{Offloads, UdpPort};

/// How many of a process's sockets use which offload.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    sockets: u64,
    gso: u64,
    gso_ended: u64,
    gro: u64,
}

impl<'a> FromIterator<&'a UdpPort> for Usage {
    fn from_iter<I: IntoIterator<Item = &'a UdpPort>>(ports: I) -> Self {
        let mut usage = Self::default();
        for port in ports {
            usage.sockets += 1;
            usage.gso += u64::from(port.offloads().1);
            usage.gso_ended += u64::from(port.gso_ended());
            usage.gro += u64::from(port.coalesces());
        }
        usage
    }
}

impl Usage {
    /// Puts it into a status, beside how the process's switches stand and what the kernel can do.
    pub fn tell(self, switches: Offloads, status: &mut IpcpStatus) {
        for (key, value) in [
            ("offload.gso", switches.gso.to_string()),
            ("offload.gro", switches.gro.to_string()),
            ("lower.udp_sockets", self.sockets.to_string()),
            ("offload.gso_sockets", self.gso.to_string()),
            ("offload.gso_ended", self.gso_ended.to_string()),
            ("offload.gro_sockets", self.gro.to_string()),
            ("offload.kernel", kernel().to_owned()),
        ] {
            status.settings.insert(key.to_owned(), value);
        }
    }
}

/// What a socket of this host could use.
fn kernel() -> &'static str {
    let probe = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        UdpSocketState::new((&socket).into()).ok()
    };
    // Without a socket nothing can be had.
    let can = probe().map_or((false, false), |state| {
        (state.max_gso_segments() > 1, state.gro_segments() > 1)
    });
    match can {
        (true, true) => "gso,gro",
        (true, false) => "gso",
        (false, true) => "gro",
        (false, false) => "none",
    }
}
