//! What the fuzzer found worth keeping, and cheap changes of it, on a stable compiler (`fuzz/`).

// The whole of it is a test: what fails may panic.
#![allow(clippy::unwrap_used)]

// The targets are a crate of their own to the fuzzer, and panics are how they say that something is wrong.
#[allow(clippy::wildcard_enum_match_arm, unreachable_pub)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use targets::{TARGETS, Target};

/// Set, it lets [`the_corpus_holds_what_its_generator_makes`] write it.
const WRITE: &str = "STRATA_WRITE_CORPUS";

fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target.name)
}

fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Some bytes changed, taken away, doubled, or joined with those of another input.
fn changed(inputs: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let below = |rng: &mut ChaCha8Rng, n: usize| rng.next_u32() as usize % n.max(1);
    let mut out = inputs[below(rng, inputs.len())].clone();
    for _ in 0..=below(rng, 4) {
        let at = below(rng, out.len());
        match (below(rng, 6), out.get_mut(at)) {
            (0 | 1, Some(byte)) => *byte = rng.next_u32() as u8,
            (2, Some(byte)) => *byte ^= 1 << below(rng, 8),
            (3, _) => out.truncate(at),
            (4, _) => {
                let other = &inputs[below(rng, inputs.len())];
                out.extend_from_slice(&other[below(rng, other.len())..]);
            }
            _ => {
                let end = (at + below(rng, 16)).min(out.len());
                out.splice(at..at, out[at..end].to_vec());
            }
        }
    }
    out.truncate(4096);
    out
}

fn replay(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).unwrap();
    let inputs = inputs(target);
    assert!(!inputs.is_empty());
    for input in &inputs {
        (target.run)(input);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..target.changes {
        let input = changed(&inputs, &mut rng);
        let shown = input.clone();
        std::panic::catch_unwind(|| (target.run)(&input))
            .unwrap_or_else(|_| panic!("target {name} fails on {shown:02x?}"));
    }
}

macro_rules! replays {
    ($($name:ident: $sentence:ident;)*) => {
        $(#[test] fn $sentence() { replay(stringify!($name)); })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|t| t.name), replayed);
        }
    };
}

replays! {
    record: no_record_of_a_data_socket_breaks_its_reader;
    messages: no_message_of_irmd_or_of_a_member_breaks_its_reader;
    pdu: no_header_of_a_pdu_breaks_its_reader;
    channel: no_frame_breaks_a_channel;
    handshake: no_pdu_breaks_a_handshake_or_lends_a_name;
    certificate: no_change_of_a_certificate_is_believed;
    prefixes: a_prefix_extension_has_one_encoding;
    invitation: no_change_of_an_invitation_is_taken;
    lsdb: no_record_of_a_neighbour_breaks_the_database;
    shim: no_datagram_breaks_a_shim;
    unicast: no_input_breaks_a_member;
    packet: no_ip_packet_breaks_the_vpn;
}

#[test]
fn the_corpus_holds_what_its_generator_makes() {
    for target in &TARGETS {
        let dir = corpus(target);
        let seeds = (target.seeds)();
        assert!(
            seeds.len() <= 20,
            "{} seeds of {}",
            seeds.len(),
            target.name
        );
        for (name, bytes) in seeds {
            assert!(bytes.len() <= 4096);
            if std::env::var_os(WRITE).is_some() {
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(name), &bytes).unwrap();
            }
            let kept = fs::read(dir.join(name));
            assert!(
                kept.is_ok_and(|kept| kept == bytes),
                "{}/{name} differs; run with {WRITE}=1 and commit it",
                target.name
            );
        }
    }
}
