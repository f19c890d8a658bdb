//! The plot: a row a peer, a panel a figure, each from nought.

use std::fmt::Write as _;

use super::{Figure, Peer, Run, short};

impl Run {
    /// As SVG.
    pub fn plot(&self) -> String {
        let panels: Vec<_> = PANELS
            .iter()
            .filter(|panel| self.peers.iter().any(|p| p.median(panel.0).is_some()))
            .collect();
        let (wide, high) = (
            LABELS + PANEL * panels.len() as f64 + 10.0,
            TOP + ROW * self.peers.len() as f64 + 16.0,
        );
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{wide}\" height=\"{high}\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"24\" font-size=\"16\">Tunnels between two hosts of one machine</text>\n\
             <text x=\"10\" y=\"42\" fill=\"#555\">{}; medians of {} rounds, lines from the least to the most</text>\n",
            escaped(&self.host),
            self.rounds
        );
        for (row, peer) in self.peers.iter().enumerate() {
            let weight = if peer.own {
                " font-weight=\"bold\""
            } else {
                ""
            };
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\"{weight}>{}</text>",
                LABELS - 10.0,
                TOP + ROW * row as f64 + 16.0,
                escaped(&peer.name)
            );
        }
        for (n, (figure, title, unit)) in panels.into_iter().enumerate() {
            let left = LABELS + PANEL * n as f64;
            let _ = writeln!(
                out,
                "<text x=\"{left}\" y=\"66\">{title}</text><text x=\"{left}\" y=\"82\" fill=\"#555\" font-size=\"11\">{unit}</text>\n\
                 <path d=\"M{left} {TOP}V{}\" stroke=\"#ddd\"/>",
                high - 12.0
            );
            let far = if unit.contains("less") {
                FAR
            } else {
                f64::INFINITY
            };
            self.bars(&mut out, *figure, left, far);
        }
        out + "</svg>\n"
    }

    fn bars(&self, out: &mut String, figure: Figure, left: f64, far: f64) {
        let spans = self.peers.iter().filter_map(|peer| peer.span(figure));
        let (mut medians, most): (Vec<_>, Vec<_>) = spans.map(|(_, m, most)| (m, most)).unzip();
        medians.sort_by(f64::total_cmp);
        // One that is far off would leave nothing to see of those that are better.
        let usual = medians.get(medians.len() / 2).copied().unwrap_or(0.0);
        let end = most.into_iter().fold(0.0, f64::max).min(usual * far);
        let place = |value: f64| left + (value / end.max(f64::MIN_POSITIVE)).min(1.0) * BAR;
        for (row, peer) in self.peers.iter().enumerate() {
            let Some((least, median, most)) = peer.span(figure) else {
                continue;
            };
            let top = TOP + ROW * row as f64;
            let _ = write!(
                out,
                "<rect x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" fill=\"{}\"/>",
                top + 3.0,
                (place(median) - left).max(1.0),
                if peer.own { OWN } else { OTHERS }
            );
            if most > least {
                let _ = write!(
                    out,
                    "<path d=\"M{:.1} {:.1}H{:.1}\" stroke=\"#444\"/>",
                    place(least),
                    top + 11.0,
                    place(most)
                );
            }
            if median > end {
                let _ = write!(
                    out,
                    "<path d=\"M{:.1} {:.1}l6 16\" stroke=\"white\" stroke-width=\"4\"/>",
                    left + BAR - 16.0,
                    top + 3.0
                );
            }
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{}</text>",
                place(most) + 4.0,
                top + 15.0,
                value(peer, figure, median)
            );
        }
    }
}

fn value(peer: &Peer, figure: Figure, median: f64) -> String {
    let sign = if peer.at_least.contains(&figure) {
        "≥ "
    } else {
        ""
    };
    format!("{sign}{}", short(median))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A panel each: figure, title, unit.
const PANELS: [(Figure, &str, &str); 7] = [
    (Figure::TcpAb, "TCP, 1 stream", "Gbit/s, more is better"),
    (Figure::CpuPerGb, "CPU", "s/GB, less is better"),
    (Figure::Udp64, "UDP 64 B", "kpps, more is better"),
    (Figure::RttP50, "RTT idle p50", "µs, less is better"),
    (Figure::LoadP99, "RTT under TCP p99", "ms, less is better"),
    (Figure::Rss, "Memory, both", "MB, less is better"),
    (Figure::Up, "Up", "ms, less is better"),
];
const LABELS: f64 = 150.0;
const PANEL: f64 = 138.0;
const BAR: f64 = 84.0;
/// Where less is better, a bar is cut that is so many times as long as the one in the middle.
const FAR: f64 = 8.0;
const TOP: f64 = 92.0;
const ROW: f64 = 23.0;
const OWN: &str = "#0b62a4";
const OTHERS: &str = "#bbb";
