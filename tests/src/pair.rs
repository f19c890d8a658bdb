//! Two hosts with one link, and what most tests of a VPN stand on: a layer and its VPN between them.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::{Host, How, Lab, Link, Process, until};

/// The addresses that the layer's certificates give to A and B.
pub const PAIR_V4: [&str; 2] = ["10.9.1.1", "10.9.2.1"];
/// The same, IPv6.
pub const PAIR_V6: [&str; 2] = ["fd09:1::1", "fd09:2::1"];

/// The hosts, their link, and an irmd on each.
pub struct Pair {
    /// A, whose member is `ovl-a`.
    pub a: Host,
    /// B, whose member `ovl-b` has made the layer.
    pub b: Host,
    /// Between them.
    pub link: Link,
    irmds: [Process; 2],
    /// The last, so that it goes after all that lives in it.
    _lab: Lab,
}

impl Pair {
    /// The hosts alone.
    pub fn new() -> anyhow::Result<Self> {
        Self::prepared(|_| Ok(How::default()))
    }

    /// The same, and how A's daemons live, which is prepared first.
    pub fn prepared(how: impl FnOnce(&Host) -> anyhow::Result<How>) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let link = lab.veth(&a, &b)?;
        let how = how(&a)?;
        Self::living(lab, [a, b], link, &how)
    }

    /// Of hosts that are joined in another way; the link is A's.
    pub fn of(lab: Lab, hosts: [Host; 2], link: Link) -> anyhow::Result<Self> {
        Self::living(lab, hosts, link, &How::default())
    }

    fn living(lab: Lab, [a, b]: [Host; 2], link: Link, how: &How) -> anyhow::Result<Self> {
        let irmds = [a.irmd_as(how)?, b.irmd()?];
        Ok(Self {
            a,
            b,
            link,
            irmds,
            _lab: lab,
        })
    }

    /// A host by its number.
    pub fn host(&self, at: usize) -> &Host {
        [&self.a, &self.b][at]
    }

    /// A shim on each host, at these places, and over them the layer `overlay` with prefixes of both families. A's shim is told
    /// where B's is.
    pub fn overlay(&self, places: [&str; 2], b_is_at: &str) -> anyhow::Result<()> {
        let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip";
        self.b.irm(&format!("{shim} {}", places[1]))?;
        self.a
            .irm(&format!("{shim} {} --host ovl-b={b_is_at}", places[0]))?;
        let prefixes = |of: u8| format!("--prefix 10.9.{of}.0/24 --prefix fd09:{of}::/64");
        self.b.irm(&format!(
            "ipcp bootstrap ovl-b --type unicast --layer overlay {}",
            prefixes(2)
        ))?;
        let invite = format!("layer invite overlay --member ovl-a {}", prefixes(1));
        let url = self.b.irm(&invite)?;
        let enroll = "ipcp enroll ovl-a --type unicast --invite";
        self.a.irm(&format!("{enroll} {}", url.trim()))?;
        Ok(())
    }

    /// A VPN on each host, with these options, that passes pings.
    pub fn vpn(&self, options: &str) -> anyhow::Result<()> {
        for host in [&self.a, &self.b] {
            host.irm(&format!("vpn up --layer overlay --dev strata0 {options}"))?;
        }
        self.reaches(PAIR_V4[1], Duration::from_secs(10))?;
        Ok(())
    }

    /// The same over a link whose device takes so many Mbit/s, and pushes back.
    pub fn narrow(mbit: u32) -> anyhow::Result<Self> {
        let pair = Self::new()?;
        for (at, dev) in pair.link.dev.iter().enumerate() {
            pair.host(at).net(&format!("narrow {dev} {mbit}"))?;
        }
        pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")?;
        pair.vpn("")?;
        Ok(pair)
    }

    /// Gives the layer a policy: all is allowed but what these rules deny.
    pub fn deny(&self, rules: &str) -> anyhow::Result<()> {
        let file = self.b.dir().join("rules");
        std::fs::write(&file, format!("allow * * by any\n{rules}\n"))?;
        let set = format!("policy set --layer overlay {}", file.display());
        self.b.irm(&set)?;
        Ok(())
    }

    /// Waits until the VPN of A judges what goes to B.
    pub fn judges(&self) -> anyhow::Result<()> {
        until(Duration::from_secs(10), || {
            let status = self.a.irm_json("vpn status")?;
            let peer = &status["vpns"][0]["peers"][0];
            ensure!(peer["filtered"] == true, "no rules hold: {peer}");
            Ok(())
        })
    }

    /// How long until an address of B's answers A.
    pub fn reaches(&self, to: &str, most: Duration) -> anyhow::Result<Duration> {
        let most = most.as_millis().to_string();
        let ping = ["ping", to, "-i", "20", "--first-within-ms", &most];
        let out = self.a.run("lab-tool", ping)?;
        ensure!(out.code == 0, "{}", out.stderr.trim());
        let said: Value = serde_json::from_str(&out.stdout)?;
        let ms = said["first_ms"].as_f64().unwrap_or_default();
        Ok(Duration::from_secs_f64(ms / 1e3))
    }

    /// What a host says of its shim.
    pub fn shim(&self, at: usize) -> anyhow::Result<Value> {
        let status = self.host(at).irm_json("status")?;
        let all = status["ipcps"].as_array().cloned().unwrap_or_default();
        let shim = all.into_iter().find(|i| i["name"] == "udp");
        shim.ok_or_else(|| anyhow::anyhow!("no shim: {status}"))
    }

    /// All of A ends in good order, and is started again with what it has on its disk.
    pub fn restart_a(&mut self) -> anyhow::Result<()> {
        self.irmds[0].signal(Signal::SIGTERM)?;
        self.irmds[0].wait(Duration::from_secs(15))?;
        self.irmds[0] = self.a.irmd()?;
        Ok(())
    }
}
