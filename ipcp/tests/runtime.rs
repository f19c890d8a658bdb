//! The runtime between a daemon and users, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, in its helpers too"
)]
#![allow(dead_code, reason = "each test program uses its part of the helpers")]

mod daemon;
mod mirror;

use std::path::Path;
use std::time::{Duration, Instant};

use daemon::{Attached, Daemon, within};
use ipcp::Config;
use libflow::port::{Joined, Received, RecordSocket};
use libflow::{Batch, Code, FlowId, Framing, QosSpec, Reason, Secret};
use mirror::{Mirror, Nothing};
use proto::Token;
use proto::ipcp::{Allocate, Answer, Command, Event, Respond, User};
use proto::record::Item;

fn config(dir: &Path) -> Config {
    Config {
        name: "mirror".parse().unwrap(),
        kind: "unicast",
        run_dir: dir.join("run"),
        state_dir: dir.join("state"),
        secret: Secret::from([9; 32]),
    }
}

/// A process with a mirror in it, the daemon that it attached to, and its directories.
async fn start(
    flood: usize,
) -> (
    Attached,
    Daemon,
    tokio::task::JoinHandle<anyhow::Result<()>>,
    tempfile::TempDir,
) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let mut daemon = Daemon::start(&dir.path().join("run"));
    let machine = Mirror::new(flood);
    let process = tokio::spawn(ipcp::run(machine, Nothing::default(), config(dir.path())));
    let attached = daemon.attached().await;
    (attached, daemon, process, dir)
}

fn me() -> User {
    User {
        uid: rustix::process::getuid().as_raw(),
        ipcp: false,
    }
}

fn allocate(flow: u64, user: User) -> Command {
    allocate_with(flow, user, QosSpec::RAW)
}

fn allocate_with(flow: u64, user: User, qos: QosSpec) -> Command {
    Command::Allocate(Allocate {
        flow: FlowId(flow),
        name: "anybody".parse().unwrap(),
        source: None,
        qos,
        peer: None,
        user,
        timeout_ms: 1000,
        at: Vec::new(),
    })
}

async fn token(irmd: &mut Attached, flow: u64, user: User) -> Token {
    token_for(irmd, allocate(flow, user)).await
}

async fn token_for(irmd: &mut Attached, ask: Command) -> Token {
    let id = irmd.ask(ask).await;
    match irmd.event().await {
        Event::Done(done, Ok(Answer::Allocated(allocated))) if done == id => {
            allocated.token.unwrap()
        }
        other => panic!("{other:?}"),
    }
}

async fn join(irmd: &Attached, token: &Token) -> Result<Joined, Reason> {
    let soon = tokio::time::Instant::now() + Duration::from_secs(5);
    RecordSocket::join(irmd.hello.data_socket.as_ref(), token, true, soon).await
}

/// The next record, with patience.
async fn recv(socket: &RecordSocket, batch: &mut Batch) -> Received {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match socket.try_recv(batch) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < until, "nothing came")
            }
            other => return other.unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn status(irmd: &mut Attached) -> proto::irm::IpcpStatus {
    irmd.ask(Command::Status).await;
    match irmd.event().await {
        Event::Done(_, Ok(Answer::Status(status))) => *status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_user_joins_and_its_sdus_reach_the_machine_and_come_back() {
    let (mut irmd, _daemon, _process, _dir) = start(0).await;
    assert_eq!(
        (irmd.hello.name.as_str(), irmd.hello.r#type.as_str()),
        ("mirror", "unicast")
    );
    assert_eq!(irmd.hello.secret, [9; 32]);
    let token = token(&mut irmd, 5, me()).await;
    let joined = join(&irmd, &token).await.unwrap();
    assert_eq!((joined.welcome.flow, joined.welcome.mtu), (FlowId(5), 9000));
    let mut batch = Batch::new(Framing::Record);
    for sdu in [&b"one"[..], b"two"] {
        batch.push(3).unwrap().copy_from_slice(sdu);
    }
    joined.socket.try_send(&batch).unwrap();
    let mut back = Batch::new(Framing::Record);
    assert!(matches!(
        recv(&joined.socket, &mut back).await,
        Received::Data
    ));
    assert_eq!(back.iter().collect::<Vec<_>>(), [b"one", b"two"]);
    assert_eq!(status(&mut irmd).await.flows[0].uid, me().uid);
    drop(joined);
    assert!(matches!(irmd.event().await, Event::FlowDown(FlowId(5), _)));
}

#[tokio::test]
async fn the_machine_hears_why_a_user_left_and_of_one_that_died_that_it_had_no_last_word() {
    let (mut irmd, _daemon, _process, _dir) = start(0).await;
    let word = Reason::new(Code::Refused, "this is not my name");
    for (id, word, heard) in [
        (5, Some(word.clone()), word),
        (6, None, libflow::port::died()),
    ] {
        let token = token(&mut irmd, id, me()).await;
        let joined = join(&irmd, &token).await.unwrap();
        if let Some(word) = word {
            joined
                .socket
                .try_send_item(&Item::Down(word), None)
                .unwrap();
        }
        drop(joined);
        let Event::FlowDown(flow, reason) = irmd.event().await else {
            panic!("something else happened");
        };
        assert_eq!((flow, reason), (FlowId(id), heard));
    }
}

#[tokio::test]
async fn tokens_open_one_flow_once_for_one_user() {
    let (mut irmd, _daemon, _process, _dir) = start(0).await;
    let good = token(&mut irmd, 1, me()).await;
    assert_eq!(
        join(&irmd, &Token([0; 16])).await.unwrap_err().code,
        Code::Denied
    );
    let _joined = join(&irmd, &good).await.unwrap();
    assert_eq!(join(&irmd, &good).await.unwrap_err().code, Code::Denied);
    let stranger = User {
        uid: me().uid + 1,
        ipcp: false,
    };
    let theirs = token(&mut irmd, 2, stranger).await;
    assert_eq!(join(&irmd, &theirs).await.unwrap_err().code, Code::Denied);
    assert_eq!(status(&mut irmd).await.counters["join.denied"], 3);
}

#[tokio::test]
async fn a_user_that_lies_about_lengths_loses_its_flow_and_nobody_else_does() {
    let (mut irmd, _daemon, _process, _dir) = start(0).await;
    let honest = token(&mut irmd, 1, me()).await;
    let honest = join(&irmd, &honest).await.unwrap();
    let oversized = vec![1; Batch::CAPACITY + 1];
    for (n, bytes) in [
        &[0, 200, 1][..],
        &[0, 0],
        &[7],
        &[0xff, 0xff, 42],
        &[0, 1, 5, 0xff, 0xff],
        &oversized,
    ]
    .into_iter()
    .enumerate()
    {
        let flow = 10 + n as u64;
        let liar = token(&mut irmd, flow, me()).await;
        let liar = join(&irmd, &liar).await.unwrap();
        rustix::net::send(&liar.socket, bytes, rustix::net::SendFlags::empty()).unwrap();
        assert!(
            matches!(irmd.event().await, Event::FlowDown(FlowId(down), r) if down == flow && r.code == Code::PeerMisbehaved)
        );
        let mut batch = Batch::new(Framing::Record);
        let last = recv(&liar.socket, &mut batch).await;
        assert!(
            matches!(&last, Received::Item(Item::Down(r)) if r.code == Code::PeerMisbehaved),
            "{last:?}"
        );
    }
    honest.socket.try_send_sdu(b"still here").unwrap();
    let mut batch = Batch::new(Framing::Record);
    assert!(matches!(
        recv(&honest.socket, &mut batch).await,
        Received::Data
    ));
    assert_eq!(status(&mut irmd).await.counters["drop.bad_record"], 6);
}

#[tokio::test]
async fn what_comes_before_the_join_is_held_up_to_a_bound_and_given_in_order() {
    let (mut irmd, _daemon, _process, _dir) = start(6).await;
    let token = token(&mut irmd, 1, me()).await;
    irmd.ask(Command::Connect("x".parse().unwrap(), None)).await;
    assert!(matches!(irmd.event().await, Event::Done(_, Ok(Answer::Ok))));
    let joined = join(&irmd, &token).await.unwrap();
    assert_eq!(joined.welcome.mtu, 1234);
    let mut batch = Batch::new(Framing::Record);
    for n in 0..4u32 {
        assert!(matches!(
            recv(&joined.socket, &mut batch).await,
            Received::Data
        ));
        assert!(batch.iter().all(|sdu| sdu[..4] == n.to_be_bytes()));
    }
    assert_eq!(
        status(&mut irmd).await.counters["drop.not_joined"],
        2 * batch.count() as u64
    );
}

#[tokio::test]
async fn a_user_that_does_not_read_costs_a_bounded_number_of_batches() {
    let (mut irmd, _daemon, _process, _dir) = start(100).await;
    let token = token(&mut irmd, 1, me()).await;
    let joined = join(&irmd, &token).await.unwrap();
    irmd.ask(Command::Connect("x".parse().unwrap(), None)).await;
    assert!(matches!(irmd.event().await, Event::Done(_, Ok(Answer::Ok))));
    let dropped = status(&mut irmd).await.counters["drop.upper_full"];
    assert!(dropped > 0);
    let (mut batch, mut records, mut got) = (Batch::new(Framing::Record), 0, 0);
    let mtu = loop {
        match recv(&joined.socket, &mut batch).await {
            Received::Data => (records, got) = (records + 1, got + batch.count() as u64),
            Received::Item(Item::Mtu(mtu)) => break mtu,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(mtu, 1234);
    assert_eq!(got + dropped, 100 * (got / records));
}

#[tokio::test]
async fn a_reliable_flow_loses_nothing_to_a_slow_user_and_lets_the_writer_wait() {
    let (mut irmd, _daemon, _process, _dir) = start(0).await;
    let token = token_for(&mut irmd, allocate_with(1, me(), QosSpec::DATA)).await;
    let joined = join(&irmd, &token).await.unwrap();
    let mut record = Batch::new(Framing::Record);
    while record.push(1000).is_some() {}
    let (mut sent, mut waited) = (0u32, 0);
    // Until nothing has moved for long: both ways are full.
    while waited < 100 {
        record
            .iter_mut()
            .for_each(|sdu| sdu[..4].copy_from_slice(&sent.to_be_bytes()));
        match joined.socket.try_send(&record) {
            Ok(()) => (sent, waited) = (sent + 1, 0),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => waited += 1,
            Err(e) => panic!("{e}"),
        }
        assert!(sent < 1000, "nobody lets the writer wait");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut batch = Batch::new(Framing::Record);
    for n in 0..sent {
        assert!(matches!(
            recv(&joined.socket, &mut batch).await,
            Received::Data
        ));
        assert_eq!(batch.count(), record.count());
        assert!(batch.iter().all(|sdu| sdu[..4] == n.to_be_bytes()));
    }
    let counters = status(&mut irmd).await.counters;
    assert!(
        !counters.keys().any(|name| name.starts_with("drop.")),
        "{counters:?}"
    );
}

#[tokio::test]
async fn a_direction_that_is_shut_ends_after_its_last_sdu_and_the_other_goes_on() {
    let (mut irmd, _daemon, _process, _dir) = start(3).await;
    let token = token_for(&mut irmd, allocate_with(1, me(), QosSpec::DATA)).await;
    let joined = join(&irmd, &token).await.unwrap();
    joined.socket.try_send_sdu(b"last").unwrap();
    joined.socket.try_send_item(&Item::Shut, None).unwrap();
    let mut batch = Batch::new(Framing::Record);
    assert!(matches!(
        recv(&joined.socket, &mut batch).await,
        Received::Data
    ));
    assert!(matches!(
        recv(&joined.socket, &mut batch).await,
        Received::Item(Item::Shut)
    ));
    irmd.ask(Command::Connect("x".parse().unwrap(), None)).await;
    assert!(matches!(irmd.event().await, Event::Done(_, Ok(Answer::Ok))));
    assert!(matches!(
        recv(&joined.socket, &mut batch).await,
        Received::Data
    ));
    // Whoever writes after its own end breaks the rules.
    joined.socket.try_send_sdu(b"more").unwrap();
    let reason = loop {
        match recv(&joined.socket, &mut batch).await {
            Received::Item(Item::Down(reason)) => break reason,
            Received::Data | Received::Item(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason.code, Code::PeerMisbehaved);
}

#[tokio::test]
async fn a_flow_that_the_machine_ends_tells_its_user_why() {
    let (mut irmd, _daemon, _process, _dir) = start(0).await;
    let token = token(&mut irmd, 1, me()).await;
    let joined = join(&irmd, &token).await.unwrap();
    irmd.ask(Command::Dealloc(
        FlowId(1),
        Reason::new(Code::Denied, "policy changed"),
    ))
    .await;
    let mut batch = Batch::new(Framing::Record);
    let last = recv(&joined.socket, &mut batch).await;
    assert!(
        matches!(&last, Received::Item(Item::Down(r)) if r.text == "policy changed"),
        "{last:?}"
    );
    assert!(matches!(
        recv(&joined.socket, &mut batch).await,
        Received::End
    ));
}

#[tokio::test]
async fn an_orphan_keeps_its_flows_and_reports_them_to_the_next_daemon() {
    let (mut irmd, daemon, _process, dir) = start(0).await;
    let token = token(&mut irmd, 42, me()).await;
    let joined = join(&irmd, &token).await.unwrap();
    irmd.ask(Command::Register("name".parse().unwrap())).await;
    assert!(matches!(irmd.event().await, Event::Done(_, Ok(Answer::Ok))));
    drop(daemon);
    let mut batch = Batch::new(Framing::Record);
    for _ in 0..20 {
        joined.socket.try_send_sdu(b"while nobody rules").unwrap();
        assert!(matches!(
            recv(&joined.socket, &mut batch).await,
            Received::Data
        ));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut daemon = Daemon::start(&dir.path().join("run"));
    let mut irmd = daemon.attached().await;
    assert_eq!(
        (irmd.hello.layer.as_str(), irmd.hello.state.as_str()),
        ("mirrors", "up")
    );
    assert_eq!(
        irmd.hello.flows.iter().map(|f| f.id).collect::<Vec<_>>(),
        [42]
    );
    assert_eq!(irmd.hello.names, ["name"]);
    drop(joined);
    assert!(matches!(irmd.event().await, Event::FlowDown(FlowId(42), _)));
}

#[tokio::test]
async fn an_orphan_leaves_when_the_run_directory_is_gone() {
    let (_irmd, daemon, process, dir) = start(0).await;
    drop(daemon);
    std::fs::remove_dir_all(dir.path().join("run")).unwrap();
    within(process).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_from_afar_is_answered_and_its_flow_can_be_joined() {
    let (mut irmd, _daemon, _process, _dir) = start(0).await;
    irmd.ask(Command::Register("name".parse().unwrap())).await;
    assert!(matches!(irmd.event().await, Event::Done(_, Ok(Answer::Ok))));
    let Event::FlowRequest(request) = irmd.event().await else {
        panic!("the machine's timer did not come")
    };
    irmd.ask(Command::Respond(Respond {
        request: request.request,
        verdict: Ok((FlowId(3), me())),
    }))
    .await;
    let Event::Done(_, Ok(Answer::Allocated(allocated))) = irmd.event().await else {
        panic!("not allocated")
    };
    assert_eq!(
        join(&irmd, &allocated.token.unwrap())
            .await
            .unwrap()
            .welcome
            .flow,
        FlowId(3)
    );
}

#[tokio::test]
async fn files_are_saved_and_a_shutdown_ends_process_flows_and_stream() {
    let (mut irmd, _daemon, process, dir) = start(0).await;
    let token = token(&mut irmd, 1, me()).await;
    let joined = join(&irmd, &token).await.unwrap();
    irmd.ask(Command::Disconnect("x".parse().unwrap())).await;
    assert!(matches!(irmd.event().await, Event::Done(_, Ok(Answer::Ok))));
    assert_eq!(
        std::fs::read(dir.path().join("state/note")).unwrap(),
        b"kept"
    );
    irmd.ask(Command::Shutdown).await;
    assert!(matches!(irmd.event().await, Event::Done(_, Ok(Answer::Ok))));
    assert!(irmd.ended().await);
    within(process).await.unwrap().unwrap();
    let mut batch = Batch::new(Framing::Record);
    assert!(matches!(
        recv(&joined.socket, &mut batch).await,
        Received::Item(Item::Down(_))
    ));
    assert!(!Path::new(&irmd.hello.data_socket).exists());
}

#[tokio::test]
async fn a_command_that_makes_no_sense_is_answered_with_what_is_wrong() {
    let (mut irmd, _daemon, _process, _dir) = start(0).await;
    let Event::Done(_, Err(reason)) = irmd
        .ask_raw(proto::irm::IpcpCommand {
            id: 7,
            command: None,
        })
        .await
    else {
        panic!("taken")
    };
    assert_eq!(reason.code, Code::Usage);
}
