//! What the kernel has at a moment: addresses and routes of one device, and the networks of all others.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of what the kernel says, which grows with each release, a few things matter here"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnl::{Netlink, Refused, To, within};

use crate::clash::{Network, Networks, Way};
use crate::switch::Mac;

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// There is such a device.
    pub(super) there: bool,
    /// The device is up.
    pub(super) up: bool,
    /// Its address on an Ethernet segment.
    pub(super) mac: Option<Mac>,
    /// Its addresses.
    pub(super) addresses: BTreeSet<IpNet>,
    /// Its routes in the main table, with the source address that each prefers.
    pub(super) routes: BTreeMap<IpNet, Option<IpAddr>>,
    /// The networks of the other devices.
    pub(super) networks: Networks,
}

impl Picture {
    /// Looks.
    pub(super) async fn take(netlink: &Netlink, device: u32) -> Result<Self, Refused> {
        let mut picture = Self::default();
        let names = picture.links(netlink, device).await?;
        let name = |index: u32| names.get(&index).cloned().unwrap_or_default();
        for address in netlink.addresses(None).await? {
            if address.device == device {
                picture.addresses.insert(address.net);
            } else {
                picture.networks.add(Network {
                    net: address.net,
                    dev: name(address.device),
                    way: Way::Address,
                });
            }
        }
        for v6 in [false, true] {
            let routes = netlink.routes(rtnl::MAIN, v6, |route| {
                let way = match route.to {
                    To::Link => Way::Link,
                    To::Router | To::Nobody => Way::Router,
                    To::Other => return,
                };
                if route.device == Some(device) {
                    picture.routes.insert(route.net, route.source);
                } else {
                    picture.networks.add(Network {
                        net: route.net,
                        dev: route.device.map(name).unwrap_or_default(),
                        way,
                    });
                }
            });
            routes.await?;
        }
        Ok(picture)
    }

    async fn links(
        &mut self,
        netlink: &Netlink,
        device: u32,
    ) -> Result<BTreeMap<u32, String>, Refused> {
        let mut names = BTreeMap::new();
        let mut links = netlink.handle.link().get().execute();
        while let Some(link) = within(links.try_next()).await? {
            if link.header.index == device {
                self.there = true;
                self.up = link.header.flags.contains(LinkFlags::Up);
                self.mac = link.attributes.iter().find_map(|a| match a {
                    LinkAttribute::Address(mac) => mac.as_slice().try_into().ok().map(Mac),
                    _ => None,
                });
            }
            let name = link.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            names.extend(name.map(|name| (link.header.index, name)));
        }
        Ok(names)
    }
}
