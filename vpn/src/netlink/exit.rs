//! The way out: a default route for what this host sends by way of a member, and nothing else.
//!
//! It lies in a table of its own, and rules lead there only what the VPN may carry: packets that have no source address yet,
//! or one of this member's prefixes. The layers below send from addresses of other devices, as do answers to who came in by
//! those, so that they never loop; and what a more specific route of the main table takes, stays there. The table's route
//! goes away with the device. The rules don't, when the process is killed: then they lead to an empty table, which means
//! nothing, until the next process of that device, or of another, removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};
use rtnl::{Netlink, Refused, within};

use crate::config::Config;
use crate::device::DeviceName;

/// The table and the rules of one device.
#[derive(Debug)]
pub(super) struct Exit {
    table: u32,
    priority: u32,
    device: u32,
}

/// One rule, as far as we set it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    v6: bool,
    priority: u32,
    from: Option<IpNet>,
}

impl Exit {
    pub(super) fn new(name: &DeviceName, device: u32) -> Self {
        // The same for a device of this name in each life, and hardly that of another.
        let mut hash: u32 = 0x811c_9dc5;
        for byte in name.as_str().bytes() {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
        Self {
            table: TABLES | (hash & 0xffff),
            priority: PRIORITIES + 2 * (hash % (SPAN / 2)),
            device,
        }
    }

    /// Makes rules and routes what the configuration says; gives how many were missing.
    pub(super) async fn set(&self, netlink: &Netlink, config: &Config) -> Result<u64, Refused> {
        let mut out: BTreeMap<bool, IpAddr> = BTreeMap::new();
        for net in config.ways_out() {
            out.extend(
                config
                    .address_like(net.addr())
                    .map(|own| (own.is_ipv6(), own)),
            );
        }
        let mut missing = 0;
        for v6 in [false, true] {
            let devices = devices(netlink, self.table, v6).await?;
            if !out.contains_key(&v6) && devices.iter().any(|device| *device != self.device) {
                // Of another device whose name looks alike, and which lives.
                continue;
            }
            missing += self
                .rules(netlink, v6, out.contains_key(&v6), config)
                .await?;
            match out.get(&v6) {
                Some(source) if !devices.contains(&self.device) => {
                    let add = netlink.handle.route().add(self.default_route(*source));
                    within(add.execute()).await?;
                    missing += 1;
                }
                None if devices.contains(&self.device) => {
                    let any = if v6 { V6_ANY } else { V4_ANY };
                    let del = netlink.handle.route().del(self.default_route(any));
                    within(del.execute()).await?;
                }
                Some(_) | None => {}
            }
        }
        Ok(missing)
    }

    /// Takes back the rules of devices that are gone with their processes, which could not do it.
    pub(super) async fn sweep(netlink: &Netlink) -> Result<u64, Refused> {
        let mut swept = 0;
        for v6 in [false, true] {
            let version = if v6 { IpVersion::V6 } else { IpVersion::V4 };
            let mut all = netlink.handle.rule().get(version).execute();
            let mut ours = Vec::new();
            while let Some(message) = within(all.try_next()).await? {
                ours.extend(Made::read(&message).map(|made| (made, message)));
            }
            let mut dead = BTreeMap::new();
            for (made, _) in &ours {
                let Made::Lead { table, .. } = made else {
                    continue;
                };
                if !dead.contains_key(table) {
                    let mut devices = devices(netlink, *table, false).await?;
                    devices.extend(self::devices(netlink, *table, true).await?);
                    dead.insert(*table, devices.is_empty());
                }
            }
            let leads = |priority: u32, is_dead: bool| {
                ours.iter().any(|(made, _)| match made {
                    Made::Lead {
                        table,
                        priority: at,
                    } => *at == priority && dead.get(table) == Some(&is_dead),
                    Made::First { .. } => false,
                })
            };
            let over = |made: &Made| match made {
                Made::Lead { table, .. } => dead.get(table) == Some(&true),
                // Two devices may share it.
                Made::First { priority } => {
                    leads(priority + 1, true) && !leads(priority + 1, false)
                }
            };
            let gone: Vec<RuleMessage> = ours
                .iter()
                .filter(|(made, _)| over(made))
                .map(|(_, message)| message.clone())
                .collect();
            for message in gone {
                match within(netlink.handle.rule().del(message).execute()).await {
                    // Whoever starts at the same time may have been quicker.
                    Ok(()) | Err(Refused::Errno(rustix::io::Errno::NOENT)) => swept += 1,
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(swept)
    }

    async fn rules(
        &self,
        netlink: &Netlink,
        v6: bool,
        wanted: bool,
        config: &Config,
    ) -> Result<u64, Refused> {
        let rule = |priority, from| Rule { v6, priority, from };
        let own = config.own.iter().map(IpNet::trunc);
        let own = own.filter(|net| net.addr().is_ipv6() == v6);
        // IPv6 looks for a rule once it has chosen the source.
        let none_yet = (!v6).then(|| Ipv4Net::from(Ipv4Addr::UNSPECIFIED).into());
        let lead = own
            .chain(none_yet)
            .map(|from| rule(self.priority + 1, Some(from)));
        let first = rule(self.priority, None);
        let mut wanted: BTreeSet<Rule> = match wanted {
            true => lead.chain([first]).collect(),
            false => BTreeSet::new(),
        };
        let version = if v6 { IpVersion::V6 } else { IpVersion::V4 };
        let mut all = netlink.handle.rule().get(version).execute();
        let mut old = Vec::new();
        while let Some(message) = within(all.try_next()).await? {
            match self.read(v6, &message) {
                Some(rule) if wanted.remove(&rule) => {}
                Some(_) => old.push(message),
                None => {}
            }
        }
        let missing = wanted.len() as u64;
        for rule in wanted {
            self.add(netlink, &rule).await?;
        }
        for message in old {
            within(netlink.handle.rule().del(message).execute()).await?;
        }
        Ok(missing)
    }

    /// `None`: it isn't ours.
    fn read(&self, v6: bool, message: &RuleMessage) -> Option<Rule> {
        let (mut priority, mut source) = (0, None);
        for attribute in &message.attributes {
            if let RuleAttribute::Priority(number) = attribute {
                priority = *number;
            } else if let RuleAttribute::Source(address) = attribute {
                source = Some(*address);
            }
        }
        let from = match message.header.src_len {
            0 => None,
            len => {
                let any = if v6 { V6_ANY } else { V4_ANY };
                Some(IpNet::new(source.unwrap_or(any), len).ok()?)
            }
        };
        let ours = [self.priority, self.priority + 1].contains(&priority);
        ours.then_some(Rule { v6, priority, from })
    }

    async fn add(&self, netlink: &Netlink, rule: &Rule) -> Result<(), Refused> {
        let mut add = netlink
            .handle
            .rule()
            .add()
            .priority(rule.priority)
            .action(RuleAction::ToTable);
        let message = add.message_mut();
        match rule.from {
            Some(net) => {
                message.header.src_len = net.prefix_len();
                message
                    .attributes
                    .push(RuleAttribute::Source(net.network()));
                message.attributes.push(RuleAttribute::Table(self.table));
                if rule.v6 {
                    message.header.flags |= RuleFlags::from_bits_retain(FIND_SADDR);
                }
            }
            None => {
                message.header.table = RouteHeader::RT_TABLE_MAIN;
                message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
            }
        }
        match rule.v6 {
            true => within(add.v6().execute()).await,
            false => within(add.v4().execute()).await,
        }
    }

    fn default_route(&self, source: IpAddr) -> RouteMessage {
        let unspecified = source.is_unspecified();
        match source {
            IpAddr::V4(source) => {
                let to = RouteMessageBuilder::<Ipv4Addr>::new().table_id(self.table);
                let to = to.output_interface(self.device);
                if unspecified {
                    to
                } else {
                    to.pref_source(source)
                }
                .build()
            }
            IpAddr::V6(source) => {
                let to = RouteMessageBuilder::<Ipv6Addr>::new().table_id(self.table);
                let to = to.output_interface(self.device);
                if unspecified {
                    to
                } else {
                    to.pref_source(source)
                }
                .build()
            }
        }
    }
}

/// What a rule is that a VPN, of whatever device, has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// To the table of a device.
    Lead { table: u32, priority: u32 },
    /// Before such ones: what is more specific in the main table.
    First { priority: u32 },
}

impl Made {
    /// `None`: an administrator's, or another program's.
    fn read(message: &RuleMessage) -> Option<Self> {
        let mut table = u32::from(message.header.table);
        let (mut priority, mut suppressed) = (0, None);
        for attribute in &message.attributes {
            if let RuleAttribute::Priority(number) = attribute {
                priority = *number;
            } else if let RuleAttribute::Table(number) = attribute {
                table = *number;
            } else if let RuleAttribute::SuppressPrefixLen(len) = attribute {
                suppressed = Some(*len);
            }
        }
        if message.header.action != RuleAction::ToTable
            || !(PRIORITIES..PRIORITIES + SPAN).contains(&priority)
        {
            return None;
        }
        let own = table & !0xffff == TABLES;
        match (priority - PRIORITIES) % 2 {
            1 if own => Some(Self::Lead { table, priority }),
            0 if table == rtnl::MAIN && suppressed == Some(0) => Some(Self::First { priority }),
            _ => None,
        }
    }
}

/// The devices of the table's routes.
async fn devices(netlink: &Netlink, table: u32, v6: bool) -> Result<Vec<u32>, Refused> {
    let mut all = Vec::new();
    let routes = netlink.routes(table, v6, |route| all.extend(route.device));
    routes.await?;
    Ok(all)
}

const V4_ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6_ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// `FIB_RULE_FIND_SADDR` of `linux/fib_rules.h`: a packet without a source is judged by the one that it would get.
const FIND_SADDR: u32 = 0x1_0000;
/// Tables are numbered from here; no distribution names one so.
const TABLES: u32 = 0x5354_0000;
/// Rules have priorities from here to 1,000 above: before the main table's, behind what an administrator numbers by hand.
const PRIORITIES: u32 = 31_000;
const SPAN: u32 = 1000;
