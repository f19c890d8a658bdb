//! Reliable flows over links that lose and corrupt: what goes in comes out, byte for byte, and ends when both sides do.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::cat::{Carry, Cat, bytes};
use tests::{Impairment, Lab, Line};

/// Carries bytes from A to a host, and others back; says how long that took.
fn carry(line: &Line, to: &str, there: &[u8], back: &[u8], most: Duration) -> Duration {
    let (a, b) = (line.host("a").unwrap(), line.host(to).unwrap());
    let name = format!("file-{to}");
    let carry = Carry::start(a, b, &name, there.to_vec(), back.to_vec()).unwrap();
    let took = carry.end(most).unwrap();
    eprintln!("{} + {} bytes to {to}: {took:?}", there.len(), back.len());
    took
}

fn lossy(loss: f64) -> Impairment {
    Impairment {
        loss,
        ..Impairment::default()
    }
}

#[test]
fn programs_on_one_host_end_each_direction_by_itself() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let _irmd = host.irmd().unwrap();
    let far = Cat::start(&host, "here --listen", Some(b"an answer")).unwrap();
    host.irm("wait name here").unwrap();
    let there = bytes(1, 3_000_000);
    let near = Cat::start(&host, "here", Some(&there)).unwrap();
    assert_eq!(near.end(TEN).unwrap(), b"an answer");
    assert!(far.end(TEN).unwrap() == there);
}

#[test]
fn a_file_passes_a_neighbour_whose_link_loses_or_corrupts_a_third() {
    let mut line = Line::impairable(11).unwrap();
    let (there, back) = (bytes(1, 2_000_000), bytes(2, 300_000));
    for loss in [0.0, 0.01, 0.1, 0.3] {
        line.impair(lossy(loss)).unwrap();
        carry(&line, "b", &there, &back, TWENTY);
    }
    line.impair(Impairment {
        corrupt: 0.3,
        ..Impairment::default()
    })
    .unwrap();
    carry(&line, "b", &there, &back, TWENTY);
}

#[test]
fn a_file_passes_links_that_swap_double_delay_lose_and_corrupt_all_at_once() {
    let mut line = Line::impairable(14).unwrap();
    let (there, back) = (bytes(6, 1_000_000), bytes(7, 200_000));
    let shuffled = Impairment {
        delay_us: 500,
        jitter_us: 1500,
        duplicate: 0.3,
        reorder: 0.3,
        ..Impairment::default()
    };
    line.impair(shuffled).unwrap();
    carry(&line, "b", &there, &back, TWENTY);
    carry(&line, "c", &there, &back, TWENTY);
    line.impair(Impairment {
        loss: 0.02,
        corrupt: 0.02,
        ..shuffled
    })
    .unwrap();
    carry(&line, "c", &there, &back, TWENTY);
}

#[test]
fn a_file_passes_a_member_in_between_with_two_links_that_lose_a_third() {
    let mut line = Line::impairable(12).unwrap();
    let (there, back) = (bytes(3, 100_000), bytes(4, 10_000));
    line.impair(lossy(0.3)).unwrap();
    // Of what is asked a quarter is answered: mostly it takes 2 s, and by chance a multiple.
    carry(&line, "c", &there, &back, MINUTE);
}

#[test]
fn a_path_that_loses_without_being_full_carries_more_with_the_other_congestion_control() {
    let mut line = Line::impairable(15).unwrap();
    let lossy = Impairment {
        delay_us: 10_000,
        loss: 0.03,
        ..Impairment::default()
    };
    line.impair(lossy).unwrap();
    let (there, back) = (bytes(8, 2_000_000), bytes(9, 1000));
    let took = ["cubic", "bbr"].map(|control| {
        let a = line.host("a").unwrap();
        a.irm(&format!("ipcp set ovl-a --congestion {control}"))
            .unwrap();
        carry(&line, "b", &there, &back, MINUTE)
    });
    assert!(took[1] * 2 < took[0], "cubic and BBR took {took:?}");
}

#[test]
fn a_direction_ends_while_the_other_goes_on_and_what_was_written_before_a_close_arrives() {
    let line = Line::impairable(13).unwrap();
    let (a, b) = (line.host("a").unwrap(), line.host("b").unwrap());
    // Nothing to say on one side, and its end is heard long before the other has said all.
    let far = Cat::start(b, "last --listen --layer overlay", None).unwrap();
    b.irm("wait name last").unwrap();
    let there = bytes(5, 1_000_000);
    let near = Cat::start(a, "last --layer overlay", Some(&there)).unwrap();
    assert_eq!(near.end(TEN).unwrap(), b"");
    assert!(far.end(TEN).unwrap() == there);
    // A sender that is stopped leaves the reader with a failure, not with a file that looks whole.
    let mut far = Cat::start(b, "cut --listen --layer overlay", None).unwrap();
    b.irm("wait name cut").unwrap();
    let mut near = a
        .spawn_piped("irm", ["cat", "cut", "--layer", "overlay"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    near.signal(Signal::SIGTERM).unwrap();
    assert_eq!(near.wait(TEN).unwrap(), 1);
    let status = far.status(TEN).unwrap();
    assert_eq!(status.code(), Some(1));
}

const TEN: Duration = Duration::from_secs(10);
const TWENTY: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);
