//! What the VPN does beside something else in the same rounds: a stream through a member in between beside one to the neighbour,
//! datagrams beside a program's raw flow, and how soon a member that is known is reached again.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::lab::{Host, Process, eventually};
use crate::line::{Line, VPN_V4};
use crate::streams;

/// What is measured, as figures; the line has its VPN on A and C.
pub struct Vpns {
    line: Line,
    /// How long a measurement lasts.
    seconds: u32,
    _iperf: [Process; 2],
}

impl Vpns {
    /// The line with a VPN on B, too, and servers on B and C.
    pub fn new(seconds: u32) -> anyhow::Result<Self> {
        let line = Line::up()?;
        line.host("b")?.irm(UP)?;
        let reach = ["ping", VPN_V4[1], "-i", "20", "--first-within-ms", "5000"];
        let out = line.host("a")?.run("lab-tool", reach)?;
        ensure!(out.code == 0, "B does not answer: {}", out.stderr.trim());
        let serve = |n: usize| streams::serve(&line.hosts[n], VPN_V4[n]);
        let iperf = [serve(1)?, serve(2)?];
        Ok(Self {
            line,
            seconds,
            _iperf: iperf,
        })
    }

    /// A round of all.
    pub fn round(&self) -> anyhow::Result<Value> {
        let (near, far) = (self.stream(1)?, self.stream(2)?);
        let part = |far: &Value, near: &Value| Some(far.as_f64()? / near.as_f64()?);
        let through = part(&far["gbit_per_s"], &near["gbit_per_s"]);
        let (raw, datagrams) = (self.raw()?, self.datagrams()?);
        let times = part(&raw["gbit_per_s"], &datagrams["gbit_per_s"]);
        Ok(json!({
            "tcp_to_the_neighbour": near,
            "tcp_through_b": far,
            "tcp_through_b_in_parts_of_the_neighbour": through,
            "raw_to_the_neighbour": raw,
            "vpn_udp_to_the_neighbour": datagrams,
            "raw_in_parts_of_vpn_udp": times,
            "up_ms_neighbour": self.up(1)?,
            "up_ms_through_b": self.up(2)?,
        }))
    }

    /// One TCP stream from A over the VPN to B or C, and the CPU of all daemons a GB.
    fn stream(&self, to: usize) -> anyhow::Result<Value> {
        let hosts: Vec<_> = self.line.hosts.iter().collect();
        streams::run(&hosts, VPN_V4[to], self.seconds, 1)
    }

    /// `irm perf` from A to B.
    fn raw(&self) -> anyhow::Result<Value> {
        let [a, b, _] = &self.line.hosts[..] else {
            anyhow::bail!("the line has three hosts")
        };
        let serve = ["perf", "speed", "--layer", "overlay", "--server"];
        let _server = b.spawn("irm", serve)?;
        b.irm("wait name speed")?;
        let seconds = self.seconds;
        a.irm_json(&format!(
            "perf speed --layer overlay -t {seconds} -s {RAW_SDU} --qos raw"
        ))
    }

    /// The most datagrams of the size of a full packet that A's programs get to B by the VPN with less than 1 % lost: doubled, then
    /// halved, a rate that fails twice is too much.
    fn datagrams(&self) -> anyhow::Result<Value> {
        let [a, b, _] = &self.line.hosts[..] else {
            anyhow::bail!("the line has three hosts")
        };
        let status = a.irm_json("vpn status")?;
        let mtu = status["vpns"][0]["mtu"].as_u64().context("no MTU")?;
        let size = (mtu - HEADERS).min(RAW_SDU);
        let at = format!("{}:7000", VPN_V4[1]);
        let sink = b.spawn("lab-tool", ["udp-sink", &at])?;
        eventually(FIVE, "the sink is there", || {
            sink.newest()["bytes"].is_u64()
        })?;
        let pour = Pour {
            from: a,
            at,
            size,
            sink: &sink,
        };
        let (mut best, mut high, mut rate) = (Trial::default(), None, 8_000);
        while best.rate < rate && high.is_none_or(|h: u32| h - best.rate > h / 16) {
            let trial = match pour.trial(rate)? {
                lost if lost.lost > LOST => pour.trial(rate)?,
                good => good,
            };
            if trial.lost > LOST {
                high = Some(rate);
            } else {
                let limit = trial.offered < 0.93 * f64::from(rate);
                best = Trial { rate, ..trial };
                if limit {
                    break;
                }
            }
            rate = high.map_or(best.rate * 2, |h| u32::midpoint(best.rate, h));
        }
        let source_limited = best.offered < 0.93 * f64::from(best.rate);
        Ok(json!({
            "datagram_bytes": size,
            "kpps": best.received / 1e3,
            "gbit_per_s": best.received * size as f64 * 8e-9,
            "lost": best.lost,
            "source_limited": source_limited,
        }))
    }

    /// How long until B or C answers A's ping, which is sent every 5 ms, since A's VPN was told to come up: of some times the median and the most.
    fn up(&self, to: usize) -> anyhow::Result<Value> {
        let a = &self.line.hosts[0];
        let mut took = Vec::new();
        for _ in 0..UPS {
            a.irm("vpn down --layer overlay")?;
            // What the other side has of the earlier life ends by itself.
            std::thread::sleep(Duration::from_millis(500));
            let ping = ["ping", VPN_V4[to], "-i", "5", "--first-within-ms", "20000"];
            let mut ping = a.spawn("lab-tool", ping)?;
            a.irm(UP)?;
            ensure!(ping.wait(4 * FIVE)? == 0, "{}", ping.log());
            took.extend(ping.json()?["first_ms"].as_f64());
        }
        took.sort_by(f64::total_cmp);
        let most = took.last().context("nobody answered")?;
        Ok(json!({ "p50": took[took.len() / 2], "most": most, "times": took.len() }))
    }
}

/// Datagrams from a host to a sink.
struct Pour<'a> {
    from: &'a Host,
    at: String,
    size: u64,
    sink: &'a Process,
}

/// What came of a rate.
#[derive(Debug, Clone, Copy, Default)]
struct Trial {
    rate: u32,
    offered: f64,
    received: f64,
    lost: f64,
}

impl Pour<'_> {
    fn trial(&self, rate: u32) -> anyhow::Result<Trial> {
        let count = || self.sink.newest()["datagrams"].as_u64().unwrap_or(0);
        let before = count();
        let (size, rate_of) = (self.size.to_string(), rate.to_string());
        let args = ["udp-pour", &self.at, "--size", &size, "--rate", &rate_of];
        let out = self.from.run("lab-tool", args)?;
        ensure!(out.code == 0, "{}", out.stderr.trim());
        let said: Value = serde_json::from_str(&out.stdout).context("it printed no JSON")?;
        let (sent, seconds) = (said["sent"].as_f64(), said["seconds"].as_f64());
        let (sent, seconds) = sent.zip(seconds).context("it said nothing")?;
        ensure!(sent > 0.0, "nothing could be sent: {said}");
        // What still waits somewhere, and the sink's turn to speak.
        std::thread::sleep(Duration::from_millis(250));
        let got = count().saturating_sub(before) as f64;
        Ok(Trial {
            rate,
            offered: sent / seconds,
            received: got / seconds,
            lost: 1.0 - got / sent,
        })
    }
}

const UP: &str = "vpn up --layer overlay --dev strata0";
/// The bytes of an SDU of the raw flow, and of a datagram at most.
const RAW_SDU: u64 = 1400;
/// Of IPv4 and UDP.
const HEADERS: u64 = 28;
/// The part of datagrams that may be lost.
const LOST: f64 = 0.01;
const UPS: usize = 10;
const FIVE: Duration = Duration::from_secs(5);
