//! What programs do with flows: they ask for them, answer, write and close.

use std::time::Duration;

use proto::ipcp::{Allocate, Command, RequestId, Respond, User};
use proto::{Batch, Code, Framing, Name, QosSpec, Reason};

use super::acts::Act;
use super::host::What;
use super::ledger::MIN_SDU;
use super::scenario::Load;
use super::world::World;

/// What a flow is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// Whatever is drawn.
    Drawn,
    /// To show that everything works: the network is quiet.
    Probe,
    /// As the load of a scenario says, by its number.
    Load(usize),
}

impl World {
    pub(super) fn open(&mut self, from: usize, to: usize, usage: Usage) {
        let Some(name) = name_of(to).filter(|_| self.hosts[from].alive() && from != to) else {
            return;
        };
        let qos = match self.load(usage).map(|load| load.qos) {
            Some(qos) => qos,
            None => {
                let all = [QosSpec::RAW, QosSpec::BEST, QosSpec::DATA];
                self.chance.pick(&all).unwrap_or_default()
            }
        };
        let flow = self.hosts[from].next_flow();
        let tag = self
            .ledger
            .open(qos, (from, self.hosts[from].life, flow), usage);
        self.hosts[from].flows.insert(flow, (tag, 0));
        self.counts.asked += 1;
        let source = Name::new(format!("src-{tag}")).ok();
        let timeout_ms = match usage {
            Usage::Probe => u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX),
            Usage::Load(_) => 10_000,
            Usage::Drawn => self.chance.between(500, 4000) as u64,
        };
        let ask = Allocate {
            flow,
            name,
            source,
            qos,
            peer: None,
            user: user(),
            timeout_ms,
            at: Vec::new(),
        };
        self.story
            .tell(self.elapsed, from, to, format!("flow {tag} ({qos})"));
        self.command(from, What::Allocate(tag), Command::Allocate(ask));
    }

    pub(super) fn respond(&mut self, host: usize, life: u32, request: RequestId, tag: u32) {
        if self.hosts[host].life != life || !self.hosts[host].alive() {
            return;
        }
        if self.usage(tag) == Usage::Drawn && self.chance.permille(100) {
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
        let before = exchange.begin_again((host, life, flow));
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
        let ends = self.ledger.get(tag).map(|f| f.ends);
        if let Some((to, ..)) = ends.and_then(|ends| ends[1]) {
            self.may_meet("a flow", host, to);
        }
        self.story
            .tell(self.elapsed, host, host, format!("flow {tag} stands"));
        self.write_soon(tag, 0);
    }

    fn write_soon(&mut self, tag: u32, side: usize) {
        let usage = self.usage(tag);
        let left = match self.load(usage) {
            Some(load) => load.sdus,
            None if usage == Usage::Probe => PROBE_WRITES,
            None => self.chance.between(0, 25),
        };
        // A probe begins when both ends surely stand.
        let after = if usage == Usage::Probe {
            PROBE_WAITS
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

    pub(super) fn write_some(&mut self, tag: u32, side: usize, left: usize) {
        let Some((host, flow)) = self.end(tag, side) else {
            return;
        };
        let usage = self.usage(tag);
        if left == 0 {
            if usage == Usage::Drawn && self.chance.permille(700) {
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
            .map_or(0, |mtu| (*mtu as usize).min(LARGEST));
        let (burst, sizes) = self
            .load(usage)
            .map_or(((1, MOST_AT_ONCE), None), |load| ((1, 1), Some(load.size)));
        let mut batch = Batch::new(Framing::Record);
        for _ in 0..self.chance.between(burst.0, burst.1) {
            let (least, most) = match sizes {
                Some(sizes) => sizes,
                None if self.chance.permille(200) => (MIN_SDU, mtu),
                None => (MIN_SDU, 200),
            };
            let most = most.clamp(MIN_SDU, mtu.max(MIN_SDU));
            let len = self.chance.between(least.clamp(MIN_SDU, most), most);
            let sdu = self.ledger.write(tag, side, len);
            if let Some(room) = batch.push(sdu.len()) {
                room.copy_from_slice(&sdu);
            }
        }
        self.write(host, flow, batch);
        let after = match self.load(usage).map(|load| load.pause) {
            Some(pause) => self.chance.time(pause),
            None if usage == Usage::Probe => PROBE_PAUSE,
            None => self.chance.millis(1, 120),
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

    pub(super) fn close(&mut self, tag: u32, side: usize, program: bool) {
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

impl World {
    fn load(&self, usage: Usage) -> Option<&Load> {
        match usage {
            Usage::Load(at) => self.loads.get(at),
            Usage::Drawn | Usage::Probe => None,
        }
    }

    /// What a flow is for.
    pub(super) fn usage(&self, tag: u32) -> Usage {
        self.ledger.get(tag).map_or(Usage::Drawn, |f| f.usage)
    }
}

/// What a program on a host serves.
pub(super) fn name_of(host: usize) -> Option<Name> {
    Name::new(format!("svc-{host}")).ok()
}

fn user() -> User {
    User {
        uid: 1000,
        ipcp: false,
    }
}

/// The most bytes of an SDU, however many a flow takes: several go in one record.
const LARGEST: usize = 9000;
/// Writes of a probe, at each side: when the first of them goes, how many there are, and the time between two.
const PROBE_WAITS: Duration = Duration::from_millis(500);
const PROBE_WRITES: usize = 8;
const PROBE_PAUSE: Duration = Duration::from_millis(5);
/// SDUs that a program writes at once, at most.
pub(super) const MOST_AT_ONCE: usize = 4;
/// From when a side stands until it has written all.
pub(super) const PROBE_LASTS: Duration = Duration::from_millis(600);
