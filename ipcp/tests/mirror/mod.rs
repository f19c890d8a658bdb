//! A small real machine: every flow of its layer ends in a mirror, which gives back what was written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipcp::{In, Io, Key, Lower};
use layer::{Input, Ipcp, Now, Output};
use proto::ipcp::{Allocated, Answer, Command, CommandId, Event, FlowRequest};
use proto::irm as pb;
use proto::record::Peer;
use proto::{Batch, FlowId, Framing, QosSpec};
use tokio::sync::mpsc;

/// The machine. `Register` makes somebody ask for the name after 50 ms; `Connect` makes it send `flood` batches to each flow.
#[derive(Default)]
pub(crate) struct Mirror {
    flood: usize,
    /// Whether they are reliable: then nothing is given to a user that is slow, and what it writes is taken up to a bound.
    flows: BTreeMap<u64, bool>,
    /// What waits for slow users, and which those are; the others that are left unread.
    kept: BTreeMap<u64, VecDeque<Batch>>,
    full: BTreeSet<u64>,
    paused: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    names: Vec<proto::Name>,
    out: VecDeque<Output<u8, ()>>,
    asks_at: Option<Instant>,
}

impl Mirror {
    pub(crate) fn new(flood: usize) -> Self {
        Self {
            flood,
            ..Self::default()
        }
    }

    /// The next batch for a reliable flow whose user takes it, and the end of those that are through.
    fn give(&mut self) -> Option<Output<u8, ()>> {
        let takes = |flow: &&u64| !self.full.contains(flow);
        let flow = *self
            .kept
            .iter()
            .filter(|(_, kept)| !kept.is_empty())
            .map(|(flow, _)| flow)
            .find(takes)?;
        let kept = self.kept.get_mut(&flow)?;
        let batch = kept.pop_front()?;
        if kept.is_empty() && self.ended.contains(&flow) {
            self.out.push_back(Output::UpperShut(FlowId(flow)));
        } else if kept.len() < KEPT && self.paused.remove(&flow) {
            self.out.push_back(Output::UpperPause(FlowId(flow), false));
        }
        Some(Output::Upper(FlowId(flow), batch))
    }

    fn upper(&mut self, flow: FlowId, batch: Batch) {
        if !self.flows.get(&flow.0).is_some_and(|reliable| *reliable) {
            return self.out.push_back(Output::Upper(flow, batch));
        }
        assert!(!self.ended.contains(&flow.0), "SDUs came after the last");
        let kept = self.kept.entry(flow.0).or_default();
        kept.push_back(batch);
        assert!(kept.len() <= KEPT + 1, "a user that was paused was read");
        if kept.len() >= KEPT && self.paused.insert(flow.0) {
            self.out.push_back(Output::UpperPause(flow, true));
        }
    }

    fn open(&mut self, id: CommandId, flow: FlowId, user: proto::ipcp::User, qos: QosSpec) {
        let allocated = Allocated {
            mtu: 9000,
            qos,
            peer: Peer {
                layer: Some("mirrors".parse().unwrap()),
                ..Peer::default()
            },
            token: None,
        };
        self.flows.insert(flow.0, qos.reliable);
        self.out
            .push_back(Output::UpperOpen(flow, user, allocated.clone()));
        self.out.push_back(Output::Control(Event::Done(
            id,
            Ok(Answer::Allocated(allocated)),
        )));
    }

    fn control(&mut self, now: Now, id: CommandId, command: Command) {
        let answer = match command {
            Command::Allocate(a) => return self.open(id, a.flow, a.user, a.qos),
            Command::Respond(respond) => match respond.verdict {
                Ok((flow, user)) => return self.open(id, flow, user, QosSpec::RAW),
                Err(_) => Answer::Ok,
            },
            Command::Status => Answer::Status(Box::new(pb::IpcpStatus {
                state: "up".into(),
                layer: "mirrors".into(),
                names: self.names.iter().map(ToString::to_string).collect(),
                flows: self
                    .flows
                    .keys()
                    .map(|id| pb::FlowInfo {
                        id: *id,
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            })),
            Command::Register(name) => {
                self.names.push(name);
                self.asks_at = Some(now.mono + Duration::from_millis(50));
                Answer::Ok
            }
            Command::Dealloc(flow, reason) => {
                self.flows.remove(&flow.0);
                self.out.push_back(Output::UpperClose(flow, reason));
                Answer::Ok
            }
            Command::Connect(..) => {
                for flow in self.flows.keys() {
                    for n in 0..self.flood {
                        let mut batch = Batch::new(Framing::Record);
                        while let Some(room) = batch.push(1000) {
                            room[..4].copy_from_slice(&(n as u32).to_be_bytes());
                        }
                        self.out.push_back(Output::Upper(FlowId(*flow), batch));
                    }
                    self.out.push_back(Output::UpperMtu(FlowId(*flow), 1234));
                }
                Answer::Ok
            }
            Command::Disconnect(_) => {
                self.out
                    .push_back(Output::Save("note", b"kept".to_vec().into()));
                Answer::Ok
            }
            Command::Shutdown => {
                self.out
                    .push_back(Output::Control(Event::Done(id, Ok(Answer::Ok))));
                self.out.push_back(Output::Exit);
                return;
            }
            other => panic!("{other:?} was not asked for by any test"),
        };
        self.out
            .push_back(Output::Control(Event::Done(id, Ok(answer))));
    }
}

impl Ipcp for Mirror {
    type Lower = u8;
    type Ask = ();
    type Tell = ();

    fn handle(&mut self, now: Now, input: Input<u8, ()>) {
        match input {
            Input::Control(id, command) => self.control(now, id, command),
            Input::Upper(flow, batch) => self.upper(flow, batch),
            Input::UpperShut(flow) => {
                self.ended.insert(flow.0);
                if self.kept.get(&flow.0).is_none_or(VecDeque::is_empty) {
                    self.out.push_back(Output::UpperShut(flow));
                }
            }
            Input::UpperFull(flow) => drop(self.full.insert(flow.0)),
            Input::UpperRoom(flow) => drop(self.full.remove(&flow.0)),
            Input::UpperGone(flow, reason) => {
                self.flows.remove(&flow.0);
                self.out
                    .push_back(Output::Control(Event::FlowDown(flow, reason)));
            }
            Input::Timeout => {
                if self.asks_at.take_if(|at| *at <= now.mono).is_some() {
                    self.out
                        .push_back(Output::Control(Event::FlowRequest(FlowRequest {
                            request: 77,
                            name: self.names[0].clone(),
                            peer: Peer::default(),
                            qos: QosSpec::RAW,
                            mtu: 9000,
                            timeout_ms: 1000,
                        })));
                }
            }
            Input::Lower(..) | Input::Tell(()) => {}
        }
    }

    fn poll(&mut self) -> Option<Output<u8, ()>> {
        self.out.pop_front().or_else(|| self.give())
    }

    fn deadline(&self) -> Option<Instant> {
        self.asks_at
    }
}

/// Mirrors need no network below them; this has a socket to hand over, as a shim has.
#[derive(Default)]
pub(crate) struct Nothing(pub(crate) Option<UdpSocket>);

impl Lower<Mirror> for Nothing {
    type Event = ();

    fn start(&mut self, _: &mut Io, _: mpsc::Sender<()>) -> anyhow::Result<()> {
        Ok(())
    }
    fn ask(&mut self, _: &mut Io, (): ()) {}
    fn send(&mut self, _: &mut Io, _: u8, _: Batch) {}
    fn recv(&mut self, _: &mut Io, _: Key) -> Option<In<Mirror>> {
        None
    }
    fn writable(&mut self, _: &mut Io, _: Key) {}
    fn event(&mut self, _: &mut Io, (): ()) -> Option<In<Mirror>> {
        None
    }
    fn hand_over(&mut self, _: &mut Io, _: FlowId) -> Option<OwnedFd> {
        self.0.take().map(OwnedFd::from)
    }
}

/// Batches that wait for a slow user before the one that writes them is left unread.
const KEPT: usize = 4;
