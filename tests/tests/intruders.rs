//! Who wants in without a right to: bad invitations, and another user of the host.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::{Host, Lab, Output};

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
