//! Clocks that are ten minutes wrong, in both directions: nobody notices.

use proto::QosSpec;
use proto::ipcp::{AuthorityAct, Rollover};

use super::flows::{flow, read, register, write};
use super::*;

fn members(net: &mut Net, at: &'static str) -> Vec<String> {
    let members = status(net, at).members;
    members.into_iter().map(|m| m.name).collect()
}

#[test]
fn members_whose_clocks_are_ten_minutes_wrong_join_talk_renew_and_part() {
    let mut net = Net::new(&["a", "b", "c", "d"]);
    net.ahead = [("a", -600), ("b", 600), ("c", -600), ("d", 600)].into();
    net.cut("b", "d");
    let ask = Bootstrap {
        layer: label("ovl"),
        over: vec![label("net")],
        prefixes: Vec::new(),
        pools: Some(Vec::new()),
        cert_life: Some(Duration::from_secs(3600)),
        passphrase: None,
        shim_udp: None,
    };
    net.ask("a", Command::Bootstrap(ask)).unwrap();
    for member in ["b", "c", "d"] {
        join(&mut net, "a", member);
        net.seconds(1);
    }
    net.command("b", Command::Connect(label("c"), None));
    net.seconds(2);
    register(&mut net, "c", "server");
    flow(&mut net, "b", "c", "server", 1, QosSpec::BEST);
    let first = status(&mut net, "c").cert_expires;
    // Long enough for keys to change and certificates to renew, also twenty minutes apart.
    for minute in 0..100u8 {
        net.seconds(60);
        write(&mut net, "b", 1, &[&[minute]]);
        assert_eq!(read(&mut net, "c", 1), [vec![minute]], "minute {minute}");
    }
    assert!(status(&mut net, "c").cert_expires > first + 3000);
    let rollover = |ask| Command::Authority(AuthorityAct::Rollover(ask));
    net.ask("a", rollover(Rollover::Begin(None))).unwrap();
    net.seconds(200);
    let finish = Rollover::Finish { force: false };
    net.ask("a", rollover(finish)).unwrap();
    net.seconds(5);
    for at in ["a", "b", "c", "d"] {
        assert_eq!(members(&mut net, at), ["a", "b", "c", "d"], "{at}");
    }
    let revoke = AuthorityAct::Revoke(label("d"));
    net.ask("a", Command::Authority(revoke)).unwrap();
    net.seconds(1);
    for at in ["a", "b", "c"] {
        assert_eq!(members(&mut net, at), ["a", "b", "c"], "{at}");
    }
    write(&mut net, "b", 1, &[b"still"]);
    assert_eq!(read(&mut net, "c", 1), [b"still".to_vec()]);
}
