//! Networks behind members, over real daemons and routers.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::{Host, Line, until};

const TEN: Duration = Duration::from_secs(10);

fn forward(host: &Host, on: u8) {
    let script = format!(
        "echo {on} > /proc/sys/net/ipv4/ip_forward; echo {on} > /proc/sys/net/ipv6/conf/all/forwarding"
    );
    let out = host.run("sh", ["-c", &script]).unwrap();
    assert_eq!(out.code, 0, "{}", out.stderr);
}

fn pings(host: &Host, to: &str) -> anyhow::Result<()> {
    let ping = ["ping", to, "-c", "3", "-i", "10"];
    let out = host.run("lab-tool", ping)?;
    let json: Value = serde_json::from_str(&out.stdout)?;
    anyhow::ensure!(json["received"] == 3, "{to}: {json}");
    Ok(())
}

/// Whether a network is taken, and why or why not, by the host's VPN.
fn taken(host: &Host, network: &str) -> anyhow::Result<(bool, String)> {
    let status = host.irm_json("vpn status")?;
    let offers = status["vpns"][0]["offers"].as_array().cloned();
    let offer = offers
        .unwrap_or_default()
        .into_iter()
        .find(|o| o["network"] == network);
    let offer = offer.ok_or_else(|| anyhow::anyhow!("{network} is not offered: {status}"))?;
    let why = offer["why"].as_str().unwrap_or_default().to_owned();
    Ok((offer["taken"] == true, why))
}

/// Waits until a network is taken, or isn't, for this reason.
fn becomes(host: &Host, network: &str, is: bool, because: &str) {
    until(TEN, || {
        let (taken, why) = taken(host, network)?;
        let fits = taken == is && why.contains(because);
        anyhow::ensure!(fits, "{network}: {taken}, {why}");
        Ok(())
    })
    .unwrap();
}

fn policy(line: &Line, rules: &str) {
    let b = line.host("b").unwrap();
    let file = b.dir().join("rules");
    fs::write(&file, rules).unwrap();
    b.irm(&format!("policy set --layer overlay {}", file.display()))
        .unwrap();
}

#[test]
fn a_network_behind_a_member_is_reached_where_it_is_taken_and_nowhere_else() {
    let mut line = Line::new(None).unwrap();
    let d = line.lab.host("d").unwrap();
    let lan = line.lab.veth(line.host("c").unwrap(), &d).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let [a, c] = ["a", "c"].map(|name| line.host(name).unwrap());
    d.net(&format!("route 10.9.0.0/24 {}", lan.ip(0))).unwrap();
    d.net("route fd09::/64 fd77:3::1").unwrap();
    let (v4, v6) = ("10.77.3.0/24", "fd77:3::/64");
    forward(c, 0);
    c.irm(&format!(
        "vpn up --layer overlay --dev strata0 --offer {v4} --offer {v6}"
    ))
    .unwrap();
    let said = c.irm("vpn status").unwrap();
    assert!(said.contains("sysctl -w net.ipv4.ip_forward=1"), "{said}");
    forward(c, 1);
    let said = c.irm("vpn status").unwrap();
    assert!(!said.contains("sysctl"), "{said}");

    // Nobody takes what nobody said is to be taken.
    a.irm("vpn up --layer overlay --dev strata0").unwrap();
    becomes(a, v4, false, "--accept-routes");
    assert!(pings(a, "10.77.3.2").is_err());
    a.irm("vpn down").unwrap();
    a.irm("vpn up --layer overlay --dev strata0 --accept-routes")
        .unwrap();
    becomes(a, v4, true, "--accept-routes");
    becomes(a, v6, true, "--accept-routes");
    until(TEN, || pings(a, "10.77.3.2")).unwrap();
    until(TEN, || pings(a, "fd77:3::2")).unwrap();

    // What the policy denies is not taken, whatever this host says.
    policy(
        &line,
        "allow * * by any\ndeny offer 10.77.0.0/16 by any\nallow offer fd77::/16 by member ovl-c\nallow take * by member ovl-a\n",
    );
    becomes(a, v4, false, "rule 2 of policy 1 denies it");
    becomes(a, v6, true, "rule 3 of policy 1 allows it");
    assert!(pings(a, "10.77.3.2").is_err());
    pings(a, "fd77:3::2").unwrap();
    let check = format!("policy check --from ovl-c --offer {v4} --at ovl-a");
    let said = a.irm(&check).unwrap_err().to_string();
    assert!(said.contains("ovl-c may not offer 10.77.3.0/24"), "{said}");
    // What it allows is taken, though this host says nothing.
    policy(
        &line,
        "allow * * by any\nallow offer 10.77.0.0/16 by member ovl-c\nallow take * by member ovl-a\n",
    );
    a.irm("vpn down").unwrap();
    a.irm("vpn up --layer overlay --dev strata0").unwrap();
    becomes(a, v4, true, "rule 2 of policy 2 allows it");
    becomes(a, v6, false, "no rule of policy 2 is of it");
    until(TEN, || pings(a, "10.77.3.2")).unwrap();
    a.irm(&check).unwrap();

    // It goes with the VPN that offered it.
    c.irm("vpn down").unwrap();
    until(TEN, || match taken(a, v4) {
        Ok(still) => anyhow::bail!("{still:?}"),
        Err(_) => Ok(()),
    })
    .unwrap();
}
