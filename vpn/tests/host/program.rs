//! The program as irmd starts it.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use libflow::port::Door;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::Code;
use proto::irm::{self, FlowOffer, ProgramCommand, program_command, program_event, vpn_command};
use rtnl::Netlink;
use tokio::net::UdpSocket;

use crate::irmd::{Attached, Irmd, end, welcome};
use crate::support::{Far, soon, udp, wire_config};
use crate::{Lack, in_own_namespace};

/// A vpn process; killed with the test.
pub(crate) struct Program(Child);

impl Program {
    fn start(run_dir: &Path, secret: &[u8]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_vpn")), run_dir, secret)
    }

    fn start_without(lack: Lack, run_dir: &Path) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command.args([lack.arg(), env!("CARGO_BIN_EXE_vpn")]);
        Self::run(command, run_dir, &[1; 32])
    }

    fn run(mut command: Command, run_dir: &Path, secret: &[u8]) -> Self {
        command
            .args(["--layer", "ovl", "--dev", "vpn0", "--run-dir"])
            .arg(run_dir);
        let mut child = command
            .env("IRM_LOG", "off")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(secret).unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon(async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn up(irmd: &mut Irmd) -> Attached {
    let mut attached = irmd.attached().await;
    attached
        .order(vpn_command::Command::Config(wire_config()))
        .await;
    attached.info(|info| info.state == "up").await;
    attached
}

async fn device_exists() -> bool {
    Netlink::open()
        .unwrap()
        .index("vpn0")
        .await
        .unwrap()
        .is_some()
}

/// What the tests of a running program start from.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    door: Door,
    irmd: Irmd,
    pub(crate) program: Program,
    pub(crate) attached: Attached,
}

impl Bench {
    pub(crate) async fn up() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let door = Door::open(&dir.path().join("data"), false).unwrap();
        let mut irmd = Irmd::start(dir.path());
        let program = Program::start(dir.path(), &[9; 32]);
        let attached = up(&mut irmd).await;
        Self {
            dir,
            door,
            irmd,
            program,
            attached,
        }
    }

    /// Has member `c` allocate a flow to the program.
    async fn flow_from_c(&mut self, mtu: u32) -> Far {
        let mut session = soon(self.irmd.sessions.recv()).await.unwrap();
        assert_eq!(
            (session.name.as_str(), &session.layers[..]),
            ("vpn/a", &["ovl".to_owned()][..])
        );
        let peer = irm::Peer {
            name: "vpn/c".into(),
            layer: "ovl".into(),
            member: "c".into(),
        };
        let offer = FlowOffer {
            flow: 7,
            listener: session.listener,
            name: session.name.clone(),
            peer: Some(peer),
            qos: Some(irm::Qos::default()),
            mtu,
            deadline_ms: 5000,
            ..Default::default()
        };
        let say = async |command| {
            session
                .commands
                .send(Ok(ProgramCommand {
                    command: Some(command),
                }))
                .await
                .unwrap()
        };
        say(program_command::Command::Offer(offer)).await;
        let answer = soon(session.events.message()).await.unwrap().unwrap().event;
        assert!(matches!(answer, Some(program_event::Event::Answer(a)) if a.accept && a.flow == 7));
        say(program_command::Command::Ready(end(&self.door))).await;
        welcome(&self.door, mtu).await
    }
}

pub(crate) fn it_says_who_it_is_and_is_what_it_is_told() {
    in_own_namespace(async {
        let dir = tempfile::tempdir().unwrap();
        let mut irmd = Irmd::start(dir.path());
        let program = Program::start(dir.path(), &[9; 32]);
        let mut attached = irmd.attached().await;
        let hello = &attached.hello;
        assert_eq!(
            (&hello.secret[..], hello.pid),
            (&[9; 32][..], program.0.id())
        );
        assert_eq!((hello.layer.as_str(), hello.dev.as_str()), ("ovl", "vpn0"));
        attached
            .order(vpn_command::Command::Config(wire_config()))
            .await;
        let info = attached.info(|info| info.state == "up").await;
        assert_eq!(info.addresses, ["10.7.0.1/32", "fd07::1/128"]);
        let peers: Vec<_> = info
            .peers
            .iter()
            .map(|p| (p.name.as_str(), p.state.as_str()))
            .collect();
        assert_eq!(peers, [("b", "idle"), ("c", "idle")]);
        let mut config = wire_config();
        config.members.retain(|m| m.name != "c");
        attached.order(vpn_command::Command::Config(config)).await;
        attached.info(|info| info.peers.len() == 1).await;
    });
}

pub(crate) fn it_dials_the_owner_of_the_destination_when_a_packet_comes() {
    in_own_namespace(async {
        let mut bench = Bench::up().await;
        let socket = UdpSocket::bind("10.7.0.1:9").await.unwrap();
        socket.send_to(b"hello", "10.7.0.2:9").await.unwrap();
        let (asked, b) = bench.irmd.grant(&bench.door, 1350).await;
        assert_eq!(
            (
                asked.name.as_str(),
                asked.layer.as_str(),
                asked.peer_member.as_str()
            ),
            ("vpn/b", "ovl", "b")
        );
        assert_eq!(asked.source, "vpn/a");
        let got = soon(async {
            loop {
                match b.packets() {
                    none if none.is_empty() => tokio::time::sleep(Duration::from_millis(1)).await,
                    packets => return packets,
                }
            }
        });
        assert!(got.await[0].ends_with(b"hello"));
        let info = bench.attached.info(|info| info.mtu == 1350).await;
        assert!(info.peers[0].state == "up" && info.peers[0].tx_bytes > 0);
    });
}

pub(crate) fn a_flow_of_a_member_that_irmd_tells_of_later_loses_nothing() {
    in_own_namespace(async {
        let mut bench = Bench::up().await;
        let mut without_c = wire_config();
        without_c.members.retain(|m| m.name != "c");
        bench
            .attached
            .order(vpn_command::Command::Config(without_c))
            .await;
        bench.attached.info(|info| info.peers.len() == 1).await;
        let socket = UdpSocket::bind("10.7.0.1:9").await.unwrap();
        let c = bench.flow_from_c(1300).await;
        c.send(&[&udp("10.7.0.3", "10.7.0.1", 4)]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        bench
            .attached
            .order(vpn_command::Command::Config(wire_config()))
            .await;
        let mut buf = [0; 100];
        assert_eq!(soon(socket.recv_from(&mut buf)).await.unwrap().0, 4);
    });
}

pub(crate) fn it_takes_flows_of_members_and_outlives_irmd() {
    in_own_namespace(async {
        let mut bench = Bench::up().await;
        let socket = UdpSocket::bind("10.7.0.1:9").await.unwrap();
        let c = bench.flow_from_c(1300).await;
        bench
            .attached
            .info(|info| info.mtu == 1300 && info.peers[1].state == "up")
            .await;
        // Without irmd the flow goes on; when it is back, it is told how things are.
        drop(bench.irmd);
        c.send(&[&udp("10.7.0.3", "10.7.0.1", 4)]);
        let mut buf = [0; 100];
        assert_eq!(soon(socket.recv_from(&mut buf)).await.unwrap().0, 4);
        let back = Instant::now();
        let mut irmd = Irmd::start(bench.dir.path());
        let mut attached = irmd.attached().await;
        assert!(back.elapsed() < Duration::from_secs(2) && attached.hello.secret == [9; 32]);
        let info = attached.info(|info| info.state == "up").await;
        assert!(info.peers[1].state == "up" && info.peers[1].rx_bytes == 32);
        attached
            .order(vpn_command::Command::Shutdown(irm::Shutdown {}))
            .await;
        assert!(bench.program.ended().await.success() && !device_exists().await);
    });
}

pub(crate) fn killed_and_started_again_it_comes_up_as_before_and_sigterm_leaves_nothing() {
    in_own_namespace(async {
        let dir = tempfile::tempdir().unwrap();
        let mut irmd = Irmd::start(dir.path());
        let mut first = Program::start(dir.path(), &[1; 32]);
        let _attached = up(&mut irmd).await;
        first.signal(Signal::SIGKILL);
        // At once, as when the old one's device is still being taken down.
        let mut second = Program::start(dir.path(), &[2; 32]);
        assert!(!first.ended().await.success());
        let _attached = up(&mut irmd).await;
        assert!(device_exists().await);
        second.signal(Signal::SIGTERM);
        assert!(second.ended().await.success() && !device_exists().await);
    });
}

pub(crate) fn what_cannot_be_is_told_to_irmd_in_one_line() {
    in_own_namespace(async {
        let dir = tempfile::tempdir().unwrap();
        let mut irmd = Irmd::start(dir.path());
        let mut program = Program::start(dir.path(), &[1; 32]);
        let mut attached = irmd.attached().await;
        let config = irm::VpnConfig {
            address: "10.9.9.9/24".into(),
            ..wire_config()
        };
        attached.order(vpn_command::Command::Config(config)).await;
        let failure = attached.failure().await;
        assert!(
            failure.code == Code::Denied && failure.text.contains("10.7.0.1/32"),
            "{failure}"
        );
        assert_eq!(program.ended().await.code(), Some(5));
        assert!(!device_exists().await);
    });
}

pub(crate) fn without_permission_or_without_tun_irmd_hears_what_to_do() {
    in_own_namespace(async {
        let dir = tempfile::tempdir().unwrap();
        let mut irmd = Irmd::start(dir.path());
        for (lack, code, remedy) in [
            (Lack::NetAdmin, Code::Denied, "CAP_NET_ADMIN"),
            (Lack::TunFile, Code::Failed, "modprobe tun"),
        ] {
            let mut program = Program::start_without(lack, dir.path());
            let mut attached = irmd.attached().await;
            attached
                .order(vpn_command::Command::Config(wire_config()))
                .await;
            let failure = attached.failure().await;
            assert!(
                failure.code == code && failure.text.contains(remedy),
                "{failure}"
            );
            assert_eq!(
                program.ended().await.code(),
                Some(i32::from(code.exit_code()))
            );
        }
    });
}

pub(crate) fn it_leaves_when_the_run_directory_is_gone_and_not_before() {
    in_own_namespace(async {
        let dir = tempfile::tempdir().unwrap();
        let mut irmd = Irmd::start(dir.path());
        let mut program = Program::start(dir.path(), &[1; 32]);
        let _attached = up(&mut irmd).await;
        drop(irmd);
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(program.0.try_wait().unwrap().is_none() && device_exists().await);
        dir.close().unwrap();
        assert!(program.ended().await.success() && !device_exists().await);
    });
}

pub(crate) fn a_short_secret_and_an_absent_irmd_are_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let code = |secret: &[u8]| {
        let mut program = Program::start(dir.path(), secret);
        program.0.wait().unwrap().code()
    };
    assert_eq!(
        (code(&[1; 31]), code(&[1; 33]), code(&[1; 32])),
        (Some(2), Some(2), Some(3))
    );
}
