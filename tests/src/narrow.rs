//! Two hosts with a VPN between them over a link that is slow and pushes back, as that of an uplink does: what fills it, and what
//! somebody beside that has of it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::lab::{Process, eventually};
use crate::pair::{PAIR_V4, Pair};
use crate::streams;

/// The hosts; all goes from A to B.
pub struct Narrow {
    /// A and B.
    pub pair: Pair,
    /// An address of B's.
    to: &'static str,
    /// What the link takes.
    mbit: u32,
}

impl Narrow {
    /// A VPN of packets, over a link of so many Mbit/s.
    pub fn new(mbit: u32) -> anyhow::Result<Self> {
        Ok(Self {
            pair: Pair::narrow(mbit)?,
            to: PAIR_V4[1],
            mbit,
        })
    }

    /// From now on all goes over a segment of Ethernet, which is up beside the VPN of packets.
    pub fn segment(&mut self) -> anyhow::Result<()> {
        let Pair { a, b, .. } = &self.pair;
        for (host, address) in [b, a].into_iter().zip(SEGMENT) {
            let up = format!("vpn up --layer overlay --tap --dev tap0 --address {address}/24");
            host.irm(&up)?;
        }
        self.to = SEGMENT[0];
        self.pair.reaches(self.to, TEN)?;
        Ok(())
    }

    /// Datagrams of so many bytes, 2.4 times what the link takes, when they have filled it; and who counts them at the other end.
    pub fn pour(&self, size: u32) -> anyhow::Result<(Process, Process)> {
        let Pair { a, b, .. } = &self.pair;
        let at = format!("{}:7000", self.to);
        let sink = b.spawn("lab-tool", ["udp-sink", &at])?;
        let bytes = || sink.newest()["bytes"].as_u64();
        eventually(TEN, "the sink is there", || bytes() == Some(0))?;
        let rate = (self.mbit * 12 / 5 * 125_000 / size).to_string();
        let size = size.to_string();
        let pour = ["udp-pour", &at, "--size", &size, "--rate", &rate];
        let pour = a.spawn("lab-tool", pour.into_iter().chain(["--seconds", "300"]))?;
        eventually(TEN, "datagrams come", || bytes() > Some(1 << 20))?;
        // So much that all queues on the way are full.
        std::thread::sleep(Duration::from_millis(1500));
        Ok((sink, pour))
    }

    /// What a hundred pings in two seconds say, of whatever fills the link meanwhile.
    pub fn ping(&self, beside: &mut Process) -> anyhow::Result<Value> {
        let ping = ["ping", self.to, "-c", "100", "-i", "20"];
        let out = self.pair.a.run("lab-tool", ping)?;
        ensure!(beside.alive(), "it was over too soon: {}", beside.log());
        serde_json::from_str(&out.stdout).context("ping printed no JSON")
    }

    /// Mbit/s of a program's flow from A to B that begins when datagrams over the VPN fill the link, and of these meanwhile.
    pub fn beside(&self, qos: &str) -> anyhow::Result<(f64, f64)> {
        let serve = ["perf", "bulk", "--layer", "overlay", "--server"];
        let Pair { a, b, .. } = &self.pair;
        let _server = b.spawn("irm", serve)?;
        b.irm("wait name bulk")?;
        let (sink, mut pour) = self.pour(DATAGRAM)?;
        let bytes = || sink.newest()["bytes"].as_u64().unwrap_or_default();
        let (before, begin) = (bytes(), Instant::now());
        let perf = format!("perf bulk --layer overlay -t 4 -s 1200 --qos {qos}");
        let said = a.irm_json(&perf);
        let others = (bytes() - before) as f64 * 8e-6 / begin.elapsed().as_secs_f64();
        ensure!(pour.alive(), "it was over too soon: {}", pour.log());
        // Not to be let in at all is to starve.
        let rate = said.map(|said| said["gbit_per_s"].as_f64().unwrap_or_default());
        let rate = rate.unwrap_or_else(|why| {
            eprintln!("{why}");
            0.0
        });
        Ok((rate * 1e3, others))
    }

    /// All of it once, as figures.
    pub fn measure(&mut self) -> anyhow::Result<Value> {
        let [a, b] = [&self.pair.a, &self.pair.b];
        let _serve = streams::serve(b, self.to)?;
        // The first second is a burst that the link's device lets pass.
        let alone = streams::run(&[a, b], self.to, 6, 1)?;
        let mut stream = streams::spawn(a, self.to, 6, 1)?;
        std::thread::sleep(Duration::from_secs(2));
        let beside_stream = self.ping(&mut stream)?;
        drop(stream);
        let beside = |qos| -> anyhow::Result<Value> {
            let (program, vpn) = self.beside(qos)?;
            Ok(json!({ "program_mbit_per_s": program, "vpn_mbit_per_s": vpn }))
        };
        let (data, raw) = (beside("data")?, beside("raw")?);
        let beside_datagrams = {
            let (_sink, mut pour) = self.pour(DATAGRAM)?;
            self.ping(&mut pour)?
        };
        self.segment()?;
        let (_sink, mut pour) = self.pour(DATAGRAM)?;
        Ok(json!({
            "link_mbit_per_s": self.mbit,
            "stream": alone,
            "ping_beside_a_stream": beside_stream,
            "ping_beside_datagrams": beside_datagrams,
            "data_beside_datagrams": data,
            "raw_beside_datagrams": raw,
            "ping_beside_datagrams_over_a_tap": self.ping(&mut pour)?,
        }))
    }
}

/// The payload of a datagram.
pub const DATAGRAM: u32 = 1200;
/// B's address on the segment, and A's.
const SEGMENT: [&str; 2] = ["192.168.50.2", "192.168.50.1"];
const TEN: Duration = Duration::from_secs(10);
