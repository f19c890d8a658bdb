//! The words after `cargo sim`.

use std::path::{Path, PathBuf};

use layer::sim::{Options, Scale, Scenario, Topology};

use crate::trace;

/// What is to be done.
pub(crate) enum Todo {
    Run(Box<Args>),
    Scale(Large),
    List,
    Help,
}

/// Layers of thousands.
pub(crate) struct Large {
    pub(crate) scales: Vec<Scale>,
    /// They stand already.
    pub(crate) stand: bool,
    /// The directory of the pictures.
    pub(crate) plots: Option<String>,
}

/// What is to be run.
pub(crate) struct Args {
    pub(crate) seeds: u64,
    pub(crate) options: Options,
    /// As it was given, and what it says.
    pub(crate) scenario: Option<(String, Scenario)>,
    pub(crate) jobs: usize,
    pub(crate) mermaid: Option<String>,
    /// The picture of a run.
    pub(crate) draw: Option<String>,
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Todo, String> {
        let (mut sizes, mut links, mut stand) = (Vec::new(), 2, false);
        let (mut plots, mut file) = (None, None);
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut args = Self {
            seeds: 10,
            options: Options::default(),
            scenario: None,
            jobs,
            mermaid: None,
            draw: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--seeds" => args.seeds = number(&value()?)?,
                "--from" => args.options.seed = number(&value()?)?,
                "--scenario" => {
                    let name = value()?;
                    let scenario = read(&path_of(&name))?;
                    args.scenario = Some((name, scenario));
                }
                "--topology" => args.options.topology = Some(value()?.parse()?),
                "--members" => args.options.members = Some(members(&value()?)?),
                "--jobs" => args.jobs = usize::try_from(number(&value()?)?).unwrap_or(1).max(1),
                "--verbose" => args.options.trace = Some(trace::line),
                "--trace" => file = Some(value()?),
                "--draw" => args.draw = Some(value()?),
                "--plots" => plots = Some(value()?),
                "--scale" => sizes.extend(
                    value()?
                        .split(',')
                        .map(size)
                        .collect::<Result<Vec<_>, _>>()?,
                ),
                "--stand" => stand = true,
                "--links" => links = size(&value()?)?,
                "--mermaid" => args.mermaid = Some(value()?),
                "--list" => return Ok(Todo::List),
                "--help" | "-h" => return Ok(Todo::Help),
                _ => return Err(format!("{word:?} is no option")),
            }
        }
        if args.scenario.is_some() && (args.options.topology, args.options.members) != (None, None)
        {
            return Err("a scenario says its topology and members itself".to_owned());
        }
        if file.is_some() || args.draw.is_some() {
            trace::open(file.as_deref(), args.draw.is_some())?;
            args.options.trace = Some(trace::keep);
        }
        if args.options.trace.is_some() {
            args.jobs = 1;
        }
        if !sizes.is_empty() {
            let topology = args.options.topology.unwrap_or(Topology::Random);
            let seed = args.options.seed;
            let scale = |members| Scale {
                members,
                topology,
                links,
                seed,
            };
            return Ok(Todo::Scale(Large {
                scales: sizes.into_iter().map(scale).collect(),
                stand,
                plots,
            }));
        }
        Ok(Todo::Run(Box::new(args)))
    }

    /// The command that repeats one seed.
    pub(crate) fn repeat(&self, seed: u64) -> String {
        let mut text = format!("cargo sim --from {seed} --seeds 1");
        if let Some((name, _)) = &self.scenario {
            text += &format!(" --scenario {name}");
        }
        if let Some(topology) = self.options.topology {
            text += &format!(" --topology {topology}");
        }
        if let Some((least, most)) = self.options.members {
            text += &format!(" --members {least}-{most}");
        }
        text
    }
}

/// All scenarios of this repository: name and what it says.
pub(crate) fn scenarios() -> Result<Vec<(String, Scenario)>, String> {
    let home = home();
    let files =
        std::fs::read_dir(&home).map_err(|e| format!("can't read {}: {e}", home.display()))?;
    let mut paths: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    let named = |path: PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok((name.into_owned(), read(&path)?))
    };
    paths.into_iter().map(named).collect()
}

/// A file, or the name of a scenario of this repository.
fn path_of(name: &str) -> PathBuf {
    let known = home().join(format!("{name}.toml"));
    if known.is_file() {
        known
    } else {
        PathBuf::from(name)
    }
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn read(path: &Path) -> Result<Scenario, String> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        format!(
            "can't read {}: {e}; --list shows the scenarios that there are",
            path.display()
        )
    })?;
    Scenario::parse(&text).map_err(|e| format!("{}:{e}", path.display()))
}

/// One number, or two with a dash between.
fn members(text: &str) -> Result<(usize, usize), String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let bound = |text: &str| usize::try_from(number(text)?).map_err(|e| e.to_string());
    let (least, most) = (bound(least)?, bound(most)?);
    if 2 <= least && least <= most && most <= 64 {
        Ok((least, most))
    } else {
        Err("--members is from 2 to 64".to_owned())
    }
}

fn size(text: &str) -> Result<usize, String> {
    usize::try_from(number(text)?).map_err(|e| e.to_string())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

pub(crate) const USAGE: &str = "cargo sim [--seeds N] [--from SEED] [--scenario FILE|NAME | [--topology T] [--members N|N-M]] [--jobs N]
          [--verbose | --trace FILE] [--draw FILE.svg] [--mermaid FILE]
cargo sim --list
cargo sim --scale N,M,… [--stand] [--topology T] [--links L] [--plots DIR]

Runs N seeds (10) from SEED (0) and exits 0 if everything held. Without a scenario all is drawn from the seed.
  cargo sim --seeds 100
  cargo sim --seeds 200 --members 8-64
  cargo sim --scenario liar --seeds 20
  cargo sim --from 17 --seeds 1 --trace events.jsonl --draw run.svg --mermaid failure.mmd
  cargo sim --scale 100,300,1000 --plots docs/plots";
