//! The key of a layer on the command line: exported, imported, sealed, and not lost by mistake.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Host, Lab, Link, Process, eventually, until};

const TEN: Duration = Duration::from_secs(10);

#[test]
fn an_authority_moves_by_its_export_and_is_not_destroyed_by_mistake() {
    let net = Net::new();
    let (key, pass) = (
        net.lab.dir().join("ovl.key"),
        net.pass("right", "correct horse battery"),
    );
    let sealed = |key: &Path, pass: &Path| {
        format!(
            "ovl --file {} --passphrase-file {}",
            key.display(),
            pass.display()
        )
    };
    refused(
        &net.b,
        &format!("layer export {}", sealed(&key, &pass)),
        5,
        "is its authority",
    );
    assert!(!key.exists(), "a torn export was left behind");
    let short = net.pass("short", "short");
    refused(
        &net.a,
        &format!("layer export {}", sealed(&key, &short)),
        2,
        "fewer than 12 bytes",
    );
    net.a
        .irm(&format!("layer export {}", sealed(&key, &pass)))
        .unwrap();
    let mode = fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = format!("layer export {}", sealed(&key, &pass));
    refused(&net.a, &again, 1, "cannot write");
    refused(
        &net.a,
        "ipcp destroy ovl-a",
        6,
        "irm layer export ovl first, or give --force",
    );
    net.a.irm("ipcp destroy ovl-a --force").unwrap();

    let wrong = net.pass("wrong", "correct horse batterz");
    let import = |pass: &Path| format!("layer import {}", sealed(&key, pass));
    refused(&net.b, &import(&wrong), 5, "the passphrase is wrong");
    net.b.irm(&format!("{} --sealed", import(&pass))).unwrap();
    let shown = net.b.irm_json("layer show ovl").unwrap();
    assert_eq!(shown["held"], "root", "{shown}");
    assert_eq!(shown["key"], "sealed", "{shown}");
    assert_eq!(shown["holder"], "ovl-b", "{shown}");
    net.b.irm("layer revoke ovl ovl-a").unwrap();
    net.b.irm("layer invite ovl --member ovl-a").unwrap();
}

#[test]
fn an_authority_that_sees_nobody_yet_is_not_destroyed_by_mistake_and_one_that_let_nobody_in_is() {
    let net = Net::new();
    // B can't be seen: A knows of it by what it has issued alone.
    for pid in net.b.programs("ipcpd") {
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGSTOP).unwrap();
    }
    for pid in net.a.programs("ipcpd") {
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    }
    let destroyed = || net.a.run("irm", ["ipcp", "destroy", "ovl-a"]).unwrap();
    // While it is down, and when it is up.
    for _ in 0..20 {
        let out = destroyed();
        assert_eq!(out.code, 6, "{out:?}");
        assert!(out.stderr.contains("holds the authority of"), "{out:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    until(TEN, || {
        let members = net.a.irm_json("layer members ovl")?;
        anyhow::ensure!(members["members"].as_array().map(Vec::len) == Some(1));
        Ok(())
    })
    .unwrap();
    let destroy = "ipcp destroy ovl-a";
    refused(
        &net.a,
        destroy,
        6,
        "irm layer export ovl first, or give --force",
    );
    net.a.irm("layer revoke ovl ovl-b").unwrap();
    net.a.irm(destroy).unwrap();
}

#[test]
fn a_sealed_authority_starts_locked_and_says_what_to_do() {
    let net = Net::new();
    let pass = net.pass("right", "correct horse battery");
    let seal = format!("layer seal ovl --passphrase-file {}", pass.display());
    let unlock = format!("layer unlock ovl --passphrase-file {}", pass.display());
    refused(&net.b, &seal, 5, "is its authority");
    refused(&net.a, "layer lock ovl", 6, "irm layer seal first");
    net.a.irm(&seal).unwrap();
    let wrong = net.pass("wrong", "correct horse batterz");
    for pid in net.a.programs("ipcpd") {
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    }
    eventually(TEN, "it is locked", || {
        let shown = net.a.irm_json("layer show ovl");
        shown.is_ok_and(|shown| shown["key"] == "locked")
    })
    .unwrap();
    let locked = "the authority of ovl is locked at ovl-a; irm layer unlock ovl there";
    refused(&net.a, "layer invite ovl --member ovl-c", 5, locked);
    refused(&net.a, "layer rollover ovl", 5, locked);
    // It is a member like others.
    until(TEN, || {
        let members = net.b.irm_json("layer routes ovl")?;
        anyhow::ensure!(members["routes"].as_array().map(Vec::len) == Some(1));
        Ok(())
    })
    .unwrap();
    refused(&net.a, "ipcp destroy ovl-a", 6, "give --force");
    let with_wrong = format!("layer unlock ovl --passphrase-file {}", wrong.display());
    refused(&net.a, &with_wrong, 5, "the passphrase is wrong");
    net.a.irm(&unlock).unwrap();
    net.a.irm("layer invite ovl --member ovl-c").unwrap();
    net.a.irm("layer lock ovl").unwrap();
    refused(&net.a, "layer invite ovl --member ovl-d", 5, locked);
}

#[test]
fn a_key_that_was_sealed_from_the_beginning_starts_locked_and_is_in_no_file() {
    let lab = Lab::new().unwrap();
    let a = lab.host("a").unwrap();
    let _irmd = a.irmd().unwrap();
    a.irm("ipcp bootstrap udp --type shim-udp --layer net --ip 127.0.0.1")
        .unwrap();
    let pass = lab.dir().join("pass");
    let found = format!(
        "ipcp bootstrap ovl-a --type unicast --layer ovl --passphrase-file {}",
        pass.display()
    );
    fs::write(&pass, "short\n").unwrap();
    refused(&a, &found, 2, "fewer than 12 bytes");
    fs::write(&pass, "correct horse battery\n").unwrap();
    a.irm(&found).unwrap();
    let is = |key: &str| {
        let shown = a.irm_json("layer show ovl");
        shown.is_ok_and(|shown| shown["key"] == key)
    };
    assert!(is("sealed"));
    let mut seen = files(a.dir());
    a.irm("layer invite ovl --member ovl-b").unwrap();
    // irmd starts it again, and has kept no passphrase.
    for pid in a.programs("ipcpd") {
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    }
    eventually(TEN, "it is locked", || is("locked")).unwrap();
    seen.extend(files(a.dir()));
    let unlock = format!("layer unlock ovl --passphrase-file {}", pass.display());
    a.irm(&unlock).unwrap();
    a.irm("layer invite ovl --member ovl-c").unwrap();
    // The same again is the same.
    a.irm(&found).unwrap();
    seen.extend(files(a.dir()));
    // Now the key is shown, so that it can be looked for.
    a.irm("layer seal ovl --off").unwrap();
    let open = files(a.dir());
    let authority = open.iter().find(|(path, _)| path.ends_with("authority"));
    let (path, bytes) = authority.unwrap();
    let key = key_in(bytes).unwrap();
    assert!(seen.iter().any(|(p, _)| p == path) && seen.len() > 10);
    let shown = seen.iter().filter(|(_, bytes)| holds(bytes, &key));
    let shown: Vec<_> = shown.map(|(path, _)| path).collect();
    assert!(shown.is_empty(), "{shown:?}");
    // The key of the member beside it, which is open, is another.
    let identity = open.iter().find(|(path, _)| path.ends_with("identity"));
    assert_ne!(key_in(&identity.unwrap().1), Some(key));
    let mode = fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "that of an open key");
}

/// Every file below a directory, as it is now: the state, the logs, whatever there is.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all
}

/// The secret part of a key that lies open in a file: 32 bytes behind the head of every Ed25519 key in PKCS#8.
fn key_in(bytes: &[u8]) -> Option<Vec<u8>> {
    let head = [0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let at = bytes.windows(head.len()).position(|w| w == head)? + head.len();
    bytes.get(at..at + 32).map(<[u8]>::to_vec)
}

/// Whether the bytes of a key are there: as they are, or in hexadecimal digits.
fn holds(bytes: &[u8], key: &[u8]) -> bool {
    let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
    let has = |what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
    has(key) || has(hex.as_bytes())
}

/// A has founded the layer `ovl`, B is its second member.
struct Net {
    // In the order in which they end.
    _irmds: [Process; 2],
    _link: Link,
    a: Host,
    b: Host,
    lab: Lab,
}

impl Net {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let link = lab.veth(&a, &b).unwrap();
        let irmds = [a.irmd().unwrap(), b.irmd().unwrap()];
        let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip";
        let (ip_a, ip_b) = (link.ip(0), link.ip(1));
        a.irm(&format!("{shim} {ip_a} --host ovl-b={ip_b}"))
            .unwrap();
        b.irm(&format!("{shim} {ip_b} --host ovl-a={ip_a}"))
            .unwrap();
        a.irm("ipcp bootstrap ovl-a --type unicast --layer ovl")
            .unwrap();
        let url = a.irm("layer invite ovl --member ovl-b").unwrap();
        let enroll = "ipcp enroll ovl-b --type unicast --invite";
        b.irm(&format!("{enroll} {}", url.trim())).unwrap();
        eventually(TEN, "both are there", || {
            let members = a.irm_json("layer members ovl");
            members.is_ok_and(|m| m["members"].as_array().map(Vec::len) == Some(2))
        })
        .unwrap();
        Self {
            _irmds: irmds,
            _link: link,
            a,
            b,
            lab,
        }
    }

    fn pass(&self, name: &str, text: &str) -> PathBuf {
        let path = self.lab.dir().join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        path
    }
}

/// With this code, in one line that says this.
fn refused(host: &Host, line: &str, code: i32, why: &str) {
    let out = host.run("irm", line.split(' ')).unwrap();
    assert_eq!(out.code, code, "{line}: {out:?}");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{line}: {out:?}");
    assert!(out.stderr.contains(why), "{line}: {out:?}");
}
