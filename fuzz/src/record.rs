//! What a process writes to a data socket: SDUs or a control item.

use proto::record::{Device, Item, Moved, Pair, Peer, Record, Talk, Welcome};
use proto::{Batch, Code, FlowId, Framing, Name, QosSpec, Reason, Token};

use super::commands::label;

/// An item that is read is written again the same; a record gives back all its bytes as SDUs.
pub fn run(bytes: &[u8]) {
    if let Ok(Record::Control(item)) = Record::parse(bytes) {
        let again = item.encode();
        assert_eq!(Record::parse(&again), Ok(Record::Control(item)));
    }
    let len = bytes.len().min(Batch::CAPACITY);
    let mut batch = Batch::new(Framing::Record);
    batch.space()[..len].copy_from_slice(&bytes[..len]);
    if batch.set_record(len).is_ok() {
        assert_eq!(batch.iter().count(), batch.count());
        assert_eq!(batch.iter().map(|sdu| sdu.len() + 2).sum::<usize>(), len);
        assert_eq!(batch.iter_mut().count(), batch.count());
        let count = batch.count();
        batch.pop();
        assert_eq!(batch.iter().count(), count - 1);
    }
    batch.space()[..len].copy_from_slice(&bytes[..len]);
    batch.set_train(len, bytes.first().map_or(0, |b| usize::from(*b)));
    assert_eq!(batch.iter().count(), batch.count());
}

/// Each kind of item, and records of one and of three SDUs.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let peer = Peer {
        name: Some(Name::new("app.echo").unwrap()),
        layer: Some(label("ovl")),
        member: None,
    };
    let welcome = Welcome {
        devices: false,
        flow: FlowId(7),
        mtu: 1400,
        qos: QosSpec::default(),
        peer,
    };
    let device = Device {
        id: 7,
        tcp: true,
        udp: true,
        frames: false,
        code_points: !1,
    };
    let frames = Device {
        id: 8,
        tcp: false,
        udp: false,
        frames: true,
        code_points: 0,
    };
    let talk = Talk {
        out: true,
        protocol: 6,
        ports: (40_000, 443),
        pair: Pair::V4([10, 7, 0, 1], [10, 7, 0, 2]),
    };
    let down = Reason::new(Code::Refused, "nobody is there; try later");
    let mut three = Batch::new(Framing::Record);
    for len in [1, 20, 300] {
        three.push(len).unwrap().fill(len as u8);
    }
    vec![
        ("join", Item::Join(Token([9; 16])).encode()),
        ("welcome", Item::Welcome(welcome).encode()),
        ("mtu", Item::Mtu(1400).encode()),
        ("down", Item::Down(down).encode()),
        ("shut", Item::Shut.encode()),
        ("device", Item::Device(device).encode()),
        ("frames", Item::Device(frames).encode()),
        (
            "pair",
            Item::Pair(Pair::V4([10, 7, 0, 1], [10, 7, 0, 2])).encode(),
        ),
        (
            "pair6",
            Item::Pair(Pair::V6([0xfd; 16], [0xfe; 16])).encode(),
        ),
        ("frame", Item::Frame(vec![0x45, 0, 0, 3]).encode()),
        ("talk", Item::Talk(talk).encode()),
        ("moved", Item::Moved(Moved::default()).encode()),
        ("sdu", vec![0, 3, b'a', b'b', b'c']),
        ("three", three.bytes().to_vec()),
    ]
}
