//! Another device of the host, and an administrator who changes things by hand.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use vpn::device::{self, DeviceName};

/// The administrator's hand.
pub(crate) struct Admin {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Admin {
    pub(crate) fn new() -> Self {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let task = tokio::spawn(connection);
        Self { handle, task }
    }

    pub(crate) async fn index(&self, dev: &str) -> u32 {
        let mut links = self
            .handle
            .link()
            .get()
            .match_name(dev.to_owned())
            .execute();
        links.try_next().await.unwrap().unwrap().header.index
    }

    /// Makes a device with an address, that stays as long as what this gives.
    pub(crate) async fn attach(&self, dev: &str, address: &str) -> frames::Tun {
        let tun = device::create(
            &DeviceName::new(dev).unwrap(),
            proto::ipcp::OffloadMode::Auto,
        )
        .unwrap_or_else(|e| panic!("{e}"));
        self.set_up(dev, true).await;
        self.address(dev, address, true).await;
        tun
    }

    pub(crate) async fn set_up(&self, dev: &str, up: bool) {
        let link = LinkUnspec::new_with_index(self.index(dev).await);
        let link = if up { link.up() } else { link.down() };
        self.handle
            .link()
            .change(link.build())
            .execute()
            .await
            .unwrap();
    }

    pub(crate) async fn remove(&self, dev: &str) {
        let index = self.index(dev).await;
        self.handle.link().del(index).execute().await.unwrap();
    }

    pub(crate) async fn address(&self, dev: &str, address: &str, add: bool) {
        let (index, net) = (self.index(dev).await, address.parse::<IpNet>().unwrap());
        let addresses = self.handle.address();
        if add {
            let add = addresses.add(index, net.addr(), net.prefix_len());
            return add.execute().await.unwrap();
        }
        let mut all = addresses.get().set_link_index_filter(index).execute();
        while let Some(message) = all.try_next().await.unwrap() {
            let same = rtnetlink::packet_route::address::AddressAttribute::Address(net.addr());
            if message.attributes.contains(&same) {
                addresses.del(message).execute().await.unwrap();
            }
        }
    }

    /// Removes the route by this device; false if there was none.
    pub(crate) async fn unroute(&self, dev: &str, net: &str) -> bool {
        let (index, net) = (self.index(dev).await, net.parse::<IpNet>().unwrap());
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .unwrap()
            .output_interface(index);
        self.handle
            .route()
            .del(route.build())
            .execute()
            .await
            .is_ok()
    }
}

impl Admin {
    /// A default route by this device.
    pub(crate) async fn default_by(&self, dev: &str, v6: bool) {
        let index = self.index(dev).await;
        let any: IpNet = if v6 { "::/0" } else { "0.0.0.0/0" }.parse().unwrap();
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(any.addr(), 0)
            .unwrap()
            .output_interface(index);
        self.handle
            .route()
            .add(route.build())
            .execute()
            .await
            .unwrap();
    }

    /// The device that a packet to there goes by, from this address or from none yet.
    pub(crate) async fn way(&self, from: Option<&str>, to: &str) -> Option<u32> {
        let to: IpAddr = to.parse().unwrap();
        let len = if to.is_ipv6() { 128 } else { 32 };
        let mut ask = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to, len)
            .unwrap();
        if let Some(from) = from {
            ask = ask.source_prefix(from.parse().unwrap(), len).unwrap();
        }
        let mut routes = self.handle.route().get(ask.build()).execute();
        let route = routes.try_next().await.ok()??;
        route.attributes.iter().find_map(|a| {
            if let rtnetlink::packet_route::route::RouteAttribute::Oif(index) = a {
                Some(*index)
            } else {
                None
            }
        })
    }

    /// A rule of IPv4 to a table.
    pub(crate) async fn add_rule(&self, priority: u32, table: u32) {
        use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute};
        let mut add = self.handle.rule().add().priority(priority);
        let message = add.message_mut();
        message.header.action = RuleAction::ToTable;
        message.attributes.push(RuleAttribute::Table(table));
        add.v4().execute().await.unwrap();
    }

    /// How many rules there are besides the kernel's own.
    pub(crate) async fn rules(&self) -> usize {
        let mut count = 0;
        for version in [rtnetlink::IpVersion::V4, rtnetlink::IpVersion::V6] {
            let mut all = self.handle.rule().get(version).execute();
            while let Some(rule) = all.try_next().await.unwrap() {
                use rtnetlink::packet_route::rule::RuleAttribute::Priority;
                let ours = |a: &_| matches!(a, Priority(1..32_000));
                count += usize::from(rule.attributes.iter().any(ours));
            }
        }
        count
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long until `held` holds, which is at most ten seconds.
pub(crate) async fn until(mut held: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !held().await {
        assert!(began.elapsed() < Duration::from_secs(10), "it never held");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}
