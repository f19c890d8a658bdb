//! What the kernel has at a moment: addresses and routes of one device, and the networks of all others.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of what the kernel says, which grows with each release, a few things matter here"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Refused, within};
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
    pub(super) async fn take(handle: &Handle, device: u32) -> Result<Self, Refused> {
        let mut picture = Self::default();
        let names = picture.links(handle, device).await?;
        let name = |index: u32| names.get(&index).cloned().unwrap_or_default();
        let mut addresses = handle.address().get().execute();
        while let Some(message) = within(addresses.try_next()).await? {
            let index = message.header.index;
            match address(&message) {
                Some(net) if index == device => {
                    picture.addresses.insert(net);
                }
                Some(net) => picture.networks.add(Network {
                    net,
                    dev: name(index),
                    way: Way::Address,
                }),
                None => {}
            }
        }
        for mut ask in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            ask.header = RouteHeader {
                address_family: ask.header.address_family,
                table: RouteHeader::RT_TABLE_MAIN,
                ..RouteHeader::default()
            };
            ask.attributes.clear();
            let mut routes = handle.route().get(ask).execute();
            while let Some(message) = within(routes.try_next()).await? {
                picture.route(&message, device, name);
            }
        }
        Ok(picture)
    }

    async fn links(
        &mut self,
        handle: &Handle,
        device: u32,
    ) -> Result<BTreeMap<u32, String>, Refused> {
        let mut names = BTreeMap::new();
        let mut links = handle.link().get().execute();
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

    fn route(&mut self, message: &RouteMessage, device: u32, name: impl Fn(u32) -> String) {
        let Some(route) = Route::read(message) else {
            return;
        };
        if route.oif == Some(device) {
            self.routes.insert(route.net, route.source);
        } else {
            self.networks.add(Network {
                net: route.net,
                dev: route.oif.map(name).unwrap_or_default(),
                way: route.way,
            });
        }
    }
}

struct Route {
    net: IpNet,
    oif: Option<u32>,
    source: Option<IpAddr>,
    way: Way,
}

impl Route {
    /// `None`: of another table, or one that says of no address where it goes.
    fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let mut table = u32::from(header.table);
        let mut destination = None;
        let (mut oif, mut source) = (None, None);
        let mut way = Way::Link;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Destination(to) => destination = ip(to),
                RouteAttribute::PrefSource(from) => source = ip(from),
                RouteAttribute::Oif(index) => oif = Some(*index),
                RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::MultiPath(_)
                | RouteAttribute::NhId(_) => way = Way::Router,
                _ => {}
            }
        }
        match header.kind {
            RouteType::Unicast => {}
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
                way = Way::Router;
            }
            _ => return None,
        }
        let main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
        // Without a destination it is the default route.
        let net = IpNet::new(destination?, header.destination_prefix_length).ok()?;
        main.then_some(Self {
            net,
            oif,
            source,
            way,
        })
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// The own address; on a point-to-point link the other attribute names the far end.
fn address(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => other = Some(*a),
            _ => {}
        }
    }
    IpNet::new(local.or(other)?, message.header.prefix_len).ok()
}
