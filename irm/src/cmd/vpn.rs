//! `irm vpn`.

use proto::Reason;
use proto::irm as pb;
use serde_json::json;

use super::Context;
use crate::args::{Up, VpnVerb, Which};
use crate::client::{GRACE, QUICK, answer};
use crate::duration::millis;
use crate::out::{json, table};
use crate::progress::progress;

pub(crate) async fn run(c: &Context, verb: VpnVerb) -> Result<(), Reason> {
    match verb {
        VpnVerb::Up(args) => up(c, args).await,
        VpnVerb::Down(which) => {
            let mut admin = c.admin().await?;
            progress(
                "taking the VPN down",
                answer(QUICK, admin.rpc.vpn_down(reference(which))),
            )
            .await?;
            c.out.done()
        }
        VpnVerb::Status(which) => status(c, which).await,
    }
}

async fn up(c: &Context, args: Up) -> Result<(), Reason> {
    let request = pb::VpnUpRequest {
        layer: args.layer.to_string(),
        address: args.address.map(|a| a.to_string()).unwrap_or_default(),
        dev: args.dev.unwrap_or_default(),
        routes: args
            .routes
            .iter()
            .map(|r| format!("{}={}", r.prefix, r.member))
            .collect(),
        tap: args.tap,
        offload_tun: args
            .offload
            .map(|tun| tun.0.to_string())
            .unwrap_or_default(),
        ways: Some(pb::VpnWays {
            offers: args.offers.iter().map(ToString::to_string).collect(),
            accept: args.accept_routes,
            exit: args.exit.map(|m| m.to_string()).unwrap_or_default(),
            names: args.dns.unwrap_or_default(),
        }),
        traffic: Some(pb::VpnTraffic {
            keep_mss: !args.mss_clamp,
            idle_ms: args.idle.map(millis),
            one_class: !args.dscp,
        }),
        timeout_ms: millis(args.timeout),
    };
    let mut admin = c.admin().await?;
    let vpn = progress(
        "bringing the VPN up",
        answer(args.timeout + GRACE, admin.rpc.vpn_up(request)),
    )
    .await?;
    c.out
        .answer(json::vpn(&vpn), || table::vpns(std::slice::from_ref(&vpn)))
}

async fn status(c: &Context, which: Which) -> Result<(), Reason> {
    let vpns = answer(QUICK, c.admin().await?.rpc.vpn_status(reference(which)))
        .await?
        .vpns;
    c.out.answer(shown(&vpns), || table::vpns(&vpns))
}

/// Every VPN, and the peers of all of them at the top: most hosts have one.
fn shown(vpns: &[pb::VpnInfo]) -> serde_json::Value {
    json!({
        "state": if vpns.iter().any(|v| v.state == "up") { "up" } else { "down" },
        "peers": vpns.iter().flat_map(|v| &v.peers).map(json::vpn_peer).collect::<Vec<_>>(),
        "vpns": vpns.iter().map(json::vpn).collect::<Vec<_>>(),
    })
}

fn reference(which: Which) -> pb::VpnRef {
    pb::VpnRef {
        layer: which.layer.map(|l| l.to_string()).unwrap_or_default(),
        dev: which.dev.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_of_all_vpns_are_at_the_top() {
        let vpn = |peer: &str| pb::VpnInfo {
            state: "up".into(),
            peers: vec![pb::VpnPeer {
                name: peer.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let both = shown(&[vpn("b"), vpn("c")]);
        assert_eq!(
            (&both["state"], &both["peers"][1]["name"]),
            (&json!("up"), &json!("c"))
        );
        assert_eq!(
            shown(&[]),
            json!({"state": "down", "peers": [], "vpns": []})
        );
    }
}
