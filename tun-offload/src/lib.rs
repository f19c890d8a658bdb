//! What crate `tun` lacks and only `unsafe` can do. It must not hold anything else: no protocol, no policy, no IO.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

/// Which super-packets a TUN device may give, besides packets whose checksum is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// TCP over either family, and packets without their checksum.
    pub tcp: bool,
    /// UDP over either family (Linux 6.2).
    pub udp: bool,
}

/// Takes the descriptor out of a device of crate `tun`, which offers no borrow of it that is safe.
pub fn descriptor(device: impl IntoRawFd) -> OwnedFd {
    // SAFETY: `into_raw_fd` gives up an open descriptor that nobody else owns.
    #[expect(unsafe_code, reason = "the contract of IntoRawFd is what is needed")]
    unsafe {
        OwnedFd::from_raw_fd(device.into_raw_fd())
    }
}

/// Says what the device, made with `IFF_VNET_HDR`, may give from now on (`TUNSETOFFLOAD`). The error `EINVAL` says that this kernel
/// doesn't know one of them.
pub fn set_offload(tun: &impl AsFd, offload: Offload) -> io::Result<()> {
    let mut flags = 0;
    if offload.tcp {
        flags |= CSUM | TSO4 | TSO6 | TSO_ECN;
    }
    if offload.udp {
        flags |= CSUM | USO4 | USO6;
    }
    // SAFETY: the argument is a number, and the descriptor is open while it is borrowed; a descriptor that is no TUN device gives
    // an error.
    #[expect(unsafe_code, reason = "no crate that we use has this ioctl")]
    unsafe {
        tun_set_offload(tun.as_fd().as_raw_fd(), flags)?;
    }
    Ok(())
}

nix::ioctl_write_int!(
    /// `_IOW('T', 208, unsigned int)` of `linux/if_tun.h`.
    tun_set_offload,
    b'T',
    208
);

const CSUM: u64 = 0x01;
const TSO4: u64 = 0x02;
const TSO6: u64 = 0x04;
const TSO_ECN: u64 = 0x08;
const USO4: u64 = 0x20;
const USO6: u64 = 0x40;
