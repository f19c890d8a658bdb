//! Programs at a real irmd: sessions, direct flows, restarts, ends.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected fails the test"
)]

mod common;

use common::{Host, qos, soon};
use proto::irm::program_command::Command;
use proto::irm::program_event::Event;
use proto::irm::*;
use proto::{Code, Reason};

#[tokio::test]
async fn a_flow_between_two_programs_needs_no_ipc_process() {
    let host = Host::started().await;
    let mut server = host.program().await;
    server.listen(7, "echo", &[]).await.unwrap();
    let client = host.program().await;
    let session = client.id.clone();
    let alloc = host.alloc("echo", |r| r.session = session);
    let (end, offer) = tokio::join!(alloc, async {
        let offer = server.offer().await;
        server.answer(offer.flow, None).await;
        offer
    });
    let end = end.unwrap();
    assert_eq!(
        (offer.listener, offer.name.as_str(), offer.direct),
        (7, "echo", true)
    );
    assert_eq!((end.flow, &end.token), (offer.flow, &offer.token));
    assert_eq!(end.token.len(), 16);
    assert!(end.socket.ends_with("/data"));
    assert_eq!(offer.uid, rustix::process::geteuid().as_raw());
    let flows = host
        .admin()
        .await
        .list_flows(Empty {})
        .await
        .unwrap()
        .into_inner()
        .flows;
    assert_eq!(
        (
            flows[0].id,
            flows[0].name.as_str(),
            flows[0].state.as_str(),
            flows[0].layer.as_str()
        ),
        (end.flow, "echo", "allocated", "")
    );
    server
        .send(Event::Closed(FlowClosed {
            flow: end.flow,
            reason: None,
        }))
        .await;
    let wait = WaitRequest {
        kind: "flow".into(),
        what: end.flow.to_string(),
        state: "down".into(),
        timeout_ms: 3000,
    };
    host.admin().await.wait(wait).await.unwrap();
}

#[tokio::test]
async fn refusals_come_with_the_reason_of_the_program() {
    let host = Host::started().await;
    let mut server = host.program().await;
    server.listen(1, "shy", &[]).await.unwrap();
    let (end, ()) = tokio::join!(host.alloc("shy", |_| {}), async {
        let offer = server.offer().await;
        server
            .answer(
                offer.flow,
                Some(Reason::new(Code::Busy, "full; come back at noon")),
            )
            .await;
    });
    let reason = end.unwrap_err();
    assert_eq!(reason.code, Code::Busy);
    assert!(reason.text.contains("come back at noon"), "{reason}");
}

#[tokio::test]
async fn a_name_that_nobody_has_is_not_found_and_the_reason_says_what_to_do() {
    let host = Host::started().await;
    let reason = host.alloc("nobody", |_| {}).await.unwrap_err();
    assert_eq!(reason.code, Code::NotFound);
    assert!(
        reason.text.contains("nobody") && reason.text.contains("irm status"),
        "{reason}"
    );
    let reason = host
        .alloc("x", |r| r.layer = "nolayer".into())
        .await
        .unwrap_err();
    assert_eq!(reason.code, Code::NotFound);
    assert!(reason.text.contains("nolayer"), "{reason}");
}

#[tokio::test]
async fn a_silent_program_costs_its_caller_the_deadline_and_hears_that_the_flow_is_gone() {
    let host = Host::started().await;
    let mut server = host.program().await;
    server.listen(1, "slow", &[]).await.unwrap();
    let (end, offer) = tokio::join!(host.alloc("slow", |r| r.timeout_ms = 300), server.offer());
    let reason = end.unwrap_err();
    assert_eq!(reason.code, Code::TimedOut);
    match server.next().await {
        Command::Gone(gone) => assert_eq!(gone.flow, offer.flow),
        other => panic!("no FlowGone but {other:?}"),
    }
    assert!(
        host.admin()
            .await
            .list_flows(Empty {})
            .await
            .unwrap()
            .into_inner()
            .flows
            .is_empty()
    );
}

#[tokio::test]
async fn a_caller_that_gives_up_takes_its_offer_back() {
    let host = Host::started().await;
    let mut server = host.program().await;
    server.listen(1, "n", &[]).await.unwrap();
    let offer = tokio::select! {
        _ = host.alloc("n", |_| {}) => panic!("nobody accepted"),
        offer = server.offer() => offer,
    };
    match server.next().await {
        Command::Gone(gone) => assert_eq!(gone.flow, offer.flow),
        other => panic!("no FlowGone but {other:?}"),
    }
}

#[tokio::test]
async fn the_end_of_a_program_refuses_who_waits_for_it_and_takes_its_names_away() {
    let host = Host::started().await;
    let mut server = host.program().await;
    server.listen(1, "n", &[]).await.unwrap();
    let (end, ()) = tokio::join!(host.alloc("n", |_| {}), async {
        server.offer().await;
        drop(server);
    });
    assert_eq!(end.unwrap_err().code, Code::Refused);
    assert_eq!(
        host.alloc("n", |_| {}).await.unwrap_err().code,
        Code::NotFound
    );
    assert!(
        host.admin()
            .await
            .list_names(Empty {})
            .await
            .unwrap()
            .into_inner()
            .names
            .is_empty()
    );
}

#[tokio::test]
async fn reserved_names_and_borrowed_sources_are_denied() {
    let host = Host::started().await;
    let mut program = host.program().await;
    assert_eq!(
        program.listen(1, "vpn/a", &[]).await.unwrap_err().code,
        Code::Denied
    );
    assert_eq!(
        host.alloc("vpn/a", |_| {}).await.unwrap_err().code,
        Code::Denied
    );
    program.listen(2, "mine", &[]).await.unwrap();
    assert_eq!(
        host.alloc("mine", |r| r.source = "yours".into())
            .await
            .unwrap_err()
            .code,
        Code::Denied
    );
    let lost = host.alloc("mine", |r| r.session = vec![1; 16]).await;
    assert_eq!(lost.unwrap_err().code, Code::Unreachable);
    let (end, offer) = tokio::join!(host.alloc("mine", |r| r.source = "mine".into()), async {
        let offer = program.offer().await;
        program.answer(offer.flow, None).await;
        offer
    });
    end.unwrap();
    assert_eq!(offer.peer.unwrap().name, "mine");
}

#[tokio::test]
async fn a_bound_process_accepts_for_a_name_that_it_does_not_know() {
    let host = Host::started().await;
    let mut admin = host.admin().await;
    let binding = Binding {
        pid: std::process::id(),
        ..Default::default()
    };
    let request = BindRequest {
        name: "web".into(),
        binding: Some(binding),
    };
    admin.bind(request.clone()).await.unwrap();
    admin.bind(request).await.unwrap();
    let mut server = host.program().await;
    server.listen(1, "", &[]).await.unwrap();
    let (end, ()) = tokio::join!(host.alloc("web", |_| {}), async {
        let offer = server.offer().await;
        assert_eq!(offer.name, "web");
        server.answer(offer.flow, None).await;
    });
    end.unwrap();
}

/// The request was the caller's mistake, and the reason names the field.
#[track_caller]
fn usage<T>(answer: Result<T, tonic::Status>, what: &str) {
    let Err(status) = answer else {
        panic!("{what}: taken")
    };
    let reason = Reason::from(status);
    assert_eq!(reason.code, Code::Usage, "{reason}");
    assert!(reason.text.contains(what), "{what} is not in {reason}");
}

#[tokio::test]
async fn administrators_hear_which_field_is_missing_or_malformed() {
    let host = Host::started().await;
    let mut admin = host.admin().await;
    let name = || "a".to_owned();
    let bootstrap = BootstrapIpcpRequest {
        name: name(),
        ..Default::default()
    };
    usage(admin.bootstrap_ipcp(bootstrap).await, "config");
    let enroll = EnrollIpcpRequest {
        name: name(),
        ..Default::default()
    };
    usage(admin.enroll_ipcp(enroll).await, "config");
    let enroll = EnrollIpcpRequest {
        name: name(),
        config: Some(Enroll::default()),
        ..Default::default()
    };
    usage(admin.enroll_ipcp(enroll).await, "invitation");
    let create = CreateIpcpRequest {
        name: name(),
        ..Default::default()
    };
    usage(admin.create_ipcp(create).await, "type");
    let create = CreateIpcpRequest {
        r#type: "unicast".into(),
        ..Default::default()
    };
    usage(admin.create_ipcp(create).await, "name");
    usage(
        admin
            .bind(BindRequest {
                name: name(),
                binding: None,
            })
            .await,
        "binding",
    );
    let register = RegisterNameRequest {
        name: name(),
        layers: vec![],
    };
    usage(admin.register_name(register).await, "layers");
    for (bad, what) in [
        (String::new(), "empty"),
        ("x".repeat(256), "256"),
        ("a\nb".into(), "control"),
    ] {
        usage(admin.create_name(NameRef { name: bad }).await, what);
    }
    usage(admin.wait(WaitRequest::default()).await, "wait");
}

#[tokio::test]
async fn a_program_may_not_say_where_the_host_of_a_name_is() {
    let host = Host::started().await;
    let alloc = AllocFlowRequest {
        name: "a".into(),
        qos: Some(qos()),
        at: vec!["10.0.0.1:3359".into()],
        ..Default::default()
    };
    let refused = host.programs().await.alloc_flow(alloc).await;
    assert_eq!(Reason::from(refused.unwrap_err()).code, Code::Denied);
}

#[tokio::test]
async fn programs_hear_which_field_is_missing() {
    let host = Host::started().await;
    let mut programs = host.programs().await;
    let alloc = AllocFlowRequest {
        name: "a".into(),
        ..Default::default()
    };
    usage(programs.alloc_flow(alloc).await, "qos");
    let alloc = AllocFlowRequest {
        qos: Some(qos()),
        ..Default::default()
    };
    usage(programs.alloc_flow(alloc).await, "empty");
    for event in [Some(Event::Listen(Listen::default())), None] {
        let first = tokio_stream::iter([ProgramEvent { event }]);
        let mut session = programs.session(first).await.unwrap().into_inner();
        usage(soon(session.message()).await, "hello");
    }
}

#[tokio::test]
async fn names_and_bindings_survive_a_restart_and_a_repeated_command_succeeds() {
    let mut host = Host::started().await;
    let mut admin = host.admin().await;
    for _ in 0..2 {
        admin
            .create_name(NameRef {
                name: "kept".into(),
            })
            .await
            .unwrap();
    }
    let bind = |auto| BindRequest {
        name: "kept".into(),
        binding: Some(Binding {
            program: "/bin/sh".into(),
            auto,
            args: vec!["-c".into(), "exit".into()],
            ..Default::default()
        }),
    };
    admin.bind(bind(true)).await.unwrap();
    assert_eq!(
        Reason::from(admin.bind(bind(false)).await.unwrap_err()).code,
        Code::Conflict
    );
    assert!(host.terminate().success());
    host.start(&[]).await;
    let names = host
        .admin()
        .await
        .list_names(Empty {})
        .await
        .unwrap()
        .into_inner()
        .names;
    assert_eq!(
        (names[0].name.as_str(), names[0].state.as_str()),
        ("kept", "unregistered")
    );
    assert!(names[0].bindings[0].auto);
    // Removing succeeds also where there is nothing to remove, so that it can be repeated.
    for name in ["other", "kept", "kept"] {
        let name = NameRef { name: name.into() };
        host.admin().await.destroy_name(name).await.unwrap();
    }
    let left = host.admin().await.list_names(Empty {}).await.unwrap();
    assert!(left.into_inner().names.is_empty());
}

#[tokio::test]
async fn after_a_kill_direct_flows_are_listed_again_and_no_id_is_used_twice() {
    let mut host = Host::started().await;
    let mut server = host.program().await;
    server.listen(1, "n", &[]).await.unwrap();
    let (end, ()) = tokio::join!(host.alloc("n", |_| {}), async {
        let offer = server.offer().await;
        server.answer(offer.flow, None).await;
    });
    let before = end.unwrap().flow;
    host.kill();
    host.start(&[]).await;
    let flows = vec![DirectFlow {
        flow: before,
        name: "n".into(),
        qos: Some(qos()),
        peer_name: "".into(),
    }];
    let hello = ProgramHello {
        program: "test".into(),
        data_socket: "/x".into(),
        flows,
        pid: std::process::id(),
        ..Default::default()
    };
    let mut server = host.session(hello).await;
    let flows = host
        .admin()
        .await
        .list_flows(Empty {})
        .await
        .unwrap()
        .into_inner()
        .flows;
    assert_eq!(
        flows
            .iter()
            .map(|f| (f.id, f.state.as_str()))
            .collect::<Vec<_>>(),
        [(before, "allocated")]
    );
    server.listen(1, "n", &[]).await.unwrap();
    let (end, ()) = tokio::join!(host.alloc("n", |_| {}), async {
        let offer = server.offer().await;
        server.answer(offer.flow, None).await;
    });
    assert!(end.unwrap().flow > before);
}

#[tokio::test]
async fn a_program_is_started_for_a_name_that_is_bound_with_auto_and_ends_with_irmd() {
    let mut host = Host::started().await;
    let touched = host.dir.path().join("touched");
    let args = vec![
        "-c".into(),
        format!(
            "echo $IRM_RUN_DIR $$ > {}; exec sleep 1000",
            touched.display()
        ),
    ];
    let binding = Binding {
        program: "/bin/sh".into(),
        auto: true,
        args,
        ..Default::default()
    };
    host.admin()
        .await
        .bind(BindRequest {
            name: "lazy".into(),
            binding: Some(binding),
        })
        .await
        .unwrap();
    let (end, _server) = tokio::join!(host.alloc("lazy", |_| {}), async {
        while !std::fs::read_to_string(&touched).is_ok_and(|s| s.ends_with('\n')) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        // The started program is a shell; the test listens in its place.
        let mut server = host.program().await;
        server.listen(1, "lazy", &[]).await.unwrap();
        let offer = server.offer().await;
        server.answer(offer.flow, None).await;
        server
    });
    end.unwrap();
    let said = std::fs::read_to_string(touched).unwrap();
    let (run_dir, pid) = said.trim().split_once(' ').unwrap();
    assert_eq!(run_dir, host.run().display().to_string());
    let pid = pid.parse().unwrap();
    assert!(common::alive(pid));
    assert!(host.terminate().success());
    assert!(!common::alive(pid));
}

#[tokio::test]
async fn a_program_that_was_started_for_a_name_is_taken_up_again_by_the_next_irmd() {
    let mut host = Host::started().await;
    let began = host.dir.path().join("began");
    let args = vec![
        "-c".into(),
        format!("echo $$ >> {}; exec sleep 1000", began.display()),
    ];
    let binding = Binding {
        program: "/bin/sh".into(),
        auto: true,
        args,
        ..Default::default()
    };
    let bind = BindRequest {
        name: "lazy".into(),
        binding: Some(binding),
    };
    host.admin().await.bind(bind).await.unwrap();
    // It never listens: who asks gives up, and the program stays.
    let ask = async |host: &Host, timeout_ms| {
        let asked = host.alloc("lazy", |r| r.timeout_ms = timeout_ms).await;
        assert_eq!(asked.unwrap_err().code, Code::TimedOut);
        let pids = std::fs::read_to_string(&began).unwrap();
        let pids = pids.lines().map(|pid| pid.parse::<u32>().unwrap());
        pids.collect::<Vec<_>>()
    };
    let first = ask(&host, 1000).await;
    assert_eq!(first.len(), 1);
    host.kill();
    host.start(&[]).await;
    // Longer than what outlived an earlier daemon is waited for.
    assert_eq!(ask(&host, 2500).await, first);
    assert!(common::alive(first[0]));
    assert!(host.terminate().success());
    assert!(!common::alive(first[0]));

    // One that died meanwhile is started anew.
    host.start(&[]).await;
    let second = ask(&host, 2500).await;
    assert_eq!(second.len(), 2);
    host.kill();
    common::signal(second[1], rustix::process::Signal::KILL);
    host.start(&[]).await;
    assert_eq!(ask(&host, 2500).await.len(), 3);
    assert!(host.terminate().success());
}
