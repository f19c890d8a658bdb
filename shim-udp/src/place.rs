//! Where this host is: whether it has an address, or which one an interface has, as the kernel tells it (rtnetlink(7)).
//!
//! This module must not bind what it finds, nor change anything: that is the machine's to ask.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of what the kernel says, which grows with each release, a few things matter here"
)]

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::TryStreamExt;
use proto::ipcp::{Family, Place};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Tell;
use crate::sockets::has_address;

/// The place that is followed.
#[derive(Debug, Default)]
pub(crate) struct Places {
    task: Option<JoinHandle<()>>,
    tells: Option<mpsc::Sender<Tell>>,
}

impl Places {
    /// Where it is told.
    pub(crate) fn tell(&mut self, tells: mpsc::Sender<Tell>) {
        self.tells = Some(tells);
    }

    /// Follows this place from now on, and no other.
    pub(crate) fn follow(&mut self, place: Place) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        if let Some(tells) = self.tells.clone() {
            self.task = Some(tokio::spawn(follow(place, tells)));
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Tells the address of a place at first and whenever it has changed.
async fn follow(place: Place, tells: mpsc::Sender<Tell>) {
    let watch = Watch::open(matches!(place, Place::Auto(_))).inspect_err(|e| {
        tracing::warn!(
            "can't hear of changes of the host's addresses: {e}; they are looked at each second"
        )
    });
    let mut last = None;
    loop {
        let now = look(&place, last.as_ref()).await;
        if last.as_ref() != Some(&now) {
            if tells.send(Tell::Place(now.clone())).await.is_err() {
                // The process ends.
                return;
            }
            last = Some(now);
        }
        match &watch {
            Ok(watch) => {
                watch.changed().await;
                // An address that is replaced is gone for a moment, and more words follow a first one.
                tokio::time::sleep(SETTLE).await;
                watch.forget();
            }
            Err(_) => tokio::time::sleep(UNWATCHED).await,
        }
    }
}

/// The address of a place; the one that it had last, if it may still be used.
async fn look(place: &Place, last: Option<&Result<IpAddr, String>>) -> Result<IpAddr, String> {
    let last = last.and_then(|last| last.as_ref().ok()).copied();
    let found = match place {
        Place::At(ip) => has_address(*ip)
            .then_some(*ip)
            .ok_or_else(|| format!("this host has no address {ip}")),
        Place::Of(..) | Place::Auto(_) => {
            let all = tokio::time::timeout(PATIENCE, in_kernel(place, last)).await;
            all.unwrap_or_else(|_| Err("the kernel doesn't say which addresses there are".into()))
        }
    };
    found.inspect_err(|text| tracing::debug!("{text}"))
}

async fn in_kernel(place: &Place, last: Option<IpAddr>) -> Result<IpAddr, String> {
    let failed = |e: &dyn std::fmt::Display| format!("can't ask the kernel for addresses: {e}");
    // Strict: the kernel itself leaves out what is not asked for.
    let (connection, handle, _) =
        rtnetlink::new_connection_with_strict_check().map_err(|e| failed(&e))?;
    let task = tokio::spawn(connection);
    let found = find(&handle, place, last).await;
    task.abort();
    found.map_err(|e| failed(&e))?
}

async fn find(
    handle: &Handle,
    place: &Place,
    last: Option<IpAddr>,
) -> Result<Result<IpAddr, String>, rtnetlink::Error> {
    let (family, index, device) = match place {
        Place::At(ip) => return Ok(Ok(*ip)),
        Place::Of(family, name) => {
            let Some(index) = index(handle, name).await? else {
                let text = format!(
                    "there is no interface {name} (yet); the shim takes its address as soon as there is"
                );
                return Ok(Err(text));
            };
            (*family, index, name.clone())
        }
        Place::Auto(family) => {
            let Some(index) = default_route(handle, *family).await? else {
                let word = word(*family);
                let text = format!(
                    "this host has no default route of {word} (yet); the shim takes the address of its interface as soon as it has"
                );
                return Ok(Err(text));
            };
            (*family, index, "that the default route goes by".to_owned())
        }
    };
    let mut addresses = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute();
    let mut all = Vec::new();
    while let Some(message) = addresses.try_next().await? {
        if message.header.index == index && message.header.family == af(family) {
            all.extend(candidate(&message));
        }
    }
    Ok(choose(&all, last).ok_or_else(|| {
        let word = word(family);
        format!("the interface {device} has no {word} address (yet); the shim takes it as soon as it has")
    }))
}

async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|l| l.header.index)),
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -Errno::NODEV.raw_os_error() => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The interface of the default route in the main table, which is not where a VPN's way out is.
async fn default_route(handle: &Handle, family: Family) -> Result<Option<u32>, rtnetlink::Error> {
    let mut ask = match family {
        Family::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        Family::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    };
    ask.header = RouteHeader {
        address_family: ask.header.address_family,
        table: RouteHeader::RT_TABLE_MAIN,
        ..RouteHeader::default()
    };
    ask.attributes.clear();
    let mut routes = handle.route().get(ask).execute();
    let mut best: Option<(u32, u32)> = None;
    while let Some(message) = routes.try_next().await? {
        if let Some(way) = default_way(&message)
            && best.is_none_or(|best| way.0 < best.0)
        {
            best = Some(way);
        }
    }
    Ok(best.map(|(_, index)| index))
}

/// Metric and interface of a default route.
fn default_way(message: &RouteMessage) -> Option<(u32, u32)> {
    let header = &message.header;
    if header.destination_prefix_length != 0
        || header.kind != RouteType::Unicast
        || header.table != RouteHeader::RT_TABLE_MAIN
    {
        return None;
    }
    let (mut metric, mut index) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(n) => metric = *n,
            RouteAttribute::Oif(n) => index = Some(*n),
            RouteAttribute::MultiPath(hops) => {
                let first = hops.first().map(|hop| hop.interface_index);
                index = index.or(first);
            }
            _ => {}
        }
    }
    Some((metric, index?))
}

/// An address that could be taken, and how gladly: less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// It ends soon: others are to be used.
    deprecated: bool,
    /// Of this link only (IPv4).
    link_local: bool,
    /// A second one of a network, or one that is replaced each day for privacy.
    second: bool,
    ip: IpAddr,
}

fn candidate(message: &AddressMessage) -> Option<Candidate> {
    let (mut ip, mut flags) = (None, message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            // Of a link with two ends the one here.
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
            AddressAttribute::Flags(all) => flags = all.bits(),
            _ => {}
        }
    }
    let has = |flag: AddressFlags| flags & flag.bits() != 0;
    let ip = ip?;
    // Not usable yet, or ever.
    if has(AddressFlags::Tentative) || has(AddressFlags::Dadfailed) {
        return None;
    }
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        // It would take a scope.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => return None,
        IpAddr::V6(_) => false,
    };
    Some(Candidate {
        deprecated: has(AddressFlags::Deprecated),
        link_local,
        second: has(AddressFlags::Secondary),
        ip,
    })
}

/// The best, which is the first of alike ones; but the last choice, as long as it is good.
fn choose(all: &[Candidate], last: Option<IpAddr>) -> Option<IpAddr> {
    let stays = |c: &&Candidate| Some(c.ip) == last && !c.deprecated && !c.link_local;
    let best = || {
        all.iter()
            .min_by_key(|c| (c.deprecated, c.link_local, c.second))
    };
    all.iter().find(stays).or_else(best).map(|c| c.ip)
}

fn af(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The kernel's word that something has changed; who hears it looks, so that a word that was lost harms nobody.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn open(routes: bool) -> std::io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = rustix::net::AddressFamily::NETLINK;
        // Without a protocol it is NETLINK_ROUTE.
        let socket = socket_with(family, SocketType::RAW, flags, None)?;
        let groups = if routes { HOST | ROUTES } else { HOST };
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self(libflow::watch(socket, Interest::READABLE)?))
    }

    async fn changed(&self) {
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

    /// Forgets the words up to now: who calls this is about to look.
    fn forget(&self) {
        drain(self.0.get_ref());
    }
}

/// Reads what there is, up to a bound; says whether there was anything. A queue that overflowed is a word too.
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

/// `RTNLGRP_*` of `linux/rtnetlink.h`: links, addresses of IPv4 and IPv6; and routes of both.
const HOST: u32 = group(1) | group(5) | group(9);
const ROUTES: u32 = group(7) | group(11);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// Messages that are read before others have their turn.
const AT_ONCE: usize = 64;
/// How long after the first word of a change it is looked at, and so the least time between two looks.
const SETTLE: Duration = Duration::from_millis(50);
/// How often it is looked where the kernel doesn't tell.
const UNWATCHED: Duration = Duration::from_secs(1);
/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteNextHop;

    fn candidate_of(ip: &str, flags: AddressFlags) -> Option<Candidate> {
        let mut message = AddressMessage::default();
        let ip = ip.parse().unwrap();
        message.attributes = vec![
            AddressAttribute::Address(ip),
            AddressAttribute::Flags(flags),
        ];
        candidate(&message)
    }

    #[test]
    fn a_lasting_address_is_taken_and_kept_while_it_is_good() {
        let none = AddressFlags::empty();
        let all: Vec<_> = [
            ("fd00::1", AddressFlags::Deprecated),
            ("fe80::1", none),
            ("fd00::2", AddressFlags::Secondary),
            ("fd00::3", AddressFlags::Tentative),
            ("fd00::4", AddressFlags::Permanent),
            ("fd00::5", none),
        ]
        .into_iter()
        .filter_map(|(ip, flags)| candidate_of(ip, flags))
        .collect();
        let taken = |last: Option<&str>| {
            let last = last.map(|ip| ip.parse().unwrap());
            choose(&all, last).unwrap().to_string()
        };
        assert_eq!(taken(None), "fd00::4");
        for stays in ["fd00::2", "fd00::5"] {
            assert_eq!(taken(Some(stays)), stays);
        }
        for gone in ["fd00::1", "fd00::3", "fe80::1", "fd00::9"] {
            assert_eq!(taken(Some(gone)), "fd00::4", "{gone}");
        }
        let few = &all[..2];
        assert_eq!(choose(few, None).unwrap().to_string(), "fd00::2");
        assert_eq!(choose(&[], Some([10, 0, 0, 1].into())), None);
    }

    #[test]
    fn an_address_of_the_link_alone_is_the_last_resort() {
        let none = AddressFlags::empty();
        let all = ["169.254.3.4", "10.0.0.1"].map(|ip| candidate_of(ip, none).unwrap());
        assert_eq!(choose(&all, Some(all[0].ip)), Some(all[1].ip));
        assert_eq!(choose(&all[..1], None), Some(all[0].ip));
    }

    #[test]
    fn only_default_routes_of_the_main_table_count() {
        let route = |change: fn(&mut RouteMessage)| {
            let mut message = RouteMessage::default();
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.kind = RouteType::Unicast;
            message.attributes = vec![RouteAttribute::Oif(7)];
            change(&mut message);
            default_way(&message)
        };
        assert_eq!(route(|_| {}), Some((0, 7)));
        assert_eq!(
            route(|m| m.attributes.push(RouteAttribute::Priority(600))),
            Some((600, 7))
        );
        assert_eq!(route(|m| m.header.destination_prefix_length = 8), None);
        assert_eq!(route(|m| m.header.table = 77), None);
        assert_eq!(route(|m| m.header.kind = RouteType::BlackHole), None);
        assert_eq!(route(|m| m.attributes.clear()), None);
        let several = route(|m| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = 9;
            m.attributes = vec![RouteAttribute::MultiPath(vec![hop])];
        });
        assert_eq!(several, Some((0, 9)));
    }
}
