//! Links, addresses and routes of the namespace that the program runs in, by rtnetlink.

use std::io::Write;
use std::net::IpAddr;

use anyhow::Context;
use clap::Subcommand;
use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::rule::RuleAttribute;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::{Handle, IpVersion, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

#[derive(Subcommand)]
pub(super) enum Change {
    /// Make a veth pair and move its other end into another holder's namespace
    Veth {
        dev: String,
        peer: String,
        peer_pid: u32,
        #[arg(long, default_value_t = 1500)]
        mtu: u32,
    },
    /// Give a device an address
    Addr { dev: String, cidr: IpNet },
    /// Take an address from a device
    DelAddr { dev: String, cidr: IpNet },
    /// Set a device up
    Up { dev: String },
    /// Set a device down
    Down { dev: String },
    /// Remove a device
    Del { dev: String },
    /// Set a device up and down so many times
    Flap { dev: String, times: u32 },
    /// Change a device's MTU
    Mtu { dev: String, mtu: u32 },
    /// Let no more out of a device than so many Mbit/s; what waits longer than its queue of 1 MB holds back who sends, or is lost
    Narrow { dev: String, mbit: u32 },
    /// Add a route by a gateway
    Route {
        cidr: IpNet,
        via: IpAddr,
        /// In the place of the one to there, if there is one
        #[arg(long)]
        replace: bool,
    },
    /// Print the rules of routing that the kernel has not made by itself
    Rules,
}

pub(super) fn apply(change: &Change) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start a runtime")?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("can't open a netlink socket")?;
        let connection = tokio::spawn(connection);
        let result = change_with(&handle, change).await;
        connection.abort();
        result
    })
}

async fn change_with(handle: &Handle, change: &Change) -> anyhow::Result<()> {
    match change {
        Change::Veth {
            dev,
            peer,
            peer_pid,
            mtu,
        } => veth(handle, dev, peer, *peer_pid, *mtu).await,
        Change::Addr { dev, cidr } => {
            let index = index(handle, dev).await?;
            let address = handle.address().add(index, cidr.addr(), cidr.prefix_len());
            let added = address.execute().await;
            added.with_context(|| format!("can't give {dev} the address {cidr}"))
        }
        Change::DelAddr { dev, cidr } => del_addr(handle, dev, cidr).await,
        Change::Up { dev } => set(handle, dev, |link| link.up()).await,
        Change::Down { dev } => set(handle, dev, |link| link.down()).await,
        Change::Del { dev } => {
            let index = index(handle, dev).await?;
            let removed = handle.link().del(index).execute().await;
            removed.with_context(|| format!("can't remove {dev}"))
        }
        Change::Flap { dev, times } => {
            for _ in 0..*times {
                set(handle, dev, |link| link.up()).await?;
                set(handle, dev, |link| link.down()).await?;
            }
            Ok(())
        }
        Change::Mtu { dev, mtu } => set(handle, dev, |link| link.mtu(*mtu)).await,
        Change::Narrow { dev, mbit } => narrow(handle, dev, *mbit).await,
        Change::Route { cidr, via, replace } => {
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(cidr.addr(), cidr.prefix_len())
                .and_then(|r| r.gateway(*via))
                .context("gateway and destination are of two families")?;
            let add = handle.route().add(route.build());
            let add = if *replace { add.replace() } else { add };
            let added = add.execute().await;
            added.with_context(|| format!("can't add the route {cidr}"))
        }
        Change::Rules => rules(handle).await,
    }
}

async fn rules(handle: &Handle) -> anyhow::Result<()> {
    // Those of the tables `local`, `main` and `default`.
    const KERNELS: [u32; 3] = [0, 32_766, 32_767];
    for (version, family) in [(IpVersion::V4, 4), (IpVersion::V6, 6)] {
        let mut all = handle.rule().get(version).execute();
        while let Some(rule) = all.try_next().await.context("can't list rules")? {
            let mut priority = 0;
            for attribute in rule.attributes {
                if let RuleAttribute::Priority(number) = attribute {
                    priority = number;
                }
            }
            if !KERNELS.contains(&priority) {
                writeln!(std::io::stdout(), "IPv{family} {priority}").context("can't print")?;
            }
        }
    }
    Ok(())
}

async fn veth(handle: &Handle, dev: &str, peer: &str, to: u32, mtu: u32) -> anyhow::Result<()> {
    let pair = LinkVeth::new(dev, peer).mtu(mtu).build();
    let made = handle.link().add(pair).execute().await;
    made.with_context(|| format!("can't make the veth pair {dev}-{peer}"))?;
    set(handle, peer, |link| link.mtu(mtu).setns_by_pid(to)).await
}

/// A token bucket in front of the device (`tc qdisc add dev DEV root tbf rate MBITmbit burst 64kb limit 1mb`).
async fn narrow(handle: &Handle, dev: &str, mbit: u32) -> anyhow::Result<()> {
    const BURST: u32 = 64 << 10;
    const LIMIT: u32 = 1 << 20;
    const ETHERNET: u8 = 1;
    // The attributes of `tbf`: its `tc_tbf_qopt`, and the burst in bytes instead of in time.
    const PARMS: u16 = 1;
    const IN_BYTES: u16 = 6;
    let mut parms = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
    parms.extend((mbit * 125_000).to_ne_bytes());
    // No peak rate.
    parms.extend([0; 12]);
    for word in [LIMIT, 0, 0] {
        parms.extend(word.to_ne_bytes());
    }
    let index = index(handle, dev).await?;
    let mut message = TcMessage::with_index(i32::try_from(index)?);
    message.header.parent = TcHandle::ROOT;
    message.attributes = vec![
        TcAttribute::Kind("tbf".to_owned()),
        TcAttribute::Options(vec![
            TcOption::Other(DefaultNla::new(PARMS, parms)),
            TcOption::Other(DefaultNla::new(IN_BYTES, BURST.to_ne_bytes().to_vec())),
        ]),
    ];
    let mut ask = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    ask.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let what = || format!("can't narrow {dev}: the kernel needs sch_tbf");
    let mut answers = handle.clone().request(ask).with_context(what)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            error
                .code
                .map_or(Ok(()), |_| Err(error.to_io()))
                .with_context(what)?;
        }
    }
    Ok(())
}

async fn set(
    handle: &Handle,
    dev: &str,
    how: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
) -> anyhow::Result<()> {
    let link = how(LinkUnspec::new_with_index(index(handle, dev).await?)).build();
    let done = handle.link().set(link).execute().await;
    done.with_context(|| format!("can't change the device {dev}"))
}

async fn del_addr(handle: &Handle, dev: &str, cidr: &IpNet) -> anyhow::Result<()> {
    let index = index(handle, dev).await?;
    let mut all = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .set_address_filter(cidr.addr())
        .execute();
    let found = all.try_next().await.context("can't list addresses")?;
    let found = found.with_context(|| format!("{dev} has no address {cidr}"))?;
    handle
        .address()
        .del(found)
        .execute()
        .await
        .with_context(|| format!("can't take {cidr} from {dev}"))
}

async fn index(handle: &Handle, dev: &str) -> anyhow::Result<u32> {
    let mut links = handle.link().get().match_name(dev.to_owned()).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("there is no device {dev}"))?;
    Ok(link
        .with_context(|| format!("there is no device {dev}"))?
        .header
        .index)
}
