//! Requests that make no sense, as bytes on the wire: each is refused with what is wrong, and the daemon goes on.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

mod common;

use std::time::Duration;

use common::{Host, soon};
use http::uri::PathAndQuery;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use proto::irm::program_event::Event;
use proto::irm::*;
use proto::{Code, Reason};
use tokio_stream::StreamExt;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

/// What the services offer, read from the contract itself, so that none is forgotten.
const CONTRACT: &str = include_str!("../../proto/proto/strata/irm/v1/irm.proto");

/// Requests that need nothing to be said.
const NEED_NOTHING: [&str; 9] = [
    "Status",
    "Metrics",
    "ListIpcps",
    "ListNames",
    "ListFlows",
    "VpnDown",
    "VpnStatus",
    "Events",
    "RestartDaemon",
];

/// Bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buf.remaining()];
        buf.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// The methods of a service that take one request, and those among them that stream their answers.
fn methods(service: &str) -> Vec<&'static str> {
    let start = CONTRACT.find(&format!("service {service} {{")).unwrap();
    let body = &CONTRACT[start..];
    let body = &body[..body.find("\n}").unwrap()];
    let rpcs = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rpc "));
    rpcs.filter(|rpc| !rpc.contains("(stream "))
        .map(|rpc| rpc.split('(').next().unwrap())
        .collect()
}

fn all_methods() -> Vec<(&'static str, &'static str)> {
    ["Admin", "Programs"]
        .into_iter()
        .flat_map(|service| methods(service).into_iter().map(move |m| (service, m)))
        .filter(|(_, method)| *method != "RestartDaemon")
        .collect()
}

struct Wire(tonic::client::Grpc<tonic::transport::Channel>);

impl Wire {
    async fn to(host: &Host) -> Self {
        Self(tonic::client::Grpc::new(
            host.channel("admin.sock").await.unwrap(),
        ))
    }

    async fn call(&mut self, service: &str, method: &str, bytes: &[u8]) -> Result<(), Status> {
        self.0.ready().await.unwrap();
        let path: PathAndQuery = format!("/strata.irm.v1.{service}/{method}")
            .parse()
            .unwrap();
        let request = Request::new(bytes.to_vec());
        if method == "Events" {
            // Its answers never end.
            return soon(self.0.server_streaming(request, path, Raw))
                .await
                .map(|_| ());
        }
        soon(self.0.unary(request, path, Raw)).await.map(|_| ())
    }

    /// Sends events as bytes; what the stream ends with.
    async fn stream(&mut self, path: &'static str, events: Vec<Vec<u8>>) -> Status {
        self.0.ready().await.unwrap();
        // Held open: it is not the end of the stream that ends the session.
        let events = tokio_stream::iter(events).chain(tokio_stream::pending());
        let path = PathAndQuery::from_static(path);
        let answers = soon(self.0.streaming(Request::new(events), path, Raw)).await;
        let mut answers = answers.unwrap().into_inner();
        loop {
            match soon(answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => return status,
            }
        }
    }
}

/// An InvalidArgument with a reason in one line.
#[track_caller]
fn refused(answer: Result<(), Status>, what: &str) -> Reason {
    let Err(status) = answer else {
        panic!("{what}: taken")
    };
    assert_eq!(
        status.code(),
        tonic::Code::InvalidArgument,
        "{what}: {status}"
    );
    let reason = Reason::from(status);
    assert_eq!(reason.code, Code::Usage, "{what}: {reason}");
    assert!(
        !reason.text.is_empty() && reason.text.lines().count() == 1,
        "{what}: {reason}"
    );
    reason
}

async fn lives(host: &Host) {
    let mut admin = host.admin().await;
    soon(admin.status(StatusRequest {})).await.unwrap();
    let log = host.read_log();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn a_request_that_says_nothing_is_refused_where_something_is_needed() {
    let host = Host::started().await;
    let mut wire = Wire::to(&host).await;
    let mut needy = 0;
    for (service, method) in all_methods() {
        let answer = wire.call(service, method, &[]).await;
        if NEED_NOTHING.contains(&method) {
            answer.unwrap_or_else(|e| panic!("{method}: {e}"));
        } else if method == "Policy" {
            // Without a name it means the only layer of the host, and here is none.
            assert_eq!(answer.unwrap_err().code(), tonic::Code::NotFound);
        } else {
            needy += 1;
            refused(answer, method);
        }
    }
    assert!(needy > 15, "{needy}");
    lives(&host).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_or_no_message_are_refused_by_every_method() {
    let host = Host::started().await;
    let mut wire = Wire::to(&host).await;
    // Field 1, two bytes that are not UTF-8; a length beyond the end; a group that never ends; a number without an end.
    let bad: [&[u8]; 4] = [
        b"\x0a\x02\xff\xfe",
        b"\x0a\x7fab",
        b"\x0b",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ];
    for (service, method) in all_methods() {
        for (i, bytes) in bad.iter().enumerate() {
            let answer = wire.call(service, method, bytes).await;
            // Who reads no field passes by what it doesn't know, if it can be passed by.
            if i == 0 && answer.is_ok() && NEED_NOTHING.contains(&method) {
                continue;
            }
            let reason = refused(answer, &format!("{method} {bytes:02x?}"));
            assert!(reason.text.starts_with("malformed message"), "{reason}");
        }
    }
    let reason = refused(wire.call("Admin", "CreateName", bad[0]).await, "CreateName");
    assert!(
        reason.text.contains("NameRef.name") && reason.text.contains("UTF-8"),
        "{reason}"
    );
    lives(&host).await;
}

/// Each place where a name can stand, with the message that has it there.
fn with_name(name: &str) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let name = name.to_owned();
    let by_ref = NameRef { name: name.clone() }.encode_to_vec();
    let register = RegisterNameRequest {
        name: name.clone(),
        layers: vec!["ovl".into()],
    }
    .encode_to_vec();
    let binding = Binding {
        program: "/bin/sh".into(),
        ..Default::default()
    };
    let bind = BindRequest {
        name: name.clone(),
        binding: Some(binding),
    }
    .encode_to_vec();
    let alloc = AllocFlowRequest {
        name,
        qos: Some(common::qos()),
        timeout_ms: 100,
        ..Default::default()
    };
    let source = AllocFlowRequest {
        name: "good".into(),
        // Empty, it is no source at all.
        source: Some(alloc.name.clone())
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| "\n".into()),
        ..alloc.clone()
    };
    vec![
        ("Admin", "CreateName", by_ref.clone()),
        ("Admin", "DestroyName", by_ref),
        ("Admin", "RegisterName", register.clone()),
        ("Admin", "UnregisterName", register),
        ("Admin", "Bind", bind.clone()),
        ("Admin", "Unbind", bind),
        ("Programs", "AllocFlow", alloc.encode_to_vec()),
        ("Programs", "AllocFlow", source.encode_to_vec()),
    ]
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_wherever_it_stands() {
    let host = Host::started().await;
    let mut wire = Wire::to(&host).await;
    for (name, what) in [
        ("", ""),
        (&*"x".repeat(256), "256"),
        (&*"é".repeat(128), "256"),
        ("a\nb", "control"),
        ("a\0", "control"),
        ("\u{7f}", "control"),
        ("\u{85}", "control"),
    ] {
        for (service, method, bytes) in with_name(name) {
            let answer = wire.call(service, method, &bytes).await;
            let reason = refused(answer, &format!("{method} {name:?}"));
            assert!(reason.text.contains(what), "{method} {name:?}: {reason}");
        }
    }
    // By a program that listens, which can go on with a better one.
    let mut program = host.program().await;
    for bad in ["x".repeat(256), "a\nb".into()] {
        let said = program.listen(1, &bad, &[]).await.unwrap_err();
        assert_eq!(said.code, Code::Usage, "{said}");
    }
    program.listen(1, &"x".repeat(255), &[]).await.unwrap();
    let names = host.admin().await.list_names(Empty {}).await.unwrap();
    assert_eq!(names.into_inner().names.len(), 1);
    lives(&host).await;
}

const SESSION: &str = "/strata.irm.v1.Programs/Session";
const ATTACH: &str = "/strata.irm.v1.Ipcps/Attach";
const SERVE: &str = "/strata.irm.v1.Vpns/Serve";

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends_with_the_reason() {
    let host = Host::started().await;
    let everybody = host.channel("irm.sock").await.unwrap();
    let mut wire = Wire(tonic::client::Grpc::new(everybody));
    let hello = ProgramEvent {
        event: Some(Event::Hello(ProgramHello::default())),
    }
    .encode_to_vec();
    // Field 1 is the hello; in it, a text of each.
    for (path, text) in [(SESSION, 0x0a), (ATTACH, 0x12), (SERVE, 0x1a)] {
        let not_utf8 = vec![0x0a, 4, text, 2, 0xff, 0xfe];
        for first in [vec![], not_utf8, b"\x0b".to_vec()] {
            let what = format!("{path} {first:02x?}");
            refused(Err(wire.stream(path, vec![first]).await), &what);
        }
    }
    // In the midst of a session.
    let listen_not_utf8 = b"\x12\x04\x12\x02\xff\xfe".to_vec();
    for later in [vec![], listen_not_utf8, b"\x0b".to_vec(), hello.clone()] {
        let what = format!("{later:02x?}");
        let status = wire.stream(SESSION, vec![hello.clone(), later]).await;
        refused(Err(status), &what);
    }
    lives(&host).await;
}

#[tokio::test]
async fn events_of_a_program_that_say_nothing_harm_nobody() {
    let host = Host::started().await;
    let mut program = host.program().await;
    for event in [
        Event::Unlisten(Unlisten::default()),
        Event::Answer(FlowAnswer::default()),
        Event::Closed(FlowClosed::default()),
        Event::Counters(FlowCounters::default()),
    ] {
        program.send(event).await;
    }
    // The session stands.
    program.listen(1, "n", &[]).await.unwrap();
    let (end, ()) = tokio::join!(host.alloc("n", |_| {}), async {
        let offer = program.offer().await;
        program.answer(offer.flow, None).await;
    });
    end.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    lives(&host).await;
}

#[tokio::test]
async fn a_hello_with_one_bad_flow_leaves_none_of_its_flows_behind() {
    let mut host = Host::started().await;
    // So that there can be flows from before.
    assert!(host.terminate().success());
    host.start(&[]).await;
    let flow = |flow: u64, name: &str| DirectFlow {
        flow,
        name: name.into(),
        ..Default::default()
    };
    let everybody = host.channel("irm.sock").await.unwrap();
    let mut wire = Wire(tonic::client::Grpc::new(everybody));
    for (flows, code) in [
        (
            vec![flow(1 << 32 | 1, "good"), flow(1 << 32 | 2, "")],
            Code::Usage,
        ),
        (vec![flow(1 << 32 | 1, "good"); 16_385], Code::Busy),
    ] {
        let hello = ProgramHello {
            flows,
            ..Default::default()
        };
        let hello = ProgramEvent {
            event: Some(Event::Hello(hello)),
        };
        let status = wire.stream(SESSION, vec![hello.encode_to_vec()]).await;
        assert_eq!(Reason::from(status).code, code);
        let flows = host.admin().await.list_flows(Empty {}).await.unwrap();
        assert!(flows.into_inner().flows.is_empty());
    }
    // What no daemon can have given out is not taken over, and the session stands.
    let hello = ProgramHello {
        flows: vec![flow(1 << 32 | 1, "good"), flow(9 << 32, "later")],
        data_socket: "/x".into(),
        ..Default::default()
    };
    let _program = host.session(hello).await;
    let flows = host.admin().await.list_flows(Empty {}).await.unwrap();
    let ids: Vec<u64> = flows.into_inner().flows.iter().map(|f| f.id).collect();
    assert_eq!(ids, [1 << 32 | 1]);
    lives(&host).await;
}

#[tokio::test]
async fn events_of_an_ipc_process_that_say_nothing_are_dropped_and_counted() {
    let host = Host::started().await;
    let mut admin = host.admin().await;
    let create = CreateIpcpRequest {
        name: "ovl-a".into(),
        r#type: "unicast".into(),
    };
    let (created, mut ipcp) = tokio::join!(admin.create_ipcp(create), async {
        let (_, secret) = host.child_besides(&[]).await;
        let hello = IpcpHello {
            secret,
            name: "ovl-a".into(),
            version: 1,
            data_socket: "/data/ovl-a".into(),
            ..Default::default()
        };
        // A flow without a name: this process is not what it should be, and may try again.
        let bad = IpcpHello {
            layer: "ovl".into(),
            flows: vec![FlowInfo::default()],
            ..hello.clone()
        };
        assert_eq!(host.attach(bad).await.err().unwrap().code, Code::Usage);
        host.attach(hello).await.unwrap()
    });
    created.unwrap();
    use ipcp_event::Event;
    for event in [
        Some(Event::Done(Done::default())),
        Some(Event::Request(FlowRequest::default())),
        Some(Event::Down(FlowDown::default())),
        Some(Event::State(StateChange::default())),
        Some(Event::Notice(Notice::default())),
        None,
    ] {
        ipcp.tx.send(IpcpEvent { event }).await.unwrap();
    }
    let counted = async {
        loop {
            let status = soon(admin.status(StatusRequest {}))
                .await
                .unwrap()
                .into_inner();
            assert_ne!(status.ipcps[0].state, "down");
            if status.counters.get("drop.malformed_event") >= Some(&3) {
                return;
            }
        }
    };
    // It answers when it is asked how it is, so it is still attached.
    tokio::select! {
        () = soon(counted) => {}
        _ = ipcp.next() => panic!("a command came"),
    }
    let again = Event::Hello(IpcpHello::default());
    ipcp.send(again).await;
    assert_eq!(ipcp.message().await.unwrap_err().code, Code::Usage);
    lives(&host).await;
}
