//! What the tests of the pump share: a configuration, packets, and the far end of a flow.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::PacketBuilder;
use libflow::port::{Joined, Received, RecordSocket};
use proto::record::{Peer, Welcome};
use proto::{Batch, FlowId, Framing, Label, QosSpec, irm};
use vpn::config::Config;
use vpn::flow::Lane;

/// The far end of a flow: what the IPCP holds.
pub(crate) struct Far(pub(crate) RecordSocket);

/// `a` is this host (10.7.0.1, fd07::1), `b` and `c` are others; `b` also has 10.8.0.0/16.
pub(crate) fn config() -> Config {
    Config::try_from(wire_config()).unwrap()
}

/// The same as irmd sends it.
pub(crate) fn wire_config() -> irm::VpnConfig {
    let member = |name: &str, prefixes: &[&str]| irm::Member {
        name: name.into(),
        prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(),
        ..Default::default()
    };
    irm::VpnConfig {
        layer: "ovl".into(),
        member: "a".into(),
        own_prefixes: vec!["10.7.0.1/32".into(), "fd07::1/128".into()],
        members: vec![
            member("a", &["10.7.0.1/32", "fd07::1/128"]),
            member("b", &["10.7.0.2/32", "fd07::2/128", "10.8.0.0/16"]),
            member("c", &["10.7.0.3/32"]),
        ],
        ..Default::default()
    }
}

pub(crate) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// A flow of this MTU and its far end.
pub(crate) fn flow(id: u64, mtu: u32) -> (Lane, Far) {
    flow_of(QosSpec::RAW, id, mtu)
}

/// The same, for something else.
pub(crate) fn flow_of(qos: QosSpec, id: u64, mtu: u32) -> (Lane, Far) {
    flow_with(false, qos, id, mtu)
}

/// The same, whose IPC process may take devices.
pub(crate) fn flow_with(devices: bool, qos: QosSpec, id: u64, mtu: u32) -> (Lane, Far) {
    let (socket, far) = RecordSocket::pair().unwrap();
    let welcome = Welcome {
        devices,
        flow: FlowId(id),
        mtu,
        qos,
        peer: Peer::default(),
    };
    (
        Lane::from(Joined {
            socket,
            welcome,
            handed: None,
        }),
        Far(far),
    )
}

/// A UDP packet with so many bytes of payload.
pub(crate) fn udp(src: &str, dst: &str, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let body: Vec<u8> = (0..len).map(|i| i as u8).collect();
    if let (Ok(src), Ok(dst)) = (src.parse::<Ipv4Addr>(), dst.parse::<Ipv4Addr>()) {
        PacketBuilder::ipv4(src.octets(), dst.octets(), 64)
            .udp(7, 9)
            .write(&mut out, &body)
            .unwrap();
        out[6] &= !0x40; // may be fragmented
        let sum = etherparse::Ipv4HeaderSlice::from_slice(&out)
            .unwrap()
            .to_header()
            .calc_header_checksum();
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let (src, dst): (Ipv6Addr, Ipv6Addr) = (src.parse().unwrap(), dst.parse().unwrap());
        PacketBuilder::ipv6(src.octets(), dst.octets(), 64)
            .udp(7, 9)
            .write(&mut out, &body)
            .unwrap();
    }
    out
}

/// A packet with this code point.
pub(crate) fn marked(mut packet: Vec<u8>, dscp: u8) -> Vec<u8> {
    packet[1] = dscp << 2;
    packet[10..12].fill(0);
    let header = etherparse::Ipv4HeaderSlice::from_slice(&packet).unwrap();
    let sum = header.to_header().calc_header_checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

impl Far {
    /// The packets of the next record; none if nothing lies there.
    pub(crate) fn packets(&self) -> Vec<Vec<u8>> {
        let mut batch = Batch::new(Framing::Record);
        match self.0.try_recv(&mut batch) {
            Ok(Received::Data) => batch.iter().map(<[u8]>::to_vec).collect(),
            Ok(other) => panic!("{other:?} instead of packets"),
            Err(_) => Vec::new(),
        }
    }

    /// Sends packets as one record.
    pub(crate) fn send(&self, packets: &[&[u8]]) {
        let mut batch = Batch::new(Framing::Record);
        for packet in packets {
            batch.push(packet.len()).unwrap().copy_from_slice(packet);
        }
        self.0.try_send(&batch).unwrap();
    }
}

/// Waits for something that must come soon.
#[track_caller]
pub(crate) fn soon<T>(what: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let came = tokio::time::timeout(Duration::from_secs(5), what).await;
        came.unwrap_or_else(|_| panic!("what {caller} waits for didn't come in 5 s"))
    }
}
