//! The lower network of a machine whose lower ends are flows of other layers.

mod carrier;
mod lane;
mod session;
mod switches;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use layer::{FlowAsk, FlowTell, Input, Ipcp, Via};
use libflow::port::Joined;
use proto::ipcp::Settings;
use proto::record::Peer;
use proto::{Batch, Code, FlowId, Framing, Reason};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::io::{Io, Key};
use crate::lower::{In, Lower};
use crate::sealers::TURN;
use crate::udp::{self, Sent, Usage};
use carrier::Carrier;
use lane::{Data, Heard, Lane, control_item};
use session::{FlowEvent, Session};
use switches::Switches;

/// Flows over libflow: it dials what the machine asks for, accepts what comes to the process' own name, and moves
/// packets over record sockets and over UDP sockets that shims hand over.
#[derive(Debug)]
pub struct FlowLower {
    session: Session,
    switches: Switches,
    flows: FxHashMap<FlowId, Lane>,
    keys: FxHashMap<Key, (FlowId, End)>,
    /// Lanes that were accepted, of which the machine doesn't know yet whose they are.
    narrow: FxHashSet<FlowId>,
    /// Lanes whose sending found something that their receiving reports.
    news: Vec<FlowId>,
    /// Lanes from which nothing gets out any longer, and the machine doesn't know yet.
    faulty: Vec<FlowId>,
    /// Lanes that keep batches, and since when.
    full: FxHashMap<FlowId, Instant>,
    /// Lanes that have filled, or have room again, and the machine doesn't know yet.
    turned: VecDeque<(FlowId, bool)>,
    /// `None`: the kernel doesn't tell.
    carrier: Option<Carrier>,
    /// What the kernel has dropped at the sockets of lanes that are gone.
    overflowed: u64,
}

/// Which of a lane's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Data,
    Control,
}

impl FlowLower {
    /// Flows for the process that `config` describes.
    pub fn new(config: &Config) -> Self {
        Self {
            session: Session::new(config),
            switches: Switches::default(),
            flows: FxHashMap::default(),
            keys: FxHashMap::default(),
            narrow: FxHashSet::default(),
            news: Vec::new(),
            faulty: Vec::new(),
            full: FxHashMap::default(),
            turned: VecDeque::new(),
            carrier: None,
            overflowed: 0,
        }
    }

    /// Takes a flow that was joined into the table.
    fn add(&mut self, io: &mut Io, joined: Joined, via: Via) -> Result<FlowTell, Reason> {
        let lower = joined.welcome.flow;
        let Peer {
            layer: Some(over),
            name,
            ..
        } = joined.welcome.peer
        else {
            let text = "a lower flow without a layer; dial over a layer";
            return Err(Reason::new(Code::Failed, text));
        };
        let via = if let Via::Accepted(_) = via {
            Via::Accepted(name)
        } else {
            via
        };
        let mtu = joined.welcome.mtu;
        let accepted = matches!(via, Via::Accepted(_));
        let offloads = self.switches.of(&over);
        let data = Data::new(io, joined.socket, joined.handed, offloads).map_err(|e| {
            Reason::new(
                Code::Failed,
                format!("can't use the socket of flow {lower}: {e}"),
            )
        })?;
        let (mtu, framing) = match &data {
            Data::Records { watch, .. } => {
                self.keys.insert(watch.key(), (lower, End::Data));
                (mtu, Framing::Record)
            }
            Data::Udp {
                port,
                watch,
                control_key,
                ..
            } => {
                self.keys.insert(watch.key(), (lower, End::Data));
                self.keys.insert(*control_key, (lower, End::Control));
                (mtu.min(port.mtu()), Framing::Train)
            }
        };
        if accepted {
            self.narrow.insert(lower);
        } else {
            data.widen();
        }
        self.flows.insert(
            lower,
            Lane {
                over: over.clone(),
                data,
                held: VecDeque::new(),
            },
        );
        Ok(FlowTell::Up {
            lower,
            over,
            mtu,
            framing,
            via,
        })
    }

    /// Forgets a flow; its other side hears `reason` if there is one.
    fn remove(&mut self, flow: FlowId, reason: Option<Reason>) {
        let Some(lane) = self.flows.remove(&flow) else {
            return;
        };
        self.full.remove(&flow);
        self.narrow.remove(&flow);
        let control = match lane.data {
            Data::Records { socket, watch } => {
                self.keys.remove(&watch.key());
                socket
            }
            Data::Udp {
                port,
                watch,
                control,
                control_key,
            } => {
                self.overflowed += udp::overflowed(&*port);
                self.keys.remove(&watch.key());
                self.keys.remove(&control_key);
                control
            }
        };
        if let Some(reason) = reason {
            control.say_last(reason);
        }
    }

    fn down(&mut self, flow: FlowId, reason: Reason) -> FlowTell {
        self.remove(flow, None);
        FlowTell::Down(flow, reason)
    }

    fn send_framed(&mut self, io: &mut Io, to: FlowId, batch: Batch) {
        let Some(lane) = self.flows.get_mut(&to) else {
            return;
        };
        if lane.held.is_empty() {
            let now = Instant::now();
            match lane.data.send(io, &batch, 0, now) {
                Sent::Done => {
                    if lane.data.has_news() {
                        self.news.push(to);
                    }
                }
                Sent::Full(at) => {
                    lane.held.push_back((batch, at));
                    lane.data.arm(io, true);
                    self.full.insert(to, now);
                    self.turned.push_back((to, false));
                }
            }
        } else if lane.held.len() < HELD {
            lane.held.push_back((batch, 0));
        } else {
            io.counters.add("drop.lower_full", batch.count() as u64);
        }
    }

    /// Sends what a lane keeps, as far as the network takes it, then waits for what is due.
    fn flush(&mut self, io: &mut Io, flow: FlowId) {
        let Some(lane) = self.flows.get_mut(&flow) else {
            return;
        };
        let now = Instant::now();
        let before = lane.held.len();
        while let Some((batch, from)) = lane.held.front_mut() {
            match lane.data.send(io, batch, *from, now) {
                Sent::Done => drop(lane.held.pop_front()),
                Sent::Full(at) => {
                    *from = at;
                    break;
                }
            }
        }
        let moved = lane.held.len() < before;
        let waits = !lane.held.is_empty();
        lane.data.arm(io, waits);
        if lane.data.has_news() {
            self.news.push(flow);
        }
        if !waits {
            if let Some(since) = self.full.remove(&flow) {
                lane.data.was_full(now.saturating_duration_since(since));
                self.turned.push_back((flow, true));
            }
        } else if moved {
            self.full.insert(flow, now);
        }
    }

    /// Reads a lane's data end once.
    fn read(&mut self, io: &mut Io, flow: FlowId) -> Option<Read> {
        let lane = self.flows.get_mut(&flow)?;
        let mut batch;
        match &mut lane.data {
            Data::Records { socket, .. } => {
                batch = Batch::new(Framing::Record);
                match control_item(socket.try_recv(&mut batch)) {
                    Heard::Sdus => Some(Read::Packets(batch)),
                    Heard::Mtu(mtu) => Some(Read::Tell(FlowTell::Mtu(flow, mtu))),
                    Heard::Nothing => None,
                    Heard::Down(reason) => Some(Read::Tell(self.down(flow, reason))),
                }
            }
            Data::Udp { port, .. } => {
                batch = Batch::new(Framing::Train);
                loop {
                    match port.recv(&mut batch, Instant::now()) {
                        udp::Received::Packets => {
                            let train = u64::from(batch.count() > 1);
                            io.counters.add("udp.gro_trains", train);
                            return Some(Read::Packets(batch));
                        }
                        // The machine never sees those: its own hellos tell it more.
                        udp::Received::KeepAlive => {}
                        udp::Received::Mtu(mtu) => {
                            return Some(Read::Tell(FlowTell::Mtu(flow, mtu)));
                        }
                        udp::Received::Nothing => return None,
                        udp::Received::Faulty => {
                            io.counters.add("udp.faulty", 1);
                            return Some(Read::Tell(FlowTell::Faulty(flow)));
                        }
                        udp::Received::Refused => {
                            io.counters.add("udp.refused", 1);
                            let reason = Reason::new(
                                Code::Unreachable,
                                "the peer's host says that nobody listens there any more",
                            );
                            return Some(Read::Tell(self.down(flow, reason)));
                        }
                    }
                }
            }
        }
    }

    /// Lanes over interfaces that have just lost their carrier say so next.
    fn carrier_lost(&mut self, io: &mut Io) {
        let lost = self.carrier.as_mut().map(|carrier| carrier.lost(io));
        let lost = lost.unwrap_or_default();
        for (flow, lane) in &self.flows {
            if let Data::Udp { port, .. } = &lane.data
                && port.local().is_some_and(|local| lost.contains(&local))
            {
                io.counters.add("udp.no_carrier", 1);
                self.faulty.push(*flow);
            }
        }
    }

    /// Reads the control end of a lane whose socket was handed over.
    fn read_control(&mut self, io: &mut Io, flow: FlowId) -> Option<FlowTell> {
        let Data::Udp { control, port, .. } = &self.flows.get(&flow)?.data else {
            return None;
        };
        let mut batch = Batch::new(Framing::Record);
        match control_item(control.try_recv(&mut batch)) {
            Heard::Nothing => None,
            Heard::Mtu(mtu) => Some(FlowTell::Mtu(flow, mtu.min(port.mtu()))),
            Heard::Down(reason) => Some(self.down(flow, reason)),
            Heard::Sdus => {
                io.counters.add("drop.bad_record", batch.count() as u64);
                Some(self.down(
                    flow,
                    Reason::new(
                        Code::PeerMisbehaved,
                        "SDUs came beside the socket that was handed over",
                    ),
                ))
            }
        }
    }
}

impl<M: Ipcp<Lower = FlowId, Ask = FlowAsk, Tell = FlowTell>> Lower<M> for FlowLower {
    type Event = FlowEvent;

    fn start(&mut self, io: &mut Io, events: mpsc::Sender<FlowEvent>) -> anyhow::Result<()> {
        match Carrier::new(io) {
            Ok(carrier) => self.carrier = Some(carrier),
            Err(e) => tracing::warn!(
                "can't hear of interfaces that go down: {e}; dead neighbours are noticed by their silence"
            ),
        }
        self.session.start(events);
        Ok(())
    }

    fn ask(&mut self, _io: &mut Io, ask: FlowAsk) {
        match ask {
            FlowAsk::Dial {
                dial,
                dst,
                over,
                at,
            } => self.session.dial(dial, dst, over, at),
            FlowAsk::Hangup(flow) => self.remove(
                flow,
                Some(Reason::new(Code::Closed, "the other member hung up")),
            ),
        }
    }

    fn send(&mut self, io: &mut Io, to: FlowId, batch: Batch) {
        let Some(lane) = self.flows.get(&to) else {
            return io.counters.add("drop.lower_gone", batch.count() as u64);
        };
        let (batch, more) = lane.data.framed(batch);
        self.send_framed(io, to, batch);
        if let Some(more) = more {
            self.send_framed(io, to, more);
        }
    }

    fn end(&self, key: Key) -> Option<FlowId> {
        self.keys.get(&key).map(|(flow, _)| *flow)
    }

    fn known(&mut self, end: FlowId) {
        if self.narrow.remove(&end)
            && let Some(lane) = self.flows.get(&end)
        {
            lane.data.widen();
        }
    }

    fn recv(&mut self, io: &mut Io, key: Key) -> Option<In<M>> {
        if self.carrier.as_ref().is_some_and(|c| c.key() == key) {
            self.carrier_lost(io);
            return None;
        }
        let (flow, end) = *self.keys.get(&key)?;
        match end {
            End::Control => self.read_control(io, flow).map(Input::Tell),
            End::Data => self.read(io, flow).map(|read| match read {
                Read::Packets(batch) => Input::Lower(flow, batch),
                Read::Tell(tell) => Input::Tell(tell),
            }),
        }
    }

    fn writable(&mut self, io: &mut Io, key: Key) {
        if let Some((flow, _)) = self.keys.get(&key).copied() {
            self.flush(io, flow);
        }
    }

    fn event(&mut self, io: &mut Io, event: FlowEvent) -> Option<In<M>> {
        let tell = match event.0 {
            Ok((joined, via)) => match (self.add(io, joined, via.clone()), via) {
                (Ok(tell), _) => tell,
                (Err(reason), Via::Dialled(dial)) => FlowTell::DialFailed(dial, reason),
                (Err(reason), Via::Accepted(_)) => {
                    tracing::warn!("an incoming flow is dropped: {reason}");
                    return None;
                }
            },
            Err((dial, reason)) => FlowTell::DialFailed(dial, reason),
        };
        Some(Input::Tell(tell))
    }

    fn poll(&mut self, io: &mut Io) -> Option<In<M>> {
        if let Some(flow) = self.faulty.pop() {
            return Some(Input::Tell(FlowTell::Faulty(flow)));
        }
        while let Some(flow) = self.news.pop() {
            if let Some(read) = self.read(io, flow) {
                self.news.push(flow);
                return Some(match read {
                    Read::Packets(batch) => Input::Lower(flow, batch),
                    Read::Tell(tell) => Input::Tell(tell),
                });
            }
        }
        None
    }

    fn deadline(&self) -> Option<Instant> {
        // A lane that is stuck stops holding users up at this time.
        self.full
            .values()
            .map(|since| *since + STUCK)
            .filter(|at| *at > Instant::now())
            .min()
    }

    fn room(&mut self) -> Option<(FlowId, bool)> {
        self.turned.pop_front()
    }

    fn congested(&self) -> bool {
        // One lane that does not move must not stop the others: what goes to it is dropped and counted instead.
        !self.full.is_empty() && self.full.values().any(|since| since.elapsed() < STUCK)
    }

    fn set(&mut self, _io: &mut Io, settings: &Settings) {
        if !self.switches.set(settings) {
            return;
        }
        for lane in self.flows.values_mut() {
            if let Data::Udp { port, .. } = &mut lane.data {
                port.set_offloads(self.switches.of(&lane.over));
            }
        }
    }

    fn status(&self, status: &mut proto::irm::IpcpStatus) {
        let ports = || self.flows.values().filter_map(|lane| lane.data.port());
        let settings = &mut status.settings;
        settings.insert("lower.flows".to_owned(), self.flows.len().to_string());
        let usage: Usage = ports().collect();
        usage.tell(self.switches.own(), status);
        let overflowed = ports().map(udp::overflowed).sum::<u64>();
        udp::count_overflowed(status, overflowed + self.overflowed);
    }
}

enum Read {
    Packets(Batch),
    Tell(FlowTell),
}

/// Batches that a lane keeps while its socket is full.
const HELD: usize = 16;
/// A turn may find it full, and those that are records come as two.
const _: () = assert!(2 * TURN <= HELD, "a turn would be dropped");
/// After this long without room, a lane no longer holds up the users of the others.
const STUCK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use libflow::port::{Received, RecordSocket};
    use libflow::{QosSpec, Secret};
    use proto::record::Welcome;

    use super::*;
    use crate::io::Interest;

    const FLOW: FlowId = FlowId(1);

    /// One lane, and the far end of its socket.
    fn lane() -> (Io, FlowLower, RecordSocket) {
        let config = Config {
            name: "me".parse().unwrap(),
            kind: "unicast",
            run_dir: "/nowhere".into(),
            state_dir: "/nowhere".into(),
            secret: Secret::from([0; 32]),
        };
        let (near, far) = RecordSocket::pair().unwrap();
        let peer = Peer {
            layer: Some("below".parse().unwrap()),
            ..Peer::default()
        };
        let welcome = Welcome {
            devices: false,
            flow: FLOW,
            mtu: 1400,
            qos: QosSpec::RAW,
            peer,
        };
        let joined = Joined {
            socket: near,
            welcome,
            handed: None,
        };
        let (mut io, mut lower) = (Io::new().unwrap(), FlowLower::new(&config));
        let tell = lower.add(&mut io, joined, Via::Dialled(1)).unwrap();
        assert!(matches!(tell, FlowTell::Up { lower: FLOW, .. }));
        (io, lower, far)
    }

    fn numbered(framing: Framing, numbers: std::ops::Range<u32>) -> Batch {
        let mut batch = Batch::new(framing);
        for n in numbers {
            batch.push(1000).unwrap()[..4].copy_from_slice(&n.to_be_bytes());
        }
        batch
    }

    fn send(lower: &mut FlowLower, io: &mut Io, batch: Batch) {
        Lower::<layer::Unicast>::send(lower, io, FLOW, batch);
    }

    fn congested(lower: &FlowLower) -> bool {
        Lower::<layer::Unicast>::congested(lower)
    }

    /// The numbers of all packets that have arrived.
    fn arrived(far: &RecordSocket) -> Vec<u32> {
        let (mut batch, mut numbers) = (Batch::new(Framing::Record), Vec::new());
        while let Ok(Received::Data) = far.try_recv(&mut batch) {
            let number = |p: &[u8]| u32::from_be_bytes(p[..4].try_into().unwrap());
            numbers.extend(batch.iter().map(number));
        }
        numbers
    }

    #[test]
    fn a_full_lane_holds_users_up_keeps_the_order_and_drops_beyond_a_bound() {
        let (mut io, mut lower, far) = lane();
        let mut sent = 0;
        while !congested(&lower) {
            send(
                &mut lower,
                &mut io,
                numbered(Framing::Record, sent..sent + 50),
            );
            sent += 50;
        }
        for _ in 0..HELD + 2 {
            send(
                &mut lower,
                &mut io,
                numbered(Framing::Record, sent..sent + 50),
            );
            sent += 50;
        }
        let told: Vec<_> =
            std::iter::from_fn(|| Lower::<layer::Unicast>::room(&mut lower)).collect();
        assert_eq!(told, [(FLOW, false)]);
        // One was held when the lane became full.
        assert_eq!(io.counters.get("drop.lower_full"), 3 * 50);
        let mut got = Vec::new();
        let key = *lower.keys.keys().next().unwrap();
        while congested(&lower) {
            got.extend(arrived(&far));
            Lower::<layer::Unicast>::writable(&mut lower, &mut io, key);
        }
        let told: Vec<_> =
            std::iter::from_fn(|| Lower::<layer::Unicast>::room(&mut lower)).collect();
        assert_eq!(told, [(FLOW, true)]);
        got.extend(arrived(&far));
        assert_eq!(got, (0..sent - 150).collect::<Vec<_>>());
        let Data::Records { watch, .. } = &lower.flows[&FLOW].data else {
            panic!("a lane of records");
        };
        assert_eq!(watch.interest(), Interest::READ);
    }

    #[test]
    fn a_lane_that_is_stuck_stops_holding_users_up() {
        let (mut io, mut lower, _far) = lane();
        while !congested(&lower) {
            send(&mut lower, &mut io, numbered(Framing::Record, 0..50));
        }
        let deadline = Lower::<layer::Unicast>::deadline(&lower).unwrap();
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        assert!(!congested(&lower));
        assert_eq!(Lower::<layer::Unicast>::deadline(&lower), None);
    }

    #[test]
    fn a_train_becomes_records_for_a_record_socket() {
        let (mut io, mut lower, far) = lane();
        send(&mut lower, &mut io, numbered(Framing::Train, 0..64));
        assert_eq!(arrived(&far), (0..64).collect::<Vec<_>>());
        assert_eq!(io.counters.iter().count(), 0);
    }

    #[test]
    fn packets_for_a_flow_that_is_gone_are_counted() {
        let (mut io, mut lower, far) = lane();
        drop(far);
        send(&mut lower, &mut io, numbered(Framing::Record, 0..5));
        let key = *lower.keys.keys().next().unwrap();
        let said = Lower::<layer::Unicast>::recv(&mut lower, &mut io, key);
        assert!(matches!(said, Some(Input::Tell(FlowTell::Down(FLOW, _)))));
        send(&mut lower, &mut io, numbered(Framing::Record, 0..5));
        assert_eq!(io.counters.get("drop.lower_gone"), 10);
    }
}
