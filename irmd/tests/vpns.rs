//! VPNs at a real irmd: what the vpn process is told, and what comes of what it says. The test speaks for it and for the layer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected fails the test"
)]

mod common;

use common::{Host, soon};
use proto::irm::done::Answer;
use proto::irm::vpn_event::Event;
use proto::irm::vpns_client::VpnsClient;
use proto::irm::*;
use proto::{Code, Reason};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

struct Vpn {
    tx: mpsc::Sender<VpnEvent>,
    rx: Streaming<VpnCommand>,
}

impl Vpn {
    async fn serve(host: &Host, secret: &[u8]) -> Self {
        let (tx, rx) = mpsc::channel(8);
        let vpn = Self {
            tx,
            rx: Self::open(host, rx).await,
        };
        let hello = VpnHello {
            secret: secret.to_vec(),
            pid: 1,
            layer: "ovl".into(),
            dev: "tun7".into(),
        };
        vpn.say(Event::Hello(hello)).await;
        vpn
    }

    async fn open(host: &Host, rx: mpsc::Receiver<VpnEvent>) -> Streaming<VpnCommand> {
        let mut client = VpnsClient::new(host.channel("irm.sock").await.unwrap());
        client
            .serve(ReceiverStream::new(rx))
            .await
            .unwrap()
            .into_inner()
    }

    async fn say(&self, event: Event) {
        self.tx.send(VpnEvent { event: Some(event) }).await.unwrap();
    }

    async fn next(&mut self) -> vpn_command::Command {
        soon(self.rx.message())
            .await
            .unwrap()
            .unwrap()
            .command
            .unwrap()
    }

    async fn config(&mut self) -> VpnConfig {
        match self.next().await {
            vpn_command::Command::Config(config) => config,
            other => panic!("no config but {other:?}"),
        }
    }
}

/// A member of layer `ovl` that knows as many other members as `members` says, and answers for ever.
async fn layer(host: &Host, mut members: mpsc::Receiver<usize>) -> u32 {
    let mut admin = host.admin().await;
    let config = Bootstrap {
        layer: "ovl".into(),
        ..Default::default()
    };
    let request = BootstrapIpcpRequest {
        name: "ovl-a".into(),
        r#type: "unicast".into(),
        config: Some(config),
    };
    let bootstrap = tokio::spawn(async move { admin.bootstrap_ipcp(request).await });
    let (pid, secret) = host.child_besides(&[]).await;
    let hello = IpcpHello {
        secret,
        name: "ovl-a".into(),
        version: 1,
        tells_members: true,
        ..Default::default()
    };
    let mut ipcp = host.attach(hello).await.unwrap();
    tokio::spawn(async move {
        let mut others = 0;
        loop {
            let message = tokio::select! {
                message = ipcp.rx.message() => message,
                Some(n) = members.recv() => {
                    others = n;
                    ipcp.send(ipcp_event::Event::Members(MembersChanged {})).await;
                    continue;
                }
            };
            let Ok(Some(message)) = message else { break };
            match message.command.unwrap() {
                ipcp_command::Command::Bootstrap(_) => {
                    let who = Configured {
                        layer: "ovl".into(),
                        member: "ovl-a".into(),
                        ..Default::default()
                    };
                    ipcp.done(message.id, Answer::Configured(who)).await;
                }
                ipcp_command::Command::Status(_) => {
                    let member = |n| Member {
                        name: format!("m{n}"),
                        prefixes: vec![format!("10.7.0.{n}/32")],
                        ..Default::default()
                    };
                    let members = (0..others).map(member).collect();
                    let prefixes = vec!["10.7.1.0/24".into()];
                    let status = IpcpStatus {
                        member: "ovl-a".into(),
                        members,
                        prefixes,
                        ..Default::default()
                    };
                    ipcp.done(message.id, Answer::Status(status)).await;
                }
                _ => ipcp.ok(message.id).await,
            }
        }
    });
    bootstrap.await.unwrap().unwrap();
    pid
}

fn up(dev: &str) -> VpnUpRequest {
    VpnUpRequest {
        layer: "ovl".into(),
        dev: dev.into(),
        timeout_ms: 9000,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_vpn_is_told_its_layer_and_is_up_when_it_says_so() {
    let host = Host::started().await;
    let (change, changed) = mpsc::channel(4);
    let known = layer(&host, changed).await;
    let mut admin = host.admin().await;
    let (info, mut vpn) = tokio::join!(admin.vpn_up(up("tun7")), async {
        let (_, secret) = host.child_besides(&[known]).await;
        let mut vpn = Vpn::serve(&host, &secret).await;
        let config = vpn.config().await;
        assert_eq!(
            (
                config.member.as_str(),
                config.dev.as_str(),
                config.own_prefixes.len()
            ),
            ("ovl-a", "tun7", 1)
        );
        vpn.say(Event::Info(VpnInfo {
            state: "up".into(),
            mtu: 1280,
            ..Default::default()
        }))
        .await;
        vpn
    });
    let info = info.unwrap().into_inner();
    assert_eq!(
        (info.state.as_str(), info.layer.as_str(), info.mtu),
        ("up", "ovl", 1280)
    );
    change.send(2).await.unwrap();
    assert_eq!(vpn.config().await.members.len(), 2);
    let conflict = host.admin().await.vpn_up(up("tun8")).await.unwrap_err();
    assert_eq!(Reason::from(conflict).code, Code::Conflict);
    let (down, command) = tokio::join!(admin.vpn_down(VpnRef::default()), vpn.next());
    down.unwrap();
    assert!(
        matches!(command, vpn_command::Command::Shutdown(_)),
        "{command:?}"
    );
    assert!(
        admin
            .vpn_status(VpnRef::default())
            .await
            .unwrap()
            .into_inner()
            .vpns
            .is_empty()
    );
}

#[tokio::test]
async fn a_vpn_that_cannot_be_is_refused_with_its_own_words_and_forgotten() {
    let host = Host::started().await;
    let (_change, changed) = mpsc::channel(1);
    let known = layer(&host, changed).await;
    let mut admin = host.admin().await;
    let (answer, ()) = tokio::join!(admin.vpn_up(up("tun7")), async {
        let (_, secret) = host.child_besides(&[known]).await;
        let mut vpn = Vpn::serve(&host, &secret).await;
        vpn.config().await;
        vpn.say(Event::Failed(
            Reason::new(Code::Denied, "no TUN here").into(),
        ))
        .await;
        // Held until irmd ends it.
        let _ = soon(vpn.rx.message()).await;
    });
    let reason = Reason::from(answer.unwrap_err());
    assert_eq!(
        (reason.code, reason.text.as_str()),
        (Code::Denied, "no TUN here")
    );
    assert!(
        admin
            .vpn_status(VpnRef::default())
            .await
            .unwrap()
            .into_inner()
            .vpns
            .is_empty()
    );
}

/// Returns when irmd knows of no VPN, in memory or on its disk.
async fn forgotten(host: &Host) {
    let all = async || {
        let mut admin = host.admin().await;
        let list = admin.vpn_status(VpnRef::default()).await.unwrap();
        list.into_inner().vpns
    };
    for _ in 0..400 {
        if all().await.is_empty() {
            let disk =
                std::fs::read_to_string(host.run().join("state/vpns.json")).unwrap_or_default();
            assert!(!disk.contains("tun7"), "{disk}");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("still there: {:?}", all().await);
}

#[tokio::test]
async fn a_vpn_whose_caller_goes_away_before_it_is_up_is_forgotten_and_can_be_asked_for_again() {
    let host = Host::started().await;
    let (_change, changed) = mpsc::channel(1);
    let known = layer(&host, changed).await;
    let mut known = vec![known];
    for _ in 0..2 {
        let mut admin = host.admin().await;
        let call = tokio::spawn(async move { admin.vpn_up(up("tun7")).await });
        let (pid, secret) = host.child_besides(&known).await;
        known.push(pid);
        let mut vpn = Vpn::serve(&host, &secret).await;
        vpn.config().await;
        call.abort();
        forgotten(&host).await;
    }
}

#[tokio::test]
async fn of_two_callers_the_last_one_to_give_up_takes_the_vpn_with_it() {
    let host = Host::started().await;
    let (_change, changed) = mpsc::channel(1);
    let known = layer(&host, changed).await;
    let (mut first, mut second) = (host.admin().await, host.admin().await);
    let call = tokio::spawn(async move { first.vpn_up(up("tun7")).await });
    let (_, secret) = host.child_besides(&[known]).await;
    let mut vpn = Vpn::serve(&host, &secret).await;
    vpn.config().await;
    let request = VpnUpRequest {
        timeout_ms: 1000,
        ..up("tun7")
    };
    let again = tokio::spawn(async move { second.vpn_up(request).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    call.abort();
    let late = Reason::from(again.await.unwrap().unwrap_err());
    assert_eq!(late.code, Code::TimedOut, "{late}");
    forgotten(&host).await;
}

#[tokio::test]
async fn a_vpn_over_a_shim_is_refused_at_once() {
    let host = Host::started().await;
    let mut admin = host.admin().await;
    let shim = ShimUdpConfig {
        ip: "127.0.0.1".into(),
        ..Default::default()
    };
    let request = BootstrapIpcpRequest {
        name: "w1".into(),
        r#type: "shim-udp".into(),
        config: Some(Bootstrap {
            layer: "ovl".into(),
            shim_udp: Some(shim),
            ..Default::default()
        }),
    };
    let bootstrap = tokio::spawn(async move { admin.bootstrap_ipcp(request).await });
    let (_, secret) = host.child_besides(&[]).await;
    let hello = IpcpHello {
        secret,
        name: "w1".into(),
        version: 1,
        ..Default::default()
    };
    let mut ipcp = host.attach(hello).await.unwrap();
    let message = ipcp.message().await.unwrap();
    let who = Configured {
        layer: "ovl".into(),
        member: "w1".into(),
        ..Default::default()
    };
    ipcp.done(message.id, Answer::Configured(who)).await;
    bootstrap.await.unwrap().unwrap();
    let refused = Reason::from(host.admin().await.vpn_up(up("tun7")).await.unwrap_err());
    assert_eq!(refused.code, Code::Usage, "{refused}");
    assert!(refused.text.contains("name a unicast layer"), "{refused}");
    forgotten(&host).await;
}

#[tokio::test]
async fn a_stranger_is_no_vpn_and_names_of_devices_and_layers_are_checked() {
    let host = Host::started().await;
    let mut stranger = Vpn::serve(&host, &[1; 32]).await;
    assert_eq!(
        Reason::from(soon(stranger.rx.message()).await.unwrap_err()).code,
        Code::Denied
    );
    let missing = host.admin().await.vpn_up(up("tun7")).await.unwrap_err();
    assert_eq!(Reason::from(missing).code, Code::NotFound);
    let (_change, changed) = mpsc::channel(1);
    layer(&host, changed).await;
    for bad in ["a-device-name-that-is-too-long", "a/b", ".."] {
        let refused = host.admin().await.vpn_up(up(bad)).await.unwrap_err();
        assert_eq!(Reason::from(refused).code, Code::Usage, "{bad}");
    }
}
