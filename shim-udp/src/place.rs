//! Where this host is: whether it has an address, or which one an interface has, as the kernel tells it (rtnetlink(7)).
//!
//! This module must not bind what it finds, nor change anything: that is the machine's to ask.

use std::net::IpAddr;
use std::time::Duration;

use proto::ipcp::{Family, Place};
use rtnl::{Address, AddressFlags, Netlink, Route, To, Topic, Watch};
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
    let topics = match place {
        Place::Auto(_) => &[Topic::Links, Topic::Addresses, Topic::Routes][..],
        Place::At(_) | Place::Of(..) => &[Topic::Links, Topic::Addresses],
    };
    let watch = Watch::open(topics).inspect_err(|e| {
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
        Place::Of(family, name) => of(*family, name, last).await,
        Place::Auto(family) => auto(*family, last).await,
    };
    found.inspect_err(|text| tracing::debug!("{text}"))
}

async fn of(family: Family, name: &str, last: Option<IpAddr>) -> Result<IpAddr, String> {
    let netlink = Netlink::open().map_err(|e| e.text)?;
    let index = netlink.index(name).await.map_err(|e| e.text)?;
    let index = index.ok_or_else(|| {
        format!(
            "there is no interface {name} (yet); the shim takes its address as soon as there is"
        )
    })?;
    on(&netlink, family, index, name, last).await
}

async fn auto(family: Family, last: Option<IpAddr>) -> Result<IpAddr, String> {
    let netlink = Netlink::open().map_err(|e| e.text)?;
    // The main table is not where a VPN's way out is.
    let mut best = None;
    let routes = netlink.routes(rtnl::MAIN, family == Family::V6, |route| {
        let both = best.into_iter().chain(default_way(&route));
        best = both.min_by_key(|(metric, _)| *metric);
    });
    let routes = routes.await;
    routes.map_err(|e| e.reason("ask the kernel for routes").text)?;
    let (_, index) = best.ok_or_else(|| {
        let word = word(family);
        format!(
            "this host has no default route of {word} (yet); the shim takes the address of its interface as soon as it has"
        )
    })?;
    let device = "that the default route goes by";
    on(&netlink, family, index, device, last).await
}

/// The best address on an interface.
async fn on(
    netlink: &Netlink,
    family: Family,
    index: u32,
    device: &str,
    last: Option<IpAddr>,
) -> Result<IpAddr, String> {
    let addresses = netlink.addresses(Some(index)).await;
    let addresses = addresses.map_err(|e| e.reason("ask the kernel for addresses").text)?;
    let like = |a: &&Address| a.net.addr().is_ipv6() == (family == Family::V6);
    let all: Vec<_> = addresses
        .iter()
        .filter(like)
        .filter_map(candidate)
        .collect();
    choose(&all, last).ok_or_else(|| {
        let word = word(family);
        format!("the interface {device} has no {word} address (yet); the shim takes it as soon as it has")
    })
}

/// Metric and interface of a default route that leads somewhere.
fn default_way(route: &Route) -> Option<(u32, u32)> {
    let leads = route.net.prefix_len() == 0 && matches!(route.to, To::Link | To::Router);
    let index = route.device.or(route.first)?;
    leads.then_some((route.metric, index))
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

fn candidate(address: &Address) -> Option<Candidate> {
    let ip = address.net.addr();
    let has = |flag| address.flags.contains(flag);
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

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// How long after the first word of a change it is looked at, and so the least time between two looks.
const SETTLE: Duration = Duration::from_millis(50);
/// How often it is looked where the kernel doesn't tell.
const UNWATCHED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate_of(ip: &str, flags: AddressFlags) -> Option<Candidate> {
        let net = ip.parse::<IpAddr>().unwrap().into();
        let device = 7;
        candidate(&Address { device, net, flags })
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
    fn only_default_routes_that_lead_somewhere_count() {
        let route = |net: &str, to, device| {
            default_way(&Route {
                net: net.parse().unwrap(),
                to,
                device,
                first: Some(9),
                source: None,
                metric: 600,
            })
        };
        assert_eq!(route("0.0.0.0/0", To::Router, Some(7)), Some((600, 7)));
        assert_eq!(route("::/0", To::Link, Some(7)), Some((600, 7)));
        assert_eq!(route("0.0.0.0/0", To::Router, None), Some((600, 9)));
        assert_eq!(route("0.0.0.0/0", To::Nobody, Some(7)), None);
        assert_eq!(route("0.0.0.0/0", To::Other, Some(7)), None);
        assert_eq!(route("10.0.0.0/8", To::Router, Some(7)), None);
    }
}
