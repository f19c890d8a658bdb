//! The event loop.

mod lowers;
mod uppers;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use layer::{Input, Ipcp, Now, Output, UnixTime};
use proto::ipcp::{Answer, Command, CommandId, Event, Notice, Respond};
use proto::irm as pb;
use proto::{Batch, Code, FlowId, Reason};
use rustc_hash::FxHashMap;
use tokio::io::Interest as TokioInterest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::attach::{Attach, Call};
use crate::config::Config;
use crate::descriptors::Descriptors;
use crate::io::{Epoll, Io, Ready, Side};
use crate::lower::Lower;
use crate::sealers::Sealers;
use crate::store::Store;
use crate::upper::{Did, Uppers};
use lowers::Strangers;

/// Runs a machine over a lower network until it says [`Output::Exit`], irmd asks it to shut down, SIGTERM comes or the run
/// directory is gone. The orders of shutting down take at most 5 s.
pub async fn run<M: Ipcp, L: Lower<M>>(machine: M, lower: L, config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let (mut runtime, reactor) = Runtime::start(machine, lower, config)?;
    let mut sleep = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    let (mut asleep_until, mut busy) = (None, 0);
    runtime.drain();
    loop {
        let worked = runtime.turn(&reactor)?;
        if runtime.finished() {
            break;
        }
        if worked {
            busy += 1;
            // The tasks of the control stream share this thread.
            if busy % TURNS == 0 {
                tokio::task::yield_now().await;
            }
            continue;
        }
        let deadline = runtime.deadline();
        if deadline != asleep_until {
            asleep_until = deadline;
            if let Some(at) = deadline {
                sleep.as_mut().reset(at.into());
            }
        }
        tokio::select! {
            biased;
            _ = terminate.recv() => runtime.shut_down("SIGTERM"),
            _ = interrupt.recv() => runtime.shut_down("SIGINT"),
            Some(call) = runtime.attach.calls.recv() => runtime.call(call),
            Some(event) = runtime.events.recv() => runtime.event(event),
            () = sleep.as_mut(), if asleep_until.is_some() => asleep_until = None,
            guard = reactor.readable() => guard.context("the reactor is gone")?.retain_ready(),
        }
    }
    runtime.attach.finish().await;
    Ok(())
}

struct Runtime<M: Ipcp, L: Lower<M>> {
    machine: M,
    lower: L,
    io: Io,
    uppers: Uppers,
    /// `None`: the machine leaves no seals.
    sealers: Option<Sealers<M::Lower>>,
    store: Store,
    attach: Attach,
    events: mpsc::Receiver<L::Event>,
    config: Config,
    /// Commands that the machine has not answered: what irmd calls them, and the flow that they are about.
    pending: FxHashMap<CommandId, (CommandId, Option<FlowId>)>,
    last_id: CommandId,
    descriptors: Descriptors,
    /// Flows that could not be opened, until irmd hears why.
    refused: FxHashMap<FlowId, Reason>,
    /// irmd could not be told that members have changed, since it reads too slowly.
    untold: bool,
    /// The machine's answer to the question behind a hello.
    hello: Option<pb::IpcpStatus>,
    /// Shutting down; by when at the latest.
    ending: Option<Instant>,
    exit: bool,
    /// Users are left unread while what they wrote before waits for the lower network.
    parked: bool,
    /// The lower network has taken something that waited.
    moved: bool,
    /// How often what waits at devices has followed in this turn.
    followed: usize,
    /// What the last look at the descriptors found; kept for its memory.
    ready: Vec<Ready>,
    strangers: Strangers,
}

impl<M: Ipcp, L: Lower<M>> Runtime<M, L> {
    /// Opens all that the process has, and gives what becomes readable when something happens to a descriptor.
    fn start(
        mut machine: M,
        mut lower: L,
        config: Config,
    ) -> anyhow::Result<(Self, AsyncFd<Epoll>)> {
        let mut io = Io::new().context("can't make an epoll")?;
        let door = config.data_socket();
        let uppers = Uppers::open(&mut io, &door)
            .with_context(|| format!("can't listen at {}", door.display()))?;
        let store = Store::open(&config.state_dir)?;
        let reactor = libflow::watch(io.reactor_end()?, TokioInterest::READABLE)
            .context("can't wait on the epoll")?;
        let (events_tx, events) = mpsc::channel(EVENTS);
        lower.start(&mut io, events_tx)?;
        let attach = Attach::start(&config)?;
        let sealers = Sealers::new();
        let sealers = (machine.leave_seals(sealers.are_used())).then_some(sealers);
        let runtime = Self {
            machine,
            lower,
            io,
            uppers,
            sealers,
            store,
            attach,
            events,
            config,
            pending: FxHashMap::default(),
            last_id: 0,
            descriptors: Descriptors::of_process(),
            refused: FxHashMap::default(),
            untold: false,
            hello: None,
            ending: None,
            exit: false,
            parked: false,
            followed: 0,
            moved: false,
            ready: Vec::new(),
            strangers: Strangers::default(),
        };
        Ok((runtime, reactor))
    }

    /// Control, timers, packets; `false` if no packet was there.
    fn turn(&mut self, reactor: &AsyncFd<Epoll>) -> anyhow::Result<bool> {
        self.followed = 0;
        self.control();
        self.timers();
        let worked = self.packets(reactor)?;
        Ok(self.settle() | worked)
    }

    /// What irmd and the lower network's tasks have said, up to a bound.
    fn control(&mut self) {
        for _ in 0..CONTROL {
            match self.attach.calls.try_recv() {
                Ok(call) => self.call(call),
                Err(_) => break,
            }
        }
        if self.untold {
            self.untold = !self.attach.tell(Event::Members);
        }
        for _ in 0..CONTROL {
            match self.events.try_recv() {
                Ok(event) => self.event(event),
                Err(_) => break,
            }
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if self.machine.deadline().is_some_and(|at| at <= now) {
            self.feed(Input::Timeout);
        }
        while let Some(did) = self.uppers.expire(&mut self.io, now) {
            self.user(did);
        }
    }

    /// One look at the descriptors, lower ones first; `false` if nothing had happened to any.
    fn packets(&mut self, reactor: &AsyncFd<Epoll>) -> anyhow::Result<bool> {
        self.ready.clear();
        match reactor.try_io(TokioInterest::READABLE, |epoll| epoll.poll(&mut self.ready)) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(self.waiting()),
            Err(e) => return Err(e).context("waiting for packets failed"),
        }
        self.lowers();
        self.settle();
        // Those with priority come first, and don't wait while the lower network is full. A device comes last: it always has something.
        for rank in 0..3 {
            for n in 0..self.ready.len() {
                let ready = self.ready[n];
                if ready.key.side() == Side::Upper && self.rank(ready.key) == rank {
                    self.upper_ready(ready, rank == 0);
                }
            }
        }
        self.waiting();
        Ok(true)
    }

    /// What the lower network has to say by itself, and whether users may be read again. Says whether it had anything to say.
    fn settle(&mut self) -> bool {
        let mut said = false;
        for _ in 0..CONTROL {
            let Some(input) = self.lower.poll(&mut self.io) else {
                break;
            };
            self.feed(input);
            said = true;
        }
        if self.parked && (self.moved || !self.lower.congested()) {
            // A link that does not move is not waited for: what goes to it gives way in the machine.
            let congested = self.lower.congested();
            let room = |flow| !congested || self.machine.room(flow) != Some(0);
            self.parked = self.uppers.resume(&mut self.io, room);
        }
        self.moved = false;
        while let Some(did) = self.uppers.took() {
            self.user(did);
        }
        said
    }

    fn user(&mut self, did: Did) {
        self.feed(match did {
            Did::Wrote(flow, batch) if self.uppers.has_device(flow) => {
                if let Some(batch) = self.uppers.wait(flow, batch) {
                    self.feed(Input::Upper(flow, batch));
                    (self.uppers).set_slow(flow, self.machine.room(flow).is_some());
                }
                return;
            }
            Did::Wrote(flow, batch) => Input::Upper(flow, batch),
            Did::Shut(flow) => Input::UpperShut(flow),
            Did::Took(flow) => Input::UpperRoom(flow),
            Did::Left(flow, reason) => Input::UpperGone(flow, reason),
        });
    }

    fn event(&mut self, event: L::Event) {
        if let Some(input) = self.lower.event(&mut self.io, event) {
            self.feed(input);
        }
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Command(id, command) => self.command(id, *command),
            Call::Hello(answer) => {
                let hello = self.introduce();
                // If the stream's task is gone, so is its wish.
                let _ = answer.send(hello);
            }
            Call::Lost => {
                self.attach.set_attached(false);
                self.pending.clear();
                self.refused.clear();
            }
            Call::Leave(why) => self.shut_down(&why),
        }
    }

    fn command(&mut self, id: CommandId, command: Command) {
        let Some(command) = self.within_descriptors(id, command) else {
            return;
        };
        let flow = match &command {
            Command::Allocate(allocate) => Some(allocate.flow),
            Command::Respond(Respond {
                verdict: Ok((flow, _)),
                ..
            }) => Some(*flow),
            Command::Set(settings) => {
                self.lower.set(&mut self.io, settings);
                if let Some(sealers) = &mut self.sealers {
                    sealers.set(&settings.offload);
                    self.machine.leave_seals(sealers.are_used());
                }
                None
            }
            Command::Shutdown => {
                self.ending.get_or_insert_with(|| Instant::now() + SHUTDOWN);
                None
            }
            Command::Bootstrap(_)
            | Command::Enroll(_)
            | Command::Register(_)
            | Command::Unregister(_)
            | Command::Respond(_)
            | Command::Dealloc(..)
            | Command::Connect(..)
            | Command::Disconnect(_)
            | Command::Invite(_)
            | Command::Authority(_)
            | Command::Policy(_)
            | Command::Offer(_)
            | Command::Status => None,
        };
        // Numbers of our own: an irmd that was restarted may use those of the one before again.
        self.last_id += 1;
        self.pending.insert(self.last_id, (id, flow));
        self.feed(Input::Control(self.last_id, command));
    }

    /// A command that would open a flow for which there is no descriptor becomes a refusal; `None`: it has been answered.
    fn within_descriptors(&mut self, id: CommandId, command: Command) -> Option<Command> {
        let full = self.descriptors.room(self.uppers.count()).err();
        match (full, command) {
            (Some(reason), Command::Allocate(_)) => {
                self.io.counters.add("limit.descriptors", 1);
                if !self.attach.tell(Event::Done(id, Err(reason))) {
                    self.io.counters.add("drop.control_unheard", 1);
                }
                None
            }
            (
                Some(reason),
                Command::Respond(Respond {
                    request,
                    verdict: Ok((flow, _)),
                }),
            ) => {
                self.io.counters.add("limit.descriptors", 1);
                self.refused.insert(flow, reason.clone());
                // What irmd hears of it is the reason.
                self.last_id += 1;
                self.pending.insert(self.last_id, (id, Some(flow)));
                let verdict = Err(reason);
                let refusal = Command::Respond(Respond { request, verdict });
                self.feed(Input::Control(self.last_id, refusal));
                None
            }
            (_, command) => Some(command),
        }
    }

    fn shut_down(&mut self, why: &str) {
        if self.ending.is_none() {
            tracing::info!("{} ends: {why}", self.config.name);
            self.ending = Some(Instant::now() + SHUTDOWN);
            self.feed(Input::Control(OWN_SHUTDOWN, Command::Shutdown));
        }
    }

    /// The hello: what the machine says of itself at this moment.
    fn introduce(&mut self) -> pb::IpcpHello {
        self.feed(Input::Control(OWN_STATUS, Command::Status));
        let status = self.hello.take().unwrap_or_default();
        self.attach.set_attached(true);
        self.pending.clear();
        pb::IpcpHello {
            secret: self.config.secret.bytes().to_vec(),
            name: self.config.name.to_string(),
            r#type: self.config.kind.to_owned(),
            pid: std::process::id(),
            data_socket: self.config.data_socket().to_string_lossy().into_owned(),
            // Without a layer it has not been configured: irmd bootstraps or enrols it.
            state: if status.layer.is_empty() {
                String::new()
            } else {
                status.state
            },
            flows: status.flows,
            names: status.names,
            layer: status.layer,
            version: VERSION,
            tells_members: true,
        }
    }

    fn feed(&mut self, input: Input<M::Lower, M::Tell>) {
        self.machine.handle(now(), input);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            while let Some(output) = self.machine.poll() {
                self.output(output);
            }
            if !self.send_sealed() {
                break;
            }
        }
    }

    /// Sends what waits for its seals. Says whether anything did.
    fn send_sealed(&mut self) -> bool {
        let mut any = false;
        if let Some(sealers) = &mut self.sealers {
            sealers.begin();
        }
        while let Some((to, batch)) = self.sealers.as_mut().and_then(Sealers::pop) {
            self.send(to, batch);
            any = true;
        }
        any
    }

    fn send(&mut self, to: M::Lower, batch: Batch) {
        self.lower.send(&mut self.io, to, batch);
        self.room();
        self.follow();
    }

    fn output(&mut self, output: Output<M::Lower, M::Ask>) {
        match output {
            Output::Unsealed(to, unsealed) => match &mut self.sealers {
                Some(sealers) => {
                    if sealers.put(to, unsealed) {
                        self.send_sealed();
                    }
                }
                None => self.send(to, unsealed.seal()),
            },
            Output::Lower(to, batch) => {
                self.send_sealed();
                self.send(to, batch);
            }
            Output::Upper(flow, batch) => {
                if !self.uppers.deliver(&mut self.io, flow, batch) {
                    self.machine.handle(now(), Input::UpperFull(flow));
                }
            }
            Output::UpperPause(flow, pause) => self.uppers.set_silent(&mut self.io, flow, pause),
            Output::UpperShut(flow) => self.uppers.shut(&mut self.io, flow),
            Output::Control(event) => self.tell(event),
            Output::UpperMtu(flow, mtu) => self.uppers.set_mtu(&mut self.io, flow, mtu),
            Output::UpperOpen(flow, user, allocated) => self.open(flow, user, allocated),
            Output::UpperClose(flow, reason) => {
                self.uppers
                    .close(&mut self.io, flow, reason, Instant::now())
            }
            Output::Ask(ask) => {
                // What left before a flow is given up goes before.
                self.send_sealed();
                self.lower.ask(&mut self.io, ask);
            }
            Output::Save(name, bytes) => {
                if let Err(reason) = self.store.save(name, &bytes) {
                    tracing::error!("{reason}");
                    self.tell(Event::Notice(Notice {
                        kind: "state.not_saved".to_owned(),
                        text: reason.text,
                        fields: vec![("file".to_owned(), name.to_owned())],
                        warning: true,
                    }));
                }
            }
            Output::Exit => self.exit = true,
        }
    }

    /// Tells the machine which lower ends have filled or have room again; whether there were any.
    fn room(&mut self) -> bool {
        let mut any = false;
        while let Some((lower, room)) = self.lower.room() {
            self.machine.lower_room(now(), lower, room);
            self.moved |= room;
            any = true;
        }
        any
    }

    fn open(&mut self, flow: FlowId, user: proto::ipcp::User, allocated: proto::ipcp::Allocated) {
        if let Err(reason) = self.descriptors.room(self.uppers.count()) {
            self.io.counters.add("limit.descriptors", 1);
            self.refused.insert(flow, reason.clone());
            return self.feed(Input::UpperGone(flow, reason));
        }
        let handed = if user.ipcp {
            self.lower.hand_over(&mut self.io, flow)
        } else {
            None
        };
        if let Err(e) = self
            .uppers
            .create(flow, user, allocated, handed, Instant::now())
        {
            // Without a token nobody can join: the answer says so, and the machine hears that the user is gone.
            tracing::error!("can't open flow {flow}: {e}");
            let text = "the other side of the flow could not open its end; try again";
            self.feed(Input::UpperGone(flow, Reason::new(Code::Failed, text)));
        }
    }

    fn tell(&mut self, event: Event) {
        let event = match event {
            Event::Done(OWN_STATUS, result) => {
                if let Ok(Answer::Status(status)) = result {
                    self.hello = Some(self.complete(*status));
                }
                return;
            }
            Event::Done(OWN_SHUTDOWN | OWN_REFUSAL, _) => return,
            Event::Done(id, result) => {
                // A command of an irmd that is gone; if it was for a flow, nobody will join that.
                let Some((id, flow)) = self.pending.remove(&id) else {
                    return;
                };
                let refused = flow.and_then(|flow| self.refused.remove(&flow));
                let result = match refused {
                    Some(reason) => Err(reason),
                    None => result.and_then(|answer| self.answer(flow, answer)),
                };
                Event::Done(id, result)
            }
            Event::FlowRequest(request) if !self.attach.attached() => {
                let away = Reason::new(
                    Code::Busy,
                    "the IRM of that host is being restarted; try again in a second",
                );
                let refusal = Respond {
                    request: request.request,
                    verdict: Err(away),
                };
                self.machine.handle(
                    now(),
                    Input::Control(OWN_REFUSAL, Command::Respond(refusal)),
                );
                return;
            }
            Event::FlowRequest(_)
            | Event::FlowDown(..)
            | Event::State(..)
            | Event::Notice(_)
            | Event::Members => event,
        };
        let members = matches!(event, Event::Members);
        if !self.attach.tell(event) {
            self.io.counters.add("drop.control_unheard", 1);
            // It is said once only, so that it must be heard. Who attaches anew asks by itself.
            self.untold = members && self.attach.attached();
        }
    }

    /// An answer with the runtime's part in it.
    fn answer(&self, flow: Option<FlowId>, answer: Answer) -> Result<Answer, Reason> {
        Ok(match answer {
            Answer::Allocated(mut allocated) => {
                allocated.token = flow.and_then(|flow| self.uppers.token(flow));
                if allocated.token.is_none() {
                    return Err(Reason::new(
                        Code::Failed,
                        "the flow ended before it could be joined; allocate again",
                    ));
                }
                Answer::Allocated(allocated)
            }
            Answer::Status(status) => Answer::Status(Box::new(self.complete(*status))),
            Answer::Ok
            | Answer::Exported(_)
            | Answer::Invitation(_)
            | Answer::Configured(_)
            | Answer::Policy(_) => answer,
        })
    }

    /// A status with what the runtime and the lower network know.
    fn complete(&self, mut status: pb::IpcpStatus) -> pb::IpcpStatus {
        for (name, n) in self.io.counters.iter() {
            *status.counters.entry(name.to_owned()).or_default() += n;
        }
        self.lower.status(&mut status);
        if let Some(sealers) = &self.sealers {
            sealers.status(&mut status);
        }
        let devices: Vec<_> = self.uppers.offloads().map(|o| o.to_string()).collect();
        if !devices.is_empty() {
            let settings = &mut status.settings;
            settings.insert("offload.tun".to_owned(), devices.join(" "));
        }
        for flow in &mut status.flows {
            if let Some(uid) = self.uppers.uid(FlowId(flow.id)) {
                flow.uid = uid;
            }
        }
        status
    }

    /// When something is to be done if nothing happens before.
    fn deadline(&self) -> Option<Instant> {
        // A lower end that does not move has stopped to hold users up since they were left unread.
        let parked = (self.parked && !self.lower.congested()).then(Instant::now);
        [
            parked,
            self.machine.deadline(),
            self.lower.deadline(),
            self.uppers.deadline(),
            self.ending,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the loop is over: the machine is done and users know, or there is no more time for that.
    fn finished(&mut self) -> bool {
        if !self.exit {
            return self.ending.is_some_and(|until| Instant::now() >= until);
        }
        let now = Instant::now();
        let reason = Reason::new(
            Code::Unreachable,
            format!("the IPC process {} ended; allocate again", self.config.name),
        );
        self.uppers.close_all(&mut self.io, &reason, now);
        let until = *self.ending.get_or_insert(now + SHUTDOWN);
        now >= until || !self.uppers.lingers()
    }
}

fn now() -> Now {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        mono: Instant::now(),
        wall: UnixTime(wall),
    }
}

/// Commands, or events of tasks, in one turn.
const CONTROL: usize = 64;
/// Busy turns before the control stream's tasks get theirs.
const TURNS: u32 = 4;
/// Events of the lower network's tasks that wait.
const EVENTS: usize = 256;
/// How long shutting down may take. The stream's last words come on top.
const SHUTDOWN: Duration = Duration::from_millis(4500);
/// The version of the `Attach` stream.
const VERSION: u32 = 1;
/// Commands that the runtime gives by itself. Those of irmd are numbered from 1.
const OWN_STATUS: CommandId = CommandId::MAX;
const OWN_SHUTDOWN: CommandId = CommandId::MAX - 1;
const OWN_REFUSAL: CommandId = CommandId::MAX - 2;
