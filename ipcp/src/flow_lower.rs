//! The lower network of a machine whose lower ends are flows of other layers.

use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layer::{FlowAsk, FlowTell, Input, Ipcp, Via};
use libflow::port::{Joined, Received, RecordSocket};
use libflow::{AllocOptions, FlowError, Incoming, Irm, Listener, Options, QosSpec};
use proto::ipcp::Settings;
use proto::record::{Item, Peer};
use proto::{Batch, Code, FlowId, Framing, Label, Name, Reason};
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::config::Config;
use crate::io::{Interest, Io, Key, Watch};
use crate::lower::{In, Lower};
use crate::udp::{self, Offloads, Sent, UdpPort};

/// Flows over libflow: it dials what the machine asks for, accepts what comes to the process' own name, and moves
/// packets over record sockets and over UDP sockets that shims hand over.
#[derive(Debug)]
pub struct FlowLower {
    name: Label,
    options: Options,
    irm: Option<watch::Receiver<Option<Irm>>>,
    events: Option<mpsc::Sender<FlowEvent>>,
    offloads: Offloads,
    flows: FxHashMap<FlowId, Lane>,
    keys: FxHashMap<Key, (FlowId, End)>,
    /// Lanes whose sending found something that their receiving reports.
    news: Vec<FlowId>,
    /// Lanes that keep batches, and since when.
    full: FxHashMap<FlowId, Instant>,
}

/// What a task of [`FlowLower`] says: a flow stands, or a dial came to nothing.
#[derive(Debug)]
pub struct FlowEvent(Result<(Joined, Via), (u64, Reason)>);

/// One lower flow.
#[derive(Debug)]
struct Lane {
    data: Data,
    held: VecDeque<(Batch, usize)>,
}

#[derive(Debug)]
enum Data {
    Records {
        socket: RecordSocket,
        watch: Watch,
    },
    /// The shim's own socket; what it was handed over with stays for control items.
    Udp {
        port: Box<UdpPort>,
        watch: Watch,
        control: RecordSocket,
        control_key: Key,
    },
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
        let options = Options {
            run_dir: Some(config.run_dir.clone()),
            secret: Some(config.secret.clone()),
            program: Some(config.name.to_string()),
        };
        Self {
            name: config.name.clone(),
            options,
            irm: None,
            events: None,
            offloads: Offloads::default(),
            flows: FxHashMap::default(),
            keys: FxHashMap::default(),
            news: Vec::new(),
            full: FxHashMap::default(),
        }
    }

    fn dial(&self, dial: u64, dst: Name, over: Label) {
        let (Some(irm), Some(events)) = (self.irm.clone(), self.events.clone()) else {
            return;
        };
        let options = AllocOptions {
            qos: QosSpec::RAW,
            layer: Some(over),
            source: Some(self.name.to_name()),
            timeout: DIAL,
            ..AllocOptions::default()
        };
        tokio::spawn(async move {
            let result = match session(irm).await {
                Ok(irm) => irm.dial(&dst, options).await,
                Err(e) => Err(e),
            };
            let said = result
                .map(|joined| (joined, Via::Dialled(dial)))
                .map_err(|e| (dial, e.into()));
            // Fails only when the process ends.
            let _ = events.send(FlowEvent(said)).await;
        });
    }

    /// Takes a flow that was joined into the table.
    fn add(&mut self, io: &mut Io, joined: Joined, via: Via) -> Result<FlowTell, Reason> {
        let Joined {
            socket,
            welcome,
            handed,
        } = joined;
        let lower = welcome.flow;
        let Peer {
            layer: Some(over),
            name,
            ..
        } = welcome.peer
        else {
            return Err(Reason::new(
                Code::Failed,
                "a lower flow without a layer; dial over a layer",
            ));
        };
        let via = if let Via::Accepted(_) = via {
            Via::Accepted(name)
        } else {
            via
        };
        let failed = |e: io::Error| {
            Reason::new(
                Code::Failed,
                format!("can't use the socket of flow {lower}: {e}"),
            )
        };
        let (data, mtu, framing) = match handed {
            None => {
                let watch = io.watch(&socket, Interest::READ).map_err(failed)?;
                (
                    Data::Records { socket, watch },
                    welcome.mtu,
                    Framing::Record,
                )
            }
            Some(fd) => {
                let port = UdpPort::new(UdpSocket::from(fd), self.offloads, Instant::now())
                    .map_err(failed)?;
                let watch = io.watch(&port, Interest::READ).map_err(failed)?;
                let control_key = io.watch(&socket, Interest::READ).map_err(failed)?.key();
                let mtu = port.mtu().min(welcome.mtu);
                (
                    Data::Udp {
                        port: Box::new(port),
                        watch,
                        control: socket,
                        control_key,
                    },
                    mtu,
                    Framing::Train,
                )
            }
        };
        match &data {
            Data::Records { watch, .. } => {
                self.keys.insert(watch.key(), (lower, End::Data));
            }
            Data::Udp {
                watch, control_key, ..
            } => {
                self.keys.insert(watch.key(), (lower, End::Data));
                self.keys.insert(*control_key, (lower, End::Control));
            }
        }
        self.flows.insert(
            lower,
            Lane {
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
        let control = match lane.data {
            Data::Records { socket, watch } => {
                self.keys.remove(&watch.key());
                socket
            }
            Data::Udp {
                watch,
                control,
                control_key,
                ..
            } => {
                self.keys.remove(&watch.key());
                self.keys.remove(&control_key);
                control
            }
        };
        if let Some(reason) = reason {
            // If its queue is full, the end of the file says as much.
            let _ = control.try_send_item(&Item::Down(reason), None);
        }
    }

    fn down(&mut self, flow: FlowId, reason: Reason) -> FlowTell {
        self.remove(flow, None);
        FlowTell::Down(flow, reason)
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
            self.full.remove(&flow);
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
                        udp::Received::Packets => return Some(Read::Packets(batch)),
                        // The machine never sees those: its own hellos tell it more.
                        udp::Received::KeepAlive => {}
                        udp::Received::Mtu(mtu) => {
                            return Some(Read::Tell(FlowTell::Mtu(flow, mtu)));
                        }
                        udp::Received::Nothing => return None,
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

    fn start(&mut self, _io: &mut Io, events: mpsc::Sender<FlowEvent>) -> anyhow::Result<()> {
        let (ready, irm) = watch::channel(None);
        tokio::spawn(serve(
            self.options.clone(),
            self.name.clone(),
            ready,
            events.clone(),
        ));
        (self.irm, self.events) = (Some(irm), Some(events));
        Ok(())
    }

    fn ask(&mut self, _io: &mut Io, ask: FlowAsk) {
        match ask {
            FlowAsk::Dial { dial, dst, over } => self.dial(dial, dst, over),
            FlowAsk::Hangup(flow) => self.remove(
                flow,
                Some(Reason::new(Code::Closed, "the other member hung up")),
            ),
        }
    }

    fn send(&mut self, io: &mut Io, to: FlowId, batch: Batch) {
        let Some(lane) = self.flows.get_mut(&to) else {
            return io.counters.add("drop.lower_gone", batch.count() as u64);
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
                }
            }
        } else if lane.held.len() < HELD {
            lane.held.push_back((batch, 0));
        } else {
            io.counters.add("drop.lower_full", batch.count() as u64);
        }
    }

    fn recv(&mut self, io: &mut Io, key: Key) -> Option<In<M>> {
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

    fn congested(&self) -> bool {
        // One lane that does not move must not stop the others: what goes to it is dropped and counted instead.
        !self.full.is_empty() && self.full.values().any(|since| since.elapsed() < STUCK)
    }

    fn set(&mut self, _io: &mut Io, settings: &Settings) {
        self.offloads.apply(&settings.offload);
        for lane in self.flows.values_mut() {
            if let Data::Udp { port, .. } = &mut lane.data {
                port.set_offloads(self.offloads);
            }
        }
    }

    fn status(&self, status: &mut proto::irm::IpcpStatus) {
        let handed = self
            .flows
            .values()
            .filter(|lane| matches!(lane.data, Data::Udp { .. }))
            .count();
        status
            .settings
            .insert("lower.flows".to_owned(), self.flows.len().to_string());
        status
            .settings
            .insert("lower.udp_sockets".to_owned(), handed.to_string());
    }
}

enum Read {
    Packets(Batch),
    Tell(FlowTell),
}

enum Heard {
    Sdus,
    Mtu(u32),
    Down(Reason),
    Nothing,
}

fn control_item(received: io::Result<Received>) -> Heard {
    match received {
        Ok(Received::Data) => Heard::Sdus,
        Ok(Received::Item(Item::Mtu(mtu))) => Heard::Mtu(mtu),
        Ok(Received::Item(Item::Down(reason)) | Received::Bad(reason)) => Heard::Down(reason),
        Ok(Received::Item(Item::Join(_) | Item::Welcome(_))) => Heard::Down(Reason::new(
            Code::PeerMisbehaved,
            "a Join or Welcome came in the midst of the flow",
        )),
        Ok(Received::End) => Heard::Down(Reason::new(
            Code::Unreachable,
            "the IPC process below ended",
        )),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
        Err(e) => Heard::Down(Reason::new(
            Code::Failed,
            format!("reading the socket failed: {e}"),
        )),
    }
}

impl Data {
    fn send(&mut self, io: &mut Io, batch: &Batch, from: usize, now: Instant) -> Sent {
        match self {
            Self::Udp { port, .. } => port.send(batch, from, &mut io.counters, now),
            Self::Records { socket, .. } => match send_records(socket, batch) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Sent::Full(0),
                Ok(()) => Sent::Done,
                // The end of the file, which comes in by itself, says why.
                Err(_) => {
                    io.counters.add("drop.lower_gone", batch.count() as u64);
                    Sent::Done
                }
            },
        }
    }

    fn has_news(&self) -> bool {
        match self {
            Self::Udp { port, .. } => port.has_news(),
            Self::Records { .. } => false,
        }
    }

    fn arm(&mut self, io: &mut Io, waits: bool) {
        let interest = Interest {
            read: true,
            write: waits,
        };
        let armed = match self {
            Self::Records { socket, watch } => io.set(watch, &socket.as_fd(), interest),
            Self::Udp { port, watch, .. } => io.set(watch, &port.as_fd(), interest),
        };
        if let Err(e) = armed {
            tracing::error!("can't wait on a lower flow: {e}");
        }
    }
}

/// A batch as records; a train is put into records here, which costs a copy.
fn send_records(socket: &RecordSocket, batch: &Batch) -> io::Result<()> {
    if batch.framing() == Framing::Record {
        return socket.try_send(batch);
    }
    let mut record = Batch::new(Framing::Record);
    for packet in batch.iter() {
        if !record.fits(packet.len()) {
            socket.try_send(&record)?;
            record.clear();
        }
        if let Some(room) = record.push(packet.len()) {
            room.copy_from_slice(packet);
        }
    }
    if record.is_empty() {
        Ok(())
    } else {
        socket.try_send(&record)
    }
}

/// Keeps the session with irmd and takes the flows that come to the process' own name.
async fn serve(
    options: Options,
    name: Label,
    ready: watch::Sender<Option<Irm>>,
    events: mpsc::Sender<FlowEvent>,
) {
    let irm = loop {
        match Irm::connect_with(options.clone()).await {
            Ok(irm) => break irm,
            Err(e) => tracing::debug!("no session yet: {e}"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    ready.send_replace(Some(irm.clone()));
    let accepting = Arc::new(Semaphore::new(ACCEPTING));
    loop {
        let mut listener = match irm.listen(&name, &[]).await {
            Ok(listener) => listener,
            Err(e) => {
                tracing::debug!("can't listen as {name}: {e}");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        accept_all(&mut listener, &accepting, &events).await;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn accept_all(
    listener: &mut Listener,
    accepting: &Arc<Semaphore>,
    events: &mpsc::Sender<FlowEvent>,
) {
    while let Ok(incoming) = listener.accept().await {
        let Ok(permit) = accepting.clone().acquire_owned().await else {
            return;
        };
        let events = events.clone();
        tokio::spawn(async move {
            accept(incoming, events).await;
            drop(permit);
        });
    }
}

async fn accept(incoming: Incoming, events: mpsc::Sender<FlowEvent>) {
    match incoming.accept_joined().await {
        Ok(joined) => {
            // Fails only when the process ends.
            let _ = events
                .send(FlowEvent(Ok((joined, Via::Accepted(None)))))
                .await;
        }
        Err(e) => tracing::debug!("an incoming flow came to nothing: {e}"),
    }
}

/// The session, as soon as there is one.
async fn session(mut irm: watch::Receiver<Option<Irm>>) -> Result<Irm, FlowError> {
    let away = || {
        FlowError::Daemon(Reason::new(
            Code::Unreachable,
            "there is no session with irmd yet; it is tried again",
        ))
    };
    let ready = tokio::time::timeout(DIAL, irm.wait_for(Option::is_some)).await;
    ready
        .ok()
        .and_then(Result::ok)
        .and_then(|irm| irm.clone())
        .ok_or_else(away)
}

/// Batches that a lane keeps while its socket is full.
const HELD: usize = 16;
/// After this long without room, a lane no longer holds up the users of the others.
const STUCK: Duration = Duration::from_millis(100);
/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(10);
/// How soon something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// Incoming flows that are being accepted at once.
const ACCEPTING: usize = 64;
