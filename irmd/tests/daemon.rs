//! The daemon itself: what it locks, leaves, refuses to start with, and shows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use common::{Host, alive, soon};
use proto::irm::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_second_irmd_exits_6_and_says_why() {
    let host = Host::started().await;
    let same_run = host.output(&[]);
    assert_eq!(same_run.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&same_run.stderr).contains("another irmd"));
    let state = host.run().join("state");
    let other = Host::new();
    let same_state = other.output(&["--state-dir", state.to_str().unwrap()]);
    assert_eq!(same_state.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&same_state.stderr).contains("state"));
}

#[tokio::test]
async fn sigterm_leaves_no_socket_and_no_child() {
    let mut host = Host::started().await;
    let mut admin = host.admin().await;
    // The script never attaches: create fails in the end, and a daemon that ends meanwhile takes it along.
    let create = tokio::spawn(async move {
        admin
            .create_ipcp(CreateIpcpRequest {
                name: "a".into(),
                r#type: "unicast".into(),
            })
            .await
    });
    let (pid, _) = host.child_besides(&[]).await;
    assert!(host.terminate().success());
    assert!(!alive(pid));
    let left: Vec<_> = fs::read_dir(host.run())
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["state"]);
    assert!(create.await.unwrap().is_err());
}

#[tokio::test]
async fn a_damaged_state_file_ends_the_start_with_a_reason_and_a_copy() {
    let mut host = Host::started().await;
    host.admin()
        .await
        .create_name(NameRef {
            name: "kept".into(),
        })
        .await
        .unwrap();
    host.terminate();
    let file = host.run().join("state/names.json");
    let whole = fs::read(&file).unwrap();
    for (bytes, word) in [
        (&whole[..whole.len() / 2], "damaged"),
        (&b"{\"version\": 9, \"data\": {}}"[..], "version 9"),
    ] {
        fs::write(&file, bytes).unwrap();
        let out = host.output(&[]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(text.contains(word) && text.contains("names.json"), "{text}");
        assert_eq!(fs::read(&file).unwrap(), bytes);
        assert_eq!(fs::read(file.with_extension("json.bad")).unwrap(), bytes);
    }
}

/// Speaks for the member that the config file makes, until it has its switches.
async fn is_told_its_switches(host: &Host) {
    let (_, secret) = host.child_besides(&[]).await;
    let hello = IpcpHello {
        secret,
        name: "ovl-a".into(),
        version: 1,
        data_socket: "/data/ovl-a".into(),
        ..IpcpHello::default()
    };
    let mut member = host.attach(hello).await.unwrap();
    let (id, command) = member.next().await;
    assert!(
        matches!(command, ipcp_command::Command::Bootstrap(_)),
        "{command:?}"
    );
    let made = Configured {
        layer: "ovl".into(),
        member: "ovl-a".into(),
        ..Configured::default()
    };
    member.done(id, done::Answer::Configured(made)).await;
    let (id, command) = member.next().await;
    let ipcp_command::Command::Set(set) = command else {
        panic!("no switches but {command:?}");
    };
    assert_eq!(set.offload, ["gso=off", "seal=on"]);
    member.ok(id).await;
}

#[tokio::test]
async fn a_config_file_is_checked_with_line_and_column_and_brings_about_what_it_says() {
    let mut host = Host::new();
    let file = host.dir.path().join("irm.toml");
    let path = file.to_str().unwrap().to_owned();
    fs::write(&file, "[[name]]\nname = \"web\"\nlayer = \"x\"\n").unwrap();
    let out = host.output(&["--config", &path, "--check-config"]);
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        text.contains("irm.toml:3:1") && text.contains("layer"),
        "{text}"
    );
    let shim =
        "[[ipcp]]\nname = \"udp\"\ntype = \"shim-udp\"\nlayer = \"net\"\nip = \"127.0.0.1\"\n";
    let member = "[[ipcp]]\nname = \"ovl-a\"\ntype = \"unicast\"\nlayer = \"ovl\"\n";
    // Each kind takes the switches that `irm ipcp set` takes for it.
    for (table, offload, wrong) in [
        (shim, "gso=off\", \"gro=auto", None),
        (member, "gso=off\", \"gro=on\", \"seal=on", None),
        (shim, "seal=on", Some("seals nothing")),
        (shim, "gso=maybe", Some("auto, on or off")),
        (member, "tun=off", Some("gso, gro or seal")),
        (member, "gso=no", Some("auto, on or off")),
    ] {
        fs::write(&file, format!("{table}offload = [\"{offload}\"]\n")).unwrap();
        let out = host.output(&["--config", &path, "--check-config"]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(wrong.map_or(0, |_| 2)), "{text}");
        let told = wrong.is_none_or(|w| text.contains("irm.toml:1:1") && text.contains(w));
        assert!(told && text.lines().count() <= 1, "{offload}: {text}");
    }
    fs::write(
        &file,
        format!("{member}offload = [\"gso=off\", \"seal=on\"]\n[[name]]\nname = \"web\"\n"),
    )
    .unwrap();
    assert!(!host.run().exists());
    host.start(&["--config", &path]).await;
    is_told_its_switches(&host).await;
    let has = async |name: &str| {
        for _ in 0..500 {
            let names = host
                .admin()
                .await
                .list_names(Empty {})
                .await
                .unwrap()
                .into_inner()
                .names;
            if names.iter().any(|n| n.name == name) {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        false
    };
    assert!(has("web").await);
    fs::write(&file, "[[name]]\nname = \"late\"\n").unwrap();
    common::signal(host.pid(), rustix::process::Signal::HUP);
    assert!(has("late").await);
}

#[tokio::test]
async fn metrics_are_served_to_plain_http_and_by_grpc() {
    let host = Host::started().await;
    let missing = host.alloc("nobody", |_| {}).await;
    assert!(missing.is_err());
    // To an offer that was never made.
    let program = host.program().await;
    program.answer(1, None).await;
    let counted = async {
        let mut admin = host.admin().await;
        while {
            let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
            !status.counters.contains_key("drop.late_answer")
        } {}
    };
    soon(counted).await;
    let mut stream = tokio::net::UnixStream::connect(host.run().join("admin.sock"))
        .await
        .unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: irmd\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for line in [
        r#"strata_events_total{process="irmd",layer="",what="failed.allocation"} 1"#,
        r#"strata_drops_total{process="irmd",layer="",reason="late_answer"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let grpc = host
        .admin()
        .await
        .metrics(MetricsRequest {})
        .await
        .unwrap()
        .into_inner()
        .text;
    assert!(grpc.contains("strata_uptime_seconds"), "{grpc}");
}

#[tokio::test]
async fn sockets_have_the_modes_that_say_who_may() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::started().await;
    let mode = |f: &str| {
        fs::metadata(host.run().join(f))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("irm.sock"), mode("admin.sock"), mode("state")),
        (0o666, 0o660, 0o700)
    );
    assert!(host.channel("irm.sock").await.is_ok());
    let on_everybodys = host.channel("irm.sock").await.unwrap();
    let refused = admin_client::AdminClient::new(on_everybodys)
        .status(StatusRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn events_tell_of_flows() {
    let host = Host::started().await;
    let mut events = host
        .admin()
        .await
        .events(EventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut server = host.program().await;
    server.listen(1, "n", &[]).await.unwrap();
    let (end, ()) = tokio::join!(host.alloc("n", |_| {}), async {
        let offer = server.offer().await;
        server.answer(offer.flow, None).await;
    });
    let event = soon(events.message()).await.unwrap().unwrap();
    assert_eq!(
        (event.kind.as_str(), event.fields["name"].as_str()),
        ("flow.allocated", "n")
    );
    assert_eq!(event.fields["flow"], end.unwrap().flow.to_string());
    // Who asks afterwards hears of it too, and then no more.
    let past = EventsRequest { past: true };
    let past = host.admin().await.events(past).await.unwrap();
    let mut past = past.into_inner();
    let mut heard = Vec::new();
    while let Some(event) = soon(past.message()).await.unwrap() {
        heard.push(event);
    }
    assert!(heard.contains(&event), "{heard:?}");
}

#[tokio::test]
async fn what_cannot_be_written_is_not_done_and_the_reason_names_the_file() {
    let host = Host::started().await;
    let mut admin = host.admin().await;
    // As on a full disk: the new file can't be made.
    let obstacle = host.run().join("state/names.new");
    fs::create_dir(&obstacle).unwrap();
    let refused = admin
        .create_name(NameRef { name: "web".into() })
        .await
        .unwrap_err();
    assert!(refused.message().contains("names.json"), "{refused}");
    let names = admin.list_names(Empty {}).await.unwrap().into_inner().names;
    assert!(names.is_empty());
    fs::remove_dir(&obstacle).unwrap();
    admin
        .create_name(NameRef { name: "web".into() })
        .await
        .unwrap();
}
