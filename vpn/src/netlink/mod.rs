//! What the kernel has to know of the device: addresses, MTU, queue length, routes (rtnetlink). Everything hangs on the
//! device, so it goes away with it; routes and addresses are also taken back when a configuration no longer has them, and
//! put back when somebody else takes them away.

mod exit;
mod picture;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use proto::{Code, Reason};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{AddressMessageBuilder, LinkUnspec, RouteMessageBuilder};
use rtnl::{Netlink, Refused, Topic, Watch, within};
use rustix::io::Errno;

use self::exit::Exit;
use self::picture::Picture;
use crate::clash::{Networks, Verdict};
use crate::config::{Claim, Config};
use crate::device::DeviceName;
use crate::switch::Mac;
use crate::upkeep::Healed;

/// One device and what was set up for it.
#[derive(Debug)]
pub struct Device {
    netlink: Netlink,
    name: DeviceName,
    index: u32,
    addresses: BTreeSet<IpNet>,
    /// With the source address that each prefers.
    routes: BTreeMap<IpNet, IpAddr>,
    warnings: Vec<String>,
    exit: Exit,
    mac: Option<Mac>,
    /// It has once been what it was to be.
    settled: bool,
}

/// The kernel's word that something has changed of what a device is given, or of what it could clash with.
pub fn watch() -> Result<Watch, Reason> {
    let all = [Topic::Links, Topic::Addresses, Topic::Routes, Topic::Rules];
    Watch::open(&all).map_err(|e| {
        let text = format!("can't be told of changes of the host's network: {e}");
        Reason::new(Code::Failed, text)
    })
}

/// Waits until no device has this name: one of a process that was just killed may need a moment to go away.
pub async fn free(netlink: &Netlink, name: &DeviceName, patience: Duration) -> Result<(), Reason> {
    let deadline = tokio::time::Instant::now() + patience;
    while netlink.index(name.as_str()).await?.is_some() {
        if tokio::time::Instant::now() >= deadline {
            let why = format!(
                "the device {0} exists and isn't ours; choose another with --dev, or remove it (ip link del {0})",
                name.as_str()
            );
            return Err(Reason::new(Code::Conflict, why));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

impl Device {
    /// Takes charge of a device that was just made, and brings it up. `queue` is the number of frames that may wait in it; it drops
    /// what comes beyond. A TAP gets this address.
    pub async fn up(
        netlink: Netlink,
        name: DeviceName,
        mtu: u32,
        queue: u32,
        mac: Option<Mac>,
    ) -> Result<Self, Reason> {
        let index = netlink.index(name.as_str()).await?.ok_or_else(|| {
            Reason::new(
                Code::Failed,
                format!(
                    "the device {} is gone; was it removed by hand?",
                    name.as_str()
                ),
            )
        })?;
        let device = Self {
            exit: Exit::new(&name, index),
            mac,
            netlink,
            name,
            index,
            addresses: BTreeSet::new(),
            routes: BTreeMap::new(),
            warnings: Vec::new(),
            settled: false,
        };
        let link = LinkUnspec::new_with_index(index)
            .mtu(mtu)
            .txqueuelen(queue)
            .up();
        let link = match mac {
            Some(mac) => link.address(mac.0.to_vec()),
            None => link,
        }
        .build();
        within(device.netlink.handle.link().change(link).execute())
            .await
            .map_err(|e| e.reason(&device.what("bring up")))?;
        match Exit::sweep(&device.netlink).await {
            Ok(0) => {}
            Ok(n) => tracing::info!("{n} rules of a way out were taken back whose device is gone"),
            Err(e) => tracing::warn!("{}", e.reason("look for rules of devices that are gone")),
        }
        Ok(device)
    }

    /// Looks whether the kernel still has what it was given, and puts back what is missing; `None`: the device itself is gone.
    pub async fn heal(&mut self, config: &Config) -> Result<Option<Healed>, Reason> {
        let mut healed = Healed::default();
        let mut picture = self.look().await?;
        if !picture.there {
            return Ok(None);
        }
        self.mac = picture.mac;
        if !picture.up {
            let link = LinkUnspec::new_with_index(self.index).up().build();
            within(self.netlink.handle.link().change(link).execute())
                .await
                .map_err(|e| e.reason(&self.what("bring up")))?;
            healed.device = 1;
            picture = self.look().await?;
        }
        let lost = &self.addresses - &picture.addresses;
        self.addresses = &self.addresses & &picture.addresses;
        let routes = std::mem::take(&mut self.routes);
        let (kept, taken) = routes
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(net, source)| {
                picture.routes.get(net) == Some(&Some(*source))
            });
        self.routes = kept;
        let rules = self.change(config, &picture.networks).await?;
        let back = |net: &&IpNet| self.addresses.contains(*net);
        healed.addresses = lost.iter().filter(back).count() as u64;
        healed.routes = taken.keys().filter(|n| self.routes.contains_key(n)).count() as u64;
        healed.routes += rules;
        Ok(Some(healed))
    }

    async fn look(&self) -> Result<Picture, Reason> {
        let picture = Picture::take(&self.netlink, self.index).await;
        picture.map_err(|e| e.reason("look at the host's addresses and routes"))
    }

    /// Its address on an Ethernet segment, when it was looked at last.
    pub fn mac(&self) -> Option<Mac> {
        self.mac
    }

    /// The device's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The MTU as the kernel has it.
    pub async fn mtu(&self) -> Result<u32, Reason> {
        let mut links = self
            .netlink
            .handle
            .link()
            .get()
            .match_index(self.index)
            .execute();
        let link = within(links.try_next())
            .await
            .map_err(|e| e.reason(&self.what("look at")))?;
        let mtu = link.into_iter().flat_map(|l| l.attributes).find_map(|a| {
            if let LinkAttribute::Mtu(mtu) = a {
                Some(mtu)
            } else {
                None
            }
        });
        mtu.ok_or_else(|| Reason::new(Code::Failed, self.what("tell the MTU of")))
    }

    /// Sets the MTU.
    pub async fn set_mtu(&self, mtu: u32) -> Result<(), Reason> {
        let link = LinkUnspec::new_with_index(self.index).mtu(mtu).build();
        within(self.netlink.handle.link().change(link).execute())
            .await
            .map_err(|e| e.reason(&self.what("set the MTU of")))
    }

    /// Makes addresses and routes what the configuration says. An address that can't be had is an error; a route that can't
    /// is a warning, since the others serve on. At first an address or a route by hand that clashes with what the host has
    /// is an error; later it is a warning, and what stands goes on standing: who comes later takes nothing from the VPN.
    pub async fn apply(&mut self, config: &Config) -> Result<(), Reason> {
        let picture = self.look().await?;
        self.mac = picture.mac;
        self.change(config, &picture.networks).await.map(drop)
    }

    /// Takes back what would not go away with the device.
    pub async fn clear(&mut self, config: &Config) {
        let none = Config {
            exit: None,
            offered: Vec::new(),
            ..config.clone()
        };
        if let Err(e) = self.exit.set(&self.netlink, &none).await {
            tracing::warn!("{}", e.reason("take back the rules of the way out"));
        }
    }

    /// Gives how much of the way out was missing.
    async fn change(&mut self, config: &Config, host: &Networks) -> Result<u64, Reason> {
        self.warnings.clear();
        for address in &config.addresses {
            let own = config.own.iter().find(|own| own.contains(&address.addr()));
            match host.address(address.addr(), own.unwrap_or(address)) {
                Verdict::Refused(why) if !self.settled => {
                    return Err(Reason::new(Code::Conflict, why));
                }
                Verdict::Refused(why) | Verdict::Told(why) => self.warnings.push(why),
                Verdict::Free => {}
            }
        }
        let wanted: BTreeSet<IpNet> = config.addresses.iter().copied().collect();
        for gone in self
            .addresses
            .difference(&wanted)
            .copied()
            .collect::<Vec<_>>()
        {
            // The kernel may have taken it back itself; then there is nothing to do.
            let _ = self.change_address(gone, Change::Remove).await;
            self.addresses.remove(&gone);
            // With an address go the routes that prefer it.
            self.routes.retain(|_, source| *source != gone.addr());
        }
        for new in wanted {
            if !self.addresses.contains(&new) {
                match self.change_address(new, Change::add(config)).await {
                    Ok(()) | Err(Refused::Errno(Errno::EXIST)) => self.addresses.insert(new),
                    Err(e) => {
                        return Err(e.reason(&self.what(&format!("give the address {new} to"))));
                    }
                };
            }
        }
        self.apply_routes(config, host).await?;
        let exit = self.exit.set(&self.netlink, config).await;
        let missing = exit.map_err(|e| e.reason(&self.what("send all else to")))?;
        self.settled = true;
        Ok(missing)
    }

    /// What could not be done, in words for a person; empty when all is well.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    async fn apply_routes(&mut self, config: &Config, host: &Networks) -> Result<(), Reason> {
        let claims = config.kernel_routes();
        let source = |net: &IpNet| Some((*net, config.address_like(net.addr())?));
        let wanted: BTreeMap<IpNet, IpAddr> = claims.keys().filter_map(source).collect();
        let gone = self
            .routes
            .iter()
            .filter(|(net, source)| wanted.get(net) != Some(source))
            .map(|(net, source)| (*net, *source));
        for (net, source) in gone.collect::<Vec<_>>() {
            // Gone already when somebody removed it by hand.
            if let Some(message) = self.route(net, source) {
                let _ = within(self.netlink.handle.route().del(message).execute()).await;
            }
            self.routes.remove(&net);
        }
        for (net, source) in wanted {
            let claim = &claims[&net];
            let free = match host.route(&net, &claim.describe(&net)) {
                Verdict::Free => true,
                Verdict::Refused(why) if !self.settled && matches!(claim, Claim::ByHand(_)) => {
                    return Err(Reason::new(Code::Conflict, why));
                }
                Verdict::Refused(why) => {
                    self.warnings.push(why);
                    false
                }
                Verdict::Told(why) => {
                    self.warnings.push(why);
                    true
                }
            };
            if !free || self.routes.contains_key(&net) {
                continue;
            }
            let Some(message) = self.route(net, source) else {
                continue;
            };
            match within(self.netlink.handle.route().add(message).execute()).await {
                Ok(()) => {
                    self.routes.insert(net, source);
                }
                // The network of an own address is such a route, made by the kernel.
                Err(Refused::Errno(Errno::EXIST))
                    if self.addresses.iter().any(|own| own.trunc() == net) => {}
                Err(Refused::Errno(Errno::EXIST)) => {
                    self.warnings.push(format!("the host has another route to {net}; it stays, so {net} doesn't go through the VPN"));
                }
                Err(e) => self.warnings.push(
                    e.reason(&self.what(&format!("set the route {net} to")))
                        .text,
                ),
            }
        }
        Ok(())
    }

    async fn change_address(&self, net: IpNet, change: Change) -> Result<(), Refused> {
        let addresses = self.netlink.handle.address();
        if change != Change::Remove {
            let mut request = addresses.add(self.index, net.addr(), net.prefix_len());
            if net.addr().is_ipv6() && change == Change::AddAlone {
                // Until it is checked whether somebody has it, routes can't prefer the address.
                request
                    .message_mut()
                    .attributes
                    .push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            return within(request.execute()).await;
        }
        let message = match net.addr() {
            IpAddr::V4(a) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(self.index)
                .address(a, net.prefix_len())
                .build(),
            IpAddr::V6(a) => AddressMessageBuilder::<Ipv6Addr>::new()
                .index(self.index)
                .address(a, net.prefix_len())
                .build(),
        };
        within(addresses.del(message).execute()).await
    }

    /// `None` only if `source` is of the other family, which [`Config::address_like`] excludes.
    fn route(&self, net: IpNet, source: IpAddr) -> Option<RouteMessage> {
        let to = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .ok()?;
        Some(
            to.pref_source(source)
                .ok()?
                .output_interface(self.index)
                .build(),
        )
    }

    fn what(&self, verb: &str) -> String {
        format!("{verb} the device {}", self.name.as_str())
    }
}

/// What is done with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Nobody else is on this link, who could have it.
    AddAlone,
    /// The kernel asks whether somebody has it.
    AddAmongOthers,
    Remove,
}

impl Change {
    fn add(config: &Config) -> Self {
        match config.tap {
            true => Self::AddAmongOthers,
            false => Self::AddAlone,
        }
    }
}
