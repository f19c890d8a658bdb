//! TCP streams by iperf3, and what they cost the daemons; a VPN between two hosts as its switches and rules are.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::lab::{Host, Process, until};
use crate::look::{DAEMONS, ticks};
use crate::pair::{PAIR_V4, Pair};

/// Serves streams on an address.
pub(crate) fn serve(host: &Host, at: &str) -> anyhow::Result<Process> {
    host.spawn("iperf3", ["-s", "-B", at])
}

/// Begins so many streams to an address that is served.
pub(crate) fn spawn(from: &Host, to: &str, seconds: u32, streams: u32) -> anyhow::Result<Process> {
    from.spawn("iperf3", client(to, seconds, streams))
}

/// Streams from the first of these hosts, and the CPU of the daemons of all a GB.
pub(crate) fn run(hosts: &[&Host], to: &str, seconds: u32, streams: u32) -> anyhow::Result<Value> {
    let run = client(to, seconds, streams);
    let mut before = cpu(hosts);
    let said = until(TEN, || {
        before = cpu(hosts);
        let out = hosts[0].run("iperf3", &run)?;
        ensure!(out.code == 0, "iperf3: {}{}", out.stdout, out.stderr);
        serde_json::from_str::<Value>(&out.stdout).context("iperf3 printed no JSON")
    })?;
    let cpu = cpu(hosts) - before;
    let got = &said["end"]["sum_received"];
    let bytes = got["bytes"].as_f64().filter(|n| *n > 0.0);
    let bytes = bytes.context("iperf3 received nothing")?;
    let rate = got["bits_per_second"].as_f64().context("no rate")?;
    Ok(json!({
        "gbit_per_s": rate / 1e9,
        "cpu_s_per_gb": cpu / (bytes / 1e9),
        "retransmits": said["end"]["sum_sent"]["retransmits"],
    }))
}

/// What iperf3 is told. The congestion control is Cubic whatever this host prefers, as it is for peers.
fn client(to: &str, seconds: u32, streams: u32) -> Vec<String> {
    let line = format!("-c {to} -t {seconds} -P {streams} -C cubic -J");
    line.split(' ').map(str::to_owned).collect()
}

/// Seconds of CPU that all daemons of these hosts have used.
fn cpu(hosts: &[&Host]) -> f64 {
    let daemons = || DAEMONS.iter().chain(["vpn"].iter());
    let pids = hosts.iter().flat_map(|h| daemons().map(|d| h.programs(d)));
    pids.flatten().map(ticks).sum::<u64>() as f64 / 100.0
}

/// Two neighbours with a VPN, and a server of streams on B.
pub struct Streams {
    pair: Pair,
    _iperf: Process,
}

impl Streams {
    /// With nothing said of switches or rules.
    pub fn new() -> anyhow::Result<Self> {
        let pair = Pair::new()?;
        pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")?;
        pair.vpn("")?;
        let _iperf = serve(&pair.b, PAIR_V4[1])?;
        Ok(Self { pair, _iperf })
    }

    /// A round of all: one stream as it is, with seals on more cores, and between members of whom a rule speaks; and a ping beside
    /// one stream and beside four.
    pub fn round(&self) -> anyhow::Result<Value> {
        let plain = self.stream()?;
        let beside_one = self.ping_beside(1)?;
        let beside_four = self.ping_beside(4)?;
        self.seal("on")?;
        let sealed = self.stream()?;
        self.seal("auto")?;
        self.pair.deny("deny send udp/9 to any by any")?;
        self.pair.judges()?;
        let judged = self.stream()?;
        self.pair.b.irm("policy unset --layer overlay")?;
        self.open()?;
        Ok(json!({
            "stream": plain,
            "stream_under_rules": judged,
            "stream_with_seals_on_more_cores": sealed,
            "ping_beside_a_stream": beside_one,
            "ping_beside_four_streams": beside_four,
        }))
    }

    fn stream(&self) -> anyhow::Result<Value> {
        run(&[&self.pair.a, &self.pair.b], PAIR_V4[1], 4, 1)
    }

    fn seal(&self, how: &str) -> anyhow::Result<()> {
        for (host, ipcp) in [(&self.pair.a, "ovl-a"), (&self.pair.b, "ovl-b")] {
            host.irm(&format!("ipcp set {ipcp} --offload seal={how}"))?;
        }
        Ok(())
    }

    /// Until no rules hold between the two.
    fn open(&self) -> anyhow::Result<()> {
        until(TEN, || {
            let status = self.pair.a.irm_json("vpn status")?;
            let peer = &status["vpns"][0]["peers"][0];
            ensure!(peer["filtered"] == false, "rules still hold: {peer}");
            Ok(())
        })
    }

    fn ping_beside(&self, streams: u32) -> anyhow::Result<Value> {
        let a = &self.pair.a;
        let mut load = spawn(a, PAIR_V4[1], 20, streams)?;
        std::thread::sleep(Duration::from_secs(1));
        let out = a.run("lab-tool", ["ping", PAIR_V4[1], "-c", "1000", "-i", "2"])?;
        ensure!(load.alive(), "it was over too soon: {}", load.log());
        serde_json::from_str(&out.stdout).context("ping printed no JSON")
    }
}

const TEN: Duration = Duration::from_secs(10);
