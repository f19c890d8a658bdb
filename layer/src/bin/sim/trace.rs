//! What a run tells of itself: as lines for people, as JSON lines in a file, and drawn as a picture.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use layer::sim::Told;

use crate::say;

/// Where the JSON lines go, and what is kept to be drawn.
#[derive(Default)]
struct Kept {
    file: Option<Box<dyn Write + Send>>,
    scenes: Option<Vec<Scene>>,
}

struct Scene {
    at: f64,
    from: usize,
    to: usize,
    text: String,
}

/// Traces come from one run at a time, through a plain function.
static KEPT: OnceLock<Mutex<Kept>> = OnceLock::new();

/// A line for people.
pub(crate) fn line(told: &Told<'_>) {
    let Told {
        at,
        from,
        to,
        what,
        size,
    } = told;
    let at = at.as_secs_f64();
    match size {
        Some(size) => say(&format!("{at:>12.6} m{from} {what} {size}")),
        None => say(&format!("{at:>12.6} m{from} -> m{to} {what}")),
    }
}

/// Keeps what is told: all of it in a file, what people understand to be drawn.
pub(crate) fn keep(told: &Told<'_>) {
    let Some(kept) = KEPT.get() else { return };
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let Told {
        at,
        from,
        to,
        what,
        size,
    } = told;
    if let Some(file) = &mut kept.file {
        let size = size.map_or(String::new(), |size| format!(",\"bytes\":{size}"));
        let at = at.as_secs_f64();
        // A disk that is full is told of at the end.
        let _ = writeln!(
            file,
            "{{\"at\":{at:.6},\"from\":{from},\"to\":{to},\"what\":{}{size}}}",
            quoted(what)
        );
    }
    if let (Some(scenes), None) = (&mut kept.scenes, size) {
        scenes.push(Scene {
            at: at.as_secs_f64(),
            from: *from,
            to: *to,
            text: (*what).to_owned(),
        });
    }
}

/// Opens the file and begins to keep.
pub(crate) fn open(file: Option<&str>, draws: bool) -> Result<(), String> {
    let create = |path: &str| {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path);
        file.map_err(|e| format!("can't write {path}: {e}"))
    };
    let kept = Kept {
        file: file
            .map(create)
            .transpose()?
            .map(|file| Box::new(BufWriter::new(file)) as Box<dyn Write + Send>),
        scenes: draws.then(Vec::new),
    };
    KEPT.get_or_init(|| Mutex::new(kept));
    Ok(())
}

/// Ends the file and draws the picture.
pub(crate) fn close(picture: Option<&str>) -> Result<(), String> {
    let Some(kept) = KEPT.get() else {
        return Ok(());
    };
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = &mut kept.file {
        file.flush()
            .map_err(|e| format!("can't write the trace: {e}"))?;
    }
    let scenes = kept.scenes.take().unwrap_or_default();
    match picture {
        Some(path) => {
            std::fs::write(path, draw(&scenes)).map_err(|e| format!("can't write {path}: {e}"))
        }
        None => Ok(()),
    }
}

/// A line for each host, time from left to right: what a host does is a dot, what it does to another an arrow.
fn draw(scenes: &[Scene]) -> String {
    let hosts = scenes
        .iter()
        .map(|s| s.from.max(s.to) + 1)
        .max()
        .unwrap_or(1);
    let (from, until) = scenes
        .iter()
        .fold((f64::MAX, 0.0_f64), |(a, b), s| (a.min(s.at), b.max(s.at)));
    let across = |at: f64| LEFT + (at - from) / (until - from).max(0.001) * WIDTH;
    let down = |host: usize| 40.0 + 26.0 * host as f64;
    let (width, height) = (LEFT + WIDTH + 20.0, down(hosts) + 20.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for host in 0..hosts {
        let y = down(host);
        let _ = writeln!(
            out,
            "<text x=\"8\" y=\"{}\">m{host}</text><path d=\"M{LEFT} {y}h{WIDTH}\" stroke=\"#ddd\"/>",
            y + 4.0
        );
    }
    for tenth in 0..=10 {
        let at = from + (until - from) * f64::from(tenth) / 10.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"20\" text-anchor=\"middle\" fill=\"#555\">{at:.1} s</text>",
            across(at)
        );
    }
    for Scene { at, from, to, text } in scenes {
        let (x, colour) = (across(*at), colour(text));
        let title = escaped(&format!("{at:.3} s m{from} {text}"));
        let _ = if from == to {
            writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{}\" r=\"3\" fill=\"{colour}\"><title>{title}</title></circle>",
                down(*from)
            )
        } else {
            writeln!(
                out,
                "<path d=\"M{x:.1} {}V{}\" stroke=\"{colour}\"><title>{title}</title></path><circle cx=\"{x:.1}\" cy=\"{}\" r=\"2\" fill=\"{colour}\"/>",
                down(*from),
                down(*to),
                down(*to)
            )
        };
    }
    out + "</svg>\n"
}

fn colour(text: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match () {
        () if has(&[
            "crash",
            "cut",
            "dies",
            "down",
            "failed",
            "lie",
            "loses",
            "nothing gets",
        ]) =>
        {
            "#c23b22"
        }
        () if has(&[
            "is up",
            "mended",
            "member",
            "starts again",
            "stands",
            "again",
        ]) =>
        {
            "#2a8f4f"
        }
        () if has(&["flow"]) => "#0b62a4",
        () => "#888888",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

const LEFT: f64 = 50.0;
const WIDTH: f64 = 1400.0;
