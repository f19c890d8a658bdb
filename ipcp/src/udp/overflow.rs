//! What the kernel has dropped because a socket's buffer was full. It is asked for, and costs nothing until then.

use std::os::fd::AsFd;

use nix::libc;
use nix::{getsockopt_impl, sockopt_impl};
use proto::irm::IpcpStatus;

/// Puts it into a status, once there is something.
pub fn count_overflowed(status: &mut IpcpStatus, times: u64) {
    if times > 0 {
        status.counters.insert("drop.udp_rcvbuf".to_owned(), times);
    }
}

/// How often the kernel has dropped what came to a socket since it was made: there was no room, or, rarely, a checksum was wrong.
/// What it had coalesced by then counts as one.
pub fn overflowed(socket: &impl AsFd) -> u64 {
    // Before Linux 4.12 it doesn't say.
    let info = nix::sys::socket::getsockopt(socket, MemInfo).unwrap_or_default();
    info[DROPS].into()
}

sockopt_impl!(
    /// `SO_MEMINFO`: `SK_MEMINFO_VARS` numbers.
    MemInfo,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 9]
);

/// `SK_MEMINFO_DROPS`.
const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
