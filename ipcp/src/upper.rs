//! The data ends of the flows that this process offers: tokens, joining, and records to and from users.

mod handed;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use layer::Timers;
use libflow::port::{Door, Key as TokenKey, Received, RecordSocket, died, no_such_token};
use proto::ipcp::{Allocated, User};
use proto::record::{Item, Welcome};
use proto::{Batch, Code, FlowId, Framing, Reason, Token};
use rustc_hash::FxHashMap;

use crate::config::random;
use crate::descriptors::exhausted;
use crate::devices::Devices;
use crate::io::{Interest, Io, Key, Ready, Side, Watch};

/// All upper flows of the process.
#[derive(Debug)]
pub(crate) struct Uppers {
    door: Door,
    door_watch: Watch,
    flows: FxHashMap<FlowId, Upper>,
    joined: FxHashMap<Key, FlowId>,
    joining: FxHashMap<Key, Joining>,
    awaited: Vec<FlowId>,
    paused: Vec<FlowId>,
    /// Users that were slow and have taken all that was held for them.
    took: Vec<FlowId>,
    timers: Timers<Timer>,
    devices: Devices<frames::Tun>,
    /// The user who may hand descriptors over: irmd starts the VPN as the one that it starts this process as.
    trusted: u32,
}

/// What a user did.
#[derive(Debug)]
pub(crate) enum Did {
    /// Wrote SDUs.
    Wrote(FlowId, Batch),
    /// Writes nothing more, and still reads.
    Shut(FlowId),
    /// Has taken all that was held for it, after [`Uppers::deliver`] said that something was.
    Took(FlowId),
    /// Closed its end, died, broke the rules or never came: what the other side is to hear.
    Left(FlowId, Reason),
}

/// One flow.
#[derive(Debug)]
struct Upper {
    user: User,
    welcome: Welcome,
    stage: Stage,
    held: VecDeque<Batch>,
    /// The machine knows that something is held.
    full: bool,
    /// The machine takes nothing from this user now.
    silent: bool,
    /// The user writes nothing more.
    ended: bool,
    mtu_due: bool,
    /// The user is to hear that the other side writes nothing more.
    shut_due: bool,
    closing: Option<Reason>,
}

#[derive(Debug)]
enum Stage {
    Awaited {
        token: TokenKey,
        handed: Option<OwnedFd>,
    },
    Joined {
        socket: RecordSocket,
        watch: Watch,
        paused: bool,
    },
}

/// A process that connected and has not shown its token yet.
#[derive(Debug)]
struct Joining {
    socket: RecordSocket,
    watch: Watch,
    uid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The user must have joined.
    Join(FlowId),
    /// The process must have shown its token.
    Show(Key),
    /// What is held for a closed flow has waited for long enough.
    Linger(FlowId),
    /// The user of a device is to hear what has moved.
    Moved(FlowId),
    /// There may be a descriptor again for who connects.
    Door,
}

impl Uppers {
    /// Listens at `path`; what an earlier process left there is replaced.
    pub(crate) fn open(io: &mut Io, path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let door = Door::open(path, true)?;
        let door_watch = io.watch_on(Side::Upper, &door, Interest::READ)?;
        Ok(Self {
            door,
            door_watch,
            flows: FxHashMap::default(),
            joined: FxHashMap::default(),
            joining: FxHashMap::default(),
            awaited: Vec::new(),
            paused: Vec::new(),
            took: Vec::new(),
            timers: Timers::default(),
            devices: Devices::default(),
            trusted: rustix::process::geteuid().as_raw(),
        })
    }

    /// Lets `user` join the flow within 10 s.
    pub(crate) fn create(
        &mut self,
        flow: FlowId,
        user: User,
        allocated: Allocated,
        handed: Option<OwnedFd>,
        now: Instant,
    ) -> anyhow::Result<()> {
        let token = TokenKey {
            flow,
            token: Token(random()?),
            uid: user.uid,
        };
        let welcome = Welcome {
            devices: !user.ipcp && user.uid == self.trusted,
            flow,
            mtu: allocated.mtu,
            qos: allocated.qos,
            peer: allocated.peer,
        };
        let stage = Stage::Awaited { token, handed };
        self.flows.insert(
            flow,
            Upper {
                user,
                welcome,
                stage,
                held: VecDeque::new(),
                full: false,
                silent: false,
                ended: false,
                mtu_due: false,
                shut_due: false,
                closing: None,
            },
        );
        self.awaited.push(flow);
        self.timers.set(Timer::Join(flow), now + JOIN);
        Ok(())
    }

    /// How many users have a descriptor, or will want one.
    pub(crate) fn count(&self) -> usize {
        self.flows.len() + self.joining.len() + self.devices.descriptors()
    }

    /// What the user of a flow that it has not joined yet must show.
    pub(crate) fn token(&self, flow: FlowId) -> Option<Token> {
        match &self.flows.get(&flow)?.stage {
            Stage::Awaited { token, .. } => Some(token.token.clone()),
            Stage::Joined { .. } => None,
        }
    }

    /// Who uses a flow.
    pub(crate) fn uid(&self, flow: FlowId) -> Option<u32> {
        Some(self.flows.get(&flow)?.user.uid)
    }

    /// Gives SDUs to the user; a bounded number is held for one that has not joined or is slow, more are dropped. `false`:
    /// something is held now and wasn't before; [`Uppers::took`] tells when that is over.
    pub(crate) fn deliver(&mut self, io: &mut Io, flow: FlowId, batch: Batch) -> bool {
        let Some(batch) = self.write_device(io, flow, batch) else {
            return true;
        };
        let Some(upper) = self.flows.get_mut(&flow).filter(|u| u.closing.is_none()) else {
            io.counters.add("drop.upper_gone", batch.count() as u64);
            return true;
        };
        let (most, full) = match &upper.stage {
            Stage::Awaited { .. } => (HELD_BEFORE_JOIN, "drop.not_joined"),
            Stage::Joined { socket, .. } => {
                if upper.held.is_empty() && !upper.mtu_due {
                    match socket.try_send(&batch) {
                        Ok(()) => return true,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        // The user is gone: the end of the file, which comes in by itself, says so.
                        Err(_) => {
                            io.counters.add("drop.upper_gone", batch.count() as u64);
                            return true;
                        }
                    }
                }
                (HELD, "drop.upper_full")
            }
        };
        if upper.held.len() < most {
            upper.held.push_back(batch);
            upper.rearm(io);
        } else {
            io.counters.add(full, batch.count() as u64);
        }
        std::mem::replace(&mut upper.full, true)
    }

    /// The next user that has taken all that was held for it.
    pub(crate) fn took(&mut self) -> Option<Did> {
        self.took.pop().map(Did::Took)
    }

    /// Leaves the user of a flow unread, or reads it again.
    pub(crate) fn set_silent(&mut self, io: &mut Io, flow: FlowId, silent: bool) {
        if let Some(upper) = self.flows.get_mut(&flow) {
            upper.silent = silent;
            upper.rearm(io);
        }
    }

    /// Tells the user that the other side writes nothing more, after all that is held.
    pub(crate) fn shut(&mut self, io: &mut Io, flow: FlowId) {
        if let Some(upper) = self.flows.get_mut(&flow) {
            upper.shut_due = true;
            self.flush(io, flow);
        }
    }

    /// Tells the user how large an SDU may be from now on.
    pub(crate) fn set_mtu(&mut self, io: &mut Io, flow: FlowId, mtu: u32) {
        if let Some(upper) = self.flows.get_mut(&flow) {
            upper.welcome.mtu = mtu;
            self.devices.set_mtu(flow, mtu);
            if matches!(upper.stage, Stage::Joined { .. }) {
                upper.mtu_due = true;
                self.flush(io, flow);
            }
        }
    }

    /// Closes a flow with a reason; a user that is slow or still on its way gets what is held for it, and the reason.
    pub(crate) fn close(&mut self, io: &mut Io, flow: FlowId, reason: Reason, now: Instant) {
        let Some(upper) = self.flows.get_mut(&flow).filter(|u| u.closing.is_none()) else {
            return;
        };
        upper.closing = Some(reason);
        self.devices.unbind(io, flow);
        match &mut upper.stage {
            // Kept until somebody joins, it would keep the peer's way to this flow open.
            Stage::Awaited { handed, .. } => *handed = None,
            Stage::Joined { .. } => {
                self.timers.set(Timer::Linger(flow), now + LINGER);
                self.flush(io, flow);
            }
        }
    }

    /// Closes all flows with a reason.
    pub(crate) fn close_all(&mut self, io: &mut Io, reason: &Reason, now: Instant) {
        for flow in self.flows.keys().copied().collect::<Vec<_>>() {
            self.close(io, flow, reason.clone(), now);
        }
    }

    /// Whether flows that were closed still wait to tell their users.
    pub(crate) fn lingers(&self) -> bool {
        self.flows
            .values()
            .any(|u| matches!(u.stage, Stage::Joined { .. }) && u.closing.is_some())
    }

    /// One step on a descriptor that is ready; `None`: nothing is left to be read there.
    pub(crate) fn step(&mut self, io: &mut Io, ready: Ready, now: Instant) -> Option<Did> {
        if ready.key == self.door_watch.key() {
            self.let_in(io, now);
            return None;
        }
        if self.devices.cut(io, ready.key) {
            return None;
        }
        if let Some(joining) = self.joining.remove(&ready.key) {
            self.timers.clear(Timer::Show(ready.key));
            return self.admit(io, joining);
        }
        let flow = *self.joined.get(&ready.key)?;
        if ready.write {
            self.flush(io, flow);
        }
        if ready.read {
            self.read(io, flow, now)
        } else {
            None
        }
    }

    /// Leaves the user of this descriptor unread until [`Uppers::resume`].
    pub(crate) fn pause(&mut self, io: &mut Io, key: Key) {
        let Some(flow) = self.joined.get(&key) else {
            return;
        };
        if let Some(upper) = self.flows.get_mut(flow)
            && let Stage::Joined { paused, .. } = &mut upper.stage
            && !std::mem::replace(paused, true)
        {
            self.paused.push(*flow);
            upper.rearm(io);
        }
    }

    /// The flow that stands whose user has this descriptor.
    pub(crate) fn flow(&self, key: Key) -> Option<FlowId> {
        self.joined.get(&key).copied()
    }

    /// Whether this descriptor belongs to a flow that stands, and not to one who joins; `Some(true)`: to one whose packets go
    /// before those of others, or by which what was said of a device is taken back.
    pub(crate) fn urgent(&self, key: Key) -> Option<bool> {
        if self.devices.is_line(key) {
            return Some(true);
        }
        let upper = self.flows.get(self.joined.get(&key)?)?;
        Some(upper.welcome.qos.priority > 0)
    }

    /// Reads those users again whose flows have room. Says whether others are left.
    pub(crate) fn resume(&mut self, io: &mut Io, room: impl Fn(FlowId) -> bool) -> bool {
        self.paused.retain(|flow| {
            let stays = !room(*flow);
            if !stays
                && let Some(upper) = self.flows.get_mut(flow)
                && let Stage::Joined { paused, .. } = &mut upper.stage
            {
                *paused = false;
                upper.rearm(io);
            }
            stays
        });
        !self.paused.is_empty()
    }

    /// When [`Uppers::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// Gives up on those whose time has come; called until `None`.
    pub(crate) fn expire(&mut self, io: &mut Io, now: Instant) -> Option<Did> {
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Show(key) => {
                    if self.joining.remove(&key).is_some() {
                        io.counters.add("join.no_token", 1);
                        self.reopen(io);
                    }
                }
                Timer::Join(flow) => {
                    if self.awaited.contains(&flow) {
                        io.counters.add("join.never_came", 1);
                        let closed = self
                            .remove(io, flow)
                            .is_some_and(|upper| upper.closing.is_some());
                        if !closed {
                            let text = "the program at the other side never joined the flow";
                            let reason = Reason::new(Code::TimedOut, text);
                            return Some(Did::Left(flow, reason));
                        }
                    }
                }
                Timer::Linger(flow) => {
                    self.remove(io, flow);
                }
                Timer::Moved(flow) => self.tell_moved(flow),
                Timer::Door => self.reopen(io),
            }
        }
        None
    }

    fn let_in(&mut self, io: &mut Io, now: Instant) {
        while self.joining.len() < JOINING {
            let (socket, uid) = match self.door.try_accept() {
                Ok(accepted) => accepted,
                // They wait in the socket's queue: asked at once, it would say so again and again.
                Err(e) if exhausted(&e) => {
                    io.counters.add("join.no_descriptor", 1);
                    self.timers.set(Timer::Door, now + EXHAUSTED);
                    break;
                }
                Err(_) => return,
            };
            if let Ok(watch) = io.watch_on(Side::Upper, &socket, Interest::READ) {
                let key = watch.key();
                self.joining.insert(key, Joining { socket, watch, uid });
                self.timers.set(Timer::Show(key), now + SHOW);
            }
        }
        // The others wait there until somebody has shown a token or run out of time.
        let _ = io.set(&mut self.door_watch, &self.door, Interest::NONE);
    }

    fn reopen(&mut self, io: &mut Io) {
        if let Err(e) = io.set(&mut self.door_watch, &self.door, Interest::READ) {
            tracing::error!("can't wait for users to join: {e}");
        }
    }

    fn admit(&mut self, io: &mut Io, joining: Joining) -> Option<Did> {
        self.reopen(io);
        let Joining { socket, watch, uid } = joining;
        let mut batch = Batch::new(Framing::Record);
        let Ok(Received::Item(Item::Join(token))) = socket.try_recv(&mut batch) else {
            io.counters.add("join.bad_record", 1);
            return None;
        };
        let fits = |flow: &FlowId| match &self.flows.get(flow)?.stage {
            Stage::Awaited { token: key, .. } if key.fits(&token, uid) => Some(*flow),
            Stage::Awaited { .. } | Stage::Joined { .. } => None,
        };
        let Some(flow) = self.awaited.iter().find_map(fits) else {
            io.counters.add("join.denied", 1);
            let _ = socket.try_send_item(&Item::Down(no_such_token()), None);
            return None;
        };
        self.awaited.retain(|f| *f != flow);
        self.timers.clear(Timer::Join(flow));
        let upper = self.flows.get_mut(&flow)?;
        let handed = match &mut upper.stage {
            Stage::Awaited { handed, .. } => handed.take(),
            Stage::Joined { .. } => None,
        };
        if upper.welcome.devices {
            socket.take_descriptors();
        }
        let welcomed = socket.try_send_item(
            &Item::Welcome(upper.welcome.clone()),
            handed.as_ref().map(AsFd::as_fd),
        );
        self.joined.insert(watch.key(), flow);
        upper.stage = Stage::Joined {
            socket,
            watch,
            paused: false,
        };
        if welcomed.is_err() {
            self.remove(io, flow);
            return Some(Did::Left(flow, died()));
        }
        self.flush(io, flow);
        None
    }

    /// Says something to a user at once, if it takes it.
    fn tell(&self, flow: FlowId, item: &Item) -> bool {
        let stage = self.flows.get(&flow).map(|upper| &upper.stage);
        match stage {
            Some(Stage::Joined { socket, .. }) => socket.try_send_item(item, None).is_ok(),
            Some(Stage::Awaited { .. }) | None => false,
        }
    }

    fn read(&mut self, io: &mut Io, flow: FlowId, now: Instant) -> Option<Did> {
        let upper = self.flows.get_mut(&flow)?;
        let Stage::Joined { socket, .. } = &upper.stage else {
            return None;
        };
        if upper.silent {
            return None;
        }
        let mut batch = Batch::new(Framing::Record);
        let got = if upper.welcome.devices {
            socket.try_recv_with(&mut batch)
        } else {
            let received = socket.try_recv(&mut batch);
            received.map(|received| (received, [None, None]))
        };
        let (received, handed) = match got {
            Ok((received, handed)) => (Ok(received), handed),
            Err(e) => (Err(e), [None, None]),
        };
        let why = match received {
            Ok(Received::Data) if upper.closing.is_some() => return None,
            Ok(Received::Data) if !upper.ended => return Some(Did::Wrote(flow, batch)),
            Ok(Received::Item(Item::Shut)) if upper.welcome.qos.ordered && !upper.ended => {
                upper.ended = true;
                return upper.closing.is_none().then_some(Did::Shut(flow));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
            Ok(Received::Item(Item::Down(reason))) => Ok(reason),
            Ok(Received::End) | Err(_) => Ok(died()),
            Ok(Received::Bad(reason)) => Err(reason),
            Ok(Received::Item(item)) => match self.device_item(io, flow, (item, now), handed) {
                Ok(()) => return None,
                Err(reason) => Err(reason),
            },
            Ok(Received::Data) => Err(Reason::new(
                Code::PeerMisbehaved,
                "SDUs came behind the last one",
            )),
        };
        let why = why.unwrap_or_else(|reason| {
            io.counters.add("drop.bad_record", 1);
            self.tell(flow, &Item::Down(reason.clone()));
            reason
        });
        let closed = self
            .remove(io, flow)
            .is_some_and(|upper| upper.closing.is_some());
        (!closed).then_some(Did::Left(flow, why))
    }

    /// Sends what is held, then what is to be said, as far as the user takes it.
    fn flush(&mut self, io: &mut Io, flow: FlowId) {
        let Some(upper) = self.flows.get_mut(&flow) else {
            return;
        };
        let Stage::Joined { socket, .. } = &upper.stage else {
            return;
        };
        while let Some(batch) = upper.held.front() {
            match socket.try_send(batch) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return upper.rearm(io),
                Ok(()) | Err(_) => upper.held.pop_front(),
            };
        }
        if upper.mtu_due {
            match socket.try_send_item(&Item::Mtu(upper.welcome.mtu), None) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return upper.rearm(io),
                Ok(()) | Err(_) => upper.mtu_due = false,
            }
        }
        if std::mem::take(&mut upper.full) {
            self.took.push(flow);
        }
        if upper.shut_due {
            match socket.try_send_item(&Item::Shut, None) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return upper.rearm(io),
                Ok(()) | Err(_) => upper.shut_due = false,
            }
        }
        if let Some(reason) = upper.closing.take() {
            socket.say_last(reason);
            self.remove(io, flow);
            return;
        }
        upper.rearm(io);
    }

    fn remove(&mut self, io: &mut Io, flow: FlowId) -> Option<Upper> {
        let upper = self.flows.remove(&flow)?;
        self.devices.unbind(io, flow);
        self.timers.clear(Timer::Moved(flow));
        match &upper.stage {
            Stage::Awaited { .. } => {
                self.awaited.retain(|f| *f != flow);
                self.timers.clear(Timer::Join(flow));
            }
            Stage::Joined { watch, .. } => {
                self.joined.remove(&watch.key());
                self.timers.clear(Timer::Linger(flow));
            }
        }
        Some(upper)
    }
}

impl Upper {
    /// Waits for what matters now.
    fn rearm(&mut self, io: &mut Io) {
        let waits =
            !self.held.is_empty() || self.mtu_due || self.shut_due || self.closing.is_some();
        if let Stage::Joined {
            socket,
            watch,
            paused,
        } = &mut self.stage
        {
            let interest = Interest {
                read: !*paused && !self.silent && self.closing.is_none(),
                write: waits,
            };
            if let Err(e) = io.set(watch, socket, interest) {
                tracing::error!(
                    "can't wait on the socket of flow {}: {e}",
                    self.welcome.flow
                );
            }
        }
    }
}

/// How long a user has to join its flow.
const JOIN: Duration = Duration::from_secs(10);
/// How long a process that connected has to show its token.
const SHOW: Duration = Duration::from_secs(2);
/// How late the user of a device hears what has moved.
const MOVED: Duration = Duration::from_secs(1);
/// How long who connects waits when there was no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// How long a closed flow waits for a slow user.
const LINGER: Duration = Duration::from_secs(2);
/// Processes that may be showing their tokens at once.
const JOINING: usize = 64;
/// Batches that are held for a user on its way.
const HELD_BEFORE_JOIN: usize = 4;
/// Batches that are held for a user whose socket is full.
const HELD: usize = 8;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use libflow::QosSpec;
    use proto::record::{Device, Peer};

    use super::*;

    const FLOW: FlowId = FlowId(7);

    /// What happens on the descriptors now.
    fn turn(io: &mut Io, uppers: &mut Uppers) -> Vec<Did> {
        let mut ready = Vec::new();
        io.reactor_end().unwrap().poll(&mut ready).unwrap();
        let step = |r| uppers.step(io, r, Instant::now());
        ready.into_iter().filter_map(step).collect()
    }

    /// A flow of this user's, which may be joined at the path.
    fn bench(path: &Path, now: Instant) -> (Io, Uppers) {
        let mut io = Io::new().unwrap();
        let mut uppers = Uppers::open(&mut io, path).unwrap();
        create(&mut uppers, now);
        (io, uppers)
    }

    fn create(uppers: &mut Uppers, now: Instant) {
        let user = User {
            uid: rustix::process::geteuid().as_raw(),
            ipcp: false,
        };
        let allocated = Allocated {
            mtu: 1400,
            qos: QosSpec::RAW,
            peer: Peer::default(),
            token: None,
        };
        uppers.create(FLOW, user, allocated, None, now).unwrap();
    }

    /// The user joins.
    fn join(io: &mut Io, uppers: &mut Uppers, path: &Path) -> RecordSocket {
        let joiner = RecordSocket::connect(path).unwrap();
        let token = uppers.token(FLOW).unwrap();
        joiner.try_send_item(&Item::Join(token), None).unwrap();
        // It is let in, then shows its token.
        for _ in 0..2 {
            assert!(turn(io, uppers).is_empty());
        }
        assert!(uppers.token(FLOW).is_none());
        joiner
    }

    #[test]
    fn a_flow_that_came_and_went_wakes_nobody_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.sock");
        let now = Instant::now();
        let (mut io, mut uppers) = bench(&path, now);
        assert_eq!(uppers.deadline(), Some(now + JOIN));
        let joiner = join(&mut io, &mut uppers, &path);
        assert_eq!(uppers.deadline(), None);
        drop(joiner);
        let did = turn(&mut io, &mut uppers);
        assert!(
            matches!(&did[..], [Did::Left(FLOW, why)] if *why == died()),
            "{did:?}"
        );
        assert_eq!(uppers.deadline(), None);
    }

    /// A connection that whoever closes it waits for, and its other end, which takes nothing.
    fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        while near.write(&[0; 1 << 16]).is_ok() {}
        rustix::net::sockopt::set_socket_linger(&near, Some(Duration::from_secs(4))).unwrap();
        (near, far)
    }

    #[test]
    fn a_user_that_keeps_its_device_says_so_without_a_descriptor_and_has_no_pairs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.sock");
        let (mut io, mut uppers) = bench(&path, Instant::now());
        let hear = |user: &RecordSocket| user.try_recv_first().unwrap().0;
        let frames = Item::Device(Device {
            id: 1,
            tcp: false,
            udp: false,
            frames: true,
            code_points: 0,
        });
        let user = join(&mut io, &mut uppers, &path);
        assert!(matches!(hear(&user), Item::Welcome(w) if w.devices));
        user.try_send_item(&frames, None).unwrap();
        assert!(turn(&mut io, &mut uppers).is_empty());
        assert!(matches!(hear(&user), Item::Frame(none) if none.is_empty()));
        assert!(uppers.has_device(FLOW) && uppers.offloads().next().is_none());
        // What comes for it is its user's, and nobody tells it what has moved.
        let sdu = || Batch::of(b"a frame").unwrap();
        assert!(uppers.deliver(&mut io, FLOW, sdu()));
        let mut got = Batch::new(Framing::Record);
        assert!(matches!(user.try_recv(&mut got), Ok(Received::Data)));
        assert_eq!(got.iter().collect::<Vec<_>>(), [b"a frame"]);
        assert_eq!(uppers.deadline(), None);
        let pair = proto::record::Pair::V4([10, 7, 0, 1], [10, 7, 0, 2]);
        user.try_send_item(&Item::Pair(pair), None).unwrap();
        assert_eq!(turn(&mut io, &mut uppers).len(), 1);
        assert!(matches!(hear(&user), Item::Down(why) if why.text.contains("before the Device")));
        assert!(!uppers.has_device(FLOW));
        // Nor does a descriptor come with one.
        create(&mut uppers, Instant::now());
        let user = join(&mut io, &mut uppers, &path);
        hear(&user);
        let null = std::fs::File::open("/dev/null").unwrap();
        user.try_send_item(&frames, Some(null.as_fd())).unwrap();
        assert_eq!(turn(&mut io, &mut uppers).len(), 1);
        assert!(matches!(hear(&user), Item::Down(why) if why.text.contains("stays with its user")));
        // One is as good as a descriptor: it is taken from the VPN's user alone.
        uppers.trusted += 1;
        create(&mut uppers, Instant::now());
        let user = join(&mut io, &mut uppers, &path);
        assert!(matches!(hear(&user), Item::Welcome(w) if !w.devices));
        user.try_send_item(&frames, None).unwrap();
        assert_eq!(turn(&mut io, &mut uppers).len(), 1);
        assert!(matches!(hear(&user), Item::Down(why) if why.text.contains("alone")));
    }

    #[test]
    fn nobody_but_the_processs_own_user_hands_descriptors_over_or_makes_it_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.sock");
        let (mut io, mut uppers) = bench(&path, Instant::now());
        if !libflow::port::refuse_descriptors(&RecordSocket::pair().unwrap().0) {
            // `libflow` has a test of that.
            return eprintln!("passed over: this kernel is older than Linux 6.16");
        }
        let device = Item::Device(Device {
            id: 1,
            tcp: false,
            udp: false,
            frames: false,
            code_points: 0,
        });
        let hear = |user: &RecordSocket| user.try_recv_first().unwrap().0;
        let user = join(&mut io, &mut uppers, &path);
        assert!(matches!(hear(&user), Item::Welcome(w) if w.devices));
        let null = std::fs::File::open("/dev/null").unwrap();
        user.try_send_item(&device, Some(null.as_fd())).unwrap();
        assert_eq!(turn(&mut io, &mut uppers).len(), 1);
        assert!(matches!(hear(&user), Item::Down(why) if why.text.contains("no TUN device")));
        // Of another user than irmd starts the VPN as:
        uppers.trusted += 1;
        create(&mut uppers, Instant::now());
        let user = join(&mut io, &mut uppers, &path);
        assert!(matches!(hear(&user), Item::Welcome(w) if !w.devices));
        for item in [device, Item::Shut] {
            let (near, far) = lingering();
            let sent = user.try_send_item(&item, Some(near.as_fd()));
            // If it has been sent, the process has the last one.
            let kept = sent.is_err().then_some(near);
            let begun = Instant::now();
            if kept.is_none() {
                turn(&mut io, &mut uppers);
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "{item:?}");
            let why = sent.unwrap_err();
            assert_eq!(why.kind(), io::ErrorKind::PermissionDenied);
            drop((far, kept));
        }
    }
}
