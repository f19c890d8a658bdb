//! Who wants in without a right to: bad invitations, and strangers at the data socket.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libflow::{IRM_SOCKET, RunDir};
use proto::irm::program_command::Command;
use proto::irm::program_event::Event;
use proto::irm::programs_client::ProgramsClient;
use proto::irm::{AllocFlowRequest, FlowEnd, ProgramEvent, ProgramHello};
use proto::record::Item;
use proto::{Code, QosSpec, Token};
use socket2::{Domain, SockAddr, Socket, Type};
use tests::door::{Guest, Heard};
use tests::{Host, How, Lab, Output, Process, until};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;

const FIVE: Duration = Duration::from_secs(5);

#[test]
fn a_bad_invitation_is_refused_in_one_line_that_says_what_is_wrong() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let (ia, ib) = (a.irmd().unwrap(), b.irmd().unwrap());
    let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip";
    a.irm(&format!("{shim} {}", link.ip(0))).unwrap();
    b.irm(&format!(
        "{shim} {} --host ovl-a={}",
        link.ip(1),
        link.ip(0)
    ))
    .unwrap();
    a.irm("ipcp bootstrap ovl-a --type unicast --layer ovl")
        .unwrap();
    let invite = |more: &str| {
        let url = a.irm(&format!("layer invite ovl {more}")).unwrap();
        url.trim().to_owned()
    };
    // Altered in the midst, cut, and of another scheme.
    let url = invite("");
    let mid = url.len() / 2;
    let other = if url.as_bytes()[mid] == b'a' {
        'b'
    } else {
        'a'
    };
    let altered = format!("{}{other}{}", &url[..mid], &url[mid + 1..]);
    for bad in [&altered, &url[..mid], "https://example.org/"] {
        refused(&enroll(&b, "ovl-b", bad));
    }
    let expired = invite("--expires 1s");
    std::thread::sleep(Duration::from_millis(2100));
    let out = enroll(&b, "ovl-b", &expired);
    refused(&out);
    assert!(out.stderr.contains("expired"), "{out:?}");
    // Made for another member.
    let named = invite("--member ovl-c");
    let out = enroll(&b, "ovl-b", &named);
    refused(&out);
    assert_eq!(out.code, 6, "{out:?}");
    // Used once, it lets nobody else in.
    assert_eq!(enroll(&b, "ovl-b", &url).code, 0);
    let out = enroll(&b, "ovl-d", &url);
    refused(&out);
    let members = a.irm_json("layer members ovl").unwrap();
    assert_eq!(members["members"].as_array().unwrap().len(), 2, "{members}");
    // One of two uses lets two in, and no third.
    let twice = invite("--uses 2");
    let mut last = "ovl-b";
    for (member, code) in [("ovl-d", 0), ("ovl-e", 0), ("ovl-f", 5)] {
        b.irm(&format!("ipcp destroy {last}")).unwrap();
        last = member;
        let out = enroll(&b, member, &twice);
        assert_eq!(out.code, code, "{member}: {out:?}");
    }
    for irmd in [ia, ib] {
        assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
    }
}

#[test]
fn an_invitation_to_one_layer_opens_no_other() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let (ia, ib) = (a.irmd().unwrap(), b.irmd().unwrap());
    let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip";
    let (at, here) = (link.ip(0), link.ip(1));
    a.irm(&format!("{shim} {at}")).unwrap();
    b.irm(&format!(
        "{shim} {here} --host one-a={at} --host two-a={at}"
    ))
    .unwrap();
    let [one, two] = ["one", "two"].map(|layer| {
        let found = format!("ipcp bootstrap {layer}-a --type unicast --layer {layer} --over net");
        a.irm(&found).unwrap();
        let url = a.irm(&format!("layer invite {layer}")).unwrap();
        url.trim().to_owned()
    });
    // As if the line to layer two were one to layer one: what the joiner holds, it can change and sum up anew.
    let swap = |from: &str, fields: &[(&str, &str)]| {
        let mut text = from.rsplit_once(",sum=").unwrap().0.to_owned();
        for (old, new) in fields {
            assert!(text.contains(old), "{text}");
            text = text.replace(old, new);
        }
        let sum = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let sum: String = sum.as_ref()[..4]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        format!("{text},sum={sum}")
    };
    let root = |url: &str| {
        let (_, root) = url.split_once("root=").unwrap();
        root[..64].to_owned()
    };
    let layer = ("strata://two/", "strata://one/");
    let member = ("two-a", "one-a");
    let roots = (root(&two), root(&one));
    let roots = (roots.0.as_str(), roots.1.as_str());
    let forged = [
        // Through a member of two, whose certificate says so.
        (swap(&two, &[layer]), "for layer two, not for one"),
        // Through a member of one, whose authority is not that of the line.
        (swap(&two, &[layer, member]), "unknown authority"),
        // All of it that the layer's own members would know: the authority does not know it.
        (swap(&two, &[layer, member, roots]), "no such invitation"),
    ];
    for (url, why) in &forged {
        let enroll = format!("ipcp enroll m --type unicast --timeout 2s --invite {url}");
        let out = b.run("irm", enroll.split(' ')).unwrap();
        refused(&out);
        assert!(out.stderr.contains(why), "{why}: {out:?}");
    }
    // Nor does it take a member of one layer into the other.
    assert_eq!(enroll(&b, "m", &one).code, 0);
    let out = enroll(&b, "m", &two);
    refused(&out);
    assert_eq!(out.code, 6, "{out:?}");
    assert!(out.stderr.contains("in layer one already"), "{out:?}");
    for (layer, members) in [("one", 2), ("two", 1)] {
        let json = a.irm_json(&format!("layer members {layer}")).unwrap();
        assert_eq!(json["members"].as_array().unwrap().len(), members, "{json}");
    }
    for irmd in [ia, ib] {
        assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
    }
}

fn enroll(host: &Host, name: &str, url: &str) -> Output {
    let args = ["ipcp", "enroll", name, "--type", "unicast", "--invite", url];
    host.run("irm", args).unwrap()
}

/// With an exit code other than 0, in one line.
fn refused(out: &Output) {
    assert!(out.code != 0 && out.code < 100, "{out:?}");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
}

#[test]
fn records_of_a_stranger_on_the_data_socket_open_nothing_and_disturb_nobody() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let (_ia, irmd) = (a.irmd().unwrap(), b.irmd().unwrap());
    let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip";
    b.irm(&format!("{shim} {}", link.ip(1))).unwrap();
    a.irm(&format!("{shim} {} --host srv={}", link.ip(0), link.ip(1)))
        .unwrap();
    let _echo = b.spawn("irm", ["echo", "srv", "--layer", "net"]).unwrap();
    let ping = "ping srv --layer net -c 1 --qos raw --timeout 1s";
    until(Duration::from_secs(5), || a.irm(ping)).unwrap();
    let pid = b.programs("shim-udp");
    let mut doors = 0;
    let lies = [
        vec![],
        vec![0],
        vec![0xff; 3],
        vec![0, 0, 1],
        vec![0; 17],
        vec![7; 65_536],
    ];
    for path in sockets_in(&b.run_dir()) {
        let at = SockAddr::unix(&path).unwrap();
        for lie in &lies {
            let door = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
            // The gRPC sockets are of another type.
            if door.connect(&at).is_err() {
                continue;
            }
            doors += 1;
            door.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // It may be shut before all is sent; what counts is that it ends, with a word or without.
            let _ = door.send(lie);
            let _ = door.shutdown(std::net::Shutdown::Write);
            let mut left = [std::mem::MaybeUninit::uninit(); 4096];
            let end = Instant::now() + Duration::from_secs(5);
            while door.recv(&mut left).is_ok_and(|len| len > 0) {
                assert!(Instant::now() < end, "{lie:?} is talked to");
            }
            assert!(
                Instant::now() < end,
                "{} keeps {} bytes",
                path.display(),
                lie.len()
            );
        }
    }
    assert!(doors >= lies.len(), "there is no data socket");
    a.irm(ping).unwrap();
    assert_eq!(b.programs("shim-udp"), pid);
    assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
}

#[test]
fn a_token_opens_one_flow_once_and_who_lies_then_is_shown_out() {
    let lab = Lab::new().unwrap();
    let pair = Pair::new(&lab);
    let (a, irmd) = (&pair.a, &pair.irmd);
    let pids = a.programs("shim-udp");
    // The socket of an IPC process, and that of the program itself.
    for (name, layer) in [("srv", "net"), ("here", "")] {
        let end = allocate(a, name, layer);
        let (socket, token) = (
            Path::new(&end.socket),
            Token::from_slice(&end.token).unwrap(),
        );
        let mut wrong = token.clone();
        wrong.0[15] ^= 1;
        denied(&Guest::join(socket, &wrong).unwrap().1);
        let (guest, heard) = Guest::join(socket, &token).unwrap();
        let Heard::Item(Item::Welcome(welcome)) = heard else {
            panic!("not let in: {heard:?}")
        };
        assert_eq!(welcome.flow.0, end.flow);
        echoes(&guest);
        denied(&Guest::join(socket, &token).unwrap().1);
        echoes(&guest);
        // More than there is; nothing at all; the rest of a length.
        let lie = [&[0, 9, 1][..], &[0, 0, 0, 1, 7], &[0, 1, 7, 0]][usize::from(layer.is_empty())];
        guest.send(lie).unwrap();
        let heard = guest.hear().unwrap();
        let Heard::Item(Item::Down(reason)) = heard else {
            panic!("{name}: {lie:?} was answered with {heard:?}")
        };
        assert_eq!(reason.code, Code::PeerMisbehaved, "{reason}");
        assert_eq!(guest.hear().unwrap(), Heard::End);
    }
    for ask in Pair::ASKS {
        a.irm(ask).unwrap();
    }
    assert_eq!(a.programs("shim-udp"), pids);
    assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
}

#[test]
fn a_token_opens_nothing_for_another_user() {
    let how = How::somebody_else().unwrap();
    let lab = Lab::new().unwrap();
    // Else it would not even get to the sockets.
    fs::set_permissions(lab.dir(), Permissions::from_mode(0o755)).unwrap();
    let pair = Pair::new(&lab);
    for (name, layer) in [("srv", "net"), ("here", "")] {
        let end = allocate(&pair.a, name, layer);
        let token = Token::from_slice(&end.token).unwrap();
        let args = ["join", &end.socket, &hex(&token.0)];
        let out = pair.a.run_as(&how, "lab-tool", args).unwrap();
        assert!(out.stdout.contains("Denied"), "{out:?}");
        assert!(
            out.stdout.contains("opens no flow for this user"),
            "{out:?}"
        );
    }
    assert!(!pair.irmd.log().contains("panicked"), "{}", pair.irmd.log());
}

#[test]
fn another_user_has_flows_of_its_own_and_takes_nobody_elses() {
    let how = How::somebody_else().unwrap();
    let lab = Lab::new().unwrap();
    fs::set_permissions(lab.dir(), Permissions::from_mode(0o755)).unwrap();
    let host = lab.host("a").unwrap();
    let irmd = host.irmd().unwrap();
    let _echo = host.spawn("irm", ["echo", "here"]).unwrap();
    until(FIVE, || host.irm("ping here -c 1")).unwrap();
    let irm = |line: &str| host.run_as(&how, "irm", line.split(' ')).unwrap();

    // Everybody may have flows; the names, the state and the sockets of others are theirs.
    let out = irm("ping here -c 1");
    assert_eq!(out.code, 0, "{out:?}");
    for line in ["status", "name create theirs", "flow list"] {
        let out = irm(line);
        refused(&out);
        assert_eq!(out.code, 5, "{line}: {out:?}");
        assert!(out.stderr.contains("group irm"), "{out:?}");
    }
    let out = irm("echo here");
    refused(&out);
    assert_eq!(out.code, 5, "{out:?}");
    let runtime = runtime();
    let (session, _stream) = runtime.block_on(session(&host));
    let borrow = |how: &How| {
        let out = host.run_as(how, "lab-tool", ["borrow", "here", &session]);
        out.unwrap()
    };
    assert_eq!(borrow(&How::default()).code, 0);
    let out = borrow(&how);
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.stderr.contains("another user's"), "{out:?}");
    let sockets = sockets_in(&host.run_dir());
    assert!(sockets.len() >= 3, "{sockets:?}");
    for socket in &sockets {
        let out = host.run_as(&how, "/bin/rm", [OsStr::new("-f"), socket.as_os_str()]);
        assert_ne!(out.unwrap().code, 0, "{} was removed", socket.display());
    }
    assert_eq!(sockets_in(&host.run_dir()), sockets);
    host.irm("ping here -c 1").unwrap();
    assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
}

/// Two hosts with shims; on the second `srv` is served, on the first `here`.
struct Pair {
    a: Host,
    irmd: Process,
    _b: Host,
    _rest: [Process; 3],
}

impl Pair {
    const ASKS: [&str; 2] = [
        "ping srv --layer net -c 1 --qos raw",
        "ping here -c 1 --qos raw",
    ];

    fn new(lab: &Lab) -> Self {
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let link = lab.veth(&a, &b).unwrap();
        let (irmd, other) = (a.irmd().unwrap(), b.irmd().unwrap());
        let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip";
        b.irm(&format!("{shim} {}", link.ip(1))).unwrap();
        a.irm(&format!("{shim} {} --host srv={}", link.ip(0), link.ip(1)))
            .unwrap();
        let far = b.spawn("irm", ["echo", "srv", "--layer", "net"]).unwrap();
        let near = a.spawn("irm", ["echo", "here"]).unwrap();
        for ask in Self::ASKS {
            until(FIVE, || a.irm(ask)).unwrap();
        }
        Self {
            a,
            irmd,
            _b: b,
            _rest: [other, far, near],
        }
    }
}

/// Asks irmd for a flow, and leaves it to be joined.
fn allocate(host: &Host, name: &str, layer: &str) -> FlowEnd {
    let request = AllocFlowRequest {
        name: name.into(),
        layer: layer.into(),
        qos: Some(QosSpec::RAW.into()),
        timeout_ms: 5000,
        ..AllocFlowRequest::default()
    };
    let answer = runtime().block_on(async {
        let channel = run_dir(host).channel(IRM_SOCKET).unwrap();
        ProgramsClient::new(channel).alloc_flow(request).await
    });
    answer.unwrap().into_inner()
}

/// A session of who runs the test, by its id; it ends with the stream.
async fn session(host: &Host) -> (String, impl Sized) {
    let hello = ProgramEvent {
        event: Some(Event::Hello(ProgramHello::default())),
    };
    let events = tokio_stream::iter([hello]).chain(tokio_stream::pending());
    let channel = run_dir(host).channel(IRM_SOCKET).unwrap();
    let answers = ProgramsClient::new(channel).session(events).await;
    let mut answers = answers.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().command;
    let Some(Command::Welcome(welcome)) = first else {
        panic!("no welcome but {first:?}")
    };
    (hex(&welcome.session), answers)
}

fn run_dir(host: &Host) -> RunDir {
    RunDir::find(Some(&host.run_dir()))
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn denied(heard: &Heard) {
    let Heard::Item(Item::Down(reason)) = heard else {
        panic!("not refused: {heard:?}")
    };
    assert_eq!(reason.code, Code::Denied, "{reason}");
    assert!(reason.text.contains("allocate again"), "{reason}");
}

fn echoes(guest: &Guest) {
    let record = [0, 3, b'a', b'b', b'c'];
    guest.send(&record).unwrap();
    assert_eq!(guest.hear().unwrap(), Heard::Data(record.to_vec()));
}

/// The sockets in a directory and below.
fn sockets_in(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(sockets_in(&entry.path()));
        } else if kind.is_socket() {
            found.push(entry.path());
        }
    }
    found
}
