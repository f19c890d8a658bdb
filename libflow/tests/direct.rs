//! Two programs of one host and a daemon between them: libflow's faces over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, in its helpers too"
)]

mod broker;

use std::time::Duration;

use broker::Broker;
use libflow::port::RecordSocket;
use libflow::{
    AllocOptions, Batch, Code, Flow, FlowError, FlowSet, Framing, Irm, Label, Listener, QosSpec,
    Reason,
};
use proto::Token;
use proto::record::Item;
use tokio::task::JoinSet;

async fn listen_and_allocate(irm: &Irm, name: &str) -> (Listener, Flow, Flow) {
    let mut listener = irm.listen(name, &[]).await.unwrap();
    let accept = async { listener.accept().await.unwrap().accept().await.unwrap() };
    let (there, here) = tokio::join!(accept, irm.allocate(name, AllocOptions::default()));
    (listener, here.unwrap(), there)
}

fn options(timeout: Duration) -> AllocOptions {
    AllocOptions {
        timeout,
        ..AllocOptions::default()
    }
}

#[tokio::test]
async fn sdus_go_both_ways_and_each_end_knows_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let mut listener = irm.listen("echo", &[]).await.unwrap();
    let ask = AllocOptions {
        qos: QosSpec::RAW,
        source: Some("me".parse().unwrap()),
        ..AllocOptions::default()
    };
    let accept = async {
        let incoming = listener.accept().await.unwrap();
        assert_eq!(
            (incoming.name().as_str(), incoming.qos()),
            ("echo", QosSpec::RAW)
        );
        incoming.accept().await.unwrap()
    };
    let (there, here) = tokio::join!(accept, irm.allocate("echo", ask));
    let here = here.unwrap();
    assert_eq!(here.peer().name.as_ref().unwrap().as_str(), "echo");
    assert_eq!(there.peer().name.as_ref().unwrap().as_str(), "me");
    assert_eq!(here.id(), there.id());
    let large = vec![7; here.mtu() as usize];
    here.write(&large).await.unwrap();
    let mut buf = vec![0; there.mtu() as usize];
    assert_eq!(there.read(&mut buf).await.unwrap(), large.len());
    assert_eq!(buf, large);
    there.write(b"back").await.unwrap();
    assert_eq!(here.read(&mut buf).await.unwrap(), 4);
    assert_eq!(
        (here.traffic(), there.traffic()),
        ((4, large.len() as u64), (large.len() as u64, 4))
    );
}

#[tokio::test]
async fn a_record_of_many_is_handed_out_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let (_listener, here, there) = listen_and_allocate(&irm, "n").await;
    let mut batch = Batch::new(Framing::Record);
    for sdu in [&b"a"[..], b"bb", b"ccc"] {
        batch.push(sdu.len()).unwrap().copy_from_slice(sdu);
    }
    here.write_batch(&batch).await.unwrap();
    let mut buf = [0; 8];
    assert_eq!(there.read(&mut buf).await.unwrap(), 1);
    // What is left of a record can be taken as a batch, and a short buffer loses nothing.
    assert_eq!(
        there.read(&mut buf[..1]).await,
        Err(FlowError::BufferTooSmall { len: 2 })
    );
    let mut rest = Batch::new(Framing::Record);
    there.read_batch(&mut rest).await.unwrap();
    assert_eq!(rest.iter().collect::<Vec<_>>(), [&b"bb"[..], b"ccc"]);
    assert_eq!(there.try_read(&mut buf), Ok(None));
    // A batch can come with its SDUs too, and none while there are none.
    let none = tokio::time::timeout(Duration::from_millis(10), there.next_batch()).await;
    assert!(none.is_err());
    here.write_batch(&batch).await.unwrap();
    let next = there.next_batch().await.unwrap();
    assert_eq!(next.iter().collect::<Vec<_>>(), [&b"a"[..], b"bb", b"ccc"]);
}

#[tokio::test]
async fn wrong_use_and_failures_have_their_types() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    assert!(matches!(
        irm.allocate("nobody", AllocOptions::default()).await,
        Err(FlowError::NoSuchName(_))
    ));
    assert!(matches!(
        irm.allocate("", AllocOptions::default()).await,
        Err(FlowError::ApiMisuse(_))
    ));
    assert!(matches!(
        irm.listen("taken", &[]).await,
        Err(FlowError::NotPermitted(_))
    ));
    let mut listener = irm.listen("picky", &[]).await.unwrap();
    let refuse = async {
        listener
            .accept()
            .await
            .unwrap()
            .refuse(Reason::new(Code::Refused, "not today"))
    };
    let (refused, ()) = tokio::join!(irm.allocate("picky", AllocOptions::default()), refuse);
    assert_eq!(
        refused.unwrap_err(),
        FlowError::Refused(Reason::new(Code::Refused, "not today"))
    );
    let (ignored, incoming) = tokio::join!(irm.allocate("picky", AllocOptions::default()), async {
        drop(listener.accept().await.unwrap());
    });
    assert!(
        matches!(ignored, Err(FlowError::Refused(_))),
        "{incoming:?}"
    );
    let slow = irm
        .allocate("picky", options(Duration::from_millis(50)))
        .await;
    assert!(matches!(slow, Err(FlowError::TimedOut(_))));
    drop(listener);
    let (_listener, here, there) = listen_and_allocate(&irm, "n").await;
    assert!(matches!(
        here.write(b"").await,
        Err(FlowError::ApiMisuse(_))
    ));
    assert!(matches!(
        here.write(&vec![0; 70_000]).await,
        Err(FlowError::TooLarge { len: 70_000, .. })
    ));
    there.set_read_timeout(Some(Duration::from_millis(20)));
    assert!(matches!(
        there.read(&mut [0; 9]).await,
        Err(FlowError::TimedOut(_))
    ));
}

#[tokio::test]
async fn a_burst_waits_for_a_program_that_is_late_and_what_is_beyond_is_refused_at_once() {
    const PLACES: usize = 1024;
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let mut listener = irm.listen("late", &[]).await.unwrap();
    let mut asked = JoinSet::new();
    for _ in 0..=PLACES {
        let irm = irm.clone();
        let ask = async move { irm.allocate("late", options(Duration::from_secs(30))).await };
        asked.spawn(ask);
    }
    let first = asked.join_next().await.unwrap().unwrap();
    let Err(FlowError::Refused(why)) = first else {
        panic!("{first:?}")
    };
    assert_eq!(why.code, Code::Busy, "{why}");
    let seen = Reason::new(Code::Refused, "seen");
    for _ in 0..PLACES {
        listener.accept().await.unwrap().refuse(seen.clone());
    }
    while let Some(answer) = asked.join_next().await {
        assert_eq!(
            answer.unwrap().err(),
            Some(FlowError::Refused(seen.clone()))
        );
    }
}

#[tokio::test]
async fn the_end_of_a_flow_carries_its_reason_behind_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let running = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let (_listener, here, there) = listen_and_allocate(&irm, "n").await;
    here.write(b"unread by the other").await.unwrap();
    there.write(b"last data").await.unwrap();
    let id = there.id();
    there.close(Reason::new(Code::Failed, "the disk is full"));
    let mut buf = [0; 32];
    assert_eq!(here.read(&mut buf).await.unwrap(), 9);
    let down = FlowError::Down(Reason::new(Code::Failed, "the disk is full"));
    assert_eq!(here.read(&mut buf).await.unwrap_err(), down);
    assert_eq!(here.write(b"x").await.unwrap_err(), down);
    // And irmd hears of it.
    while running.broker.closed() != [id.0] {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let (_listener, here, there) = listen_and_allocate(&irm, "n").await;
    here.set_write_timeout(Some(Duration::from_millis(50)));
    let mut sent = 0u32;
    let sdu = |n: u32| [&n.to_be_bytes()[..], &[0; 1000]].concat();
    while here.write(&sdu(sent)).await.is_ok() {
        sent += 1;
    }
    assert!(sent > 10);
    here.set_write_timeout(None);
    let writer = async {
        for n in sent..sent + 1000 {
            here.write(&sdu(n)).await.unwrap();
        }
    };
    let reader = async {
        let mut buf = [0; 1100];
        for n in 0..sent + 1000 {
            let len = there.read(&mut buf).await.unwrap();
            assert_eq!((len, &buf[..4]), (1004, &n.to_be_bytes()[..]));
        }
    };
    tokio::join!(writer, reader);
}

#[tokio::test]
async fn cancelled_reads_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let (_listener, here, there) = listen_and_allocate(&irm, "n").await;
    let writer = async {
        for n in 0..500u32 {
            here.write(&n.to_be_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let reader = async {
        let (mut next, mut buf) = (0u32, [0; 4]);
        while next < 500 {
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => {}
                read = there.read(&mut buf) => {
                    read.unwrap();
                    assert_eq!(u32::from_be_bytes(buf), next);
                    next += 1;
                }
            }
        }
    };
    tokio::join!(writer, reader);
}

#[tokio::test]
async fn a_token_opens_once_and_a_wrong_one_never() {
    let dir = tempfile::tempdir().unwrap();
    let running = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let (_listener, here, _there) = listen_and_allocate(&irm, "n").await;
    let door = running.broker.hellos()[0].data_socket.clone();
    let soon = || tokio::time::Instant::now() + Duration::from_secs(5);
    for token in [Token([here.id().0 as u8; 16]), Token([99; 16])] {
        let denied = RecordSocket::join(door.as_ref(), &token, false, soon())
            .await
            .unwrap_err();
        assert_eq!(denied.code, Code::Denied);
    }
    // Who says something else, or nothing, is shown out.
    let rude = RecordSocket::connect(door.as_ref()).unwrap();
    rude.try_send_sdu(b"let me in").unwrap();
    let rude = libflow::watch(rude, tokio::io::Interest::READABLE).unwrap();
    tokio::time::timeout(Duration::from_secs(5), rude.readable())
        .await
        .unwrap()
        .unwrap()
        .retain_ready();
    assert!(matches!(
        rude.get_ref().try_recv_first(),
        Ok((Item::Down(_), None)) | Err(_)
    ));
}

#[tokio::test]
async fn a_flow_outlives_the_daemon_and_listeners_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let running = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let (mut listener, here, there) = listen_and_allocate(&irm, "n").await;
    drop(running);
    let mut buf = [0; 16];
    here.write(b"still there").await.unwrap();
    assert_eq!(there.read(&mut buf).await.unwrap(), 11);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let running = Broker::start(dir.path(), 100);
    // An allocation waits for the daemon; the listener is announced again without anybody's doing.
    let accept = async { listener.accept().await.unwrap().accept().await.unwrap() };
    let again = async {
        loop {
            match irm.allocate("n", AllocOptions::default()).await {
                Err(FlowError::NoSuchName(_)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                other => return other.unwrap(),
            }
        }
    };
    let both = async { tokio::join!(accept, again) };
    let (there2, here2) = tokio::time::timeout(Duration::from_secs(2), both)
        .await
        .unwrap();
    here2.write(b"new").await.unwrap();
    assert_eq!(there2.read(&mut buf).await.unwrap(), 3);
    let hello = &running.broker.hellos()[0];
    assert_eq!(
        hello.flows.iter().map(|f| f.flow).collect::<Vec<_>>(),
        [there.id().0]
    );
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_with_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let error = Irm::connect(Some(dir.path())).await.unwrap_err();
    assert_eq!(error.reason().code, Code::Unreachable);
    assert!(error.to_string().contains("irm.sock"), "{error}");
    assert!(error.to_string().contains("start irmd"), "{error}");
}

#[tokio::test]
async fn a_set_waits_for_any_of_its_flows() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).await.unwrap();
    let (_a, here_a, there_a) = listen_and_allocate(&irm, "a").await;
    let (_b, here_b, there_b) = listen_and_allocate(&irm, "b").await;
    let mut set = FlowSet::new().unwrap();
    let (a, b) = (set.insert(there_a).unwrap(), set.insert(there_b).unwrap());
    assert!(
        tokio::time::timeout(Duration::from_millis(30), set.readable())
            .await
            .is_err()
    );
    here_b.write(b"to b").await.unwrap();
    assert_eq!(set.readable().await.unwrap(), [b]);
    let mut buf = [0; 8];
    assert_eq!(set.get(b).unwrap().try_read(&mut buf), Ok(Some(4)));
    // SDUs that lie in a flow already count as readable, though its socket is empty.
    let mut two = Batch::new(Framing::Record);
    two.push(1).unwrap()[0] = 1;
    two.push(1).unwrap()[0] = 2;
    here_a.write_batch(&two).await.unwrap();
    assert_eq!(set.readable().await.unwrap(), [a]);
    assert_eq!(set.get(a).unwrap().try_read(&mut buf), Ok(Some(1)));
    assert_eq!(set.readable().await.unwrap(), [a]);
    assert_eq!(set.get(a).unwrap().try_read(&mut buf), Ok(Some(1)));
    assert!(
        tokio::time::timeout(Duration::from_millis(30), set.readable())
            .await
            .is_err()
    );
    assert!(set.remove(a).is_some() && set.remove(a).is_none());
}

#[tokio::test]
async fn threads_without_a_runtime_use_flows_too() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    let run_dir = dir.path().to_owned();
    let thread = std::thread::spawn(move || {
        let irm = libflow::blocking::Irm::connect(Some(&run_dir)).unwrap();
        let mut listener = irm.listen("blocking", &[] as &[Label]).unwrap();
        let server = std::thread::spawn(move || {
            let flow = listener.accept().unwrap().accept().unwrap();
            let mut buf = [0; 100];
            while let Ok(len) = flow.read(&mut buf) {
                flow.write(&buf[..len]).unwrap();
            }
        });
        let flow = irm.allocate("blocking", AllocOptions::default()).unwrap();
        flow.set_read_timeout(Some(Duration::from_millis(20)));
        assert!(matches!(
            flow.read(&mut [0; 9]),
            Err(FlowError::TimedOut(_))
        ));
        flow.set_read_timeout(None);
        let mut buf = [0; 100];
        for _ in 0..100 {
            flow.write(b"ping").unwrap();
            assert_eq!(flow.read(&mut buf).unwrap(), 4);
        }
        drop(flow);
        server.join().unwrap();
    });
    tokio::task::spawn_blocking(|| thread.join().unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_socket_of_a_program_that_was_killed_is_swept_away() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Broker::start(dir.path(), 0);
    std::fs::create_dir(dir.path().join("flows")).unwrap();
    // No pid is that high. A link keeps the file when its socket is closed, as SIGKILL does.
    let left = dir.path().join("flows/4294967295-0.sock");
    let live = dir.path().join("flows/4294967295-1.sock");
    let door = libflow::port::Door::open(&left, false).unwrap();
    let _kept = libflow::port::Door::open(&live, false).unwrap();
    let copy = dir.path().join("copy");
    std::fs::hard_link(&left, &copy).unwrap();
    drop(door);
    std::fs::rename(&copy, &left).unwrap();
    let _irm = Irm::connect(Some(dir.path())).await.unwrap();
    assert!(!left.exists() && live.exists());
}
