//! Offloads of UDP are switched at the shim, as the manual says, while a layer over it carries a stream.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tests::{Host, Pair, until};

const TEN: Duration = Duration::from_secs(10);

/// What an IPC process says of itself.
fn ipcp(host: &Host, name: &str) -> anyhow::Result<Value> {
    let status = host.irm_json("status")?;
    let all = status["ipcps"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|i| i["name"] == name);
    let found = found.ok_or_else(|| anyhow::anyhow!("no {name}: {status}"))?;
    Ok(found["status"].clone())
}

/// A host of the layer, and a counter of its member that grows while an offload is in use.
struct Side<'a> {
    host: &'a Host,
    member: &'a str,
    kind: &'a str,
    counter: &'a str,
}

impl Side<'_> {
    fn trains(&self) -> anyhow::Result<u64> {
        let status = ipcp(self.host, self.member)?;
        Ok(status["counters"][self.counter].as_u64().unwrap_or(0))
    }

    /// Trains go, or come.
    fn grows(&self) {
        let before = self.trains().unwrap();
        until(TEN, || {
            let now = self.trains()?;
            ensure!(now > before + 20, "{} of {before}: {now}", self.counter);
            Ok(())
        })
        .unwrap();
    }

    /// None goes or comes, while packets do.
    fn stands(&self) {
        let moved = || -> anyhow::Result<u64> {
            let status = ipcp(self.host, self.member)?;
            let link = &status["links"][0];
            let bytes = |way: &str| link[way].as_u64().unwrap_or(0);
            Ok(bytes("rx_bytes") + bytes("tx_bytes"))
        };
        let (before, trains) = (moved().unwrap(), self.trains().unwrap());
        until(TEN, || {
            let now = moved()?;
            ensure!(now > before + 1_000_000, "nothing moves: {now}");
            Ok(())
        })
        .unwrap();
        assert_eq!(self.trains().unwrap(), trains, "{} grows", self.counter);
    }

    fn set(&self, mode: &str) {
        let kind = self.kind;
        let set = format!("ipcp set udp --offload {kind}={mode}");
        self.host.irm(&set).unwrap();
        // Coalescing ends as soon as what was coalesced before is read.
        until(TEN, || {
            let settings = &ipcp(self.host, self.member)?["settings"];
            let using = &settings[format!("offload.{kind}_sockets")];
            let sockets = &settings["lower.udp_sockets"];
            ensure!(sockets != "0" && settings["offload.kernel"] == "gso,gro");
            let wanted = if mode == "off" {
                &Value::from("0")
            } else {
                sockets
            };
            ensure!(using == wanted, "{settings}");
            Ok(())
        })
        .unwrap();
        let shim = ipcp(self.host, "udp").unwrap();
        assert_eq!(shim["settings"][format!("offload.{kind}")], mode);
    }
}

#[test]
fn what_is_switched_at_a_shim_holds_for_the_layer_over_it_at_once_and_loses_nothing() {
    let pair = Pair::new().unwrap();
    pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")
        .unwrap();
    let server = ["perf", "speed", "--layer", "overlay", "--server"];
    let _server = pair.b.spawn("irm", server).unwrap();
    pair.b.irm("wait name speed").unwrap();
    let stream = "--json perf speed --layer overlay --qos data -t 8 --timeout 10s";
    let mut stream = pair.a.spawn("irm", stream.split(' ')).unwrap();
    let side = |at, member, kind, counter| Side {
        host: pair.host(at),
        member,
        kind,
        counter,
    };
    let sends = side(0, "ovl-a", "gso", "udp.gso_trains");
    let takes = side(1, "ovl-b", "gro", "udp.gro_trains");
    sends.grows();
    takes.grows();
    sends.set("off");
    sends.stands();
    sends.set("auto");
    sends.grows();
    takes.set("off");
    takes.stands();
    sends.grows();
    takes.set("auto");
    takes.grows();
    let shown = pair.b.irm("status").unwrap();
    assert!(shown.contains("GRO AT"), "{shown}");
    assert!(stream.alive(), "it took too long: {}", stream.log());
    assert_eq!(stream.wait(2 * TEN).unwrap(), 0, "{}", stream.log());
    let said = stream.json().unwrap();
    assert!(said["sdus_received"].as_u64() > Some(0), "{said}");
    assert_eq!(said["sdus_received"], said["sdus_sent"], "{said}");
}
