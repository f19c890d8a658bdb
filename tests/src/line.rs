//! Three hosts in a line, A–B–C, where A and C reach only B: what the demo shows and most tests stand on.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::Impairment;
use crate::lab::{Host, How, Lab, Link, Process, processes_of, until};

/// The addresses that the layer's certificates give to A, B and C.
pub const VPN_V4: [&str; 3] = ["10.9.0.1", "10.9.0.2", "10.9.0.3"];
/// The same, IPv6.
pub const VPN_V6: [&str; 3] = ["fd09::1", "fd09::2", "fd09::3"];

/// The bytes of each SDU that [`Line::perf`] sends.
pub const PERF_SDU: usize = 1300;

/// The hosts, their links, and an irmd on each that is started again when it is killed, as systemd would.
pub struct Line {
    /// The lab that they are in.
    pub lab: Lab,
    /// A, B and C.
    pub hosts: Vec<Host>,
    /// A–B and B–C.
    pub links: Vec<Link>,
    /// How the daemons live that are started from now on.
    pub how: How,
    keepers: Vec<Child>,
    left: bool,
}

impl Line {
    /// Makes hosts and links; in a given directory, if they may be left up.
    pub fn new(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        Self::joined_by(dir, Lab::veth)
    }

    /// Hosts, daemons, shims and layer, over links that can be impaired; all their chance comes from the seed.
    pub fn impairable(seed: u64) -> anyhow::Result<Self> {
        let mut line = Self::joined_by(None, |lab, a, b| lab.link(a, b, seed))?;
        line.start_daemons()?;
        line.shims()?;
        line.overlay()?;
        Ok(line)
    }

    /// The same, over links whose devices take IP packets of so many bytes.
    pub fn impairable_with_mtus(seed: u64, mtus: [u32; 2]) -> anyhow::Result<Self> {
        let mut line = Self::joined_by(None, |lab, a, b| lab.link(a, b, seed))?;
        for (link, (ends, mtu)) in line
            .links
            .iter()
            .zip([[0, 1], [1, 2]].into_iter().zip(mtus))
        {
            for (dev, at) in link.dev.iter().zip(ends) {
                line.hosts[at].net(&format!("mtu {dev} {mtu}"))?;
            }
        }
        line.start_daemons()?;
        line.shims()?;
        line.overlay()?;
        Ok(line)
    }

    /// Both links do this to frames from now on.
    pub fn impair(&mut self, how: Impairment) -> anyhow::Result<()> {
        self.links.iter_mut().try_for_each(|link| link.impair(how))
    }

    fn joined_by(
        dir: Option<PathBuf>,
        join: impl Fn(&Lab, &Host, &Host) -> anyhow::Result<Link>,
    ) -> anyhow::Result<Self> {
        let own_group = dir.is_some();
        let lab = Lab::in_dir(dir.map_or_else(fresh_dir, Ok)?, own_group)?;
        let hosts = ["a", "b", "c"]
            .into_iter()
            .map(|n| lab.host(n))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let links = vec![
            join(&lab, &hosts[0], &hosts[1])?,
            join(&lab, &hosts[1], &hosts[2])?,
        ];
        Ok(Self {
            lab,
            hosts,
            links,
            how: How::default(),
            keepers: Vec::new(),
            left: false,
        })
    }

    /// All of it outlives the caller from now on.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        self.left = true;
        self.lab.leave()?;
        self.hosts.iter_mut().try_for_each(Host::leave)
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> anyhow::Result<&Host> {
        self.hosts
            .iter()
            .find(|h| h.name == name)
            .with_context(|| format!("there is no host {name:?}; there are a, b and c"))
    }

    /// All of it: daemons, shims, layer, VPN, and the first ping.
    pub fn up() -> anyhow::Result<Self> {
        let mut line = Self::new(None)?;
        line.start_daemons()?;
        line.shims()?;
        line.overlay()?;
        line.vpn()?;
        line.first_ping()?;
        Ok(line)
    }

    /// How long until C answers A over the VPN again, in seconds.
    pub fn heals_within(&self, seconds: u64) -> anyhow::Result<f64> {
        let most = (seconds * 1000).to_string();
        let json = self.tool(
            "a",
            ["ping", VPN_V4[2], "-i", "20", "--first-within-ms", &most],
        )?;
        Ok(json["first_ms"].as_f64().context("the ping said nothing")? / 1e3)
    }

    /// irmd on each host, started again when it is killed, as systemd would.
    pub fn start_daemons(&mut self) -> anyhow::Result<()> {
        for host in &self.hosts {
            let dir = host.dir();
            let (pid, log) = (dir.join("irmd.pid"), dir.join("irmd.log"));
            let mut command = host.command_as(
                &self.how,
                "lab-host",
                [
                    "keep".into(),
                    "--pid-file".into(),
                    pid.into_os_string(),
                    "--log".into(),
                    log.into_os_string(),
                    "--".into(),
                ],
            );
            command
                .arg(self.lab.bins().join("irmd"))
                .arg("--run-dir")
                .arg(host.run_dir());
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0);
            self.keepers
                .push(command.spawn().context("can't start irmd")?);
        }
        for host in &self.hosts {
            until(Duration::from_secs(5), || host.irm("status"))?;
        }
        Ok(())
    }

    /// A knows where ovl-b is, C too; B knows nobody.
    pub fn shims(&self) -> anyhow::Result<()> {
        let [ab, bc] = &self.links[..] else {
            anyhow::bail!("the demo has two links")
        };
        let [a, b, c] = &self.hosts[..] else {
            anyhow::bail!("the demo has three hosts")
        };
        b.irm(&format!(
            "ipcp bootstrap udp-ab --type shim-udp --layer net-ab --ip {}",
            ab.ip(1)
        ))?;
        b.irm(&format!(
            "ipcp bootstrap udp-bc --type shim-udp --layer net-bc --ip {}",
            bc.ip(0)
        ))?;
        a.irm(&format!(
            "ipcp bootstrap udp-ab --type shim-udp --layer net-ab --ip {} --host ovl-b={}",
            ab.ip(0),
            ab.ip(1)
        ))?;
        c.irm(&format!(
            "ipcp bootstrap udp-bc --type shim-udp --layer net-bc --ip {} --host ovl-b={}",
            bc.ip(1),
            bc.ip(0)
        ))?;
        Ok(())
    }

    /// B founds the encrypted layer, A and C join by invitation.
    pub fn overlay(&self) -> anyhow::Result<()> {
        let prefixes = |i: usize| format!("--prefix {}/32 --prefix {}/128", VPN_V4[i], VPN_V6[i]);
        let [a, b, c] = &self.hosts[..] else {
            anyhow::bail!("the demo has three hosts")
        };
        b.irm(&format!(
            "ipcp bootstrap ovl-b --type unicast --layer overlay {}",
            prefixes(1)
        ))?;
        for (i, host) in [(0, a), (2, c)] {
            let member = format!("ovl-{}", host.name);
            let url = b.irm(&format!(
                "layer invite overlay --member {member} {}",
                prefixes(i)
            ))?;
            host.irm(&format!(
                "ipcp enroll {member} --type unicast --invite {}",
                url.trim()
            ))?;
        }
        Ok(())
    }

    /// The VPN on A and C.
    pub fn vpn(&self) -> anyhow::Result<()> {
        for name in ["a", "c"] {
            self.host(name)?
                .irm("vpn up --layer overlay --dev strata0")?;
        }
        Ok(())
    }

    /// Milliseconds until C answered.
    pub fn first_ping(&self) -> anyhow::Result<f64> {
        let json = self.tool(
            "a",
            ["ping", VPN_V4[2], "-i", "20", "--first-within-ms", "5000"],
        )?;
        json["first_ms"].as_f64().context("the ping said nothing")
    }

    /// Pings from A.
    pub fn ping(&self, to: &str) -> anyhow::Result<Value> {
        self.tool("a", ["ping", to, "-c", "20"])
    }

    /// A program on C serves a name, one on A reaches it without seeing an address.
    pub fn flow_ping(&self) -> anyhow::Result<Value> {
        let echo = self
            .host("c")?
            .spawn("irm", ["echo", "hello", "--layer", "overlay"])?;
        let ping = until(Duration::from_secs(3), || {
            self.host("a")?
                .irm_json("ping hello --layer overlay -c 20 -i 0.01")
        })?;
        end(echo)?;
        ensure!(ping["received"] == ping["sent"], "echoes were lost: {ping}");
        Ok(ping)
    }

    /// Throughput of a raw flow from a program on A to one on C.
    pub fn perf(&self) -> anyhow::Result<Value> {
        let server = self
            .host("c")?
            .spawn("irm", ["perf", "speed", "--layer", "overlay", "--server"])?;
        let line = format!("perf speed --layer overlay -t 2 -s {PERF_SDU} --qos raw");
        let perf = until(Duration::from_secs(3), || self.host("a")?.irm_json(&line))?;
        end(server)?;
        ensure!(
            perf["sdus_received"].as_u64() > Some(0),
            "nothing was received: {perf}"
        );
        Ok(perf)
    }

    /// A fetches a file from C over the VPN, and its hash is compared. Every other KiB of it is the text.
    pub fn http(&self, bytes: u64, text: &str) -> anyhow::Result<Value> {
        let bytes = bytes.to_string();
        let at = format!("{}:8080", VPN_V4[2]);
        let server = self
            .host("c")?
            .spawn("lab-tool", ["http-serve", &at, &bytes, "--text", text])?;
        let said = until(Duration::from_secs(5), || {
            serde_json::from_str::<Value>(&server.log()).context("the server did not start")
        })?;
        let got = until(Duration::from_secs(5), || self.tool("a", ["http-get", &at]))?;
        ensure!(
            got["sha256"] == said["sha256"],
            "the file arrived changed: {got} instead of {said}"
        );
        Ok(got)
    }

    fn tool<const N: usize>(&self, host: &str, args: [&str; N]) -> anyhow::Result<Value> {
        let out = self.host(host)?.run("lab-tool", args)?;
        ensure!(out.code == 0, "{}", out.stderr.trim());
        serde_json::from_str(&out.stdout).with_context(|| format!("no JSON: {}", out.stdout))
    }

    /// Ends the daemons as an administrator would, and checks that nothing is left.
    pub fn down(&mut self) -> anyhow::Result<()> {
        for host in &self.hosts {
            if let Some((_, irmd)) = pids(host) {
                // It may have ended already, with the demo failing.
                let _ = kill(Pid::from_raw(irmd), Signal::SIGTERM);
            }
        }
        let end = Instant::now() + Duration::from_secs(15);
        for keeper in &mut self.keepers {
            while keeper.try_wait().context("can't wait for irmd")?.is_none() {
                ensure!(Instant::now() < end, "irmd did not end within 15 s");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.keepers.clear();
        for host in &self.hosts {
            let left = processes_of(host.holder());
            ensure!(
                left.is_empty(),
                "processes are left on {}: {left:?}",
                host.name
            );
            let sockets = sockets_in(&host.run_dir());
            ensure!(
                sockets.is_empty(),
                "sockets are left on {}: {sockets:?}",
                host.name
            );
        }
        Ok(())
    }

    /// The hosts, whose daemons have ended, are as after a boot: of the run directories only `state` is left. The daemons
    /// start, and nothing more is said to them.
    pub fn boot(&mut self) -> anyhow::Result<()> {
        for host in &self.hosts {
            for entry in fs::read_dir(host.run_dir())? {
                let entry = entry?;
                if entry.file_name() == "state" {
                    continue;
                }
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(path)?;
                } else {
                    fs::remove_file(path)?;
                }
            }
        }
        self.start_daemons()
    }

    /// Prints the end of each irmd's log.
    pub fn show_logs(&self) {
        for host in &self.hosts {
            let log = fs::read_to_string(host.dir().join("irmd.log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("\n--- irmd on {}, last lines:", host.name);
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        // With its host goes all that runs there; what is left are the entries of processes that nobody has waited for.
        self.hosts.clear();
        for keeper in &mut self.keepers {
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
    }
}

/// The keeper's and irmd's process ids.
pub fn pids(host: &Host) -> Option<(i32, i32)> {
    let text = fs::read_to_string(host.dir().join("irmd.pid")).ok()?;
    let mut ids = text.split_whitespace().map(str::parse);
    Some((ids.next()?.ok()?, ids.next()?.ok()?))
}

fn end(mut process: Process) -> anyhow::Result<()> {
    process.signal(Signal::SIGTERM)?;
    process.wait(Duration::from_secs(5))?;
    Ok(())
}

fn fresh_dir() -> anyhow::Result<PathBuf> {
    Ok(tempfile::Builder::new()
        .prefix("strata-")
        .tempdir_in("/tmp")
        .context("can't make a directory in /tmp")?
        .keep())
}

fn sockets_in(dir: &std::path::Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(sockets_in(&entry.path())),
            Ok(kind) if kind.is_socket() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}
