//! IPC processes at a real irmd: their life, what they are told, and the flows that they carry. The test speaks for them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected fails the test"
)]

mod common;

use common::{Host, Ipcp, alive, soon};
use proto::irm::done::Answer;
use proto::irm::ipcp_command::Command;
use proto::irm::ipcp_event::Event;
use proto::irm::program_command::Command as ToProgram;
use proto::irm::*;
use proto::{Code, QosSpec, Reason};

const TOKEN: [u8; 16] = [9; 16];

fn hello(name: &str, secret: &[u8]) -> IpcpHello {
    let data_socket = format!("/data/{name}");
    IpcpHello {
        secret: secret.to_vec(),
        name: name.into(),
        version: 1,
        data_socket,
        ..Default::default()
    }
}

fn shim(ip: &str) -> Bootstrap {
    Bootstrap {
        layer: "net".into(),
        shim_udp: Some(ShimUdpConfig {
            ip: ip.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn configured(layer: &str, member: &str) -> Answer {
    Answer::Configured(Configured {
        layer: layer.into(),
        member: member.into(),
        prefixes: vec![],
        address: 5,
    })
}

fn allocated(layer: &str) -> Answer {
    let peer = Peer {
        name: "far".into(),
        layer: layer.into(),
        member: "b".into(),
    };
    Answer::Allocated(Allocated {
        mtu: 1400,
        qos: Some(QosSpec::BEST.into()),
        peer: Some(peer),
        token: TOKEN.to_vec(),
    })
}

/// Creates, attaches and bootstraps a process, whose number is returned.
async fn up(host: &Host, name: &str, kind: &str, config: Bootstrap, known: &[u32]) -> (Ipcp, u32) {
    let mut admin = host.admin().await;
    let layer = config.layer.clone();
    let member = if kind == "unicast" { name } else { "" };
    let request = BootstrapIpcpRequest {
        name: name.into(),
        r#type: kind.into(),
        config: Some(config),
    };
    let (reply, (ipcp, pid)) = tokio::join!(admin.bootstrap_ipcp(request), async {
        let (pid, secret) = host.child_besides(known).await;
        let mut ipcp = host.attach(hello(name, &secret)).await.unwrap();
        let (id, command) = ipcp.next().await;
        assert!(matches!(command, Command::Bootstrap(_)), "{command:?}");
        ipcp.send(Event::State(StateChange {
            state: "up".into(),
            detail: String::new(),
        }))
        .await;
        ipcp.done(id, configured(&layer, member)).await;
        (ipcp, pid)
    });
    let info = reply.unwrap().into_inner().ipcp.unwrap();
    assert_eq!(
        (
            info.name.as_str(),
            info.state.as_str(),
            info.layer.as_str(),
            info.pid
        ),
        (name, "up", layer.as_str(), pid)
    );
    (ipcp, pid)
}

fn unicast(layer: &str) -> Bootstrap {
    Bootstrap {
        layer: layer.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_process_that_dies_is_started_again_and_told_who_it_is() {
    let host = Host::started().await;
    let (ipcp, pid) = up(&host, "udp-a", "shim-udp", shim("127.0.0.1"), &[]).await;
    drop(ipcp);
    common::signal(pid, rustix::process::Signal::KILL);
    let (next, secret) = host.child_besides(&[pid]).await;
    assert!(next != pid && secret.len() == 32);
    let mut ipcp = host.attach(hello("udp-a", &secret)).await.unwrap();
    match ipcp.next().await.1 {
        Command::Bootstrap(b) => assert_eq!(
            (b.layer.as_str(), b.shim_udp.unwrap().ip.as_str()),
            ("net", "127.0.0.1")
        ),
        other => panic!("no bootstrap but {other:?}"),
    }
    let mut admin = host.admin().await;
    let (list, _) = tokio::join!(admin.list_ipcps(Empty {}), async {
        tokio::time::timeout(std::time::Duration::from_millis(1500), ipcp.next()).await
    });
    assert_eq!(list.unwrap().into_inner().ipcps[0].restarts, 1);
}

#[tokio::test]
async fn only_a_process_that_irmd_started_may_attach() {
    let host = Host::started().await;
    for secret in [vec![], vec![7; 32]] {
        let Err(reason) = host.attach(hello("udp-a", &secret)).await else {
            panic!("attached")
        };
        assert_eq!(reason.code, Code::Denied);
    }
    let (_ipcp, pid) = up(&host, "udp-a", "shim-udp", shim("127.0.0.1"), &[]).await;
    let secret = host.secrets().into_iter().find(|s| s.0 == pid).unwrap().1;
    let Err(reason) = host.attach(hello("other", &secret)).await else {
        panic!("attached")
    };
    assert_eq!(reason.code, Code::Denied);
    let Err(reason) = host
        .attach(IpcpHello {
            version: 2,
            ..hello("udp-a", &secret)
        })
        .await
    else {
        panic!("attached")
    };
    assert!(reason.text.contains("version 2"), "{reason}");
}

#[tokio::test]
async fn the_same_bootstrap_succeeds_and_another_is_a_conflict() {
    let host = Host::started().await;
    let (_ipcp, _) = up(&host, "udp-a", "shim-udp", shim("127.0.0.1"), &[]).await;
    let mut admin = host.admin().await;
    let ask = |config| BootstrapIpcpRequest {
        name: "udp-a".into(),
        r#type: "shim-udp".into(),
        config: Some(config),
    };
    admin.bootstrap_ipcp(ask(shim("127.0.0.1"))).await.unwrap();
    let other = admin
        .bootstrap_ipcp(ask(shim("127.0.0.2")))
        .await
        .unwrap_err();
    assert_eq!(Reason::from(other).code, Code::Conflict);
    let kind = CreateIpcpRequest {
        name: "udp-a".into(),
        r#type: "unicast".into(),
    };
    assert_eq!(
        Reason::from(admin.create_ipcp(kind).await.unwrap_err()).code,
        Code::Conflict
    );
    let none = IpcpRef {
        name: "udp-b".into(),
        force: false,
    };
    admin.destroy_ipcp(none).await.unwrap();
}

#[tokio::test]
async fn a_shim_that_waits_for_its_address_is_good_enough() {
    let host = Host::started().await;
    let mut admin = host.admin().await;
    let request = BootstrapIpcpRequest {
        name: "udp-a".into(),
        r#type: "shim-udp".into(),
        config: Some(shim("192.0.2.1")),
    };
    let (reply, _ipcp) = tokio::join!(admin.bootstrap_ipcp(request), async {
        let (_, secret) = host.child_besides(&[]).await;
        let mut ipcp = host.attach(hello("udp-a", &secret)).await.unwrap();
        ipcp.next().await;
        ipcp.send(Event::State(StateChange {
            state: "waiting".into(),
            detail: "no address 192.0.2.1".into(),
        }))
        .await;
        ipcp
    });
    assert_eq!(reply.unwrap().into_inner().ipcp.unwrap().state, "waiting");
}

#[tokio::test]
async fn names_of_upper_processes_are_registered_below_and_cycles_are_refused() {
    let host = Host::started().await;
    let (mut udp, pid) = up(&host, "udp-a", "shim-udp", shim("127.0.0.1"), &[]).await;
    let known = [pid];
    let ((mut ovl, ovl_pid), ()) = tokio::join!(
        up(&host, "ovl-a", "unicast", unicast("ovl"), &known),
        async {
            let (id, command) = udp.next().await;
            assert!(matches!(command, Command::Register(Register { name }) if name == "ovl-a"));
            udp.ok(id).await;
        }
    );
    let mut admin = host.admin().await;
    let over = |layers: &[&str], layer: &str| {
        let over = layers.iter().map(|l| (*l).to_owned()).collect();
        BootstrapIpcpRequest {
            name: "top".into(),
            r#type: "unicast".into(),
            config: Some(Bootstrap {
                over,
                ..unicast(layer)
            }),
        }
    };
    let top = async {
        let (_, secret) = host.child_besides(&[pid, ovl_pid]).await;
        host.attach(hello("top", &secret)).await.unwrap()
    };
    let (cycle, _top) = tokio::join!(admin.bootstrap_ipcp(over(&["top"], "top")), top);
    assert_eq!(Reason::from(cycle.unwrap_err()).code, Code::Conflict);
    // A name that an administrator registers goes to the layer that was named.
    let register = RegisterNameRequest {
        name: "web".into(),
        layers: vec!["ovl".into()],
    };
    let (done, ()) = tokio::join!(admin.register_name(register), async {
        let (id, command) = ovl.next().await;
        assert!(
            matches!(command, Command::Register(Register { name }) if name == "web"),
            "no register"
        );
        ovl.ok(id).await;
    });
    done.unwrap();
    assert_eq!(ovl.whereabouts().await, ["net=127.0.0.1:3359"]);
}

#[tokio::test]
async fn a_flow_of_a_layer_is_allocated_joined_at_its_process_and_ends_with_it() {
    let host = Host::started().await;
    let (mut ovl, pid) = up(&host, "ovl-a", "unicast", unicast("ovl"), &[]).await;
    let (end, flow) = tokio::join!(host.alloc("far", |_| {}), async {
        let (id, command) = ovl.next().await;
        let Command::Allocate(a) = command else {
            panic!("no allocate but {command:?}")
        };
        assert_eq!(
            (a.name.as_str(), a.ipcp, a.uid),
            ("far", false, rustix::process::geteuid().as_raw())
        );
        ovl.done(id, allocated("ovl")).await;
        a.flow
    });
    let end = end.unwrap();
    assert_eq!(
        (end.flow, end.socket.as_str(), end.token.as_slice()),
        (flow, "/data/ovl-a", &TOKEN[..])
    );
    let down = FlowDown {
        flow,
        reason: Some(Reason::new(Code::Closed, "the other side closed").into()),
    };
    let mut events = host
        .admin()
        .await
        .events(EventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    ovl.send(Event::Down(down)).await;
    let event = soon(events.message()).await.unwrap().unwrap();
    assert_eq!(
        (event.kind.as_str(), event.fields["flow"].as_str()),
        ("flow.down", flow.to_string().as_str())
    );
    // Somebody waits for an answer while the process dies.
    let (end, ()) = tokio::join!(host.alloc("far", |_| {}), async {
        ovl.next().await;
        drop(ovl);
        common::signal(pid, rustix::process::Signal::KILL);
    });
    assert_eq!(end.unwrap_err().code, Code::Unreachable);
}

#[tokio::test]
async fn of_two_layers_the_first_answer_wins_and_the_other_is_deallocated() {
    let host = Host::started().await;
    let (mut one, pid) = up(&host, "one-a", "unicast", unicast("one"), &[]).await;
    let (mut two, _) = up(&host, "two-a", "unicast", unicast("two"), &[pid]).await;
    let (end, ()) = tokio::join!(host.alloc("far", |_| {}), async {
        let (_, first) = one.next().await;
        let (id, second) = two.next().await;
        let (Command::Allocate(lost), Command::Allocate(_)) = (first, second) else {
            panic!("no allocate")
        };
        two.done(id, allocated("two")).await;
        match one.next().await.1 {
            Command::Dealloc(d) => assert_eq!(d.flow, lost.flow),
            other => panic!("no dealloc but {other:?}"),
        }
    });
    assert_eq!(end.unwrap().socket, "/data/two-a");
}

#[tokio::test]
async fn a_request_from_afar_is_offered_accepted_and_ready_and_a_name_without_listener_refused() {
    let host = Host::started().await;
    let (mut ovl, _) = up(&host, "ovl-a", "unicast", unicast("ovl"), &[]).await;
    let mut server = host.program().await;
    let (listening, ()) = tokio::join!(server.listen(3, "echo", &["ovl"]), async {
        let (id, command) = ovl.next().await;
        assert!(matches!(command, Command::Register(Register { name }) if name == "echo"));
        ovl.ok(id).await;
    });
    listening.unwrap();
    let request = |request, name: &str| FlowRequest {
        request,
        name: name.into(),
        peer: Some(Peer {
            name: "src".into(),
            layer: "ovl".into(),
            member: "b".into(),
        }),
        qos: Some(QosSpec::RAW.into()),
        mtu: 1300,
        timeout_ms: 5000,
    };
    ovl.send(Event::Request(request(1, "nobody"))).await;
    match ovl.next().await.1 {
        Command::Respond(r) => {
            assert!(!r.accept && r.request == 1 && r.reason.unwrap().code == Code::NotFound as u32)
        }
        other => panic!("no respond but {other:?}"),
    }
    ovl.send(Event::Request(request(2, "echo"))).await;
    let offer = server.offer().await;
    assert_eq!(
        (
            offer.listener,
            offer.direct,
            offer.mtu,
            offer.peer.unwrap().member.as_str()
        ),
        (3, false, 1300, "b")
    );
    server.answer(offer.flow, None).await;
    let (id, command) = ovl.next().await;
    assert!(
        matches!(command, Command::Respond(Respond { request: 2, accept: true, flow, .. }) if flow == offer.flow),
        "{command:?}"
    );
    ovl.done(id, allocated("ovl")).await;
    match server.next().await {
        ToProgram::Ready(end) => assert_eq!(
            (end.flow, end.socket.as_str(), end.token.as_slice()),
            (offer.flow, "/data/ovl-a", &TOKEN[..])
        ),
        other => panic!("no ready but {other:?}"),
    }
    drop(server);
    match ovl.next().await.1 {
        Command::Unregister(r) => assert_eq!(r.name, "echo"),
        other => panic!("no unregister but {other:?}"),
    }
}

#[tokio::test]
async fn after_a_kill_the_process_lives_on_and_its_flows_are_listed_again() {
    let mut host = Host::started().await;
    let (ipcp, pid) = up(&host, "ovl-a", "unicast", unicast("ovl"), &[]).await;
    drop(ipcp);
    host.kill();
    host.start(&[]).await;
    let secret = host.secrets().into_iter().find(|s| s.0 == pid).unwrap().1;
    let flows = vec![FlowInfo {
        id: 4_294_967_297,
        name: "far".into(),
        qos: Some(QosSpec::RAW.into()),
        ..Default::default()
    }];
    let again = IpcpHello {
        state: "up".into(),
        layer: "ovl".into(),
        flows,
        ..hello("ovl-a", &secret)
    };
    let mut ipcp = host.attach(again).await.unwrap();
    let mut admin = host.admin().await;
    let (flows, _) = tokio::join!(admin.list_flows(Empty {}), async {
        tokio::time::timeout(std::time::Duration::from_millis(1500), ipcp.next()).await
    });
    let flows = flows.unwrap().into_inner().flows;
    assert_eq!(
        flows
            .iter()
            .map(|f| (f.id, f.name.as_str(), f.layer.as_str()))
            .collect::<Vec<_>>(),
        [(4_294_967_297, "far", "ovl")]
    );
    assert_eq!(host.secrets().len(), 1);
    assert!(alive(pid));
}

#[tokio::test]
async fn a_restart_of_the_daemon_alone_keeps_its_process_number_and_its_children() {
    let mut host = Host::started().await;
    let (_ipcp, pid) = up(&host, "ovl-a", "unicast", unicast("ovl"), &[]).await;
    let before = host.pid();
    host.admin().await.restart_daemon(Empty {}).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let secret = host.secrets().into_iter().find(|s| s.0 == pid).unwrap().1;
    let again = IpcpHello {
        state: "up".into(),
        layer: "ovl".into(),
        ..hello("ovl-a", &secret)
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let mut ipcp = loop {
        if host.channel("irm.sock").await.is_ok() {
            break host.attach(again).await.unwrap();
        }
        assert!(std::time::Instant::now() < end, "irmd does not come back");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let mut admin = host.admin().await;
    let (status, _) = tokio::join!(admin.status(StatusRequest {}), async {
        tokio::time::timeout(std::time::Duration::from_millis(1500), ipcp.next()).await
    });
    let status = status.unwrap().into_inner();
    assert_eq!(status.daemon.unwrap().pid, before);
    assert_eq!(
        (status.ipcps[0].pid, status.ipcps[0].state.as_str()),
        (pid, "up")
    );
    // The new daemon reaps what the old one started.
    drop(ipcp);
    assert!(host.terminate().success());
    assert!(!alive(pid));
}

#[tokio::test]
async fn a_name_that_a_layer_refuses_is_a_failure_of_who_wanted_it() {
    let host = Host::started().await;
    let (mut ovl, _) = up(&host, "ovl-a", "unicast", unicast("ovl"), &[]).await;
    let mut server = host.program().await;
    let (listening, ()) = tokio::join!(server.listen(3, "echo", &["ovl"]), async {
        // irmd may ask more than once.
        while let Ok((id, _)) =
            tokio::time::timeout(std::time::Duration::from_millis(500), ovl.next()).await
        {
            let failure = Some(Reason::new(Code::Conflict, "the layer is full").into());
            ovl.send(Event::Done(Done {
                id,
                failure,
                answer: None,
            }))
            .await;
        }
    });
    assert_eq!(listening.unwrap_err().text, "the layer is full");
    assert_eq!(
        server
            .listen(4, "echo", &["elsewhere"])
            .await
            .unwrap_err()
            .code,
        Code::NotFound
    );
}

#[tokio::test]
async fn a_process_that_lives_but_does_not_come_back_is_ended_and_started_anew() {
    let mut host = Host::started().await;
    let (ipcp, pid) = up(&host, "ovl-a", "unicast", unicast("ovl"), &[]).await;
    drop(ipcp);
    host.kill();
    host.start(&[]).await;
    assert!(alive(pid));
    let (next, secret) = host.child_besides(&[pid]).await;
    assert!(!alive(pid) && next != pid);
    // It finds its layer on its disk, but has yet to hear over which layers it is to lie.
    let found = IpcpHello {
        state: "waiting".into(),
        layer: "ovl".into(),
        ..hello("ovl-a", &secret)
    };
    let mut ipcp = host.attach(found).await.unwrap();
    assert!(matches!(ipcp.next().await.1, Command::Bootstrap(_)));
}

#[tokio::test]
async fn an_invitation_places_its_hosts_below_and_a_member_that_dies_rejoins() {
    let host = Host::started().await;
    let (mut udp, pid) = up(&host, "udp-b", "shim-udp", shim("127.0.0.2"), &[]).await;
    let mut admin = host.admin().await;
    let url = "strata://ovl/enrol?v=1,id=00,at=ovl-a=127.0.0.1:3359,sum=00";
    let request = EnrollIpcpRequest {
        name: "ovl-b".into(),
        r#type: "unicast".into(),
        config: Some(Enroll {
            invitation: url.into(),
            ..Default::default()
        }),
    };
    let below = async {
        let mut hosts = Vec::new();
        // The name of the new member and the hosts of the invitation, in either order.
        for _ in 0..2 {
            let (id, command) = udp.next().await;
            if let Command::Set(set) = command {
                hosts = set.hosts;
            }
            udp.ok(id).await;
        }
        hosts
    };
    let member = async {
        let (ovl_pid, secret) = host.child_besides(&[pid]).await;
        let mut ovl = host.attach(hello("ovl-b", &secret)).await.unwrap();
        let (id, command) = ovl.next().await;
        let Command::Enroll(enroll) = command else {
            panic!("no enroll but {command:?}")
        };
        assert_eq!(
            (enroll.invitation.as_str(), enroll.over),
            (url, vec!["net".to_owned()])
        );
        ovl.done(id, configured("ovl", "ovl-b")).await;
        (ovl, ovl_pid)
    };
    let (reply, hosts, (ovl, ovl_pid)) =
        tokio::join!(admin.enroll_ipcp(request.clone()), below, member);
    reply.unwrap();
    assert_eq!(hosts, ["ovl-a=127.0.0.1:3359"]);
    admin.enroll_ipcp(request).await.unwrap();
    drop(ovl);
    common::signal(ovl_pid, rustix::process::Signal::KILL);
    let (_, secret) = host.child_besides(&[pid, ovl_pid]).await;
    let mut ovl = host.attach(hello("ovl-b", &secret)).await.unwrap();
    match ovl.next().await.1 {
        Command::Enroll(rejoin) => assert!(rejoin.invitation.is_empty() && rejoin.dst.is_empty()),
        other => panic!("no rejoin but {other:?}"),
    }
}

#[tokio::test]
async fn why_a_neighbour_was_not_reached_is_said_by_the_ipc_process_which_has_the_asked_time() {
    let host = Host::started().await;
    let (mut ovl, _) = up(&host, "ovl-a", "unicast", unicast("ovl"), &[]).await;
    let request = ConnectIpcpRequest {
        name: "ovl-a".into(),
        member: "ovl-x".into(),
        timeout_ms: 400,
        ..Default::default()
    };
    let mut admin = host.admin().await;
    let (answer, ()) = tokio::join!(admin.connect_ipcp(request), async {
        let (id, command) = ovl.next().await;
        let Command::Connect(asked) = command else {
            panic!("no connect but {command:?}")
        };
        assert_eq!((asked.member.as_str(), asked.timeout_ms), ("ovl-x", 400));
        // It keeps to the time, and its answer is on its way a little longer.
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        let failure = Some(Reason::new(Code::TimedOut, "nobody offers ovl-x").into());
        ovl.send(Event::Done(Done {
            id,
            failure,
            answer: None,
        }))
        .await;
    });
    assert_eq!(
        Reason::from(answer.unwrap_err()).text,
        "nobody offers ovl-x"
    );
}

/// Waits until a process is told these switches of the shims below it.
async fn told(ipcp: &mut Ipcp, switches: &[&str]) {
    loop {
        let message = ipcp.message().await.unwrap();
        ipcp.ok(message.id).await;
        if let Some(Command::Set(Set { below: Some(b), .. })) = message.command
            && b.offload == switches
        {
            return;
        }
    }
}

#[tokio::test]
async fn switches_of_a_shim_are_told_to_who_has_its_sockets_each_time_and_after_a_restart() {
    let host = Host::started().await;
    let mut made = shim("127.0.0.1");
    made.shim_udp.as_mut().unwrap().offload = vec!["gso=off".into()];
    let (mut udp, pid) = up(&host, "udp-a", "shim-udp", made, &[]).await;
    let known = [pid];
    let ((mut ovl, ovl_pid), ()) = tokio::join!(
        up(&host, "ovl-a", "unicast", unicast("ovl"), &known),
        async {
            let (id, _) = udp.next().await;
            udp.ok(id).await;
        }
    );
    told(&mut ovl, &["net=gso=off"]).await;
    let set = |name: &str, offload: &str| SetIpcpRequest {
        name: name.into(),
        config: Some(Set {
            offload: vec![offload.into()],
            ..Set::default()
        }),
    };
    let mut admin = host.admin().await;
    // The second time it is tried anew, whatever has ended by itself since.
    for _ in 0..2 {
        let (done, ()) = tokio::join!(admin.set_ipcp(set("udp-a", "gro=off")), async {
            let (id, command) = udp.next().await;
            assert!(matches!(command, Command::Set(_)), "{command:?}");
            udp.ok(id).await;
            told(&mut ovl, &["net=gso=off", "net=gro=off"]).await;
        });
        done.unwrap();
    }
    // A process that takes the place of a dead one is told anew.
    drop(ovl);
    common::signal(ovl_pid, rustix::process::Signal::KILL);
    let (_, secret) = host.child_besides(&[pid, ovl_pid]).await;
    let mut ovl = host.attach(hello("ovl-a", &secret)).await.unwrap();
    let (id, command) = ovl.next().await;
    assert!(matches!(command, Command::Bootstrap(_)), "{command:?}");
    ovl.done(id, configured("ovl", "ovl-a")).await;
    told(&mut ovl, &["net=gso=off", "net=gro=off"]).await;
}
