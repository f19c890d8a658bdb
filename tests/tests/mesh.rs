//! Hosts of one network that become a full mesh with nothing said but where each of them is, an invitation, and `vpn up`.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use tests::{Host, Lab, Process, until};

const TEN: Duration = Duration::from_secs(10);

/// A host with its irmd, at an address of its own that all others reach.
struct Node {
    host: Host,
    ip: String,
    irmd: Process,
}

impl Node {
    /// Runs `irm`, which must succeed, and gives what it printed, trimmed.
    fn irm(&self, line: &str) -> String {
        self.host.irm(line).unwrap().trim().to_owned()
    }

    fn member(&self) -> String {
        format!("m-{}", self.host.name)
    }

    /// The address of its VPN, of the family.
    fn address(&self, v4: bool) -> String {
        let status = self.host.irm_json("vpn status").unwrap();
        let addresses = status["vpns"][0]["addresses"].as_array().unwrap();
        let mut addresses = addresses.iter().filter_map(|a| a.as_str());
        let found = addresses.find(|a| a.contains('.') == v4).unwrap();
        found.split('/').next().unwrap().to_owned()
    }

    fn neighbours(&self) -> Vec<String> {
        let members = self.host.irm_json("layer members mesh").unwrap();
        let own = self.member();
        let mut all = members["members"].as_array().unwrap().iter();
        let me = all.find(|m| m["name"] == own.as_str()).unwrap();
        let names = me["neighbours"].as_array().unwrap().iter();
        let mut names: Vec<_> = names.map(|n| n.as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

/// Three hosts, each with an address that the two others reach.
fn hosts(lab: &Lab) -> [Node; 3] {
    let hosts = ["a", "b", "c"].map(|name| lab.host(name).unwrap());
    let ips = ["10.78.0.1", "10.78.0.2", "10.78.0.3"];
    for (host, ip) in hosts.iter().zip(ips) {
        host.net(&format!("addr lo {ip}/32")).unwrap();
        host.net("up lo").unwrap();
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let link = lab.veth(&hosts[one], &hosts[other]).unwrap();
        for (here, there, via) in [(one, other, 1), (other, one, 0)] {
            let route = format!("route {}/32 {}", ips[there], link.ip(via));
            hosts[here].net(&route).unwrap();
        }
    }
    let mut ips = ips.into_iter();
    hosts.map(|host| Node {
        irmd: host.irmd().unwrap(),
        host,
        ip: ips.next().unwrap().to_owned(),
    })
}

fn ping(from: &Host, to: &str) -> anyhow::Result<()> {
    let out = from.run("ping", ["-c", "1", "-W", "1", to])?;
    anyhow::ensure!(
        out.code == 0,
        "{} does not reach {to}: {}",
        from.name,
        out.stdout
    );
    Ok(())
}

/// All that is ever typed: a shim on each host, two invitations, and the VPN.
fn bring_up(nodes: &[Node; 3], pools: &str) {
    for node in nodes {
        node.irm(&format!(
            "ipcp bootstrap udp --type shim-udp --layer net --ip {}",
            node.ip
        ));
    }
    let [a, b, c] = nodes;
    a.irm(&format!(
        "ipcp bootstrap m-a --type unicast --layer mesh {pools}"
    ));
    for node in [b, c] {
        let member = node.member();
        let url = a.irm(&format!("layer invite mesh --member {member}"));
        node.irm(&format!(
            "ipcp enroll {member} --type unicast --invite {url}"
        ));
    }
    for node in nodes {
        node.irm("vpn up --layer mesh");
    }
}

#[test]
fn three_hosts_are_a_full_mesh_with_nothing_typed_but_a_shim_an_invitation_and_the_vpn() {
    let lab = Lab::new().unwrap();
    let nodes = hosts(&lab);
    let begin = Instant::now();
    bring_up(&nodes, "");
    for v4 in [true, false] {
        for from in &nodes {
            for to in &nodes {
                let address = to.address(v4);
                until(TEN, || ping(&from.host, &address)).unwrap();
            }
        }
    }
    println!("all reach all {:?} after the first word", begin.elapsed());
    let [a, b, c] = &nodes;
    for (node, others) in [
        (a, ["m-b", "m-c"]),
        (b, ["m-a", "m-c"]),
        (c, ["m-a", "m-b"]),
    ] {
        let direct = || {
            let neighbours = node.neighbours();
            anyhow::ensure!(neighbours == others, "{}: {neighbours:?}", node.host.name);
            Ok(())
        };
        until(TEN, direct).unwrap();
    }
    // The first member is needed for nothing that stands: B and C go on without it.
    a.irm("ipcp destroy m-a --force");
    let c_address = c.address(true);
    until(TEN, || ping(&b.host, &c_address)).unwrap();
}

#[test]
fn addresses_come_from_the_pools_and_are_kept_and_a_prefix_that_is_asked_for_wins() {
    let lab = Lab::new().unwrap();
    let mut nodes = hosts(&lab);
    bring_up(&nodes, "--pool 10.9.0.0/24 --pool fd09::/64");
    let prefixes = |node: &Node| {
        let members = node.host.irm_json("layer members mesh").unwrap();
        let all = members["members"].as_array().unwrap().iter();
        let mut all: Vec<_> = all
            .map(|m| format!("{} {}", m["name"], m["prefixes"]))
            .collect();
        all.sort();
        all
    };
    let [a, b, c] = &mut nodes;
    let three = [
        r#""m-a" ["10.9.0.1/32","fd09::1/128"]"#,
        r#""m-b" ["10.9.0.2/32","fd09::2/128"]"#,
        r#""m-c" ["10.9.0.3/32","fd09::3/128"]"#,
    ];
    assert_eq!(prefixes(a), three);
    until(TEN, || ping(&c.host, "fd09::2")).unwrap();
    // Repeating is fine, other pools are other arguments.
    a.irm("ipcp bootstrap m-a --type unicast --layer mesh --pool 10.9.0.0/24 --pool fd09::/64");
    let other = "ipcp bootstrap m-a --type unicast --layer mesh --pool 10.8.0.0/24";
    assert_eq!(a.host.run("irm", other.split(' ')).unwrap().code, 6);
    // The first host restarts, and goes on where it was.
    a.irmd.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    a.irmd.wait(Duration::from_secs(15)).unwrap();
    a.irmd = a.host.irmd().unwrap();
    until(TEN, || a.host.irm("wait ipcp m-a --timeout 1s")).unwrap();
    // What a member had that is out is given to nobody as long as its certificate lives.
    a.irm("layer revoke mesh m-c");
    c.irm("ipcp destroy m-c --force");
    let url = a.irm("layer invite mesh --member m-c");
    c.irm(&format!("ipcp enroll m-c --type unicast --invite {url}"));
    let taken = "layer invite mesh --member m-d --prefix 10.9.0.4/31";
    assert_eq!(a.host.run("irm", taken.split(' ')).unwrap().code, 6);
    a.irm("layer invite mesh --member m-d --prefix 10.9.0.6/31");
    until(TEN, || {
        let all = prefixes(b);
        let again = r#""m-c" ["10.9.0.4/32","fd09::4/128"]"#;
        anyhow::ensure!(all.get(2).is_some_and(|c| c == again), "{all:?}");
        Ok(())
    })
    .unwrap();
}
