//! The JSON shapes of the command line. Keys are stable: add freely, never rename or drop.
//!
//! What isn't known is `null`. Addresses are 16 hex digits; times are Unix seconds, durations say their unit.

use proto::irm as pb;
use proto::{Addr, QosSpec};
use serde_json::{Map, Value, json};

/// `ipcps[]`.
pub(crate) fn ipcp(i: &pb::IpcpInfo) -> Value {
    json!({
        "name": i.name,
        "type": i.r#type,
        "layer": text(&i.layer),
        "state": i.state,
        "pid": number(i.pid.into()),
        "address": address(i.address),
        "detail": text(&i.detail),
        "over": i.over,
        "restarts": i.restarts,
    })
}

/// `members[]`.
pub(crate) fn member(m: &pb::Member) -> Value {
    json!({
        "name": m.name,
        "address": address(m.address),
        "neighbours": m.neighbours,
        "cert_expires": number(m.cert_expires),
        "prefixes": m.prefixes,
        "reachable": m.reachable,
        "groups": m.groups,
        "issuer": m.issuer,
        "serial": m.serial,
    })
}

/// `layer show`, and `trust` of an IPCP's status.
pub(crate) fn trust(t: &pb::LayerTrust) -> Value {
    let root = |r: &pb::Root| json!({"fingerprint": r.fingerprint, "expires": number(r.expires), "ends": r.ends});
    json!({
        "holder": text(&t.holder),
        "issuers": t.issuers,
        "cert_life_s": number(t.cert_life_s),
        "roots": t.roots.iter().map(root).collect::<Vec<_>>(),
        "rollover": t.roots.len() > 1,
        "until": number(t.until),
        "waiting": t.waiting,
        "held": text(&t.held),
        "key": text(&t.key),
        "own_ends": t.own_ends,
        "pools": t.pools,
    })
}

/// `routes[]`.
pub(crate) fn route(r: &pb::Route) -> Value {
    json!({
        "member": r.member,
        "address": address(r.address),
        "next_hop": r.next_hop,
        "cost": r.cost,
        "mtu": r.mtu,
        "hops": r.hops,
        "next_hops": r.next_hops,
        "alternate": text(&r.alternate),
        "rtt_us": number(r.rtt_us),
        "loss_permille": r.loss_permille,
    })
}

/// `links[]`.
pub(crate) fn link(l: &pb::Link) -> Value {
    json!({
        "member": l.member,
        "lower_layer": l.lower_layer,
        "state": l.state,
        "rtt_us": number(l.rtt_us),
        "loss_permille": l.loss_permille,
        "mtu": l.mtu,
        "cost": l.cost,
        "key_exchange": text(&l.key_exchange),
        "rx_bytes": l.rx_bytes,
        "tx_bytes": l.tx_bytes,
    })
}

/// `flows[]`. `peer` is the authenticated member, or the other program's name on this host.
pub(crate) fn flow(f: &pb::FlowInfo) -> Value {
    let peer = f.peer.clone().unwrap_or_default();
    json!({
        "id": f.id,
        "name": f.name,
        "layer": text(&f.layer),
        "state": f.state,
        "qos": qos(f),
        "peer": text(&super::table::peer(f)),
        "peer_member": text(&peer.member),
        "peer_name": text(&peer.name),
        "encrypted": f.encrypted,
        "key_exchange": text(&f.key_exchange),
        "rx_bytes": f.rx_bytes,
        "tx_bytes": f.tx_bytes,
        "rtt_us": number(f.rtt_us),
        "mtu": f.mtu,
        "uid": f.uid,
        "incoming": f.incoming,
    })
}

/// `names[]`.
pub(crate) fn name(n: &pb::NameInfo) -> Value {
    json!({
        "name": n.name,
        "layers": n.layers,
        "state": n.state,
        "listeners": n.listeners,
        "bindings": n.bindings.iter().map(binding).collect::<Vec<_>>(),
    })
}

/// `vpns[]`.
pub(crate) fn vpn(v: &pb::VpnInfo) -> Value {
    let ways = v.ways.clone().unwrap_or_default();
    let traffic = v.traffic.unwrap_or_default();
    json!({
        "layer": v.layer,
        "dev": text(&v.dev),
        "state": v.state,
        "mode": if v.tap { "tap" } else { "tun" },
        "addresses": v.addresses,
        "mtu": v.mtu,
        "pid": number(v.pid.into()),
        "offload": text(&v.offload),
        "detail": text(&v.detail),
        "peers": v.peers.iter().map(vpn_peer).collect::<Vec<_>>(),
        "offers": v.offers.iter().map(vpn_offer).collect::<Vec<_>>(),
        "offering": ways.offers,
        "exit": text(&ways.exit),
        "dns": text(&ways.names),
        "idle_ms": traffic.idle_ms,
        "mss_clamp": !traffic.keep_mss,
        "dscp": !traffic.one_class,
        "macs": v.counters.get("macs"),
        "counters": counters(&v.counters),
    })
}

/// `peers[]` of `vpn status`.
pub(crate) fn vpn_peer(p: &pb::VpnPeer) -> Value {
    json!({
        "name": p.name,
        "prefixes": p.prefixes,
        "state": p.state,
        "path": text(&p.path),
        "rtt_us": number(p.rtt_us),
        "rx_bytes": p.rx_bytes,
        "tx_bytes": p.tx_bytes,
        "filtered": p.filtered,
        "macs": p.macs,
        "flows": p.flows.iter().map(vpn_flow).collect::<Vec<_>>(),
    })
}

fn vpn_flow(f: &pb::VpnFlow) -> Value {
    json!({"qos": f.qos, "state": f.state, "id": number(f.flow), "rx_bytes": f.rx_bytes, "tx_bytes": f.tx_bytes})
}

fn vpn_offer(o: &pb::VpnOffer) -> Value {
    json!({"network": o.network, "member": o.member, "taken": o.taken, "why": text(&o.why)})
}

/// All of `status`, counters too.
pub(crate) fn status(s: &pb::StatusReply) -> Value {
    let daemon = s.daemon.clone().unwrap_or_default();
    json!({
        "daemon": {
            "version": daemon.version,
            "pid": daemon.pid,
            "run_dir": daemon.run_dir,
            "state_dir": daemon.state_dir,
            "uptime_ms": daemon.uptime_ms,
        },
        "ipcps": s.ipcps.iter().map(ipcp_whole).collect::<Vec<_>>(),
        "layers": s.layers.iter().map(layer).collect::<Vec<_>>(),
        "flows": s.flows.iter().map(flow).collect::<Vec<_>>(),
        "names": s.names.iter().map(name).collect::<Vec<_>>(),
        "vpns": s.vpns.iter().map(vpn).collect::<Vec<_>>(),
        "warnings": s.warnings,
        "counters": counters(&s.counters),
    })
}

/// One line of `events`.
pub(crate) fn event(e: &pb::Event) -> Value {
    let fields: std::collections::BTreeMap<_, _> = e.fields.iter().collect();
    json!({"time_ms": e.time_ms, "kind": e.kind, "text": e.text, "fields": fields})
}

/// An IPCP with what it says of itself.
fn ipcp_whole(i: &pb::IpcpInfo) -> Value {
    let mut whole = ipcp(i);
    let said = i.status.as_ref().map_or(Value::Null, |s| {
        let settings: std::collections::BTreeMap<_, _> = s.settings.iter().collect();
        json!({
            "state": s.state,
            "member": text(&s.member),
            "cert_expires": number(s.cert_expires),
            "prefixes": s.prefixes,
            "trust": s.trust.as_ref().map_or(Value::Null, trust),
            "names": s.names,
            "members": s.members.iter().map(member).collect::<Vec<_>>(),
            "routes": s.routes.iter().map(route).collect::<Vec<_>>(),
            "links": s.links.iter().map(link).collect::<Vec<_>>(),
            "flows": s.flows.iter().map(flow).collect::<Vec<_>>(),
            "directory": s.directory.iter().map(|e| json!({"name_hash": e.name_hash, "member": e.member, "kind": e.kind})).collect::<Vec<_>>(),
            "settings": settings,
            "warnings": s.warnings,
            "counters": counters(&s.counters),
        })
    });
    if let Value::Object(keys) = &mut whole {
        keys.insert("status".to_owned(), said);
    }
    whole
}

fn layer(l: &pb::LayerInfo) -> Value {
    json!({"name": l.name, "type": l.r#type, "ipcps": l.ipcps, "members": l.members})
}

fn binding(b: &pb::Binding) -> Value {
    json!({"program": text(&b.program), "pid": number(b.pid.into()), "auto": b.auto, "args": b.args})
}

fn qos(f: &pb::FlowInfo) -> Value {
    text(
        &f.qos
            .and_then(|q| QosSpec::try_from(q).ok())
            .map(|q| q.to_string())
            .unwrap_or_default(),
    )
}

/// Sorted, so that two answers can be compared.
fn counters(map: &std::collections::HashMap<String, u64>) -> Value {
    let mut sorted: Vec<_> = map.iter().collect();
    sorted.sort();
    Value::Object(
        sorted
            .into_iter()
            .map(|(key, n)| (key.clone(), json!(n)))
            .collect::<Map<_, _>>(),
    )
}

fn address(address: u64) -> Value {
    if address == 0 {
        Value::Null
    } else {
        Addr(address).to_string().into()
    }
}

fn text(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        text.into()
    }
}

fn number(n: u64) -> Value {
    if n == 0 { Value::Null } else { n.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(value: &Value) -> Vec<&str> {
        value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect()
    }

    fn has(value: &Value, wanted: &[&str]) {
        let have = keys(value);
        for key in wanted {
            assert!(have.contains(key), "{key} is missing in {have:?}");
        }
    }

    #[test]
    fn the_promised_keys_are_there() {
        has(
            &ipcp(&pb::IpcpInfo::default()),
            &["name", "type", "layer", "state", "pid", "address"],
        );
        has(
            &member(&pb::Member::default()),
            &["name", "address", "neighbours", "cert_expires"],
        );
        has(
            &flow(&pb::FlowInfo::default()),
            &[
                "id",
                "name",
                "layer",
                "state",
                "qos",
                "peer",
                "encrypted",
                "key_exchange",
                "rx_bytes",
                "tx_bytes",
                "rtt_us",
            ],
        );
        has(
            &vpn_peer(&pb::VpnPeer::default()),
            &[
                "name", "prefixes", "state", "path", "rtt_us", "rx_bytes", "tx_bytes",
            ],
        );
        has(
            &status(&pb::StatusReply::default()),
            &[
                "daemon", "ipcps", "layers", "flows", "names", "vpns", "warnings", "counters",
            ],
        );
    }

    #[test]
    fn an_ipcp_shows_its_address_as_16_hex_digits_and_the_unknown_as_null() {
        let shim = pb::IpcpInfo {
            name: "w1".into(),
            r#type: "shim-udp".into(),
            state: "waiting".into(),
            ..Default::default()
        };
        assert_eq!(
            ipcp(&shim).to_string(),
            r#"{"address":null,"detail":null,"layer":null,"name":"w1","over":[],"pid":null,"restarts":0,"state":"waiting","type":"shim-udp"}"#
        );
        let member = pb::IpcpInfo {
            address: 0x1f,
            pid: 7,
            layer: "ovl".into(),
            ..shim
        };
        let shown = ipcp(&member);
        assert_eq!(
            (&shown["address"], &shown["pid"]),
            (&json!("000000000000001f"), &json!(7))
        );
    }

    #[test]
    fn a_flow_shows_its_authenticated_peer_and_its_qos_as_a_word() {
        let peer = pb::Peer {
            name: "client".into(),
            layer: "ovl".into(),
            member: "ovl-a".into(),
        };
        let info = pb::FlowInfo {
            id: 3,
            peer: Some(peer),
            qos: Some(QosSpec::RAW.into()),
            encrypted: true,
            ..Default::default()
        };
        let shown = flow(&info);
        assert_eq!(
            (&shown["peer"], &shown["qos"], &shown["encrypted"]),
            (&json!("ovl-a"), &json!("raw"), &json!(true))
        );
        let local = pb::FlowInfo {
            peer: Some(pb::Peer {
                name: "client".into(),
                ..Default::default()
            }),
            ..info
        };
        assert_eq!(flow(&local)["peer"], json!("client"));
    }

    #[test]
    fn status_carries_the_counters_of_irmd_and_of_every_ipcp() {
        let said = pb::IpcpStatus {
            counters: [("drop.forged".to_owned(), 2)].into(),
            ..Default::default()
        };
        let reply = pb::StatusReply {
            ipcps: vec![pb::IpcpInfo {
                status: Some(said),
                ..Default::default()
            }],
            counters: [("alloc.ok".to_owned(), 5)].into(),
            ..Default::default()
        };
        let shown = status(&reply);
        assert_eq!(shown["counters"], json!({"alloc.ok": 5}));
        assert_eq!(
            shown["ipcps"][0]["status"]["counters"],
            json!({"drop.forged": 2})
        );
    }

    #[test]
    fn an_event_is_one_line() {
        let fields = [("member".to_owned(), "b\nc".to_owned())].into();
        let e = pb::Event {
            time_ms: 5,
            kind: "neighbour.down".into(),
            text: "b is gone".into(),
            fields,
        };
        assert_eq!(
            event(&e).to_string(),
            r#"{"fields":{"member":"b\nc"},"kind":"neighbour.down","text":"b is gone","time_ms":5}"#
        );
    }
}
