//! An authority whose key lies under a passphrase: a member like others until somebody unlocks it.

use proto::ipcp::{AuthorityAct, Rollover};

use super::*;

const PASS: &[u8] = b"correct horse battery";

fn act(net: &mut Net, act: AuthorityAct) -> Result<Answer, Reason> {
    net.ask("a", Command::Authority(act))
}

fn key(net: &mut Net) -> String {
    status(net, "a").trust.unwrap().key
}

fn restart(net: &mut Net, name: &'static str) {
    let files = net.node(name).files.clone();
    net.boot(name, files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 10_000,
    };
    net.ask(name, Command::Enroll(rejoin)).unwrap();
    net.seconds(3);
}

/// The keys in the file of the authority, as they are: they follow the head of every key in PKCS#8.
fn keys(net: &mut Net) -> Vec<[u8; 32]> {
    let head = [0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let file = &net.node("a").files["authority"];
    let all = file
        .windows(head.len() + 32)
        .filter(|w| w.starts_with(&head));
    all.map(|w| w[head.len()..].try_into().unwrap()).collect()
}

fn shows_a_key(net: &mut Net) -> bool {
    !keys(net).is_empty()
}

#[test]
fn a_sealed_authority_is_a_member_after_a_restart_and_issues_when_it_is_unlocked() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(1);
    assert_eq!(key(&mut net), "open");
    assert!(shows_a_key(&mut net));
    let refused = act(&mut net, AuthorityAct::Lock).unwrap_err();
    assert_eq!(refused.code, Code::Conflict, "it would be lost: {refused}");
    act(&mut net, AuthorityAct::Seal(Some(PASS.to_vec()))).unwrap();
    assert_eq!(key(&mut net), "sealed");
    assert!(!shows_a_key(&mut net));
    // It is in memory still, and what it gives away is kept.
    let url = invite(&mut net, "a", "c").unwrap();
    assert!(!shows_a_key(&mut net));
    restart(&mut net, "a");
    assert_eq!(key(&mut net), "locked");
    assert_eq!(status(&mut net, "a").members.len(), 2);
    assert_eq!(status(&mut net, "a").settings["authority"], "root");
    let locked = "the authority of ovl is locked at a; irm layer unlock ovl there";
    let refused = [
        invite(&mut net, "a", "d").map(drop),
        act(&mut net, AuthorityAct::Revoke(label("b"))).map(drop),
        act(&mut net, AuthorityAct::Export(PASS.to_vec())).map(drop),
        act(&mut net, AuthorityAct::Rollover(Rollover::Begin(None))).map(drop),
    ];
    for refused in refused {
        let reason = refused.unwrap_err();
        assert_eq!((reason.code, reason.text.as_str()), (Code::Denied, locked));
    }
    net.boot("c", Files::new());
    let reason = enroll(&mut net, "c", url.clone()).unwrap_err();
    assert!(reason.text.contains(locked), "{reason}");
    let wrong = AuthorityAct::Unlock(b"correct horse batterz".to_vec());
    assert_eq!(act(&mut net, wrong).unwrap_err().code, Code::Denied);
    assert_eq!(key(&mut net), "locked");
    act(&mut net, AuthorityAct::Unlock(PASS.to_vec())).unwrap();
    enroll(&mut net, "c", url).unwrap();
    net.seconds(1);
    assert_eq!(status(&mut net, "a").members.len(), 3);
    act(&mut net, AuthorityAct::Lock).unwrap();
    assert_eq!(key(&mut net), "locked");
    assert_eq!(invite(&mut net, "a", "d").unwrap_err().text, locked);
}

#[test]
fn another_root_is_sealed_like_the_one_before_and_an_unsealed_one_needs_no_word() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(1);
    act(&mut net, AuthorityAct::Seal(Some(PASS.to_vec()))).unwrap();
    let begin = AuthorityAct::Rollover(Rollover::Begin(None));
    act(&mut net, begin).unwrap();
    assert!(!shows_a_key(&mut net));
    restart(&mut net, "a");
    // Renewal waits for the key; both lie under the passphrase.
    net.seconds(60);
    assert!(status(&mut net, "b").trust.unwrap().own_ends);
    act(&mut net, AuthorityAct::Unlock(PASS.to_vec())).unwrap();
    net.seconds(600);
    assert!(!status(&mut net, "b").trust.unwrap().own_ends);
    let finish = AuthorityAct::Rollover(Rollover::Finish { force: false });
    act(&mut net, finish).unwrap();
    restart(&mut net, "a");
    act(&mut net, AuthorityAct::Unlock(PASS.to_vec())).unwrap();
    act(&mut net, AuthorityAct::Seal(None)).unwrap();
    assert!(shows_a_key(&mut net));
    restart(&mut net, "a");
    assert_eq!(key(&mut net), "open");
    assert!(invite(&mut net, "a", "c").is_ok());
}

#[test]
fn the_keys_of_roots_that_were_sealed_from_the_beginning_are_in_no_file_that_was_ever_written() {
    let mut net = Net::new(&["a", "b", "c"]);
    bootstrap_under(&mut net, "a", Some(PASS.to_vec()));
    assert_eq!(key(&mut net), "sealed");
    join(&mut net, "a", "b");
    restart(&mut net, "a");
    assert_eq!(key(&mut net), "locked");
    act(&mut net, AuthorityAct::Unlock(PASS.to_vec())).unwrap();
    join(&mut net, "a", "c");
    act(&mut net, AuthorityAct::Revoke(label("c"))).unwrap();
    let begin = AuthorityAct::Rollover(Rollover::Begin(None));
    act(&mut net, begin).unwrap();
    net.seconds(600);
    let written = std::mem::take(&mut net.written);
    // Now they are shown, so that they can be looked for.
    act(&mut net, AuthorityAct::Seal(None)).unwrap();
    let keys = keys(&mut net);
    assert_eq!(keys.len(), 2, "that of either root");
    let shown = |bytes: &[u8]| keys.iter().any(|key| bytes.windows(32).any(|w| w == key));
    assert!(shown(&net.written[0].1) && written.len() > 10);
    assert!(written.iter().all(|(_, bytes)| !shown(bytes)));
}
