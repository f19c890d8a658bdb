//! Pictures as SVG: curves over the size of a layer, both axes logarithmic.

use std::fmt::Write as _;

/// One curve: its name, and (members, value) from left to right.
pub(crate) type Curve = (String, Vec<(f64, f64)>);

/// A picture with a title and the unit of its values.
pub(crate) fn plot(title: &str, unit: &str, curves: &[Curve]) -> String {
    let points = || {
        curves
            .iter()
            .flat_map(|(_, points)| points)
            .filter(|p| p.1 > 0.0)
    };
    let (x, y) = (
        Axis::of(points().map(|p| p.0)),
        Axis::of(points().map(|p| p.1)),
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"42\" fill=\"#555\">{unit}</text>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555\">members</text>\n",
        WIDTH - RIGHT,
        HEIGHT - 8.0
    );
    for (value, at) in x.ticks() {
        let at = LEFT + at * (WIDTH - LEFT - RIGHT);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {TOP}V{}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
    for (value, at) in y.ticks() {
        let at = HEIGHT - BOTTOM - at * (HEIGHT - TOP - BOTTOM);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (i, (name, points)) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let place = |(members, value): &(f64, f64)| {
            let across = LEFT + x.place(*members) * (WIDTH - LEFT - RIGHT);
            (
                across,
                HEIGHT - BOTTOM - y.place(*value) * (HEIGHT - TOP - BOTTOM),
            )
        };
        let shown: Vec<_> = points.iter().filter(|p| p.1 > 0.0).map(place).collect();
        let line: Vec<_> = shown
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let line = line.join(" ");
        let _ = writeln!(
            out,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        for (x, y) in shown {
            let _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"
            );
        }
        let at = TOP + 16.0 + 18.0 * i as f64;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{at}\" fill=\"{colour}\">{name}</text>",
            LEFT + 12.0
        );
    }
    out + "</svg>\n"
}

/// From one power of ten to another.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        if low > high {
            return Self {
                low: 0.0,
                high: 1.0,
            };
        }
        let (low, high) = (low.log10().floor(), high.log10().ceil());
        Self {
            low,
            high: high.max(low + 1.0),
        }
    }

    fn place(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low)
    }

    /// The powers of ten and thrice them, each with its place.
    fn ticks(&self) -> Vec<(f64, f64)> {
        let mut ticks = Vec::new();
        let mut power = self.low;
        while power <= self.high {
            for factor in [1.0, 3.0] {
                let value = 10_f64.powf(power) * factor;
                let rounded = (value * 1000.0).round() / 1000.0;
                ticks.extend(Some((rounded, self.place(value))).filter(|(_, at)| *at <= 1.001));
            }
            power += 1.0;
        }
        ticks
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 44.0;
const COLOURS: [&str; 6] = [
    "#0b62a4", "#c23b22", "#2a8f4f", "#8a4fbf", "#b8860b", "#444444",
];
