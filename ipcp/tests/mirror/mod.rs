//! A small real machine: every flow of its layer ends in a mirror, which gives back what was written.

use std::collections::{BTreeMap, VecDeque};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipcp::{In, Io, Key, Lower};
use layer::{Input, Ipcp, Now, Output};
use proto::ipcp::{Allocated, Answer, Command, CommandId, Event, FlowRequest};
use proto::irm as pb;
use proto::record::Peer;
use proto::{Batch, Code, FlowId, Framing, QosSpec, Reason};
use tokio::sync::mpsc;

/// The machine. `Register` makes somebody ask for the name after 50 ms; `Connect` makes it send `flood` batches to each flow.
#[derive(Default)]
pub(crate) struct Mirror {
    flood: usize,
    flows: BTreeMap<u64, bool>,
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

    fn open(&mut self, id: CommandId, flow: FlowId, user: proto::ipcp::User) {
        let allocated = Allocated {
            mtu: 9000,
            qos: QosSpec::RAW,
            peer: Peer {
                layer: Some("mirrors".parse().unwrap()),
                ..Peer::default()
            },
            token: None,
        };
        self.flows.insert(flow.0, false);
        self.out
            .push_back(Output::UpperOpen(flow, user, allocated.clone()));
        self.out.push_back(Output::Control(Event::Done(
            id,
            Ok(Answer::Allocated(allocated)),
        )));
    }

    fn control(&mut self, now: Now, id: CommandId, command: Command) {
        let answer = match command {
            Command::Allocate(allocate) => return self.open(id, allocate.flow, allocate.user),
            Command::Respond(respond) => match respond.verdict {
                Ok((flow, user)) => return self.open(id, flow, user),
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
            Input::Upper(flow, batch) => self.out.push_back(Output::Upper(flow, batch)),
            Input::UpperGone(flow) => {
                self.flows.remove(&flow.0);
                let reason = Reason::new(Code::Closed, "the user left");
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
        self.out.pop_front()
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
