//! What administrators, programs and bad luck do, each when its time has come.

use std::time::Duration;

use proto::ipcp::{Allocate, Bootstrap, Command, Enroll, Entry, Invite, RequestId, Respond, User};
use proto::{Batch, Code, Framing, Label, Name, QosSpec, Reason};

use super::host::What;
use super::ledger::MIN_SDU;
use super::world::World;
use crate::UnixTime;
use crate::crypt::Invitation;

/// Something to do at its time.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Join through any neighbour that is in.
    Enrol(usize),
    /// Keep an adjacency.
    Connect(usize, usize),
    /// Register the name of a host there, or take it back.
    Register(usize, bool),
    /// A program at the first host asks for a flow to the name of the second.
    Open { from: usize, to: usize, probe: bool },
    /// Irmd answers a flow request.
    Respond {
        host: usize,
        life: u32,
        request: RequestId,
        tag: u32,
    },
    /// A side of a flow writes, and again until nothing is left.
    Write { tag: u32, side: usize, left: usize },
    /// A side of a flow closes it: the program, or irmd.
    Close {
        tag: u32,
        side: usize,
        program: bool,
    },
    /// A cable is cut or mended.
    Cable(usize, usize, bool),
    /// The hosts below the number are cut off from the others, or joined again.
    Partition(usize, bool),
    /// A machine dies; only its files stay.
    Crash(usize),
    /// It starts again.
    Restart(usize),
    /// Some lower flow dies.
    Death,
    /// The largest packet of a cable changes.
    Mtu(usize, usize, u32),
}

impl World {
    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Enrol(host) => self.enrol(host),
            Act::Connect(a, b) if self.hosts[a].alive() => {
                let command = Command::Connect(self.hosts[b].name.clone(), None);
                self.command(a, What::Connect(b), command);
            }
            Act::Connect(a, b) => self.later(Duration::from_millis(500), Act::Connect(a, b)),
            Act::Register(host, wanted) => self.register(host, wanted),
            Act::Open { from, to, probe } => self.open(from, to, probe),
            Act::Respond {
                host,
                life,
                request,
                tag,
            } => self.respond(host, life, request, tag),
            Act::Write { tag, side, left } => self.write_some(tag, side, left),
            Act::Close { tag, side, program } => self.close(tag, side, program),
            Act::Cable(a, b, up) => self.set_cable(a, b, up),
            Act::Partition(at, healed) => self.partition(at, healed),
            Act::Crash(host) => self.crash(host),
            Act::Restart(host) => self.restart(host),
            Act::Death => {
                let ends = self.net.all_ends();
                if let Some(end) = self.chance.pick(&ends) {
                    self.counts.deaths += 1;
                    self.story
                        .tell(self.elapsed, end.0, end.0, "a lower flow dies");
                    self.kill(end);
                }
            }
            Act::Mtu(a, b, mtu) => self.set_mtu(a, b, mtu),
        }
    }
}

/// Membership.
impl World {
    /// The first member begins the layer.
    pub(super) fn bootstrap(&mut self) {
        self.boot(0);
        let ask = Bootstrap {
            layer: self.layer.clone(),
            over: over(),
            prefixes: Vec::new(),
            shim_udp: None,
        };
        self.command(0, What::Join, Command::Bootstrap(ask));
    }

    fn enrol(&mut self, host: usize) {
        let inside = self
            .net
            .neighbours(host)
            .into_iter()
            .any(|n| self.hosts[n].member);
        if !inside {
            return self.later(Duration::from_millis(200), Act::Enrol(host));
        }
        let member = Some(self.hosts[host].name.clone());
        let ask = Invite {
            member,
            prefixes: Vec::new(),
            expires_ms: 3_600_000,
            uses: 1,
            hints: Vec::new(),
            groups: Vec::new(),
        };
        self.command(0, What::Invite(host), Command::Invite(ask));
    }

    /// The invitation is there: its holder joins through a neighbour of its own.
    pub(super) fn invited(&mut self, host: usize, url: &str) {
        let inside: Vec<_> = self
            .net
            .neighbours(host)
            .into_iter()
            .filter(|n| self.hosts[*n].member)
            .collect();
        let via = self
            .chance
            .pick(&inside)
            .map(|n| self.hosts[n].name.clone());
        let url = Invitation::parse(url, UnixTime(Duration::ZERO))
            .map(|i| i.through(via.into_iter().collect()));
        match url {
            Ok(url) => {
                self.boot(host);
                let entry = Entry::Invitation(url.to_string());
                self.command(
                    host,
                    What::Join,
                    Command::Enroll(Enroll {
                        entry,
                        over: over(),
                        timeout_ms: 90_000,
                    }),
                );
            }
            Err(reason) => self.fail(format!("the invitation for m{host} is none: {reason}")),
        }
    }

    pub(super) fn joined(&mut self, host: usize) {
        self.story.tell(self.elapsed, host, host, "is a member");
        if !self.hosts[host].member {
            self.hosts[host].member = true;
            self.register(host, true);
        }
    }

    fn register(&mut self, host: usize, wanted: bool) {
        let Some(name) = name_of(host).filter(|_| self.hosts[host].alive()) else {
            return;
        };
        let command = if wanted {
            self.hosts[host].names.insert(name.clone());
            Command::Register(name)
        } else {
            self.hosts[host].names.remove(&name);
            Command::Unregister(name)
        };
        self.command(host, What::Must, command);
    }

    fn crash(&mut self, host: usize) {
        if self.hosts[host].alive() && self.hosts[host].member {
            self.counts.crashes += 1;
            self.story.tell(self.elapsed, host, host, "crashes");
            self.hosts[host].crash();
            for end in self.net.ends(host, None) {
                self.hangup(end);
            }
        }
    }

    pub(super) fn restart(&mut self, host: usize) {
        if self.hosts[host].alive() {
            return;
        }
        self.story.tell(self.elapsed, host, host, "starts again");
        self.boot(host);
        let command = if host == 0 {
            Command::Bootstrap(Bootstrap {
                layer: self.layer.clone(),
                over: over(),
                prefixes: Vec::new(),
                shim_udp: None,
            })
        } else {
            Command::Enroll(Enroll {
                entry: Entry::Rejoin,
                over: over(),
                timeout_ms: 30_000,
            })
        };
        self.command(host, What::Join, command);
        let names: Vec<_> = self.hosts[host].names.iter().cloned().collect();
        for name in names {
            self.command(host, What::Must, Command::Register(name));
        }
    }
}

/// Flows.
impl World {
    fn open(&mut self, from: usize, to: usize, probe: bool) {
        let Some(name) = name_of(to).filter(|_| self.hosts[from].alive() && from != to) else {
            return;
        };
        let qos = if self.chance.permille(500) {
            QosSpec::RAW
        } else {
            QosSpec::BEST
        };
        let flow = self.hosts[from].next_flow();
        let tag = self
            .ledger
            .open(qos, (from, self.hosts[from].life, flow), probe);
        self.hosts[from].flows.insert(flow, (tag, 0));
        self.counts.asked += 1;
        let source = Name::new(format!("src-{tag}")).ok();
        let timeout_ms = if probe {
            3000
        } else {
            self.chance.between(500, 4000) as u64
        };
        let ask = Allocate {
            flow,
            name,
            source,
            qos,
            peer: None,
            user: user(),
            timeout_ms,
        };
        self.story
            .tell(self.elapsed, from, to, format!("flow {tag} ({qos})"));
        self.command(from, What::Allocate(tag), Command::Allocate(ask));
    }

    fn respond(&mut self, host: usize, life: u32, request: RequestId, tag: u32) {
        if self.hosts[host].life != life || !self.hosts[host].alive() {
            return;
        }
        let probe = self.ledger.get(tag).is_some_and(|f| f.probe);
        if !probe && self.chance.permille(100) {
            let verdict = Err(Reason::new(Code::Refused, "the program said no"));
            return self.command(
                host,
                What::Other,
                Command::Respond(Respond { request, verdict }),
            );
        }
        let flow = self.hosts[host].next_flow();
        let Some(exchange) = self.ledger.get_mut(tag) else {
            return;
        };
        // A caller that took us for restarted asks again, as long as it has no answer; the end that we had must be gone.
        let before = exchange.ends[1].replace((host, life, flow));
        let stands = before
            .filter(|(h, l, f)| self.hosts[*h].life == *l && self.hosts[*h].open.contains_key(f));
        if let Some((host, ..)) = stands {
            return self.fail(format!(
                "flow {tag} was requested again while its end at m{host} stands"
            ));
        }
        if before.is_some() && self.end(tag, 0).is_some() {
            return self.fail(format!(
                "flow {tag} was requested again though its caller has it"
            ));
        }
        self.hosts[host].flows.insert(flow, (tag, 1));
        self.command(
            host,
            What::Other,
            Command::Respond(Respond {
                request,
                verdict: Ok((flow, user())),
            }),
        );
        self.write_soon(tag, 1);
    }

    pub(super) fn allocated(&mut self, host: usize, tag: u32) {
        self.counts.allocated += 1;
        self.story
            .tell(self.elapsed, host, host, format!("flow {tag} stands"));
        self.write_soon(tag, 0);
    }

    fn write_soon(&mut self, tag: u32, side: usize) {
        let probe = self.ledger.get(tag).is_some_and(|f| f.probe);
        let left = if probe {
            PROBE_WRITES
        } else {
            self.chance.between(0, 25)
        };
        // A probe begins when both ends surely stand.
        let after = if probe {
            Duration::from_millis(500)
        } else {
            self.chance.millis(0, 40)
        };
        self.later(after, Act::Write { tag, side, left });
    }

    /// The end of a side, if it stands in the life that it belongs to.
    pub(super) fn end(&self, tag: u32, side: usize) -> Option<(usize, proto::FlowId)> {
        let (host, life, flow) = self.ledger.get(tag)?.ends[side]?;
        let host_now = &self.hosts[host];
        (host_now.life == life && host_now.alive() && host_now.open.contains_key(&flow))
            .then_some((host, flow))
    }

    fn write_some(&mut self, tag: u32, side: usize, left: usize) {
        let Some((host, flow)) = self.end(tag, side) else {
            return;
        };
        let probe = self.ledger.get(tag).is_some_and(|f| f.probe);
        if left == 0 {
            if !probe && self.chance.permille(700) {
                let act = Act::Close {
                    tag,
                    side,
                    program: self.chance.permille(500),
                };
                let after = self.chance.millis(0, 2000);
                self.later(after, act);
            }
            return;
        }
        let mtu = self.hosts[host]
            .open
            .get(&flow)
            .map_or(0, |mtu| *mtu as usize);
        let mut batch = Batch::new(Framing::Record);
        for _ in 0..self.chance.between(1, 4) {
            let most = if self.chance.permille(200) { mtu } else { 200 };
            let len = self
                .chance
                .between(MIN_SDU, most.clamp(MIN_SDU, mtu.max(MIN_SDU)));
            let sdu = self.ledger.write(tag, side, len);
            if let Some(room) = batch.push(sdu.len()) {
                room.copy_from_slice(&sdu);
            }
        }
        self.write(host, flow, batch);
        let after = if probe {
            Duration::from_millis(5)
        } else {
            self.chance.millis(1, 120)
        };
        self.later(
            after,
            Act::Write {
                tag,
                side,
                left: left - 1,
            },
        );
    }

    fn close(&mut self, tag: u32, side: usize, program: bool) {
        let Some((host, flow)) = self.end(tag, side) else {
            return;
        };
        self.story
            .tell(self.elapsed, host, host, format!("flow {tag} is closed"));
        if program {
            self.leave(host, flow);
        } else {
            self.command(
                host,
                What::Must,
                Command::Dealloc(flow, Reason::new(Code::Closed, "closed by irmd")),
            );
        }
    }
}

/// The lower network.
impl World {
    pub(super) fn set_cable(&mut self, a: usize, b: usize, up: bool) {
        let Some(cable) = self.net.cable_mut(a, b).filter(|c| c.up != up) else {
            return;
        };
        cable.up = up;
        self.counts.cuts += u64::from(!up);
        self.story.tell(
            self.elapsed,
            a,
            b,
            if up {
                "the cable is mended"
            } else {
                "the cable is cut"
            },
        );
    }

    fn partition(&mut self, at: usize, healed: bool) {
        self.counts.partitions += u64::from(!healed);
        for (a, b) in self.net.edges() {
            if (a < at) != (b < at) {
                self.set_cable(a, b, healed);
            }
        }
    }
}

/// What a program on a host serves.
pub(super) fn name_of(host: usize) -> Option<Name> {
    Name::new(format!("svc-{host}")).ok()
}

fn over() -> Vec<Label> {
    Label::new("cable").into_iter().collect()
}

fn user() -> User {
    User {
        uid: 1000,
        ipcp: false,
    }
}

/// Writes of a probe, at each side.
const PROBE_WRITES: usize = 8;
