//! Questions to the kernel, and what of its answers matters here.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of what the kernel says, which grows with each release, a few things matter here"
)]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use proto::{Code, Reason};
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use rustix::io::Errno;
use tokio::task::JoinHandle;

/// A way to talk to the kernel about the host's network.
#[derive(Debug)]
pub struct Netlink {
    /// For all that this crate doesn't ask itself; to be awaited [`within`] a time.
    pub handle: Handle,
    task: JoinHandle<()>,
}

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The device.
    pub device: u32,
    /// The address, with its host part; on a link with two ends the one here.
    pub net: IpNet,
    /// What else is said of it.
    pub flags: AddressFlags,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; the default route everywhere.
    pub net: IpNet,
    /// What becomes of a packet.
    pub to: To,
    /// The device, if all packets go by the same.
    pub device: Option<u32>,
    /// The device of the first of several ways.
    pub first: Option<u32>,
    /// The source address that it prefers.
    pub source: Option<IpAddr>,
    /// Less goes first.
    pub metric: u32,
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Its destination is on the link.
    Link,
    /// A router gets it, or one of several.
    Router,
    /// It is dropped, with or without a word.
    Nobody,
    /// Something else.
    Other,
}

impl Netlink {
    /// Opens the socket. Must be called in a tokio runtime with IO.
    pub fn open() -> Result<Self, Reason> {
        // Strict: the kernel itself leaves out what isn't asked for.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|e| Reason::new(Code::Failed, format!("can't open a netlink socket: {e}")))?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// The number of the device with this name, if there is one.
    pub async fn index(&self, name: &str) -> Result<Option<u32>, Reason> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match within(links.try_next()).await {
            Ok(link) => Ok(link.map(|l| l.header.index)),
            Err(Refused::Errno(Errno::NODEV)) => Ok(None),
            Err(e) => Err(e.reason(&format!("look for the device {name}"))),
        }
    }

    /// The addresses of one device, or of all.
    pub async fn addresses(&self, device: Option<u32>) -> Result<Vec<Address>, Refused> {
        let ask = self.handle.address().get();
        let mut messages = match device {
            Some(device) => ask.set_link_index_filter(device).execute(),
            None => ask.execute(),
        };
        let mut all = Vec::new();
        while let Some(message) = within(messages.try_next()).await? {
            all.extend(
                Address::read(&message).filter(|a| device.is_none_or(|device| a.device == device)),
            );
        }
        Ok(all)
    }

    /// Gives each route of one table and family; a router of the Internet has a million.
    pub async fn routes(
        &self,
        table: u32,
        v6: bool,
        mut each: impl FnMut(Route),
    ) -> Result<(), Refused> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = match v6 {
            true => AddressFamily::Inet6,
            false => AddressFamily::Inet,
        };
        ask.attributes = vec![RouteAttribute::Table(table)];
        let mut messages = self.handle.route().get(ask).execute();
        loop {
            match within(messages.try_next()).await {
                Ok(Some(message)) => Route::read(&message, table).into_iter().for_each(&mut each),
                // No table has this number yet.
                Ok(None) | Err(Refused::Errno(Errno::NOENT)) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Address {
    fn read(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut other) = (None, None);
        let mut flags = message.header.flags.bits().into();
        for attribute in &message.attributes {
            match attribute {
                // On a link with two ends the other attribute names the far one.
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => other = Some(*ip),
                AddressAttribute::Flags(all) => flags = all.bits(),
                _ => {}
            }
        }
        Some(Self {
            device: message.header.index,
            net: IpNet::new(local.or(other)?, message.header.prefix_len).ok()?,
            flags: AddressFlags::from_bits_retain(flags),
        })
    }
}

impl Route {
    /// `None`: of another table, or of another family than IP.
    fn read(message: &RouteMessage, table: u32) -> Option<Self> {
        let header = &message.header;
        let mut own = u32::from(header.table);
        let mut net = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let (mut device, mut first, mut source, mut metric) = (None, None, None, 0);
        let mut to = match header.kind {
            RouteType::Unicast => To::Link,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => To::Nobody,
            _ => To::Other,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => own = *number,
                RouteAttribute::Destination(ip) => net = self::ip(ip)?,
                RouteAttribute::PrefSource(ip) => source = self::ip(ip),
                RouteAttribute::Priority(number) => metric = *number,
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::MultiPath(hops) => first = hops.first().map(|h| h.interface_index),
                _ => {}
            }
            let router = matches!(
                attribute,
                RouteAttribute::Gateway(_)
                    | RouteAttribute::Via(_)
                    | RouteAttribute::MultiPath(_)
                    | RouteAttribute::NhId(_)
            );
            if router && to == To::Link {
                to = To::Router;
            }
        }
        let net = IpNet::new(net, header.destination_prefix_length).ok()?;
        (own == table).then_some(Self {
            net,
            to,
            device,
            first,
            source,
            metric,
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

/// Why the kernel didn't do what it was asked.
#[derive(Debug)]
pub enum Refused {
    /// It said so.
    Errno(Errno),
    /// It said nothing, or nothing that can be read.
    Other(String),
}

impl Refused {
    /// In words for a person.
    pub fn reason(self, what: &str) -> Reason {
        match self {
            Self::Errno(Errno::PERM | Errno::ACCESS) => Reason::new(
                Code::Denied,
                format!("can't {what}: not permitted; start irmd as root or with CAP_NET_ADMIN"),
            ),
            Self::Errno(e) => Reason::new(Code::Failed, format!("can't {what}: {e}")),
            Self::Other(e) => Reason::new(Code::Failed, format!("can't {what}: {e}")),
        }
    }
}

/// Waits for an answer of the kernel, which gives it at once, if at all.
pub async fn within<T>(
    asked: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, Refused> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(rtnetlink::Error::NetlinkError(e))) => {
            Err(Refused::Errno(Errno::from_raw_os_error(-e.raw_code())))
        }
        Ok(Err(e)) => Err(Refused::Other(e.to_string())),
        Err(_) => Err(Refused::Other(format!(
            "the kernel gave no answer in {} s",
            PATIENCE.as_secs()
        ))),
    }
}

/// The number of the main table.
pub const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteNextHop;

    #[test]
    fn a_route_is_read_with_its_table_its_devices_and_what_becomes_of_packets() {
        let route = |change: fn(&mut RouteMessage)| {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.kind = RouteType::Unicast;
            message.attributes = vec![RouteAttribute::Oif(7)];
            change(&mut message);
            Route::read(&message, MAIN)
        };
        let plain = Route {
            net: "0.0.0.0/0".parse().unwrap(),
            to: To::Link,
            device: Some(7),
            first: None,
            source: None,
            metric: 0,
        };
        assert_eq!(route(|_| {}), Some(plain));
        let metric = route(|m| m.attributes.push(RouteAttribute::Priority(600)));
        assert_eq!(metric.unwrap().metric, 600);
        assert_eq!(route(|m| m.header.table = 77), None);
        assert_eq!(
            route(|m| m.attributes.push(RouteAttribute::Table(1000))),
            None
        );
        let to = |m: Option<Route>| m.unwrap().to;
        let gateway = |m: &mut RouteMessage| {
            let ip = RouteAddress::Inet([10, 0, 0, 1].into());
            m.attributes.push(RouteAttribute::Gateway(ip));
        };
        assert_eq!(to(route(gateway)), To::Router);
        assert_eq!(
            to(route(|m| m.header.kind = RouteType::Prohibit)),
            To::Nobody
        );
        assert_eq!(to(route(|m| m.header.kind = RouteType::Throw)), To::Other);
        let several = route(|m| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = 9;
            m.attributes = vec![RouteAttribute::MultiPath(vec![hop])];
        });
        let (first, to) = (Some(9), To::Router);
        let of_two = Route {
            device: None,
            first,
            to,
            ..plain
        };
        assert_eq!(several, Some(of_two));
    }

    #[tokio::test]
    async fn the_kernel_says_what_everybody_may_know() {
        let netlink = Netlink::open().unwrap();
        assert_eq!(netlink.index("nobody").await.unwrap(), None);
        let lo = netlink.index("lo").await.unwrap();
        assert_eq!(lo, Some(1));
        let addresses = netlink.addresses(lo).await.unwrap();
        assert!(addresses.iter().all(|a| a.device == 1), "{addresses:?}");
        let own = "127.0.0.1/8".parse().unwrap();
        assert!(addresses.iter().any(|a| a.net == own), "{addresses:?}");
        let all = netlink.addresses(None).await.unwrap();
        assert!(addresses.iter().all(|a| all.contains(a)), "{all:?}");
        // The kernel's own one of this host's addresses, and one that nobody has.
        let mut local = Vec::new();
        let own_table = netlink.routes(255, false, |route| local.push(route));
        own_table.await.unwrap();
        let of_lo = |r: &Route| r.net == own.trunc() && r.to == To::Other;
        assert!(local.iter().any(of_lo), "{local:?}");
        for v6 in [false, true] {
            let none = netlink.routes(0x7fff_1234, v6, |route| panic!("{route:?}"));
            none.await.unwrap();
            netlink.routes(MAIN, v6, drop).await.unwrap();
        }
    }
}
