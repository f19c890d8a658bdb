//! The messages of docs/vectors.txt, which another implementation made: each says what it should, byte for byte.

#![allow(
    clippy::unwrap_used,
    reason = "the whole of it is a test: what fails may panic"
)]

use prost::Message as _;
use proto::record::{Device, Item, Moved, Pair, Peer, Record, Talk, Welcome};
use proto::wire::message::Body;
use proto::wire::{self, directory};
use proto::{Batch, Code, FlowId, Framing, Label, Name, QosSpec, Reason, Token, irm};

/// What the file has for a name.
fn vector(name: &str) -> Vec<u8> {
    let file = include_str!("../../docs/vectors.txt");
    let mut found = file.lines().filter_map(|line| line.split_once(" = "));
    let (_, text) = found.find(|(n, _)| *n == name).unwrap();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// That is what the vector says, and nothing else has these bytes.
fn is(name: &str, body: Body) {
    let bytes = vector(&format!("message.{name}"));
    let (len, message) = bytes.split_first_chunk().unwrap();
    assert_eq!(u32::from_be_bytes(*len) as usize, message.len(), "{name}");
    let body = wire::Message { body: Some(body) };
    assert_eq!(wire::Message::decode(message).unwrap(), body, "{name}");
    assert_eq!(body.encode_to_vec(), message, "{name}");
}

/// That is what the vector says of a control item, both ways.
fn is_item(name: &str, item: Item) {
    let bytes = vector(&format!("record.{name}"));
    assert_eq!(item.encode(), bytes, "{name}");
    assert_eq!(Record::parse(&bytes), Ok(Record::Control(item)));
}

/// A question or answer of the directory, from 2 to 1.
fn about(id: u64, body: directory::Body) -> Body {
    Body::Directory(wire::Directory {
        dst: 1,
        src: 2,
        ttl: 64,
        id,
        body: Some(body),
    })
}

fn request() -> wire::EnrolRequest {
    wire::EnrolRequest {
        invitation: vec![1; 16],
        csr: vec![1, 2],
        seed_signature: vec![2; 64],
        issuer: "alice".into(),
        ..Default::default()
    }
}

fn granted(chain: &[&[u8]]) -> wire::EnrolReply {
    wire::EnrolReply {
        certificate: vec![1, 2],
        layer: "home".into(),
        chain: chain.iter().map(|der| der.to_vec()).collect(),
        ..Default::default()
    }
}

#[test]
fn control_items_are_those_of_the_document() {
    let peer = Peer {
        name: Some(Name::new("echo").unwrap()),
        layer: Some(Label::new("home").unwrap()),
        member: None,
    };
    let qos = QosSpec {
        ordered: true,
        reliable: true,
        max_delay_ms: 0,
        priority: 5,
        timeout_ms: 30_000,
    };
    let (flow, mtu) = (FlowId(7), 1408);
    for (name, item) in [
        ("join", Item::Join(Token([3; 16]))),
        (
            "welcome",
            Item::Welcome(Welcome {
                devices: true,
                flow,
                mtu,
                qos,
                peer,
            }),
        ),
        ("mtu", Item::Mtu(mtu)),
        ("down", Item::Down(Reason::new(Code::Closed, "bye"))),
        ("shut", Item::Shut),
        (
            "device",
            Item::Device(Device {
                id: 9,
                tcp: true,
                udp: false,
                frames: false,
                code_points: 0x00ff,
            }),
        ),
        (
            "device_frames",
            Item::Device(Device {
                id: 9,
                tcp: false,
                udp: false,
                frames: true,
                code_points: 0,
            }),
        ),
        ("pair", Item::Pair(Pair::V4([10, 7, 0, 1], [10, 7, 0, 2]))),
        ("pair6", Item::Pair(Pair::V6([0xfd; 16], [0xfe; 16]))),
        ("frame", Item::Frame(vec![0x45, 0])),
        (
            "moved",
            Item::Moved(Moved {
                rx_packets: 1,
                rx_bytes: 1428,
                tx_packets: 2,
                tx_bytes: 2856,
            }),
        ),
    ] {
        is_item(name, item);
    }
    let sdus = vector("record.sdus");
    assert_eq!(Record::parse(&sdus), Ok(Record::Data));
    let mut batch = Batch::new(Framing::Record);
    for sdu in [&b"x"[..], b"yz"] {
        batch.push(sdu.len()).unwrap().copy_from_slice(sdu);
    }
    assert_eq!(batch.bytes(), sdus);
}

#[test]
fn talks_are_those_of_the_document() {
    for (name, item) in [
        (
            "talk",
            Item::Talk(Talk {
                out: true,
                protocol: 6,
                ports: (40_000, 443),
                pair: Pair::V4([10, 7, 0, 1], [10, 7, 0, 2]),
            }),
        ),
        (
            "talk6",
            Item::Talk(Talk {
                out: false,
                protocol: 17,
                ports: (53, 40_000),
                pair: Pair::V6([0xfd; 16], [0xfe; 16]),
            }),
        ),
    ] {
        is_item(name, item);
    }
}

#[test]
fn words_with_irmd_are_those_of_the_document() {
    let failure = irm::Failure {
        code: 4,
        text: "no".into(),
    };
    assert_eq!(failure.encode_to_vec(), vector("grpc.failure"));
    let said = Reason::from(failure);
    assert_eq!((said.code, said.text.as_str()), (Code::NotFound, "no"));
    let end = irm::FlowEnd {
        flow: 7,
        socket: "/run/irm/x".into(),
        token: vec![3; 16],
    };
    assert_eq!(end.encode_to_vec(), vector("grpc.flow_end"));
    let ask = irm::AllocFlowRequest {
        name: "echo".into(),
        qos: Some(QosSpec::BEST.into()),
        layer: "home".into(),
        timeout_ms: 10_000,
        session: vec![5; 4],
        ..Default::default()
    };
    assert_eq!(ask.encode_to_vec(), vector("grpc.alloc_flow_request"));
}

#[test]
fn enrolment_is_that_of_the_document() {
    is("enrol_request", Body::EnrolRequest(request()));
    let renewal = wire::EnrolRequest {
        issuer: "alice".into(),
        certificate: vec![1, 2],
        intermediates: vec![vec![1, 2], vec![3]],
        at: 1_800_000_000,
        signature: vec![4; 64],
        ..Default::default()
    };
    is("enrol_request.renewal", Body::EnrolRequest(renewal));
    is("enrol_reply", Body::EnrolReply(granted(&[&[1, 2], &[3]])));
    let refused = wire::EnrolReply {
        code: 5,
        text: "no".into(),
        ..Default::default()
    };
    is("enrol_reply.refused", Body::EnrolReply(refused));
    let relay = wire::EnrolRelay {
        id: 7,
        request: Some(request()),
        exporter: vec![9; 32],
        hops: 1,
    };
    is("enrol_relay", Body::EnrolRelay(relay));
    let reply = wire::EnrolRelayReply {
        id: 7,
        reply: Some(granted(&[&[1, 2]])),
    };
    is("enrol_relay_reply", Body::EnrolRelayReply(reply));
}

#[test]
fn routing_and_decrees_are_those_of_the_document() {
    let version = wire::Version {
        origin: 1,
        kind: 1,
        incarnation: 2,
        counter: 3,
    };
    let digest = wire::Digest {
        versions: vec![version],
        first: 0,
        last: u64::MAX,
    };
    is("digest", Body::Digest(digest));
    let record = wire::SignedRecord {
        body: vec![1, 2],
        signature: vec![2; 64],
        certificate: vec![3],
        age: 300,
        intermediates: vec![vec![4]],
    };
    let records = vec![record];
    is("records", Body::Records(wire::Records { records }));
    let sums = vec![0xd593_cafd_01e4_b4a8, 0];
    is("summary", Body::Summary(wire::Summary { bits: 1, sums }));
    let below = wire::Below {
        layer: "net".into(),
        ip: vec![10, 0, 0, 1],
        port: 3359,
    };
    let (at, asks) = (vec![below], true);
    is("reach", Body::Reach(wire::Reach { at, asks }));
    let info = wire::LinkInfo {
        mtu: 1452,
        closing: true,
        ..Default::default()
    };
    is("link_info", Body::LinkInfo(info));
    let version = wire::DecreeVersion {
        kind: 3,
        signer: vec![1; 32],
        number: 1,
        hash: vec![6; 8],
    };
    let versions = vec![version];
    is(
        "decree_digest",
        Body::DecreeDigest(wire::DecreeDigest { versions }),
    );
    let decrees = vec![wire::SignedDecree {
        body: vec![1, 2],
        signature: vec![2; 64],
    }];
    is("decrees", Body::Decrees(wire::Decrees { decrees }));
}

#[test]
fn flow_allocation_is_that_of_the_document() {
    let qos = wire::Qos {
        ordered: true,
        reliable: true,
        timeout_ms: 30_000,
        ..Default::default()
    };
    let request = wire::FlowRequest {
        source_endpoint: 1 << 63,
        name: "echo".into(),
        source_name: "me".into(),
        qos: Some(qos),
        timeout_ms: 10_000,
        incarnation: 2,
    };
    is("flow_request", Body::FlowRequest(request));
    let reply = wire::FlowReply {
        source_endpoint: 1 << 63,
        endpoint: 5,
        qos: Some(qos),
        incarnation: 3,
        ..Default::default()
    };
    is("flow_reply", Body::FlowReply(reply));
    let refused = wire::FlowReply {
        source_endpoint: 9,
        code: 4,
        text: "no".into(),
        ..Default::default()
    };
    is("flow_reply.refused", Body::FlowReply(refused));
    let dealloc = wire::FlowDealloc {
        endpoint: 5,
        code: 11,
        text: "bye".into(),
    };
    is("flow_dealloc", Body::FlowDealloc(dealloc));
    let ack = wire::FlowDeallocAck { endpoint: 5 };
    is("flow_dealloc_ack", Body::FlowDeallocAck(ack));
}

#[test]
fn the_directory_is_that_of_the_document() {
    let name = wire::SignedName {
        body: vec![1, 2],
        signature: vec![2; 64],
        age: 4,
    };
    let (names, name_hash) = (vec![name.clone()], vec![5; 32]);
    let store = directory::Body::Store(wire::NameStore {
        names: names.clone(),
    });
    is("directory.store", about(3, store));
    let refused = vec![wire::NameRefusal {
        name_hash: name_hash.clone(),
        code: 9,
        text: "full".into(),
    }];
    let stored = directory::Body::Stored(wire::NameStored { refused });
    is("directory.stored", about(3, stored));
    let member = 6;
    let find = directory::Body::Find(wire::NameFind { name_hash, member });
    is("directory.find", about(3, find));
    let found = directory::Body::Found(wire::NameFound { names });
    is("directory.found", about(3, found));
    let gone = directory::Body::Gone(wire::NameGone { name: Some(name) });
    is("directory.gone", about(0, gone));
}
