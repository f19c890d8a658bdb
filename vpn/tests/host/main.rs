//! The VPN on real TUN devices, in network namespaces of this test's own: as root, or in a user namespace.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it does"
)]

mod clash;
mod exit;
mod heal;
mod irmd;
mod names;
mod other;
mod program;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of the support")]
mod support;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::sync::mpsc;
use std::time::Duration;

use libflow::port::{Joined, RecordSocket};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proto::ipcp::OffloadMode;
use proto::record::{Peer, Welcome};
use proto::{Code, FlowId, QosSpec};
use rtnl::Netlink;
use support::{Far, config, flow, label, soon, udp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use vpn::config::Config;
use vpn::counters::Dropped;
use vpn::device::{self, DeviceName};
use vpn::flow::Lane;
use vpn::netlink::{self, Device};
use vpn::pump::Pump;

fn main() {
    let mut args = std::env::args_os().skip(1);
    if let Some(lack) = args.next().and_then(|arg| Lack::parse(arg.to_str()?)) {
        lack.exec(args);
    }
    own_user_namespace();
    let wanted = std::env::args()
        .nth(1)
        .filter(|arg| !arg.starts_with('-'))
        .unwrap_or_default();
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(&wanted)) {
        // A thread each: a network namespace belongs to the thread that made it.
        let passed = std::thread::spawn(test).join().is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    assert!(failed == 0, "{failed} tests failed");
}

const TESTS: &[(&str, fn())] = &[
    (
        "tcp crosses between two hosts in both families",
        tcp_crosses_between_two_hosts_in_both_families,
    ),
    (
        "a spoofed packet never reaches the host",
        a_spoofed_packet_never_reaches_the_host,
    ),
    (
        "the kernel learns the MTU of a narrow flow",
        the_kernel_learns_the_mtu_of_a_narrow_flow,
    ),
    (
        "routes follow the members, and nothing is left at the end",
        routes_follow_the_members_and_nothing_is_left_at_the_end,
    ),
    (
        "what somebody takes from the device comes back within two seconds",
        heal::what_somebody_takes_from_the_device_comes_back_within_two_seconds,
    ),
    (
        "who takes it in a loop is not fought with, and that is said",
        heal::who_takes_it_in_a_loop_is_not_fought_with_and_that_is_said,
    ),
    (
        "a device that was removed is told from one that is down",
        heal::a_device_that_was_removed_is_told_from_one_that_is_down,
    ),
    (
        "the program says that its device was removed, and ends",
        heal::the_program_says_that_its_device_was_removed_and_ends,
    ),
    (
        "an address that the host has elsewhere is refused, and both are named",
        clash::an_address_that_the_host_has_elsewhere_is_refused_and_both_are_named,
    ),
    (
        "a prefix inside a network of the host is left out, and served when that is gone",
        clash::a_prefix_inside_a_network_of_the_host_is_left_out_and_served_when_that_is_gone,
    ),
    (
        "what stands goes on standing when the host's network changes",
        clash::what_stands_goes_on_standing_when_the_hosts_network_changes,
    ),
    (
        "all but what carries the VPN goes out by the exit, and nothing is left",
        exit::all_but_what_carries_the_vpn_goes_out_by_the_exit_and_nothing_is_left,
    ),
    (
        "one that is no longer offered is no longer taken",
        exit::one_that_is_no_longer_offered_is_no_longer_taken,
    ),
    (
        "rules that a killed process left are taken back by the next of whatever device",
        exit::rules_that_a_killed_process_left_are_taken_back_by_the_next_of_whatever_device,
    ),
    (
        "names are answered at the VPN's own address when asked for",
        names::names_are_answered_at_the_vpns_own_address_when_asked_for,
    ),
    (
        "a name in use is refused with the reason",
        a_name_in_use_is_refused_with_the_reason,
    ),
    (
        "the program says who it is and is what it is told",
        program::it_says_who_it_is_and_is_what_it_is_told,
    ),
    (
        "the program dials the owner of the destination when a packet comes",
        program::it_dials_the_owner_of_the_destination_when_a_packet_comes,
    ),
    (
        "a flow of a member that irmd tells of later loses nothing",
        program::a_flow_of_a_member_that_irmd_tells_of_later_loses_nothing,
    ),
    (
        "the program takes flows of members and outlives irmd",
        program::it_takes_flows_of_members_and_outlives_irmd,
    ),
    (
        "the program, killed and started again, comes up as before; SIGTERM leaves nothing",
        program::killed_and_started_again_it_comes_up_as_before_and_sigterm_leaves_nothing,
    ),
    (
        "what cannot be is told to irmd in one line",
        program::what_cannot_be_is_told_to_irmd_in_one_line,
    ),
    (
        "without permission, or without TUN, irmd hears what to do",
        program::without_permission_or_without_tun_irmd_hears_what_to_do,
    ),
    (
        "the program leaves when the run directory is gone, and not before",
        program::it_leaves_when_the_run_directory_is_gone_and_not_before,
    ),
    (
        "a short secret and an absent irmd are said so",
        program::a_short_secret_and_an_absent_irmd_are_said_so,
    ),
];

/// What a program is to do without. This binary runs itself to take it away, since that is for processes of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The right to make network devices.
    NetAdmin,
    /// `/dev/net/tun`.
    TunFile,
}

impl Lack {
    pub(crate) fn arg(self) -> &'static str {
        match self {
            Self::NetAdmin => "--without-net-admin",
            Self::TunFile => "--without-tun-file",
        }
    }

    fn parse(arg: &str) -> Option<Self> {
        [Self::NetAdmin, Self::TunFile]
            .into_iter()
            .find(|lack| lack.arg() == arg)
    }

    /// Becomes the program that is given.
    fn exec(self, mut args: impl Iterator<Item = std::ffi::OsString>) -> ! {
        match self {
            // The network namespace belongs to the user namespace that is left.
            Self::NetAdmin => {
                unshare(CloneFlags::CLONE_NEWUSER).expect("no user namespaces here: allow them")
            }
            Self::TunFile => {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
                mount(
                    Some("none"),
                    "/dev/net",
                    Some("tmpfs"),
                    MsFlags::empty(),
                    none,
                )
                .unwrap();
            }
        }
        let error = std::process::Command::new(args.next().unwrap())
            .args(args)
            .exec();
        panic!("can't run the program: {error}");
    }
}

/// Who isn't root gets to be it in a user namespace.
fn own_user_namespace() {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if uid.is_root() {
        return;
    }
    unshare(CloneFlags::CLONE_NEWUSER).expect(
        "no user namespaces here: run as root, or set the sysctl user.max_user_namespaces above 0",
    );
    std::fs::write("/proc/self/setgroups", "deny").unwrap();
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
}

/// Runs `body` in a network namespace of its own.
fn in_own_namespace(body: impl Future<Output = ()>) {
    unshare(CloneFlags::CLONE_NEWNET)
        .expect("no network namespaces here: run as root or allow unprivileged user namespaces");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(body);
}

/// A host with a VPN device.
struct Host {
    pump: Pump<frames::Tun, Lane>,
    device: Device,
}

impl Host {
    async fn up(config: &Config, mtu: u32) -> Self {
        let name = DeviceName::new("vpn0").unwrap();
        let netlink = Netlink::open().unwrap();
        netlink::free(&netlink, &name, Duration::ZERO)
            .await
            .unwrap();
        let tun = device::create(&name, OffloadMode::Auto).unwrap_or_else(|e| panic!("{e}"));
        let mut device = Device::up(netlink, name, mtu, tun.queue(), None)
            .await
            .unwrap();
        device.apply(config).await.unwrap();
        assert!(device.warnings().is_empty(), "{:?}", device.warnings());
        let mut pump = Pump::new(tun).unwrap();
        pump.configure(config);
        Self { pump, device }
    }

    /// Pumps while `body` runs.
    async fn pump_during<T>(&mut self, body: impl Future<Output = T>) -> T {
        let mut body = std::pin::pin!(body);
        let all = async {
            loop {
                tokio::select! {
                    done = &mut body => return done,
                    turn = self.pump.turn() => drop(turn.unwrap()),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all)
            .await
            .expect("it was done in 20 s")
    }
}

/// The configuration of `b`, where [`config`] is that of `a`.
fn config_of_b() -> Config {
    let mut config = config();
    let (a, b) = (label("a"), label("b"));
    let prefixes = std::mem::take(&mut config.own);
    let member = config.members.remove(&b).unwrap();
    config.members.insert(
        a,
        vpn::config::Member {
            mac: None,
            filter: vpn::filter::Both::default(),
            prefixes,
            neighbour: true,
        },
    );
    config.addresses = member.prefixes[..2].to_vec();
    config.own = member.prefixes;
    config.me = b;
    config
}

fn tcp_crosses_between_two_hosts_in_both_families() {
    let (near, far) = RecordSocket::pair().unwrap();
    let (ready, a_is_ready) = mpsc::channel();
    let (b_is_done, done) = tokio::sync::oneshot::channel();
    let listening = std::thread::spawn(move || {
        in_own_namespace(async move {
            let mut host = Host::up(&config(), 1400).await;
            host.pump.accepted(&label("b"), lane(near)).ok().unwrap();
            let listener = TcpListener::bind("[::]:80").await.unwrap();
            ready.send(()).unwrap();
            let serve = async {
                for _ in 0..2 {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    write.shutdown().await.unwrap();
                }
                done.await.unwrap();
            };
            host.pump_during(serve).await;
        });
    });
    in_own_namespace(async move {
        a_is_ready
            .recv_timeout(Duration::from_secs(10))
            .expect("the other host came up");
        let mut host = Host::up(&config_of_b(), 1400).await;
        host.pump.accepted(&label("a"), lane(far)).ok().unwrap();
        let body = async {
            for to in ["10.7.0.1:80", "[fd07::1]:80"] {
                echo(to.parse().unwrap()).await;
            }
        };
        host.pump_during(body).await;
        assert!(host.pump.counters().rx_packets > 1000);
        assert_eq!(host.pump.counters().dropped(Dropped::SpoofedSource), 0);
        b_is_done.send(()).unwrap();
    });
    listening.join().unwrap();
}

/// Sends 2 MiB to an echo server and checks what comes back.
async fn echo(to: SocketAddr) {
    let sent: Vec<u8> = (0..2_u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (mut read, mut write) = TcpStream::connect(to).await.unwrap().into_split();
    let mut back = vec![0; sent.len()];
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    tokio::join!(send, async { read.read_exact(&mut back).await.unwrap() });
    assert!(back == sent, "the bytes from {to} differ");
}

fn a_spoofed_packet_never_reaches_the_host() {
    in_own_namespace(async {
        let mut host = Host::up(&config(), 1400).await;
        let (lane, far) = flow(1, 1400);
        host.pump.accepted(&label("b"), lane).ok().unwrap();
        let socket = UdpSocket::bind("10.7.0.1:9").await.unwrap();
        far.send(&[
            &udp("10.7.0.3", "10.7.0.1", 3),
            &udp("10.7.0.2", "10.7.0.1", 5),
        ]);
        let mut buf = [0; 100];
        let body = async { socket.recv_from(&mut buf).await.unwrap() };
        let (len, from) = host.pump_during(body).await;
        assert_eq!((len, from), (5, "10.7.0.2:7".parse().unwrap()));
        assert_eq!(host.pump.counters().dropped(Dropped::SpoofedSource), 1);
    });
}

fn the_kernel_learns_the_mtu_of_a_narrow_flow() {
    in_own_namespace(async {
        let mut host = Host::up(&config(), 1400).await;
        let (lane, far) = flow(1, 1300);
        host.pump.accepted(&label("b"), lane).ok().unwrap();
        for (own, to, header) in [
            ("10.7.0.1:0", "10.7.0.2:9", 28),
            ("[fd07::1]:0", "[fd07::2]:9", 48),
        ] {
            let socket = UdpSocket::bind(own).await.unwrap();
            socket.connect(to).await.unwrap();
            // Fits the device, not the flow; the kernel hears so and cuts the next one itself.
            socket.send(&vec![1; 1400 - header]).await.unwrap();
            host.pump_during(tokio::time::sleep(Duration::from_millis(50)))
                .await;
            assert!(packets(&far).is_empty(), "{to}: it went out whole");
            let _ = socket.send(&vec![2; 1400 - header]).await;
            if socket.send(&vec![2; 1400 - header]).await.is_err() {
                socket.send(&vec![2; 1400 - header]).await.unwrap();
            }
            host.pump_during(tokio::time::sleep(Duration::from_millis(50)))
                .await;
            let parts = packets(&far);
            assert!(
                parts.len() >= 2 && parts.iter().all(|p| p.len() <= 1300),
                "{to}: {parts:?}"
            );
        }
        assert_eq!(
            (
                host.pump.counters().dropped(Dropped::TooBig),
                host.pump.counters().icmp_sent
            ),
            (2, 2)
        );
    });
}

/// UDP packets at the far end; the kernel's own chatter, as of neighbour discovery, aside.
fn packets(far: &Far) -> Vec<Vec<u8>> {
    let records = std::iter::from_fn(|| Some(far.packets()).filter(|p| !p.is_empty()));
    records.flatten().collect()
}

fn routes_follow_the_members_and_nothing_is_left_at_the_end() {
    in_own_namespace(async {
        let mut config = config();
        let mut host = Host::up(&config, 1400).await;
        let reachable = async |to: &str| {
            let socket = UdpSocket::bind(if to.contains('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            })
            .await
            .unwrap();
            socket.connect(to).await.is_ok()
        };
        assert!(
            reachable("10.8.1.1:9").await
                && reachable("10.7.0.3:9").await
                && reachable("[fd07::2]:9").await
        );
        assert_eq!(host.device.mtu().await, Ok(1400));
        config.members.remove(&label("c"));
        host.device.apply(&config).await.unwrap();
        assert!(reachable("10.8.1.1:9").await && !reachable("10.7.0.3:9").await);
        config.routes.push(vpn::config::Route {
            prefix: "192.0.2.0/24".parse().unwrap(),
            member: label("b"),
        });
        // The same again changes nothing.
        host.device.apply(&config).await.unwrap();
        host.device.apply(&config).await.unwrap();
        assert!(reachable("192.0.2.9:9").await && host.device.warnings().is_empty());
        // A host's own address is reached through the kernel alone.
        assert!(reachable("10.7.0.1:9").await);
        drop(host);
        let left = Netlink::open().unwrap().index("vpn0").await;
        assert_eq!(left, Ok(None));
        assert!(!reachable("10.8.1.1:9").await && !reachable("192.0.2.9:9").await);
    });
}

fn a_name_in_use_is_refused_with_the_reason() {
    in_own_namespace(async {
        let _host = Host::up(&config(), 1400).await;
        let name = DeviceName::new("vpn0").unwrap();
        let netlink = Netlink::open().unwrap();
        let refused = soon(netlink::free(&netlink, &name, Duration::from_millis(100)))
            .await
            .unwrap_err();
        assert!(
            refused.code == Code::Conflict && refused.text.contains("--dev"),
            "{refused}"
        );
        let refused = device::create(&DeviceName::new("lo").unwrap(), OffloadMode::Auto)
            .map(drop)
            .unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
    });
}

fn lane(socket: RecordSocket) -> Lane {
    let welcome = Welcome {
        devices: false,
        flow: FlowId(1),
        mtu: 1400,
        qos: QosSpec::RAW,
        peer: Peer::default(),
    };
    Joined {
        socket,
        welcome,
        handed: None,
    }
    .into()
}
