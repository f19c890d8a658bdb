//! Batches that are one flow's whole go through where they lie, and nothing else changes by that.

use std::cell::RefCell;
use std::rc::Rc;

use proto::ipcp::Command;
use proto::{Batch, Code, FlowId, Framing, Margin, QosSpec, Reason};

use super::flows::{flow, line, read, register};
use super::*;
use crate::{Input, Ipcp};

const SIZE: usize = 100;

/// SDUs of one size, and a shorter one behind them.
fn sdus(count: u8) -> Vec<Vec<u8>> {
    let mut sdus: Vec<_> = (0..count).map(|n| vec![n; SIZE]).collect();
    sdus.push(vec![0xee; 20]);
    sdus
}

fn batch(margin: Margin, sdus: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::train_within(margin);
    for sdu in sdus {
        batch.push(sdu.len()).unwrap().copy_from_slice(sdu);
    }
    batch
}

/// Keeps what `from` sends to `to` instead of letting it through.
fn keep(net: &mut Net, from: &'static str, to: &'static str) -> Rc<RefCell<Vec<Vec<u8>>>> {
    let kept = Rc::new(RefCell::new(Vec::new()));
    let keeper = Rc::clone(&kept);
    net.tamper = Some(Box::new(move |sender, receiver, pdu: &mut Vec<u8>| {
        if (sender, receiver) == (from, to) {
            keeper.borrow_mut().push(std::mem::take(pdu));
        }
    }));
    kept
}

/// Gives `to` what `from` has sent, all in one train.
fn give(net: &mut Net, from: &'static str, to: &'static str, pdus: &[Vec<u8>]) {
    let at = net
        .wires
        .iter()
        .find(|((f, _), (t, _))| (*f, *t) == (from, to));
    let at = at.map(|(_, (_, at))| *at).unwrap();
    let mut train = Batch::new(Framing::Train);
    for pdu in pdus {
        train
            .push(pdu.len())
            .expect("one size, but the last")
            .copy_from_slice(pdu);
    }
    net.input(to, Input::Lower(at, train));
}

#[test]
fn packets_with_their_margin_arrive_as_others_do_next_door_and_behind_others() {
    let mut net = line();
    register(&mut net, "c", "far");
    register(&mut net, "b", "near");
    for (to, name, id) in [("b", "near", 7), ("c", "far", 8)] {
        flow(&mut net, "a", to, name, id, QosSpec::RAW);
        net.seconds(1);
        let margin = net.node("a").machine.margin(FlowId(id));
        assert!(!margin.is_empty(), "a raw flow has one");
        let other = Margin {
            head: margin.head + 1,
            ..margin
        };
        for margin in [margin, other, Margin::NONE] {
            let sdus = sdus(9);
            let batch = batch(margin, &sdus);
            net.input("a", Input::Upper(FlowId(id), batch));
            assert_eq!(read(&mut net, to, id), sdus, "{name}, {margin:?}");
        }
    }
    let qos = QosSpec::DATA;
    flow(&mut net, "a", "b", "near", 9, qos);
    assert!(net.node("a").machine.margin(FlowId(9)).is_empty());
    assert!(net.node("a").machine.margin(FlowId(99)).is_empty());
}

#[test]
fn a_train_of_several_flows_and_the_end_of_one_gives_each_its_own_in_order() {
    let mut net = line();
    register(&mut net, "b", "near");
    for id in [7, 8] {
        flow(&mut net, "a", "b", "near", id, QosSpec::RAW);
    }
    net.seconds(1);
    let kept = keep(&mut net, "a", "b");
    let margin = net.node("a").machine.margin(FlowId(7));
    for (id, count) in [(7, 3), (8, 2), (7, 2)] {
        let sdus = sdus(count);
        let all = &sdus[..usize::from(count)];
        net.input("a", Input::Upper(FlowId(id), batch(margin, all)));
    }
    let gone = Reason::new(Code::Closed, "that was it");
    net.input("a", Input::Control(99, Command::Dealloc(FlowId(7), gone)));
    let mut pdus = kept.borrow_mut().split_off(0);
    // The word of the end is shorter or longer than the packets: behind them in the one case, in a train of its own in the other.
    let (ends, data): (Vec<_>, Vec<_>) = pdus.drain(..).partition(|p| p.len() != pdus_len());
    assert_eq!(data.len(), 7);
    net.tamper = None;
    match ends.iter().find(|end| end.len() < pdus_len()) {
        Some(end) => give(
            &mut net,
            "a",
            "b",
            &[&data[..], std::slice::from_ref(end)].concat(),
        ),
        None => {
            give(&mut net, "a", "b", &data);
            ends.iter()
                .for_each(|end| give(&mut net, "a", "b", std::slice::from_ref(end)));
        }
    }
    let numbers = |sdus: Vec<Vec<u8>>| sdus.into_iter().map(|sdu| sdu[0]).collect::<Vec<_>>();
    assert_eq!(numbers(read(&mut net, "b", 7)), [0, 1, 2, 0, 1]);
    assert_eq!(numbers(read(&mut net, "b", 8)), [0, 1]);
    net.seconds(1);
    assert!(net.node("b").closed.contains_key(&FlowId(7)));
}

/// The bytes of one of the packets on the wire between neighbours.
fn pdus_len() -> usize {
    SIZE + super::super::whole::DIRECT.len()
}

#[test]
fn one_bad_packet_in_a_train_costs_itself() {
    let mut net = line();
    register(&mut net, "b", "near");
    flow(&mut net, "a", "b", "near", 7, QosSpec::RAW);
    net.seconds(1);
    for bad in [0, 4, 9] {
        let kept = keep(&mut net, "a", "b");
        let margin = net.node("a").machine.margin(FlowId(7));
        let sdus = sdus(9);
        net.input("a", Input::Upper(FlowId(7), batch(margin, &sdus)));
        let mut pdus = kept.borrow_mut().split_off(0);
        net.tamper = None;
        *pdus[bad].last_mut().unwrap() ^= 1;
        give(&mut net, "a", "b", &pdus);
        let mut expected = sdus;
        expected.remove(bad);
        assert_eq!(read(&mut net, "b", 7), expected);
    }
}

#[test]
fn a_train_for_the_next_member_and_this_one_goes_to_both_in_order() {
    let mut net = line();
    register(&mut net, "b", "near");
    register(&mut net, "c", "far");
    flow(&mut net, "a", "b", "near", 7, QosSpec::RAW);
    flow(&mut net, "a", "c", "far", 8, QosSpec::RAW);
    net.seconds(1);
    let longer = super::super::whole::ROUTED.len() - super::super::whole::DIRECT.len();
    for mixed in [false, true] {
        let kept = keep(&mut net, "a", "b");
        for (id, numbers) in [(8, 0..3), (7, 3..5), (8, 5..9)] {
            let size = SIZE + if id == 7 { longer } else { 0 };
            let sdus: Vec<_> = numbers.map(|n| vec![n; size]).collect();
            if mixed || id == 8 {
                let margin = net.node("a").machine.margin(FlowId(id));
                net.input("a", Input::Upper(FlowId(id), batch(margin, &sdus)));
            }
        }
        let pdus = kept.borrow_mut().split_off(0);
        net.tamper = None;
        give(&mut net, "a", "b", &pdus);
        let numbers = |sdus: Vec<Vec<u8>>| sdus.into_iter().map(|sdu| sdu[0]).collect::<Vec<_>>();
        assert_eq!(numbers(read(&mut net, "c", 8)), [0, 1, 2, 5, 6, 7, 8]);
        let near = if mixed { vec![3, 4] } else { Vec::new() };
        assert_eq!(numbers(read(&mut net, "b", 7)), near);
    }
}
