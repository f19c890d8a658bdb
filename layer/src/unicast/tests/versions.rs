//! Members of two releases in one layer.

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use proto::QosSpec;
use proto::wire::{self, message::Body};

use super::flows::{flow, line, read, register, write};
use super::*;
use crate::crypt::Versions;

/// Makes a member one of another release, and lets its links stand anew.
fn speaks(net: &mut Net, name: &'static str, min: u8, max: u8) {
    let me = net.node(name).machine.me.as_mut().unwrap();
    let ours = Versions::OURS;
    me.tls = me.tls.speaking(Versions { min, max, ..ours });
}

/// Cuts all of a line's links for long enough that they end.
fn anew(net: &mut Net) {
    for member in ["a", "c"] {
        net.cut("b", member);
    }
    net.seconds(3);
    for member in ["a", "c"] {
        net.mend("b", member);
    }
    net.seconds(3);
}

fn first_bytes(net: &mut Net) -> std::rc::Rc<std::cell::RefCell<BTreeSet<u8>>> {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(BTreeSet::new()));
    let into = seen.clone();
    net.tamper = Some(Box::new(move |_, _, pdu| {
        into.borrow_mut().insert(pdu[0]);
    }));
    seen
}

fn carries(net: &mut Net) {
    register(net, "c", "server");
    net.seconds(1);
    flow(net, "a", "c", "server", 5, QosSpec::RAW);
    write(net, "a", 5, &[b"over both"]);
    assert_eq!(read(net, "c", 5), [b"over both".to_vec()]);
}

#[test]
fn members_of_two_releases_share_a_layer_and_each_pair_speaks_the_newest_that_both_know() {
    for (releases, heard) in [
        ([2, 2, 2], BTreeSet::from([0x11, 0x22])),
        ([2, 1, 2], BTreeSet::from([0x11, 0x12])),
        ([2, 2, 1], BTreeSet::from([0x11, 0x12, 0x22])),
    ] {
        let mut net = line();
        for (name, max) in ["a", "b", "c"].into_iter().zip(releases) {
            speaks(&mut net, name, 1, max);
        }
        for member in ["a", "c"] {
            net.cut("b", member);
        }
        net.seconds(3);
        let seen = first_bytes(&mut net);
        anew(&mut net);
        carries(&mut net);
        assert_eq!(*seen.borrow(), heard, "{releases:?}");
    }
}

#[test]
fn members_with_no_version_in_common_stay_apart_and_say_which_must_be_updated() {
    let mut net = line();
    speaks(&mut net, "b", 2, 3);
    anew(&mut net);
    for member in ["a", "c"] {
        let told = status(&mut net, member);
        assert!(told.links.iter().all(|l| l.state != "up"));
        assert!(told.counters["handshake.incompatible"] > 0);
        let connect = Command::Connect(label("b"), Some(Duration::from_secs(2)));
        let why = net.ask(member, connect).unwrap_err();
        assert!(why.text.contains("update this side"), "{why}");
    }
    assert!(status(&mut net, "b").counters["handshake.incompatible"] > 0);
    // Both are of one release again.
    speaks(&mut net, "a", 1, 2);
    speaks(&mut net, "c", 1, 2);
    anew(&mut net);
    carries(&mut net);
}

#[test]
fn a_sealed_pdu_of_another_version_than_was_agreed_on_is_dropped_and_counted() {
    let mut net = line();
    net.tamper = Some(Box::new(|from, _, pdu| {
        if from == "a" && pdu[0] == 0x12 {
            pdu[0] = 0x22;
        }
    }));
    net.seconds(1);
    assert!(status(&mut net, "b").counters["drop.unknown_version"] > 0);
    assert!(!status(&mut net, "b").counters.contains_key("drop.forged"));
}

#[test]
fn a_message_with_a_field_that_must_be_understood_is_dropped_and_counted_and_what_follows_is_taken()
{
    let mut net = line();
    let [a, b] = ["a", "b"].map(|of| crate::crypt::address(&label("ovl"), &label(of)));
    let mtu = |net: &mut Net| status(net, "a").links[0].mtu;
    let dropped = |net: &mut Net| {
        status(net, "a")
            .counters
            .get("drop.critical_field")
            .copied()
    };
    assert_eq!((mtu(&mut net), dropped(&mut net)), (MTU, None));
    let tell = |net: &mut Net, mtu, number| {
        let info = wire::LinkInfo {
            mtu,
            ..Default::default()
        };
        let mut message = wire::Message {
            body: Some(Body::LinkInfo(info)),
        }
        .encode_to_vec();
        encode_key(number, WireType::Varint, &mut message);
        encode_varint(1, &mut message);
        let machine = &mut net.node("b").machine;
        let lower = machine.adjacent[&a];
        let channel = &mut machine.links.get_mut(&lower).unwrap().channel;
        channel.send(&message).unwrap();
        machine.pump = true;
        net.input("b", Input::Timeout);
        net.run(Duration::from_millis(50));
    };
    tell(&mut net, 1_300, 1_000);
    assert_eq!((mtu(&mut net), dropped(&mut net)), (MTU, Some(1)));
    // Below that number nobody need understand it.
    tell(&mut net, 1_300, 999);
    assert_eq!((mtu(&mut net), dropped(&mut net)), (1_300, Some(1)));
    tell(&mut net, 1_250, u32::MAX >> 3);
    assert_eq!((mtu(&mut net), dropped(&mut net)), (1_300, Some(2)));
    assert!(net.node("a").machine.adjacent.contains_key(&b));
    carries(&mut net);
}
