//! The kernel's word that links, addresses, routes or rules of this host have changed. It must not say which: who wants to
//! know looks, so that a word that was lost, or a flood of them, harms nobody.

use std::os::fd::OwnedFd;

use proto::{Code, Reason};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A subscription.
#[derive(Debug)]
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Subscribes. Must be called in a tokio runtime with IO.
    pub fn open() -> Result<Self, Reason> {
        let failed = |e: std::io::Error| {
            let text = format!("can't be told of changes of the host's network: {e}");
            Reason::new(Code::Failed, text)
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .map_err(|e| failed(e.into()))?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS)).map_err(|e| failed(e.into()))?;
        let socket = libflow::watch(socket, Interest::READABLE).map_err(failed)?;
        Ok(Self(socket))
    }

    /// Waits for a change. Safe to cancel.
    pub async fn changed(&self) {
        loop {
            match self.0.readable().await {
                Ok(mut guard) => {
                    if drain(guard.get_inner()) {
                        return;
                    }
                    guard.clear_ready();
                }
                // Only at the end of the runtime.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Forgets the changes up to now: who calls this is about to look.
    pub fn forget(&self) {
        drain(self.0.get_ref());
    }
}

/// Reads what there is, up to a bound; says whether there was anything. A queue that overflowed is a change too.
fn drain(socket: &OwnedFd) -> bool {
    let mut message = [0; 512];
    for read in 0..AT_ONCE {
        match recv(socket, message.as_mut_slice(), RecvFlags::TRUNC) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return read > 0,
        }
    }
    true
}

/// `RTNLGRP_*` of `linux/rtnetlink.h`: link, IPv4 address, route and rule, IPv6 address, route and rule.
const GROUPS: u32 = group(1) | group(5) | group(7) | group(8) | group(9) | group(11) | group(19);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// Messages that are read before others have their turn.
const AT_ONCE: usize = 64;
