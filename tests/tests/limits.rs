//! Hosts that have little: memory, descriptors. What is asked beyond is refused with the reason, no daemon dies, and afterwards
//! all is as before.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use serde_json::Value;
use tests::cat::{Carry, bytes};
use tests::look::{DAEMONS, memory_kib, settled};
use tests::{Group, Host, How, Line, until};

const TEN: Duration = Duration::from_secs(10);
const THIRTY: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
/// All daemons of three hosts, the pages of their programs, and what the kernel keeps for their sockets.
const GROUP: u64 = 512 * MIB;

#[test]
fn a_thousand_flows_and_as_many_that_wait_fit_into_little_memory() {
    // Of a daemon's own: heap, stacks and what it maps. Those that hold no flow have 30 to 40 MiB of it.
    let line = limited(How {
        memory: Some(160 * MIB),
        ..How::default()
    });
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let daemons = pids(&line);
    let _echo = c
        .spawn("irm", ["echo", "many", "--layer", "overlay"])
        .unwrap();
    let mute = ["mute", "nobody", "--layer", "overlay"];
    let mute = c.spawn_piped("lab-talk", mute).unwrap();
    until(TEN, || a.irm("ping many --layer overlay -c 1")).unwrap();
    until(TEN, || c.irm("wait name nobody --timeout 1s")).unwrap();

    let many = flows(a, "many --count 1000 --timeout-ms 15000");
    assert_eq!(many["allocated"], 1000, "{many}");
    let most = most_memory(&line);
    // More than may wait of one member: each is told why, and no other flow suffers.
    let waiting = flows(a, "nobody --count 1500 --timeout-ms 4000");
    let most = most.max(most_memory(&line));
    assert_eq!(waiting["allocated"], 0, "{waiting}");
    let why = reasons(&waiting);
    eprintln!("{most} KiB at most; {why:#?}");
    assert_eq!(why.values().sum::<usize>(), 1500);
    assert!(why.keys().all(|text| explains(text)), "{why:#?}");
    // The limit itself has bitten, and whoever was over it, or over that of the program's irmd, did not have to wait.
    assert!(why.keys().any(|text| text.contains(OVER)), "{why:#?}");
    let over = why.iter().filter(|(text, _)| text.starts_with("refused"));
    assert!(over.map(|(_, n)| n).sum::<usize>() >= 400, "{why:#?}");
    // Those who wait no longer leave their places to others.
    until(TEN, || a.irm("ping many --layer overlay -c 1")).unwrap();
    assert!(most < 64 * 1024, "{most} KiB");
    mute.finish(TEN).unwrap();
    settled(&line.hosts, "overlay", THIRTY).unwrap();
    assert_eq!(pids(&line), daemons, "a daemon died");
}

#[test]
fn a_program_that_takes_all_memory_of_a_cgroup_ends_alone_and_flows_in_it_go_on() {
    let group = Group::with_memory(GROUP).unwrap();
    let line = limited(How {
        group: Some(group.dir().to_owned()),
        ..How::default()
    });
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let daemons = pids(&line);
    let inside = group.processes().unwrap();
    let mut all = daemons.iter().flat_map(|(_, of)| of.iter().flatten());
    assert!(all.all(|pid| inside.contains(pid)), "{inside:?}");
    let _echo = c
        .spawn("irm", ["echo", "many", "--layer", "overlay"])
        .unwrap();
    until(TEN, || a.irm("ping many --layer overlay -c 1")).unwrap();
    let many = flows(a, "many --count 500 --timeout-ms 15000");
    assert_eq!(many["allocated"], 500, "{many}");
    let most = group.most().unwrap();
    assert!(
        most < GROUP * 3 / 4,
        "{most} bytes before anybody else came"
    );
    assert_eq!(group.killed().unwrap(), 0);
    let carry = Carry::start(a, c, "kept", bytes(1, 3_000_000), bytes(2, 1000)).unwrap();
    // One line without an end, all of which it keeps.
    let hog = How {
        group: Some(group.dir().to_owned()),
        ..How::default()
    };
    let hog = c.command_as(&hog, "tail", ["/dev/zero"]).status().unwrap();
    assert_eq!(hog.signal(), Some(9), "{hog:?}");
    let most = group.most().unwrap();
    eprintln!("{} KiB of {} KiB", most >> 10, GROUP >> 10);
    assert!(most > GROUP * 15 / 16, "the limit did not bite: {most}");
    assert_eq!(group.killed().unwrap(), 1);
    carry.end(THIRTY).unwrap();
    assert_eq!(pids(&line), daemons, "a daemon died");
    let many = flows(a, "many --count 500 --timeout-ms 15000");
    assert_eq!(many["allocated"], 500, "{many}");
}

#[test]
fn flows_beyond_the_descriptors_of_a_host_are_refused_and_the_others_go_on() {
    let line = limited(How {
        descriptors: Some(128),
        ..How::default()
    });
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let daemons = pids(&line);
    let _echo = c
        .spawn("irm", ["echo", "many", "--layer", "overlay"])
        .unwrap();
    until(TEN, || a.irm("ping many --layer overlay -c 1")).unwrap();
    let mut ping = a
        .spawn(
            "irm",
            "--json ping many --layer overlay -c 300 -i 0.02".split(' '),
        )
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let many = flows(a, "many --count 400 --timeout-ms 4000");
    let why = reasons(&many);
    eprintln!("{} allocated; {why:#?}", many["allocated"]);
    let stood = many["allocated"].as_u64().unwrap();
    assert!((20..128).contains(&stood), "{stood} of 400 stood");
    assert_eq!(why.values().sum::<usize>() as u64, 400 - stood);
    assert!(why.keys().all(|text| explains(text)), "{why:#?}");
    ping.wait(TEN).unwrap();
    let said = ping.json().unwrap();
    assert_eq!(said["received"], said["sent"], "{said}");
    settled(&line.hosts, "overlay", THIRTY).unwrap();
    assert_eq!(pids(&line), daemons, "a daemon died");
    // All that was taken is there again.
    let again = flows(a, "many --count 400 --at-once 10 --timeout-ms 4000");
    assert_eq!(again["allocated"], 400, "{again}");
}

fn limited(how: How) -> Line {
    let mut line = Line::new(None).unwrap();
    line.how = how;
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    line
}

fn flows(host: &Host, how: &str) -> Value {
    let how = format!("{how} --layer overlay");
    let out = host.run("lab-flows", how.split(' ')).unwrap();
    assert_eq!(out.code, 0, "{}", out.stderr);
    serde_json::from_str(&out.stdout).unwrap()
}

/// Why flows failed, and how many for each.
fn reasons(flows: &Value) -> BTreeMap<String, usize> {
    let mut why = BTreeMap::new();
    for failed in flows["failed"].as_array().unwrap() {
        *why.entry(failed.as_str().unwrap().to_owned()).or_default() += 1;
    }
    why
}

/// What a member says that has too many requests of another that wait.
const OVER: &str = "has as many flows as it can carry or answer";

/// Whether a refusal says what there was too much of, or who did not answer.
fn explains(text: &str) -> bool {
    [
        "too many flows: this IPC process may have 128 descriptors",
        OVER,
        "the program accepts flows more slowly than they come",
        "did not answer in",
        "no answer",
        // On a machine that is too busy even to be heard.
        "at any member that can be reached",
    ]
    .iter()
    .any(|word| text.contains(word))
}

fn pids(line: &Line) -> Vec<(String, [Vec<u32>; 3])> {
    let of = |host: &Host| (host.name.clone(), DAEMONS.map(|name| host.programs(name)));
    line.hosts.iter().map(of).collect()
}

/// Of the daemon that has the most, in KiB.
fn most_memory(line: &Line) -> u64 {
    let all = pids(line);
    let pids = all.iter().flat_map(|(_, daemons)| daemons.iter().flatten());
    pids.map(|pid| memory_kib(*pid)).max().unwrap_or(0)
}
