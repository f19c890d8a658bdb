//! Replays what the fuzzer found worth keeping, and cheap changes of it, on a stable compiler. A crate's `tests/corpus.rs`
//! includes this file and the targets that feed its own wires; it must not need more than the standard library.

use std::fs;
use std::path::{Path, PathBuf};

/// The inputs that a target begins with: file names and bytes, the same on every call.
pub(crate) type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Gives a target all that lies in its corpus, and that many changed inputs.
pub(crate) fn replay(name: &str, run: fn(&[u8]), changes: usize) {
    let inputs = inputs(name);
    assert!(!inputs.is_empty(), "{name} has no corpus");
    for input in &inputs {
        run(input);
    }
    let mut chance = Chance(1);
    for _ in 0..changes {
        let input = changed(&inputs, &mut chance);
        std::panic::catch_unwind(|| run(&input))
            .unwrap_or_else(|_| panic!("target {name} fails on {input:02x?}"));
    }
}

/// Checks that the corpus holds what its generator makes; where [`WRITE`] is set, writes it first.
pub(crate) fn holds(name: &str, seeds: &Seeds) {
    assert!(seeds.len() <= 20, "{} seeds of {name}", seeds.len());
    for (seed, bytes) in seeds {
        assert!(bytes.len() <= MAX_INPUT);
        let file = corpus(name).join(seed);
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(&file, bytes).unwrap();
        }
        assert!(
            fs::read(&file).is_ok_and(|kept| kept == *bytes),
            "{name}/{seed} differs; run with {WRITE}=1 and commit it"
        );
    }
}

/// The tests of some targets: `name(changes): sentence;` each, where `changes` is how many changed inputs a test can afford.
macro_rules! replays {
    ($($name:ident($changes:literal): $sentence:ident;)*) => {
        $(#[test] fn $sentence() { replay::replay(stringify!($name), $name::run, $changes); })*

        #[test]
        fn the_corpus_holds_what_its_generator_makes() {
            $(replay::holds(stringify!($name), &$name::seeds());)*
        }
    };
}
pub(crate) use replays;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name)
}

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(corpus(name))
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Some bytes changed, taken away, doubled, or joined with those of another input.
fn changed(inputs: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut out = inputs[chance.below(inputs.len())].clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(out.len());
        match (chance.below(6), out.get_mut(at)) {
            (0 | 1, Some(byte)) => *byte = chance.below(256) as u8,
            (2, Some(byte)) => *byte ^= 1 << chance.below(8),
            (3, _) => out.truncate(at),
            (4, _) => {
                let other = &inputs[chance.below(inputs.len())];
                out.extend_from_slice(&other[chance.below(other.len())..]);
            }
            _ => {
                let end = (at + chance.below(16)).min(out.len());
                out.splice(at..at, out[at..end].to_vec());
            }
        }
    }
    out.truncate(MAX_INPUT);
    out
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same changes on every machine.
struct Chance(u64);

impl Chance {
    /// Less than `n`, or 0 if that is 0.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 16) as usize % n.max(1)
    }
}

/// Set, it lets [`holds`] write the corpus.
const WRITE: &str = "STRATA_WRITE_CORPUS";
const MAX_INPUT: usize = 4096;
