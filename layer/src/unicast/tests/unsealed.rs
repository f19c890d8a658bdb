//! Whoever runs a machine may put its seals on, in any order.

use proto::{Batch, FlowId, Framing, QosSpec};

use super::flows::{flow, line, read, register};
use super::*;
use crate::{Input, Ipcp, Output, Unsealed};

const SIZE: usize = 1000;

/// What the machine of `a` leaves unsealed when its user writes so many SDUs; anything else goes.
fn left(net: &mut Net, flow: u64, sdus: std::ops::Range<u8>) -> Vec<(FlowId, Unsealed)> {
    let now = net.now();
    for n in sdus {
        let mut record = Batch::new(Framing::Record);
        record.push(SIZE).unwrap().fill(n);
        let input = Input::Upper(FlowId(flow), record);
        net.node("a").machine.handle(now, input);
    }
    let mut left = Vec::new();
    while let Some(output) = net.node("a").machine.poll() {
        if let Output::Unsealed(to, unsealed) = output {
            left.push((to, unsealed));
        } else {
            net.output("a", output);
        }
    }
    left
}

#[test]
fn seals_are_put_on_by_others_in_another_order() {
    for (to, name) in [("b", "near"), ("c", "far")] {
        let mut net = line();
        register(&mut net, to, name);
        flow(&mut net, "a", to, name, 7, QosSpec::RAW);
        net.node("a").machine.leave_seals(true);
        let before = status(&mut net, to).counters;
        let unsealed = left(&mut net, 7, 0..200);
        assert!(unsealed.len() > 1, "more than one batch");
        assert!(unsealed.iter().all(|(_, batch)| batch.bytes() > SIZE));
        let last_first = unsealed.into_iter().rev();
        let sealed = last_first.map(|(lower, unsealed)| (lower, unsealed.seal()));
        let mut sealed: Vec<_> = sealed.collect();
        while let Some((lower, batch)) = sealed.pop() {
            net.output("a", Output::Lower(lower, batch));
        }
        let sdus: Vec<_> = (0..200).map(|n| vec![n; SIZE]).collect();
        assert_eq!(read(&mut net, to, 7), sdus, "{name}");
        let drops = |mut counters: std::collections::HashMap<String, u64>| {
            counters.retain(|what, _| what.starts_with("drop."));
            counters
        };
        assert_eq!(drops(status(&mut net, to).counters), drops(before));
    }
}

#[test]
fn what_is_never_sealed_is_lost_and_nothing_else_is() {
    let mut net = line();
    register(&mut net, "b", "near");
    flow(&mut net, "a", "b", "near", 7, QosSpec::RAW);
    net.node("a").machine.leave_seals(true);
    drop(left(&mut net, 7, 0..10));
    // A machine that has left some seals puts on the next by itself, behind those.
    net.node("a").machine.leave_seals(false);
    assert!(left(&mut net, 7, 10..20).is_empty());
    let sdus: Vec<_> = (10..20).map(|n| vec![n; SIZE]).collect();
    assert_eq!(read(&mut net, "b", 7), sdus);
}
