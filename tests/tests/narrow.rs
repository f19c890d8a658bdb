//! Programs beside a VPN that has more to send than a slow link takes. The link's device pushes back, as that of an uplink does.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use tests::{Host, Lab, Process, eventually};

const TEN: Duration = Duration::from_secs(10);
/// What the link takes, and what is offered to the VPN, in Mbit/s.
const LINK: u32 = 20;
const OFFERED: u32 = 48;
const DATAGRAM: u32 = 1200;
/// Mbit/s that everybody gets at least: a half would be fair, and who starves has none.
const ENOUGH: f64 = 3.0;

/// Two hosts with a layer and its VPN between them, over a narrow link.
struct Narrow {
    _lab: Lab,
    a: Host,
    b: Host,
    _irmds: [Process; 2],
}

impl Narrow {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let link = lab.veth(&a, &b).unwrap();
        for (host, dev) in [(&a, &link.dev[0]), (&b, &link.dev[1])] {
            host.net(&format!("narrow {dev} {LINK}")).unwrap();
        }
        let irmds = [a.irmd().unwrap(), b.irmd().unwrap()];
        let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip";
        let (here, there) = (link.ip(0), link.ip(1));
        b.irm(&format!("{shim} {there}")).unwrap();
        a.irm(&format!("{shim} {here} --host ovl-b={there}"))
            .unwrap();
        b.irm("ipcp bootstrap ovl-b --type unicast --layer overlay --prefix 10.9.2.0/24")
            .unwrap();
        let url = b
            .irm("layer invite overlay --member ovl-a --prefix 10.9.1.0/24")
            .unwrap();
        let url = url.trim();
        a.irm(&format!("ipcp enroll ovl-a --type unicast --invite {url}"))
            .unwrap();
        for host in [&a, &b] {
            host.irm("vpn up --layer overlay --dev strata0").unwrap();
        }
        let narrow = Self {
            _lab: lab,
            a,
            b,
            _irmds: irmds,
        };
        let ping = ["ping", "10.9.2.1", "-i", "20", "--first-within-ms", "10000"];
        let out = narrow.a.run("lab-tool", ping).unwrap();
        assert_eq!(out.code, 0, "{}", out.stderr);
        narrow
    }

    /// Mbit/s of a program's flow from A to B that begins when datagrams over the VPN fill the link, and of these meanwhile.
    fn beside(&self, qos: &str) -> (f64, f64) {
        let serve = ["perf", "bulk", "--layer", "overlay", "--server"];
        let _server = self.b.spawn("irm", serve).unwrap();
        self.b.irm("wait name bulk").unwrap();
        let sink = self.b.spawn("lab-tool", ["udp-sink", "10.9.2.1:7000"]);
        let sink = sink.unwrap();
        let bytes = || sink.newest()["bytes"].as_u64();
        eventually(TEN, "the sink is there", || bytes() == Some(0)).unwrap();
        let (size, rate) = (DATAGRAM.to_string(), OFFERED * 125_000 / DATAGRAM);
        let rate = rate.to_string();
        let pour = ["udp-pour", "10.9.2.1:7000", "--size", &size];
        let how = ["--rate", &rate, "--seconds", "60"];
        let mut pour = self
            .a
            .spawn("lab-tool", pour.into_iter().chain(how))
            .unwrap();
        // So much that all queues on the way are full.
        let full = Duration::from_millis(1500);
        eventually(TEN, "datagrams come", || bytes() > Some(1 << 20)).unwrap();
        std::thread::sleep(full);
        let before = bytes().unwrap();
        let begin = std::time::Instant::now();
        let perf = format!("perf bulk --layer overlay -t 4 -s 1200 --qos {qos}");
        let said = self.a.irm_json(&perf);
        let others = (bytes().unwrap() - before) as f64 * 8e-6 / begin.elapsed().as_secs_f64();
        assert!(pour.alive(), "it was over too soon: {}", pour.log());
        let rate = said.map(|said| said["gbit_per_s"].as_f64().unwrap());
        // Not to be let in at all is to starve.
        (
            rate.unwrap_or_else(|why| {
                eprintln!("{why}");
                0.0
            }) * 1e3,
            others,
        )
    }
}

#[test]
fn programs_and_a_vpn_share_a_link_that_is_too_narrow_for_the_vpn_alone() {
    let narrow = Narrow::new();
    for qos in ["data", "raw"] {
        // A machine that does other things may give somebody too little once; who starves has nothing each time.
        let mut last = (0.0, 0.0);
        let enough = (0..3).any(|_| {
            last = narrow.beside(qos);
            let (program, vpn) = last;
            println!("{qos}: {program:.1} Mbit/s, datagrams over the VPN {vpn:.1}");
            assert!(
                program + vpn < f64::from(LINK) * 1.2,
                "the link is not narrow: {last:?}"
            );
            program > ENOUGH && vpn > ENOUGH
        });
        assert!(
            enough,
            "{qos} and the VPN beside it have {last:?} of {LINK} Mbit/s"
        );
    }
}
