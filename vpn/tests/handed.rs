//! A pump whose device was handed over to the layer's process, seen from there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "other tests use the rest of the support")]

mod support;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use frames::{FrameFd, Offloads, TunPort, Written};
use ip::offload::{BadFrame, Segments};
use libflow::port::Received;
use proto::record::{Item, Pair};
use proto::{Batch, Framing, QosSpec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use support::{Far, config, flow_with, label, udp};
use vpn::counters::Dropped;
use vpn::flow::Lane;
use vpn::pump::Pump;

/// A device that can be handed over.
struct Device(FrameFd<OwnedFd>);

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl TunPort for Device {
    fn read(&mut self) -> io::Result<Result<Segments<'_>, BadFrame>> {
        self.0.read()
    }

    fn write(&mut self, batch: &Batch, allowed: impl FnMut(&[u8]) -> bool) -> Written {
        self.0.write(batch, allowed)
    }

    fn write_one(&mut self, packet: &[u8]) -> Written {
        self.0.write_one(packet)
    }

    fn offloads(&self) -> Option<Offloads> {
        Some(Offloads::default())
    }
}

/// What the layer's process hears: packets, or an item.
#[derive(Debug, PartialEq)]
enum Said {
    Packets(Vec<Vec<u8>>),
    Item(Item),
}

fn said(far: &Far) -> Vec<Said> {
    let mut batch = Batch::new(Framing::Record);
    let next = || match far.0.try_recv(&mut batch).ok()? {
        Received::Data => Some(Said::Packets(batch.iter().map(<[u8]>::to_vec).collect())),
        Received::Item(item) => Some(Said::Item(item)),
        other @ (Received::End | Received::Bad(_)) => panic!("{other:?}"),
    };
    std::iter::from_fn(next).collect()
}

async fn settle(pump: &mut Pump<Device, Lane>) {
    while let Ok(turn) = tokio::time::timeout(Duration::from_millis(30), pump.turn()).await {
        turn.unwrap();
    }
}

#[tokio::test]
async fn a_pair_is_said_once_behind_all_its_packets_that_were_there() {
    let kind = SocketType::SEQPACKET;
    let flags = SocketFlags::NONBLOCK;
    let (device, host) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
    let mut pump = Pump::new(Device(FrameFd::new(device))).unwrap();
    pump.configure(&config());
    let (lane, far) = flow_with(true, QosSpec::RAW, 1, 1400);
    pump.accepted(&label("b"), lane).ok().unwrap();
    assert!(matches!(said(&far)[..], [Said::Item(Item::Device(_))]));

    let out: Vec<_> = (1..=8).map(|n| udp("10.7.0.1", "10.7.0.2", n)).collect();
    let back = udp("10.7.0.2", "10.7.0.1", 9);
    for packet in &out {
        let frame = Item::Frame(packet.clone());
        far.0.try_send_item(&frame, None).unwrap();
    }
    far.send(&[&back]);
    settle(&mut pump).await;
    let said = said(&far);
    // They were read in turns of so many.
    let mut packets = Vec::new();
    let mut pairs = 0;
    for what in &said {
        match what {
            Said::Packets(more) => packets.extend(more.clone()),
            Said::Item(Item::Pair(pair)) => {
                let (own, other) = ("10.7.0.1".parse().unwrap(), "10.7.0.2".parse().unwrap());
                assert_eq!(Some(*pair), Pair::new(own, other));
                pairs += 1;
            }
            Said::Item(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(packets, out);
    assert!(matches!(said[0], Said::Packets(_)), "{said:?}");
    assert!(
        matches!(said.last(), Some(Said::Item(Item::Pair(_)))),
        "{said:?}"
    );
    assert!((1..=3).contains(&pairs), "{pairs} in {said:?}");
    let mut got = [0; 2000];
    let len = rustix::io::read(&host, &mut got[..]).unwrap();
    assert_eq!(got[..len], back);
}

#[tokio::test]
async fn a_device_is_read_again_here_when_the_member_with_the_last_flow_leaves() {
    let kind = SocketType::SEQPACKET;
    let flags = SocketFlags::NONBLOCK;
    let (device, host) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
    let mut pump = Pump::new(Device(FrameFd::new(device))).unwrap();
    pump.configure(&config());
    let (lane, far) = flow_with(true, QosSpec::RAW, 1, 1400);
    pump.accepted(&label("b"), lane).ok().unwrap();
    // From its next turn on the pump leaves the device to the other process.
    far.send(&[&udp("10.7.0.2", "10.7.0.1", 9)]);
    settle(&mut pump).await;
    let mut without = config();
    without.members.remove(&label("b"));
    pump.configure(&without);
    rustix::io::write(&host, &udp("10.7.0.1", "10.7.0.2", 9)).unwrap();
    settle(&mut pump).await;
    assert_eq!(pump.counters().dropped(Dropped::NoOwner), 1);
}
