//! Tables for people: aligned columns, no lines. What isn't known is a dash.

use std::fmt::Write;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use proto::irm as pb;
use proto::{Addr, QosSpec};

use super::bold;
use crate::duration::words;

/// One table with its heads; `none` is said when there is no row.
pub(crate) fn table(heads: &[&str], rows: Vec<Vec<String>>, none: &str) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
    }
    let mut table = Table::new();
    // A row stays one line whatever the terminal's width, so that it can be cut by other tools.
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads.to_vec());
    for row in rows {
        table.add_row(row.into_iter().map(dash));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out = String::new();
    for (i, line) in table.lines().enumerate() {
        let line = line.trim_end();
        out.push_str(&if i == 0 { bold(line) } else { line.to_owned() });
        out.push('\n');
    }
    out
}

pub(crate) fn ipcps(list: &[pb::IpcpInfo]) -> String {
    let row = |i: &pb::IpcpInfo| {
        let layer = i.layer.clone();
        vec![
            i.name.clone(),
            i.r#type.clone(),
            layer,
            i.state.clone(),
            number(i.pid.into()),
            address(i.address),
            i.detail.clone(),
        ]
    };
    let heads = ["NAME", "TYPE", "LAYER", "STATE", "PID", "ADDRESS", "DETAIL"];
    table(
        &heads,
        list.iter().map(row).collect(),
        "no IPCPs; make one with irm ipcp bootstrap",
    )
}

pub(crate) fn members(list: &[pb::Member], now: Duration) -> String {
    let row = |m: &pb::Member| {
        let reach = if m.reachable { "yes" } else { "no" };
        let mut row = vec![m.name.clone(), address(m.address), reach.to_owned()];
        row.extend([
            m.neighbours.join(","),
            m.prefixes.join(","),
            m.groups.join(","),
            expires(m.cert_expires, now),
            m.issuer.clone(),
            m.serial.clone(),
        ]);
        row
    };
    let heads = [
        "NAME",
        "ADDRESS",
        "REACHABLE",
        "NEIGHBOURS",
        "PREFIXES",
        "GROUPS",
        "CERTIFICATE",
        "ISSUER",
        "SERIAL",
    ];
    table(&heads, list.iter().map(row).collect(), "no members")
}

/// Whom the members of a layer believe.
pub(crate) fn trust(t: &pb::LayerTrust, now: Duration) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "{key:<20}{}", dash(value));
    };
    for root in &t.roots {
        let ends = match (root.ends, t.until) {
            (false, _) => "issues".to_owned(),
            (true, 0) => "ends with irm layer rollover --finish".to_owned(),
            (true, until) => format!("ends {}", expires(until, now)),
        };
        let short: String = root.fingerprint.chars().take(16).collect();
        let expires = expires(root.expires, now);
        line("root", format!("{short}, expires {expires}, {ends}"));
    }
    line("held by", t.holder.clone());
    line("issuers", t.issuers.join(", "));
    line(
        "certificates live",
        words(Duration::from_secs(t.cert_life_s)),
    );
    let held = match (t.held.as_str(), t.key.as_str()) {
        ("", _) => "nothing".to_owned(),
        (held, "") => held.to_owned(),
        (held, key) => format!("{held}, key {key}"),
    };
    line("held here", held);
    if !t.pools.is_empty() {
        line("pools", t.pools.join(", "));
    }
    if t.roots.len() > 1 {
        line("not renewed", t.waiting.join(", "));
    }
    out
}

pub(crate) fn routes(list: &[pb::Route]) -> String {
    let row = |r: &pb::Route| {
        vec![
            r.member.clone(),
            address(r.address),
            r.next_hops.join(", "),
            dash(r.alternate.clone()),
            r.hops.to_string(),
            r.cost.to_string(),
            micros(r.rtt_us),
            loss(r.loss_permille),
            r.mtu.to_string(),
        ]
    };
    table(
        &[
            "MEMBER",
            "ADDRESS",
            "NEXT HOP",
            "ALTERNATE",
            "HOPS",
            "COST",
            "RTT",
            "LOSS",
            "MTU",
        ],
        list.iter().map(row).collect(),
        "no routes",
    )
}

pub(crate) fn flows(list: &[pb::FlowInfo]) -> String {
    let row = |f: &pb::FlowInfo| {
        let qos = f
            .qos
            .and_then(|q| QosSpec::try_from(q).ok())
            .map(|q| q.to_string())
            .unwrap_or_default();
        let way = if f.layer.is_empty() {
            "(this host)".to_owned()
        } else {
            f.layer.clone()
        };
        let sealed = match (f.encrypted, f.key_exchange.as_str()) {
            (false, _) => "no",
            (true, "") => "yes",
            (true, exchange) => exchange,
        };
        let mut row = vec![
            f.id.to_string(),
            f.name.clone(),
            way,
            f.state.clone(),
            qos,
            peer(f),
            sealed.to_owned(),
        ];
        row.extend([bytes(f.rx_bytes), bytes(f.tx_bytes), micros(f.rtt_us)]);
        row
    };
    let heads = [
        "ID",
        "NAME",
        "LAYER",
        "STATE",
        "QOS",
        "PEER",
        "ENCRYPTED",
        "RECEIVED",
        "SENT",
        "RTT",
    ];
    table(&heads, list.iter().map(row).collect(), "no flows")
}

pub(crate) fn names(list: &[pb::NameInfo]) -> String {
    let binding = |b: &pb::Binding| {
        if b.program.is_empty() {
            format!("pid {}", b.pid)
        } else {
            b.program.clone()
        }
    };
    let row = |n: &pb::NameInfo| {
        let bound: Vec<String> = n.bindings.iter().map(binding).collect();
        vec![
            n.name.clone(),
            n.state.clone(),
            n.layers.join(","),
            n.listeners.join(","),
            bound.join(","),
        ]
    };
    table(
        &["NAME", "STATE", "LAYERS", "LISTENERS", "BOUND"],
        list.iter().map(row).collect(),
        "no names; make one with irm name create",
    )
}

pub(crate) fn vpns(list: &[pb::VpnInfo]) -> String {
    match list {
        [] => "no VPN; bring one up with irm vpn up\n".to_owned(),
        all => all.iter().map(vpn).collect(),
    }
}

fn vpn(vpn: &pb::VpnInfo) -> String {
    let mut out = String::new();
    let address = match &vpn.addresses[..] {
        [] => "no address".to_owned(),
        all => all.join(", "),
    };
    let detail = match &*vpn.detail {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    let dev = dash(vpn.dev.clone());
    let kind = match vpn.tap {
        true => {
            let macs = vpn.counters.get("macs").copied().unwrap_or_default();
            format!("Ethernet, {macs} addresses known")
        }
        false => format!("super-packets: {}", dash(vpn.offload.clone())),
    };
    // Writing to a String can't fail.
    let _ = writeln!(
        out,
        "{dev}: layer {}, {}{detail}, {address}, MTU {}, {kind}",
        vpn.layer, vpn.state, vpn.mtu,
    );
    let row = |p: &pb::VpnPeer| {
        let mut row = vec![
            p.name.clone(),
            p.state.clone(),
            match vpn.tap {
                true => p.macs.to_string(),
                false => p.prefixes.join(","),
            },
            p.path.clone(),
        ];
        row.extend([micros(p.rtt_us), bytes(p.rx_bytes), bytes(p.tx_bytes)]);
        row
    };
    let third = if vpn.tap { "ADDRESSES" } else { "PREFIXES" };
    let heads = ["PEER", "STATE", third, "PATH", "RTT", "RECEIVED", "SENT"];
    out.push_str(&table(
        &heads,
        vpn.peers.iter().map(row).collect(),
        "no peers",
    ));
    for peer in &vpn.peers {
        let other = peer.flows.iter().filter(|f| f.qos != "raw");
        for flow in other {
            let (received, sent) = (bytes(flow.rx_bytes), bytes(flow.tx_bytes));
            let _ = writeln!(
                out,
                "{} {}: {}, {received} received, {sent} sent",
                peer.name, flow.qos, flow.state
            );
        }
    }
    for offer in &vpn.offers {
        let taken = if offer.taken { "taken" } else { "not taken" };
        let _ = writeln!(
            out,
            "{} offers {}: {taken}, {}",
            offer.member, offer.network, offer.why
        );
    }
    out
}

/// The overview of `irm status`.
pub(crate) fn status(s: &pb::StatusReply, now: Duration) -> String {
    let d = s.daemon.clone().unwrap_or_default();
    let up = words(Duration::from_millis(d.uptime_ms));
    let mut out = format!(
        "irmd {} in {}, pid {}, up for {up}\n",
        d.version, d.run_dir, d.pid
    );
    for warning in &s.warnings {
        let _ = writeln!(out, "{} {warning}", bold("warning:"));
    }
    section(&mut out, "IPCPs", &ipcps(&s.ipcps));
    if !s.layers.is_empty() {
        let row = |l: &pb::LayerInfo| {
            vec![
                l.name.clone(),
                l.r#type.clone(),
                l.ipcps.join(","),
                number(l.members.into()),
            ]
        };
        let rows = s.layers.iter().map(row).collect();
        section(
            &mut out,
            "Layers",
            &table(&["NAME", "TYPE", "IPCPS", "MEMBERS"], rows, ""),
        );
    }
    let certificates: Vec<Vec<String>> =
        s.ipcps.iter().filter_map(|i| certificate(i, now)).collect();
    if !certificates.is_empty() {
        section(
            &mut out,
            "Certificates",
            &table(
                &["MEMBER", "LAYER", "EXPIRES", "PREFIXES"],
                certificates,
                "",
            ),
        );
    }
    let sockets: Vec<Vec<String>> = s.ipcps.iter().filter_map(offloads).collect();
    if !sockets.is_empty() {
        let heads = [
            "IPCP",
            "SOCKETS",
            "GSO AT",
            "GSO ENDED AT",
            "GRO AT",
            "KERNEL",
        ];
        section(&mut out, "UDP", &table(&heads, sockets, ""));
    }
    section(&mut out, "Names", &names(&s.names));
    section(&mut out, "Flows", &flows(&s.flows));
    if !s.vpns.is_empty() {
        section(&mut out, "VPN", &vpns(&s.vpns));
    }
    out
}

/// Who is at the other end: the authenticated member, else the program that a direct flow of this host goes to.
pub(crate) fn peer(f: &pb::FlowInfo) -> String {
    let Some(peer) = &f.peer else {
        return String::new();
    };
    if peer.member.is_empty() {
        peer.name.clone()
    } else {
        peer.member.clone()
    }
}

/// An address, or nothing for none.
pub(crate) fn address(address: u64) -> String {
    if address == 0 {
        String::new()
    } else {
        Addr(address).to_string()
    }
}

/// Bytes in the largest unit of 1000 that leaves a number.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1000.0, 0);
    while value >= 999.95 && unit + 1 < units.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    format!("{value:.1} {}", units[unit])
}

fn section(out: &mut String, head: &str, body: &str) {
    let _ = write!(out, "\n{}\n{body}", bold(&format!("{head}:")));
}

fn certificate(i: &pb::IpcpInfo, now: Duration) -> Option<Vec<String>> {
    let said = i.status.as_ref().filter(|s| s.cert_expires > 0)?;
    Some(vec![
        said.member.clone(),
        i.layer.clone(),
        expires(said.cert_expires, now),
        said.prefixes.join(","),
    ])
}

/// At how many of its UDP sockets an IPC process uses which offload, if it has any, and what the kernel can.
fn offloads(i: &pb::IpcpInfo) -> Option<Vec<String>> {
    let settings = &i.status.as_ref()?.settings;
    let said = |key: &str| settings.get(key).cloned().unwrap_or_default();
    let counts = [
        "lower.udp_sockets",
        "offload.gso_sockets",
        "offload.gso_ended",
        "offload.gro_sockets",
        "offload.kernel",
    ];
    let row = [i.name.clone()].into_iter().chain(counts.map(said));
    let any = !matches!(&*said("lower.udp_sockets"), "" | "0");
    any.then(|| row.collect())
}

fn expires(unix: u64, now: Duration) -> String {
    match Duration::from_secs(unix).checked_sub(now) {
        _ if unix == 0 => String::new(),
        Some(left) => format!("in {}", words(left)),
        None => "expired".to_owned(),
    }
}

fn micros(us: u64) -> String {
    match us {
        0 => String::new(),
        _ => format!("{:.3} ms", us as f64 / 1000.0),
    }
}

fn loss(permille: u32) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

fn number(n: u64) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

fn dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_gaps_are_dashes() {
        let list = [
            pb::IpcpInfo {
                name: "w1".into(),
                r#type: "shim-udp".into(),
                layer: "net".into(),
                state: "up".into(),
                pid: 12,
                ..Default::default()
            },
            pb::IpcpInfo {
                name: "ovl-a".into(),
                r#type: "unicast".into(),
                state: "waiting".into(),
                address: 0xab,
                ..Default::default()
            },
        ];
        let wanted = "\
NAME   TYPE      LAYER  STATE    PID  ADDRESS           DETAIL
w1     shim-udp  net    up       12   -                 -
ovl-a  unicast   -      waiting  -    00000000000000ab  -
";
        assert_eq!(ipcps(&list), wanted);
        assert_eq!(ipcps(&[]), "no IPCPs; make one with irm ipcp bootstrap\n");
    }

    #[test]
    fn sockets_are_shown_with_their_offloads_of_who_has_any() {
        let ipcp = |name: &str, sockets: &str| {
            let settings = [
                ("lower.udp_sockets", sockets),
                ("offload.gso_sockets", "1"),
                ("offload.gso_ended", "1"),
                ("offload.gro_sockets", "0"),
                ("offload.kernel", "gso,gro"),
            ];
            let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
            pb::IpcpInfo {
                name: name.into(),
                status: Some(pb::IpcpStatus {
                    settings: settings.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let reply = pb::StatusReply {
            ipcps: vec![ipcp("udp", "0"), ipcp("ovl-a", "2")],
            ..Default::default()
        };
        let shown = status(&reply, Duration::ZERO);
        let wanted = "\
IPCP   SOCKETS  GSO AT  GSO ENDED AT  GRO AT  KERNEL
ovl-a  2        1       1             0       gso,gro
";
        assert!(shown.contains(wanted), "{shown}");
    }

    #[test]
    fn members_are_shown_with_their_groups_and_who_certified_them() {
        let member = pb::Member {
            name: "ovl-b".into(),
            address: 0xab,
            groups: vec!["lab".into(), "ops".into()],
            issuer: "ovl-a".into(),
            serial: "4f01".into(),
            reachable: true,
            ..Default::default()
        };
        let wanted = "\
NAME   ADDRESS           REACHABLE  NEIGHBOURS  PREFIXES  GROUPS   CERTIFICATE  ISSUER  SERIAL
ovl-b  00000000000000ab  yes        -           -         lab,ops  -            ovl-a   4f01
";
        assert_eq!(members(&[member], Duration::ZERO), wanted);
    }

    #[test]
    fn a_change_of_the_root_shows_which_ends_and_who_has_not_renewed() {
        let root = |fingerprint: &str, ends| pb::Root {
            fingerprint: fingerprint.into(),
            expires: 86_400,
            ends,
        };
        let trust = pb::LayerTrust {
            roots: vec![root("aa", false), root("bb", true)],
            holder: "ovl-a".into(),
            waiting: vec!["ovl-c".into()],
            held: "root".into(),
            key: "sealed".into(),
            cert_life_s: 600,
            ..Default::default()
        };
        let wanted = "\
root                aa, expires in 1 d, issues
root                bb, expires in 1 d, ends with irm layer rollover --finish
held by             ovl-a
issuers             -
certificates live   10 min
held here           root, key sealed
not renewed         ovl-c
";
        assert_eq!(super::trust(&trust, Duration::ZERO), wanted);
    }

    #[test]
    fn bytes_have_the_largest_unit() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_999, "1.0 MB"),
            (1_500_000, "1.5 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn a_certificate_says_how_long_it_lasts() {
        let now = Duration::from_secs(1000);
        assert_eq!(expires(1000 + 3 * 86_400, now), "in 3 d");
        assert_eq!(expires(999, now), "expired");
        assert_eq!(expires(0, now), "");
    }

    #[test]
    fn the_overview_shows_warnings_before_anything_else() {
        let s = pb::StatusReply {
            warnings: vec!["disk full".into()],
            ..Default::default()
        };
        let text = status(&s, Duration::ZERO);
        assert_eq!(text.lines().nth(1), Some("warning: disk full"));
        assert!(text.contains("no flows"));
    }
}
