//! What administrators, programs and bad luck do, each when its time has come.

use std::time::Duration;

use proto::Label;
use proto::ipcp::{Bootstrap, Command, Enroll, Entry, Invite, RequestId};

use super::host::What;
use super::programs::{Usage, name_of};
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
    Open {
        from: usize,
        to: usize,
        usage: Usage,
    },
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
    /// Nothing gets from the first to the second host any more, or it does again.
    OneWay(usize, usize, bool),
    /// The clock of a host jumps by so many milliseconds.
    Clock(usize, i64),
    /// A machine dies, and its files with it.
    DiskLoss(usize),
    /// A host takes so long for each packet.
    Slow(usize, Duration),
    /// A member lies, or is honest again.
    Lie(usize, bool),
    /// The authority revokes a member.
    Expel(usize),
    /// One that was revoked starts with the files that it had.
    Haunt(usize),
    /// It is looked what those have who were revoked.
    Watch,
    /// The machines of all that keep a host's name die, but one: for so long.
    Keepers(usize, Duration),
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
            Act::Open { from, to, usage } => self.open(from, to, usage),
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
            Act::Restart(host) => self.return_of(host),
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
            Act::OneWay(from, to, deaf) => self.one_way(from, to, deaf),
            Act::Clock(host, millis) => {
                self.tell_all(host, format!("the clock jumps by {millis} ms"));
                self.hosts[host].skew += millis;
            }
            Act::DiskLoss(host) => self.lose_disk(host),
            Act::Slow(host, each) => {
                self.tell_all(host, format!("takes {} us for a packet", each.as_micros()));
                self.hosts[host].slow = each;
            }
            Act::Lie(host, lies) => self.lie(host, lies),
            Act::Expel(host) => self.expel(host),
            Act::Haunt(host) => self.haunt(host),
            Act::Watch => self.watch(),
            Act::Keepers(host, lasts) => self.lose_keepers(host, lasts),
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
            pools: Some(Vec::new()),
            cert_life: None,
            passphrase: None,
            shim_udp: None,
        };
        self.command(0, What::Join, Command::Bootstrap(ask));
    }

    fn enrol(&mut self, host: usize) {
        if self.hosts[host].alive() || self.hosts[host].member {
            return;
        }
        if self.doors(host).is_empty() || !self.hosts[0].alive() {
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

    /// The neighbours through which a host can join: a cut, or the hole that a host leaves which was in before, may be between
    /// one of them and the authority.
    fn doors(&self, host: usize) -> Vec<usize> {
        let mut near = self.net.neighbours(host);
        near.retain(|n| self.hosts[*n].member);
        if self.hosts[host].life > 0 || self.counts.cuts > 0 {
            let reach = self.reach(0);
            near.retain(|n| reach.contains(n));
        }
        near
    }

    /// The invitation is there: its holder joins through a neighbour of its own.
    pub(super) fn invited(&mut self, host: usize, url: &str) {
        if self.hosts[host].alive() || self.hosts[host].member {
            return;
        }
        let inside = self.doors(host);
        // One of them is enough at the beginning, when all cables are whole.
        let one = self.chance.pick(&inside);
        let again = self.hosts[host].life > 0;
        let via = inside.into_iter().filter(|n| again || Some(*n) == one);
        let via = via.map(|n| self.hosts[n].name.clone()).collect();
        let url = Invitation::parse(url, UnixTime(Duration::ZERO)).map(|i| i.through(via));
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
            // One that comes back under another name keeps no adjacencies yet.
            if self.hosts[host].name.as_str() != format!("m{host}") {
                for other in self.net.neighbours(host) {
                    self.later(Duration::from_millis(100), Act::Connect(host, other));
                }
            }
        }
    }

    fn register(&mut self, host: usize, wanted: bool) {
        // Who is only joining registers its name when it is in.
        let is_in = self.hosts[host].alive() && self.hosts[host].member;
        let Some(name) = name_of(host).filter(|_| is_in) else {
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
            self.stop(host);
        }
    }

    /// The machine of a host is no more.
    pub(super) fn stop(&mut self, host: usize) {
        self.hosts[host].crash();
        for end in self.net.ends(host, None) {
            self.hangup(end);
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
                pools: Some(Vec::new()),
                cert_life: None,
                passphrase: None,
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

pub(super) fn over() -> Vec<Label> {
    Label::new("cable").into_iter().collect()
}
