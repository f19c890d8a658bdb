//! The policy of a layer over three hosts: what it says holds everywhere within seconds, and what stands ends by it.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::time::{Duration, Instant};

use tests::{Host, Line, until};

const FIVE: Duration = Duration::from_secs(5);
const PING: &str = "ping hello --layer overlay -c 1 --timeout 500ms";

/// Sets a policy where the authority is. Gives the time until the last host has it.
fn set(line: &Line, number: u64, rules: &str) -> Duration {
    let b = line.host("b").unwrap();
    let file = b.dir().join("rules");
    fs::write(&file, rules).unwrap();
    let before = Instant::now();
    let command = format!("policy set --layer overlay {}", file.display());
    b.irm(&command).unwrap();
    for host in &line.hosts {
        until(FIVE, || {
            let shown = host.irm_json("policy show --layer overlay")?;
            anyhow::ensure!(shown["number"] == number, "{shown}");
            Ok(())
        })
        .unwrap();
    }
    before.elapsed()
}

/// Why something is refused.
fn refused(host: &Host, command: &str) -> String {
    host.irm(command).unwrap_err().to_string()
}

#[test]
fn a_policy_holds_on_all_hosts_in_seconds_ends_what_it_forbids_and_gives_back_what_it_allows() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    let _echo = c
        .spawn("irm", ["echo", "hello", "--layer", "overlay"])
        .unwrap();
    until(FIVE, || a.irm_json(PING)).unwrap();
    let args = [
        "ping", "hello", "--layer", "overlay", "-c", "600", "-i", "0.05",
    ];
    let [mut of_a, mut of_b] = [a, b].map(|host| host.spawn("irm", args).unwrap());
    std::thread::sleep(Duration::from_millis(700));
    assert!(of_a.alive() && of_b.alive(), "{}", of_a.log());

    let rules = "allow register,accept hello by member ovl-c\n# not a\nallow allocate hello by member ovl-b\n";
    let took = set(&line, 1, rules);
    println!("the policy held on three hosts after {took:?}");
    let code = of_a.wait(FIVE).unwrap();
    let said = of_a.log();
    assert!(code != 0, "the flow stands: {said}");
    assert!(said.contains("ovl-a may not allocate hello"), "{said}");
    assert!(of_b.alive(), "it is allowed: {}", of_b.log());
    until(FIVE, || b.irm_json(PING)).unwrap();
    let said = refused(a, PING);
    assert!(said.contains("no rule of policy 1 allows it"), "{said}");

    // The deciding rule is the same wherever one asks.
    for host in [a, b, c] {
        let said = refused(host, "policy check --layer overlay --from ovl-a --to hello");
        assert!(said.contains("no rule of policy 1 allows it"), "{said}");
        let check = "policy check --layer overlay --from ovl-b --to hello --at ovl-c";
        let said = host.irm(check).unwrap();
        assert!(
            said.contains("rule 2 of policy 1 allows it, line 3"),
            "{said}"
        );
        assert!(
            said.contains("rule 1 of policy 1 allows it, line 1"),
            "{said}"
        );
    }

    // What none allows is denied; once it is allowed, it registers by itself.
    c.irm("name create web").unwrap();
    let said = refused(c, "name register web --layer overlay");
    assert!(said.contains("ovl-c may not register web"), "{said}");
    let took = set(&line, 2, "allow * * by any\n");
    println!("and the next after {took:?}");
    c.irm("wait name web --state registered --timeout 5s")
        .unwrap();
    until(FIVE, || a.irm_json(PING)).unwrap();
    set(&line, 3, "deny * hello by any\n");
    assert_ne!(of_b.wait(FIVE).unwrap(), 0, "{}", of_b.log());
}
