//! Results in: the JSON of a harness, or the lines of `tests/bench.sh`.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Figure, Peer, Run};

impl Run {
    /// Takes JSON or lines; `own` is the peer to stand first.
    pub fn read(text: &str, own: &str) -> anyhow::Result<Self> {
        let mut run = Self {
            host: String::new(),
            rounds: 0,
            peers: Vec::new(),
            notes: Vec::new(),
            noisy: Vec::new(),
        };
        if text.trim_start().starts_with('{') {
            run.json(text)?;
        } else {
            run.lines(text)?;
        }
        ensure!(
            run.peers.iter().any(|peer| !peer.figures.is_empty()),
            "nothing was measured"
        );
        for peer in &mut run.peers {
            peer.own = peer.name == own;
        }
        let rate = |peer: &Peer| peer.median(Figure::TcpAb).unwrap_or(0.0);
        run.peers
            .sort_by(|a, b| b.own.cmp(&a.own).then(rate(b).total_cmp(&rate(a))));
        Ok(run)
    }

    /// ROUND PEER FIGURE VALUE; a value that is no number says that there is none. A line that begins with # says where it was.
    fn lines(&mut self, text: &str) -> anyhow::Result<()> {
        let mut rounds = BTreeSet::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(host) = line.strip_prefix("# ") {
                host.clone_into(&mut self.host);
                continue;
            }
            let words: Vec<_> = line.split_whitespace().collect();
            let [round, name, what, value] = words[..] else {
                anyhow::bail!("{line:?} is not ROUND PEER FIGURE VALUE")
            };
            rounds.insert(round.to_owned());
            let peer = self.peer(name);
            match (figure(what), value.parse::<f64>()) {
                (Some((figure, factor)), Ok(value)) => peer.add(figure, Some(value * factor)),
                (None, Err(_)) => self.notes.push(format!("{name} round {round}: {what}")),
                // Figures of programs have a table of their own.
                (None, Ok(_)) | (Some(_), Err(_)) => {}
            }
        }
        self.rounds = rounds.len();
        Ok(())
    }

    fn json(&mut self, text: &str) -> anyhow::Result<()> {
        let json: Value = serde_json::from_str(text).context("this is no JSON")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let host = &json["host"];
        let kernel = text(&host["kernel"]);
        self.host = format!(
            "{}, {} × {}, Linux {}",
            text(&host["date"]),
            host["cores"].as_u64().unwrap_or(0),
            text(&host["cpu"]),
            kernel.split('-').next().unwrap_or_default(),
        );
        let rounds = json["rounds"].as_array().context("it has no rounds")?;
        for round in rounds {
            let name = round["peer"].as_str().context("a round without a peer")?;
            let number = round["round"].as_u64().unwrap_or(1);
            self.rounds = self.rounds.max(number as usize);
            self.round(name, round);
            for (what, why) in round["errors"].as_object().into_iter().flatten() {
                let why = text(why).replace('\n', " ");
                let why: String = why.chars().take(200).collect();
                self.notes
                    .push(format!("{name} round {number}: {what}: {why}"));
            }
            for (what, test) in round.as_object().into_iter().flatten() {
                let foreign = test["foreign_cores"].as_f64().unwrap_or(0.0);
                if foreign > QUIET {
                    self.noisy
                        .push(format!("{name} round {number} {what} {foreign:.2}"));
                }
            }
        }
        for (name, about) in json["peers"].as_object().into_iter().flatten() {
            if let Some(why) = about["missing"].as_str() {
                self.notes.push(format!("not measured: {name}: {why}"));
            } else if let Some(peer) = self.peers.iter_mut().find(|p| p.name == *name) {
                // A program that has no such option says something else.
                let version = text(&about["version"]);
                let number = |word: &&str| word.trim_start_matches('v').starts_with(digit);
                let version = version.split_whitespace().find(number).map(str::to_owned);
                let crypto = Some(text(&about["crypto"])).filter(|c| c != "none");
                let said: Vec<_> = [version, crypto].into_iter().flatten().collect();
                peer.what = said.join(", ");
            }
        }
        Ok(())
    }

    /// What one peer did in one round of a harness, whose rates are in Gbit/s and packets a second, and its times in ms and µs.
    fn round(&mut self, name: &str, round: &Value) {
        let peer = self.peer(name);
        for (figure, test, what, factor) in OF_HARNESS {
            peer.add(figure, round[test][what].as_f64().map(|v| v * factor));
        }
        for (figure, test) in [(Figure::Udp64, "udp64"), (Figure::Udp1200, "udp1200")] {
            if round[test]["source_limited"] == true && !peer.at_least.contains(&figure) {
                peer.at_least.push(figure);
            }
        }
        let rss = ["a", "b"].map(|side| round["rss_mb"][side].as_f64());
        peer.add(Figure::Rss, rss[0].zip(rss[1]).map(|(a, b)| a + b));
        peer.add(Figure::Up, round["bringup_ms"].as_f64());
    }

    fn peer(&mut self, name: &str) -> &mut Peer {
        let at = self.peers.iter().position(|peer| peer.name == name);
        let at = at.unwrap_or_else(|| {
            self.peers.push(Peer {
                name: name.to_owned(),
                ..Peer::default()
            });
            self.peers.len() - 1
        });
        &mut self.peers[at]
    }
}

fn digit(c: char) -> bool {
    c.is_ascii_digit()
}

impl Peer {
    fn add(&mut self, figure: Figure, value: Option<f64>) {
        if let Some(value) = value.filter(|v| v.is_finite()) {
            self.figures.entry(figure).or_default().push(value);
        }
    }
}

/// The figure that `tests/bench.sh` calls so, and what makes our unit of its.
fn figure(name: &str) -> Option<(Figure, f64)> {
    Some(match name {
        "tcp_ab" => (Figure::TcpAb, 1.0),
        "tcp_ba" => (Figure::TcpBa, 1.0),
        "tcp4_ab" => (Figure::Tcp4Ab, 1.0),
        "tcp4_ba" => (Figure::Tcp4Ba, 1.0),
        "cpu_s_per_gb" => (Figure::CpuPerGb, 1.0),
        "udp64_kpps" => (Figure::Udp64, 1.0),
        "udp1200_kpps" => (Figure::Udp1200, 1.0),
        "rtt_p50" => (Figure::RttP50, 1e3),
        "rtt_p99" => (Figure::RttP99, 1e3),
        "rtt_load_p50" => (Figure::LoadP50, 1.0),
        "rtt_load_p99" => (Figure::LoadP99, 1.0),
        "rss_mb" => (Figure::Rss, 1.0),
        "up_ms" => (Figure::Up, 1.0),
        _ => return None,
    })
}

/// What a harness calls them, and what makes our unit of its.
const OF_HARNESS: [(Figure, &str, &str, f64); 11] = [
    (Figure::TcpAb, "tcp_ab", "gbps", 1.0),
    (Figure::TcpBa, "tcp_ba", "gbps", 1.0),
    (Figure::Tcp4Ab, "tcp4_ab", "gbps", 1.0),
    (Figure::Tcp4Ba, "tcp4_ba", "gbps", 1.0),
    (Figure::CpuPerGb, "tcp_ab", "s_per_gb", 1.0),
    (Figure::Udp64, "udp64", "pps", 1e-3),
    (Figure::Udp1200, "udp1200", "pps", 1e-3),
    (Figure::RttP50, "rtt_idle", "p50", 1.0),
    (Figure::RttP99, "rtt_idle", "p99", 1.0),
    (Figure::LoadP50, "rtt_tcp", "p50", 1e-3),
    (Figure::LoadP99, "rtt_tcp", "p99", 1e-3),
];
/// What others may use of the processor while something is measured, in cores.
const QUIET: f64 = 0.15;
