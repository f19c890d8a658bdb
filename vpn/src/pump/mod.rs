//! The data path: one task that owns the device and every flow. No lock, no channel, no task switch between a packet's
//! read and its write; one wake-up moves what is ready, up to a bound, and then gives the other direction its turn.

mod all;
mod inbound;
mod outbound;
mod owed;
mod peer;
mod places;
mod segment;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use proto::{Batch, Framing, Label, Reason};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use self::all::All;
use self::outbound::{Drained, May, PATIENCE};
use self::peer::Peer;
use self::places::{class, member, place};
use self::segment::Segment;
use crate::class::Class;
use crate::config::Config;
use crate::counters::{Counters, Dropped};
use crate::filter::Filter;
use crate::flow::{FlowPort, Handle};
use crate::icmp::{Problem, RateLimit};
use crate::prefix::{Owner, Owners, PeerId};
use crate::session::Side;
use crate::switch::Mac;
use crate::traffic::Traffic;
use frames::TunPort;

pub use self::status::{FlowStatus, Learned, PeerStatus};
pub use proto::record::Moved;

/// Moves packets between a device and the flows to the other members.
pub struct Pump<T: TunPort, F> {
    tun: T,
    /// The device's descriptor once more, waited on unless the device was handed over.
    watch: Option<AsyncFd<OwnedFd>>,
    core: Core<F>,
    /// The pump's own epoll: a flow costs no task and no look at the others. The runtime waits on it as one descriptor.
    ready: AsyncFd<OwnedFd>,
    /// The last turn left something behind.
    busy: bool,
}

/// What the owner of a pump has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Allocate a flow to this peer, of [`Pump::class`]; answer with [`Pump::dialled`] or [`Pump::dial_failed`].
    Dial(PeerId),
    /// The smallest MTU of the flows may have changed.
    Mtu,
    /// A flow came up or went down.
    State,
    /// A flow is down, with the reason.
    Down(PeerId, Reason),
}

struct Core<F> {
    epoll: OwnedFd,
    /// Each member has a place for each class, in the order of [`Class::ALL`]; the number of the first is the member's.
    peers: Vec<Peer<F>>,
    numbers: BTreeMap<Label, PeerId>,
    /// The places of those who are no members any more, until others have them.
    left: BTreeMap<Label, PeerId>,
    all: All,
    traffic: Traffic,
    filter: Filter,
    owners: Owners,
    /// Where the device is a TAP; nothing is judged by addresses of IP then.
    segment: Option<Segment>,
    /// The device, if it can be handed over, or is a TAP.
    handle: Option<Handle>,
    counters: Counters,
    limit: RateLimit,
    answers: Vec<Vec<u8>>,
    happened: Vec<Happening>,
    /// Peers with a record to be sent in this turn.
    dirty: Vec<PeerId>,
    /// Who may be left to the layer's process from now on, once what was read of them in this turn is sent.
    pairs: Vec<(PeerId, Side, May)>,
    /// Peers whose flow is full.
    full: Vec<PeerId>,
    /// Flows whose pairs are to be forgotten once they take a word again, and when that is tried next.
    owing: Vec<(PeerId, Side)>,
    owing_due: Option<Instant>,
    /// When a session wants to be called.
    next: Option<Instant>,
    inbound: Batch,
}

impl<T: TunPort, F: FlowPort> Pump<T, F> {
    /// A pump without peers. Must be called in a tokio runtime with IO.
    pub fn new(tun: T) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let ready = libflow::watch(epoll.try_clone()?, Interest::READABLE)?;
        let core = Core {
            epoll,
            peers: Vec::new(),
            numbers: BTreeMap::new(),
            left: BTreeMap::new(),
            all: All::default(),
            traffic: Traffic::default(),
            filter: Filter::default(),
            owners: Owners::default(),
            segment: None,
            handle: Handle::of(&tun),
            counters: Counters::default(),
            limit: RateLimit::new(Instant::now()),
            answers: Vec::new(),
            happened: Vec::new(),
            dirty: Vec::new(),
            pairs: Vec::new(),
            full: Vec::new(),
            owing: Vec::new(),
            owing_due: None,
            next: None,
            inbound: Batch::new(Framing::Record),
        };
        Ok(Self {
            watch: Some(watch(&tun)?),
            tun,
            core,
            ready,
            busy: false,
        })
    }

    /// Waits until something can be moved and moves it. Safe to cancel: nothing is moved while it waits. An error says
    /// that the device is gone.
    pub async fn turn(&mut self) -> io::Result<Vec<Happening>> {
        if self.busy {
            // The runtime hears of other descriptors and runs other tasks only in between.
            tokio::task::yield_now().await;
        }
        // Also after a call that has closed the last flow of whom it was handed over to: nobody else would wake up for it.
        self.watch_device()?;
        let paused = self.core.paused(Instant::now());
        let deadline = self.core.deadline();
        let drained = tokio::select! {
            guard = readable(self.watch.as_ref()), if !paused => {
                let mut guard = guard?;
                let drained = self.core.outbound(&mut self.tun, Instant::now())?;
                if drained == Drained::Yes {
                    guard.clear_ready();
                }
                drained
            }
            guard = self.ready.readable() => {
                let mut guard = guard?;
                let drained = self.core.events(&mut self.tun, Instant::now())?;
                if drained == Drained::Yes {
                    guard.clear_ready();
                }
                drained
            }
            () = until(deadline), if deadline.is_some() => Drained::Yes,
        };
        self.busy = drained == Drained::No;
        self.core.tick(Instant::now());
        self.core.settle(&mut self.tun);
        Ok(self.take_happenings())
    }

    /// Waits on the device, unless whoever it was handed over to does.
    fn watch_device(&mut self) -> io::Result<()> {
        match (&self.watch, self.core.all.is_handed()) {
            (Some(_), true) => self.watch = None,
            (None, false) => self.watch = Some(watch(&self.tun)?),
            (Some(_), false) | (None, true) => {}
        }
        Ok(())
    }

    /// Makes members, prefixes and routes what the configuration says. Flows to who is no member any more are closed.
    pub fn configure(&mut self, config: &Config) {
        self.core.configure(config, Instant::now());
    }

    /// The flow that [`Happening::Dial`] asked for.
    pub fn dialled(&mut self, id: PeerId, flow: F) {
        self.core.link_up(id, Side::Dialled, flow, Instant::now());
        self.core.settle(&mut self.tun);
    }

    /// The flow that [`Happening::Dial`] asked for can't be had.
    pub fn dial_failed(&mut self, id: PeerId, why: Reason) {
        self.core.dial_failed(id, why, Instant::now());
        self.core.settle(&mut self.tun);
    }

    /// A flow that a member allocated to this VPN; gives it back if this is no member.
    pub fn accepted(&mut self, from: &Label, flow: F) -> Result<(), F> {
        let Some(id) = self.core.numbers.get(from).copied() else {
            return Err(flow);
        };
        let class = match self.core.segment {
            Some(_) => Class::Plain,
            None => flow.class(),
        };
        let id = place(id, class);
        self.core.link_up(id, Side::Accepted, flow, Instant::now());
        self.core.settle(&mut self.tun);
        Ok(())
    }

    /// What has to be done now because of a call other than [`Pump::turn`].
    pub fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.core.happened)
    }

    /// The name of a peer.
    pub fn name(&self, id: PeerId) -> Option<&Label> {
        self.core.peers.get(id.0 as usize).map(|p| &p.name)
    }

    /// What the flow must be good for that [`Happening::Dial`] asks for.
    pub fn class(&self, id: PeerId) -> Class {
        class(id)
    }

    /// The smallest MTU of all flows; `None` without flows.
    pub fn mtu(&self) -> Option<u32> {
        let mtu = self.core.mtu();
        debug_assert_eq!(mtu, self.core.flows().map(FlowPort::mtu).min());
        debug_assert_eq!(
            self.core.all.is_handed(),
            self.core.flows().any(FlowPort::is_handed)
        );
        mtu
    }

    /// How many conversations the filter keeps.
    pub fn conversations(&self) -> usize {
        self.core.filter.conversations()
    }

    /// What the switch of a segment has learned, if this is one.
    pub fn learned(&self) -> Option<Learned> {
        let segment = self.core.segment.as_ref()?;
        let (overflows, moves) = segment.switch.counts();
        Some(Learned {
            macs: segment.switch.known(Instant::now()).values().sum(),
            overflows,
            moves,
        })
    }

    /// The address that the device really has, where it is a TAP.
    pub fn set_mac(&mut self, mac: Mac) {
        if let Some(segment) = &mut self.core.segment {
            segment.switch.set_own(mac);
        }
    }

    /// The device.
    pub fn device(&self) -> &T {
        &self.tun
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Every member, in the order of names.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        let segment = self.core.segment.as_ref();
        let known = segment.map(|s| s.switch.known(Instant::now()));
        let known = known.unwrap_or_default();
        self.core
            .numbers
            .values()
            .filter_map(|id| Some((*id, self.core.places(*id)?)))
            .map(move |(id, places)| PeerStatus {
                macs: known.get(&Owner::Peer(id)).copied().unwrap_or_default(),
                ..PeerStatus::of(places, !self.core.filter.is_open(id))
            })
    }
}

impl<F: FlowPort> Core<F> {
    fn configure(&mut self, config: &Config, now: Instant) {
        let (stay, gone) = std::mem::take(&mut self.numbers)
            .into_iter()
            .partition(|(name, _)| config.members.contains_key(name));
        self.numbers = stay;
        for id in BTreeMap::values(&gone) {
            for class in Class::ALL {
                self.remove(place(*id, class));
            }
            self.left(*id, now);
        }
        self.left.extend(gone);
        self.traffic = config.traffic;
        let handle = self.handle.as_mut();
        let restricted = handle.is_some_and(|handle| handle.set_classes(self.traffic.classes));
        let mut filters = HashMap::new();
        for (name, member) in &config.members {
            let id = self.number(&config.me, name);
            filters.insert(id, member.filter.clone());
            let peer = &mut self.peers[id.0 as usize];
            peer.prefixes.clone_from(&member.prefixes);
            peer.neighbour = member.neighbour;
            for class in Class::ALL {
                let peer = &mut self.peers[place(id, class).0 as usize];
                peer.session.set_idle(config.traffic.idle);
            }
        }
        let owners = self.owners(config);
        let touched = self.owners.touched(&owners);
        self.owners = owners;
        for (id, both) in &filters {
            // Pairs that were said may be judged otherwise now.
            if restricted || touched.has(*id) || self.filter.differs(*id, both) {
                self.forget_pairs(*id, now);
            }
        }
        self.filter.set(filters);
        if config.tap {
            self.configure_segment(config, now);
        }
        self.retime();
    }

    /// Whose addresses are whose, by a configuration all of whose members have their numbers.
    fn owners(&self, config: &Config) -> Owners {
        let mut owners = Owners::default();
        let peer = |name| self.numbers.get(name).map(|id| Owner::Peer(*id));
        for net in &config.own {
            owners.certify(*net, Owner::Me);
        }
        for (name, member) in &config.members {
            let Some(owner) = peer(name) else { continue };
            for net in &member.prefixes {
                owners.certify(*net, owner);
            }
        }
        for net in &config.offers {
            owners.route(*net, Owner::Me);
        }
        let by_hand = config.routes.iter().map(|r| (r.prefix, &r.member));
        let taken = config.taken().map(|o| (o.net, &o.member));
        for (prefix, member) in by_hand.chain(taken) {
            let me = || (*member == config.me).then_some(Owner::Me);
            if let Some(owner) = peer(member).or_else(me) {
                owners.route(prefix, owner);
            }
        }
        owners
    }

    fn remove(&mut self, id: PeerId) {
        let peer = &mut self.peers[id.0 as usize];
        peer.member = false;
        self.counters.drop_many(Dropped::FlowDown, peer.pending());
        peer.out = None;
        for flow in peer.session.close().collect::<Vec<_>>() {
            self.unwatch(flow);
        }
        self.set_full(id, None);
        self.happened.extend([Happening::Mtu, Happening::State]);
    }

    fn link_up(&mut self, id: PeerId, side: Side, mut flow: F, now: Instant) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        if !peer.member {
            if side == Side::Dialled {
                // It may be one again, and is dialled then.
                let why = Reason::new(proto::Code::Closed, "it is no member any more");
                peer.session.dial_failed(now, why);
            }
            return;
        }
        let added = epoll::add(&self.epoll, &flow, key(id, side), epoll::EventFlags::IN);
        if let Err(e) = added {
            let why = Reason::new(
                proto::Code::Failed,
                format!("can't wait on the flow to {}: {e}", peer.name),
            );
            self.dial_failed(id, why, now);
            return;
        }
        if let Some(handle) = &self.handle {
            flow.hand(handle, now);
        }
        self.all.come(&flow);
        let replaced: Vec<F> = match side {
            Side::Dialled => peer.session.dialled(now, flow).into_iter().collect(),
            Side::Accepted => peer.session.accepted(now, flow).collect(),
        };
        let waiting = peer.session.take_waiting();
        match side {
            Side::Dialled => self.counters.flows_dialled += 1,
            Side::Accepted => self.counters.flows_accepted += 1,
        }
        for old in replaced {
            self.counters.flows_down += 1;
            self.unwatch(old);
        }
        // The old flow may have been full; this one isn't.
        self.set_full(id, None);
        self.happened.extend([Happening::Mtu, Happening::State]);
        for packet in waiting {
            self.resubmit(&packet, now);
        }
        self.retime_of(id);
    }

    fn dial_failed(&mut self, id: PeerId, why: Reason, now: Instant) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        peer.session.dial_failed(now, why);
        self.happened.push(Happening::State);
        // A flow of another class, or the peer's, takes what waits.
        if class(id) != Class::Plain || peer.session.sending().is_some() {
            let waiting = peer.session.take_waiting();
            self.retime_of(id);
            for packet in waiting {
                self.resubmit(&packet, now);
            }
            return;
        }
        let given_up = peer.session.given_up();
        let waiting = if given_up {
            peer.session.take_waiting()
        } else {
            Default::default()
        };
        self.retime_of(id);
        for packet in waiting {
            self.refuse_packet(Dropped::PeerDown, Some(Problem::PeerDown), &packet, now);
        }
    }

    /// Sends what calls have left to be sent, to flows and to the host.
    fn settle<T: TunPort>(&mut self, tun: &mut T) {
        let now = Instant::now();
        self.forget_owed(now);
        self.flush_dirty(now);
        self.say_pairs();
        self.answer(tun);
    }

    fn link_down(&mut self, id: PeerId, side: Side, why: Reason, now: Instant) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let (gone, redial) = peer.session.down(now, side);
        let Some(flow) = gone else { return };
        if self.segment.is_some() && why.code == proto::Code::PeerMisbehaved {
            // A layer's process of an older build knows no device of frames.
            self.handle = None;
        }
        if peer.session.sending().is_none() {
            self.counters.drop_many(Dropped::FlowDown, peer.pending());
            peer.out = None;
        }
        self.unwatch(flow);
        self.counters.flows_down += 1;
        self.set_full(id, None);
        self.happened
            .extend([Happening::Down(id, why), Happening::Mtu, Happening::State]);
        if redial {
            self.happened.push(Happening::Dial(id));
        }
        self.left(id, now);
        self.retime_of(id);
    }

    fn unwatch(&mut self, flow: F) {
        self.all.gone(&flow);
        // Closing would do, if nobody holds a copy of the descriptor.
        let _ = epoll::delete(&self.epoll, &flow);
    }

    /// Serves the flows that are ready.
    fn events<T: TunPort>(&mut self, tun: &mut T, now: Instant) -> io::Result<Drained> {
        let mut events = [const {
            epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }
        }; EVENTS];
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let n = match epoll::wait(&self.epoll, &mut events, Some(&zero)) {
            Err(rustix::io::Errno::INTR) => return Ok(Drained::No),
            other => other?,
        };
        let mut all = n < EVENTS;
        for event in &events[..n] {
            let (id, side) = unkey({ event.data }.u64());
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) {
                self.flush(id, now);
                if self
                    .peers
                    .get(id.0 as usize)
                    .is_some_and(|p| p.pending() == 0)
                {
                    self.set_full(id, None);
                }
            }
            if flags
                .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
            {
                all &= self.inbound(tun, id, side, now);
            }
        }
        Ok(if all { Drained::Yes } else { Drained::No })
    }

    /// Notes since when a peer's flow is full, and asks epoll to say when it no longer is.
    fn set_full(&mut self, id: PeerId, since: Option<Instant>) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        if peer.full.is_some() == since.is_some() {
            return;
        }
        peer.full = since;
        self.full.retain(|other| *other != id);
        if since.is_some() {
            self.full.push(id);
        }
        self.wait_on(id);
    }

    /// Has epoll wait for what matters now at a peer's flows.
    fn wait_on(&self, id: PeerId) {
        let Some(peer) = self.peers.get(id.0 as usize) else {
            return;
        };
        for side in [Side::Dialled, Side::Accepted] {
            if let Some(flow) = peer.session.flow(side) {
                let full = peer.full.is_some() && peer.session.sending() == Some(side);
                let mut wanted = epoll::EventFlags::IN;
                wanted.set(epoll::EventFlags::OUT, full || flow.owes().is_some());
                // It was added when it came up; if it isn't there any more, its end of file says so.
                let _ = epoll::modify(&self.epoll, flow, key(id, side), wanted);
            }
        }
    }

    /// Nothing is read from the device while a flow has been full for a moment only.
    fn paused(&self, now: Instant) -> bool {
        self.full_since()
            .any(|since| now.saturating_duration_since(since) < PATIENCE)
    }

    fn full_since(&self) -> impl Iterator<Item = Instant> {
        self.full
            .iter()
            .filter_map(|id| self.peers.get(id.0 as usize)?.full)
    }

    fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let pauses = self
            .full_since()
            .map(|since| since + PATIENCE)
            .filter(|at| *at > now);
        pauses.chain(self.next).chain(self.owing_due).min()
    }

    /// Closes a flow on which nothing has moved for long; not one on which something has just come.
    fn close_idle(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let own = peer.session.flow(Side::Dialled);
        if !peer.session.idle_due(now) || own.is_some_and(is_readable) {
            return;
        }
        let Some(flow) = peer.session.take_idle(now) else {
            return;
        };
        let (peer, class) = (&peer.name, class(id).word());
        tracing::info!(%peer, class, "nothing has moved for long; the flow is closed until it is needed");
        self.unwatch(flow);
        self.counters.flows_idle += 1;
        self.set_full(id, None);
        self.happened.extend([Happening::Mtu, Happening::State]);
    }

    /// The smallest MTU of all flows; `None` without flows.
    fn mtu(&self) -> Option<u32> {
        self.all.mtu()
    }

    /// All that is kept of a member.
    fn places(&self, id: PeerId) -> Option<&[Peer<F>]> {
        let first = id.0 as usize;
        self.peers.get(first..first + Class::ALL.len())
    }

    fn flows(&self) -> impl Iterator<Item = &F> {
        self.peers.iter().flat_map(|peer| peer.session.flows())
    }

    /// One session may want to be called sooner than was known. That it wants to be called later shows when it is called.
    fn retime_of(&mut self, id: PeerId) {
        if self.segment.is_some() {
            // Whom its own calls wait for depends on who is alone.
            return self.retime();
        }
        let peer = self.peers.get(id.0 as usize);
        let due = peer.and_then(|peer| peer.session.deadline());
        self.next = self.next.into_iter().chain(due).min();
    }

    /// Looks up when a session wants to be called next.
    fn retime(&mut self) {
        let sessions = self.peers.iter().filter(|p| p.member);
        let segment = self.segment.as_ref();
        let calls = segment.and_then(|segment| segment.deadline(&self.peers));
        self.next = sessions
            .filter_map(|p| p.session.deadline())
            .chain(calls)
            .min();
    }

    /// What sessions want at their time.
    fn tick(&mut self, now: Instant) {
        if self.next.is_none_or(|due| due > now) {
            return;
        }
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            if !peer.member || peer.session.deadline().is_none_or(|due| due > now) {
                continue;
            }
            if peer.session.dial_due(now) {
                self.happened.push(Happening::Dial(PeerId(at as u32)));
            }
            let held = peer.session.take_held(now);
            if let Some(surplus) = peer.session.take_surplus(now) {
                self.unwatch(surplus);
                self.happened.push(Happening::State);
            }
            for packet in held {
                self.resubmit(&packet, now);
            }
            self.close_idle(PeerId(at as u32), now);
        }
        self.call_members(now);
        self.retime();
    }
}

fn is_readable(flow: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(flow, PollFlags::IN)];
    let zero = Timespec::default();
    poll(&mut fds, Some(&zero)).is_ok_and(|n| n > 0)
}

fn key(id: PeerId, side: Side) -> epoll::EventData {
    epoll::EventData::new_u64(u64::from(id.0) << 1 | u64::from(side == Side::Accepted))
}

fn unkey(key: u64) -> (PeerId, Side) {
    // Only key() makes them, out of a u32.
    (
        PeerId((key >> 1) as u32),
        if key & 1 == 1 {
            Side::Accepted
        } else {
            Side::Dialled
        },
    )
}

fn watch(device: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    libflow::watch(device.as_fd().try_clone_to_owned()?, Interest::READABLE)
}

async fn readable(watch: Option<&AsyncFd<OwnedFd>>) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match watch {
        Some(watch) => watch.readable().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Flows that are served before the other direction has its turn.
const EVENTS: usize = 64;
