//! Who comes with a certificate instead of an invitation: only one of the layer's own authority, of today, for this very
//! member, lets anybody in.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::date_time_ymd;
use tests::pki::{Issued, Pki};
use tests::{Host, Lab, Link, Output, Process};

#[test]
fn a_foreign_authority_lets_nobody_in_whichever_side_looks() {
    let net = Net::new();
    let (foreign, other) = (Pki::new().unwrap(), Pki::new().unwrap());
    let member = foreign.issue("strata://ovl/ovl-b", |_| {}).unwrap();
    // Who shows a certificate that its own roots don't know is told so before it dials.
    let out = net.enroll("ovl-b", &[&other.root], &member);
    refused(&out, 2, "issued by an unknown authority");
    // Who trusts a foreign authority doesn't believe the member that it dials.
    let out = net.enroll("ovl-b", &[&foreign.root], &member);
    refused(&out, 7, "issued by an unknown authority");
    // Who trusts the layer's too is not believed by that member.
    let root = root_of_layer(&net.a);
    let out = net.enroll("ovl-b", &[&foreign.root, &root], &member);
    refused(
        &out,
        7,
        "it doesn't know the authority that issued our certificate",
    );
    net.has_one_member();
    let counters = net.a.irm_json("status").unwrap()["ipcps"].to_string();
    assert!(counters.contains("handshake.failed"), "{counters}");
    // With an invitation, the same host is welcome.
    let url = net.a.irm("layer invite ovl --member ovl-b").unwrap();
    let enroll = "ipcp enroll ovl-b --type unicast --invite";
    net.b.irm(&format!("{enroll} {}", url.trim())).unwrap();
}

#[test]
fn a_certificate_out_of_its_time_or_for_somebody_else_is_refused_before_anybody_is_dialled() {
    let net = Net::new();
    let authority = Pki::new().unwrap();
    let enroll = |member: &Issued| net.enroll("ovl-b", &[&authority.root], member);
    let name = "strata://ovl/ovl-b";
    let expired = authority
        .issue(name, |p| p.not_after = date_time_ymd(2020, 1, 1))
        .unwrap();
    refused(
        &enroll(&expired),
        2,
        "the certificate expired at 2020-01-01",
    );
    let early = authority
        .issue(name, |p| p.not_before = date_time_ymd(2090, 1, 1))
        .unwrap();
    refused(&enroll(&early), 2, "valid only from 2090-01-01");
    let layer = authority.issue("strata://other/ovl-b", |_| {}).unwrap();
    refused(&enroll(&layer), 2, "for layer other, not for ovl");
    let whose = authority.issue("strata://ovl/ovl-c", |_| {}).unwrap();
    refused(&enroll(&whose), 6, "for member ovl-c, not for ovl-b");
    let stolen = Issued {
        key: whose.key,
        ..authority.issue(name, |_| {}).unwrap()
    };
    refused(&enroll(&stolen), 2, "its key is another one");
    let itself = Issued {
        cert: authority.root.clone(),
        ..stolen
    };
    refused(&enroll(&itself), 2, "can't use this certificate");
    net.has_one_member();
    // None of it left a process behind.
    assert_eq!(net.b.programs("ipcpd"), [0; 0]);
}

/// A has founded the layer `ovl`, B can reach it.
struct Net {
    // In the order in which they end.
    irmds: [Process; 2],
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
        a.irm(&format!("{shim} {ip_a}")).unwrap();
        b.irm(&format!("{shim} {ip_b} --host ovl-a={ip_a}"))
            .unwrap();
        let found = "ipcp bootstrap ovl-a --type unicast --layer ovl";
        a.irm(found).unwrap();
        Self {
            irmds,
            _link: link,
            a,
            b,
            lab,
        }
    }

    fn enroll(&self, name: &str, roots: &[&Vec<u8>], member: &Issued) -> Output {
        let files = member.options(self.lab.dir(), roots).unwrap();
        let line = format!(
            "ipcp enroll {name} --type unicast --layer ovl --dst ovl-a --timeout 2s {files}"
        );
        self.b.run("irm", line.split(' ')).unwrap()
    }

    fn has_one_member(&self) {
        let json = self.a.irm_json("layer members ovl").unwrap();
        assert_eq!(json["members"].as_array().unwrap().len(), 1, "{json}");
        for irmd in &self.irmds {
            assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
        }
    }
}

/// With this code, in one line that says this.
fn refused(out: &Output, code: i32, why: &str) {
    assert_eq!(out.code, code, "{out:?}");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
    assert!(out.stderr.contains(why), "{out:?}");
}

/// The certificate of the layer's authority, as any member may know it: found in the file of one.
fn root_of_layer(host: &Host) -> Vec<u8> {
    let file = find(&host.run_dir().join("state"), "identity").unwrap();
    let bytes = fs::read(file).unwrap();
    let at = |i: usize| {
        let (len, rest) = bytes[i..].split_first_chunk::<8>()?;
        let der = rest.get(..usize::try_from(u64::from_be_bytes(*len)).ok()?)?;
        let long = [0x30, 0x82].as_slice() == der.get(..2)?;
        // It is its own issuer: the authority's name stands in it twice.
        let names = der.windows(9).filter(|w| *w == b"authority").count();
        (long && names == 2).then(|| der.to_vec())
    };
    (0..bytes.len()).find_map(at).unwrap()
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return find(&path, name);
        }
        (path.file_name()? == name).then_some(path)
    })
}
