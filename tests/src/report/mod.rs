//! What tunnels did beside each other in the same rounds: medians, as a table and as a plot.

mod plot;
mod read;

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A run: what each peer did in each round.
#[derive(Debug)]
pub struct Run {
    /// Where and when.
    host: String,
    rounds: usize,
    /// Ours first, the others by their TCP rate.
    peers: Vec<Peer>,
    /// Why others were not measured, and what went wrong.
    notes: Vec<String>,
    /// What was measured while others used the processor, and how many cores they took.
    noisy: Vec<String>,
}

#[derive(Debug, Default)]
struct Peer {
    name: String,
    /// Version and cipher, where they are known.
    what: String,
    own: bool,
    figures: BTreeMap<Figure, Vec<f64>>,
    /// What the source of datagrams had no more to give for.
    at_least: Vec<Figure>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Figure {
    TcpAb,
    TcpBa,
    Tcp4Ab,
    Tcp4Ba,
    CpuPerGb,
    Udp64,
    Udp1200,
    RttP50,
    RttP99,
    LoadP50,
    LoadP99,
    Rss,
    Up,
}

impl Peer {
    fn median(&self, figure: Figure) -> Option<f64> {
        self.span(figure).map(|(_, median, _)| median)
    }

    /// The least, the median and the most of all rounds.
    fn span(&self, figure: Figure) -> Option<(f64, f64, f64)> {
        let mut all = self.figures.get(&figure)?.clone();
        all.sort_by(f64::total_cmp);
        let (least, most) = (*all.first()?, *all.last()?);
        let middle = all.len() / 2;
        let median = match all.len() % 2 {
            0 => (all[middle - 1] + all[middle]) / 2.0,
            _ => all[middle],
        };
        Some((least, median, most))
    }

    /// The median as text, with a sign where there was more to be had.
    fn cell(&self, figure: Figure) -> String {
        let sign = if self.at_least.contains(&figure) {
            "≥ "
        } else {
            ""
        };
        self.median(figure)
            .map_or_else(|| "–".to_owned(), |v| format!("{sign}{}", short(v)))
    }

    fn pair(&self, first: Figure, second: Figure) -> String {
        match (self.median(first), self.median(second)) {
            (None, None) => "–".to_owned(),
            _ => format!("{} / {}", self.cell(first), self.cell(second)),
        }
    }

    /// Its row in markdown.
    fn row(&self) -> String {
        let tcp = match self.span(Figure::TcpAb) {
            Some((least, median, most)) if most > least => {
                format!("{} ({}–{})", short(median), short(least), short(most))
            }
            _ => self.cell(Figure::TcpAb),
        };
        let mut cells = vec![tcp];
        cells.extend(COLUMNS.map(|figure| self.cell(figure)));
        cells.push(self.pair(Figure::RttP50, Figure::RttP99));
        cells.push(self.pair(Figure::LoadP50, Figure::LoadP99));
        cells.extend([Figure::Rss, Figure::Up].map(|figure| self.cell(figure)));
        let bold = |text: &str| match self.own {
            true => format!("**{text}**"),
            false => text.to_owned(),
        };
        let mut row = format!("| {}", bold(&self.name));
        if !self.what.is_empty() {
            let _ = write!(row, " ({})", self.what);
        }
        for cell in cells {
            let _ = write!(row, " | {}", if cell == "–" { cell } else { bold(&cell) });
        }
        row + " |\n"
    }
}

impl Run {
    /// Medians of all, then ours beside each of the others.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{}, {} rounds, peers in turn, medians (least–most).\n\n\
             | peer | TCP a→b Gbit/s | b→a | 4 × a→b | 4 × b→a | CPU s/GB | UDP 64 B kpps | UDP 1200 B kpps \
             | RTT idle p50 / p99 µs | RTT under TCP p50 / p99 ms | RSS MB, both | up ms |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            self.host, self.rounds
        );
        for peer in &self.peers {
            out += &peer.row();
        }
        out += &self.ratios();
        let noisy = "Others took more than 0.15 of a core during";
        for (what, all) in [("Failed or missing", &self.notes), (noisy, &self.noisy)] {
            if !all.is_empty() {
                let _ = write!(out, "\n{what}: {}.\n", all.join("; "));
            }
        }
        out
    }

    /// Ours in parts of each other's, by the medians of the same run.
    fn ratios(&self) -> String {
        let Some((own, others)) = self
            .peers
            .split_first()
            .filter(|(p, rest)| p.own && !rest.is_empty())
        else {
            return String::new();
        };
        let mut out = format!(
            "\n| {}, in parts of | TCP a→b | b→a | CPU a GB | UDP 64 B | RTT idle p50 | RTT under TCP p99 | RSS |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
            own.name
        );
        for other in others {
            let _ = write!(out, "| {}", other.name);
            for figure in RATIOS {
                let part = own.median(figure).zip(other.median(figure));
                let part = part.filter(|(_, other)| *other > 0.0);
                let _ = match part {
                    Some((own, other)) => write!(out, " | {:.2}", own / other),
                    None => write!(out, " | –"),
                };
            }
            out += " |\n";
        }
        out
    }
}

/// With as many digits as say something.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What stands alone in a column, behind one stream from a to b.
const COLUMNS: [Figure; 6] = [
    Figure::TcpBa,
    Figure::Tcp4Ab,
    Figure::Tcp4Ba,
    Figure::CpuPerGb,
    Figure::Udp64,
    Figure::Udp1200,
];
const RATIOS: [Figure; 7] = [
    Figure::TcpAb,
    Figure::TcpBa,
    Figure::CpuPerGb,
    Figure::Udp64,
    Figure::RttP50,
    Figure::LoadP99,
    Figure::Rss,
];

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "\
1 strata tcp_ab 6.5\n1 strata cpu_s_per_gb 1.60\n1 wireguard tcp_ab 2.0\n1 wireguard cpu_s_per_gb 4.00\n\
2 strata tcp_ab 7.5\n2 strata cpu_s_per_gb 1.70\n2 wireguard tcp_ab 3.0\n2 wireguard cpu_s_per_gb 5.00\n\
3 strata tcp_ab 6.0\n3 strata cpu_s_per_gb 1.50\n3 wireguard failed -\n3 vpncloud tcp_ab 4.0\n";

    const JSON: &str = r#"{"kind":"peers","host":{"date":"2026-11-22 10:00 UTC","kernel":"6.18.1-x","cpu":"A CPU","cores":2},
        "options":{"tcp_secs":4,"rounds":2},
        "peers":{"strata":{"version":"irmd 1.0","crypto":"AES-256-GCM"},"gone":{"missing":"gone is not installed"}},
        "rounds":[
          {"peer":"strata","round":1,"errors":{},"bringup_ms":200.0,"tcp_ab":{"gbps":6.0,"s_per_gb":1.5,"foreign_cores":0.0},
           "udp64":{"pps":260000,"source_limited":true,"foreign_cores":0.7},"rtt_idle":{"p50":160.0,"p99":385.0},
           "rtt_tcp":{"p50":1000.0,"p99":2500.0},"rss_mb":{"a":29.0,"b":28.0}},
          {"peer":"strata","round":2,"errors":{"udp64":"it broke"},"bringup_ms":300.0,"tcp_ab":{"gbps":8.0,"s_per_gb":1.7}}]}"#;

    #[test]
    fn lines_become_medians_in_order_and_ratios() {
        let table = Run::read(LINES, "strata").unwrap().table();
        let rows: Vec<_> = table.lines().filter(|l| l.starts_with("| ")).collect();
        assert!(
            rows[1].starts_with("| **strata** | **6.50 (6.00–7.50)** | – | – | – | **1.60** |")
        );
        assert!(rows[2].starts_with("| vpncloud | 4.00 | – |"), "{table}");
        // Of two rounds, what lies between them.
        assert!(rows[3].starts_with("| wireguard | 2.50 (2.00–3.00) |"));
        assert_eq!(
            rows.last().unwrap(),
            &"| wireguard | 2.60 | – | 0.36 | – | – | – | – |"
        );
        assert!(table.contains("wireguard round 3: failed"), "{table}");
    }

    #[test]
    fn a_harness_is_read_with_its_units_and_its_complaints() {
        let run = Run::read(JSON, "strata").unwrap();
        let table = run.table();
        let row = "| **strata** (1.0, AES-256-GCM) | **7.00 (6.00–8.00)** | – | – | – | **1.60** | **≥ 260** | – | **160 / 385** | **1.00 / 2.50** | **57.0** | **250** |";
        assert!(table.contains(row), "{table}");
        for said in [
            "2 × A CPU",
            "Linux 6.18.1",
            "2 rounds",
            "strata round 2: udp64: it broke",
            "0.15 of a core during: strata round 1 udp64 0.70",
            "not measured: gone: gone is not installed",
        ] {
            assert!(table.contains(said), "{said} is not in {table}");
        }
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for text in ["", "{}", "nonsense", "{\"rounds\":[]}", "1 strata tcp_ab"] {
            Run::read(text, "strata").unwrap_err();
        }
    }

    #[test]
    fn a_plot_has_a_bar_for_each_figure_that_there_is_and_its_text_is_escaped() {
        let text = LINES.replace("vpncloud", "a&b");
        let svg = Run::read(&text, "strata").unwrap().plot();
        let bars = |colour: &str| svg.matches(&format!("fill=\"{colour}\"/>")).count();
        assert_eq!(bars("#0b62a4"), 2);
        assert_eq!(bars("#bbb"), 3);
        assert!(svg.contains(">a&amp;b<") && !svg.contains("a&b"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
