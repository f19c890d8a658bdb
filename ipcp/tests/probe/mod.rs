//! A small real machine over flows: it dials when told to, and says what it hears.

use std::collections::VecDeque;
use std::time::Instant;

use layer::{FlowAsk, FlowTell, Input, Ipcp, Now, Output};
use proto::ipcp::{Answer, Command, Event};
use proto::{Batch, FlowId, Framing};
use tokio::sync::mpsc;

/// `Connect` dials, `Register` sends the name thrice as one batch, `Disconnect` hangs up.
pub(crate) struct Probe {
    up: Option<(FlowId, Framing)>,
    /// Whoever has said so is known.
    known: Option<FlowId>,
    out: VecDeque<Output<FlowId, FlowAsk>>,
    heard: mpsc::UnboundedSender<Heard>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Tell(FlowTell),
    Packets(FlowId, Vec<Vec<u8>>),
}

impl Probe {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Heard>) {
        let (heard, hears) = mpsc::unbounded_channel();
        let probe = Self {
            up: None,
            known: None,
            out: VecDeque::new(),
            heard,
        };
        (probe, hears)
    }
}

impl Ipcp for Probe {
    type Lower = FlowId;
    type Ask = FlowAsk;
    type Tell = FlowTell;

    fn handle(&mut self, _: Now, input: Input<FlowId, FlowTell>) {
        match input {
            Input::Control(id, command) => {
                let mut answer = Answer::Ok;
                match (command, self.up) {
                    (Command::Connect(member, _), _) => {
                        let (dst, over) = (member.to_name(), "mirrors".parse().unwrap());
                        self.out.push_back(Output::Ask(FlowAsk::Dial {
                            dial: 1,
                            dst,
                            over,
                            at: Vec::new(),
                        }));
                    }
                    (Command::Register(name), Some((flow, framing))) => {
                        let mut batch = Batch::new(framing);
                        for _ in 0..3 {
                            let room = batch.push(name.as_str().len()).unwrap();
                            room.copy_from_slice(name.as_str().as_bytes());
                        }
                        self.out.push_back(Output::Lower(flow, batch));
                    }
                    (Command::Disconnect(_), Some((flow, _))) => {
                        self.out.push_back(Output::Ask(FlowAsk::Hangup(flow)));
                    }
                    (Command::Set(_), _) => {}
                    (Command::Status, _) => answer = Answer::Status(Box::default()),
                    (other, _) => panic!("{other:?} was not asked for by any test"),
                }
                self.out
                    .push_back(Output::Control(Event::Done(id, Ok(answer))));
            }
            Input::Tell(tell) => {
                if let FlowTell::Up { lower, framing, .. } = &tell {
                    self.up = Some((*lower, *framing));
                }
                self.heard.send(Heard::Tell(tell)).unwrap();
            }
            Input::Lower(flow, batch) => {
                let packets: Vec<_> = batch.iter().map(<[u8]>::to_vec).collect();
                if packets == [IT_IS_ME] {
                    self.known = Some(flow);
                }
                self.heard.send(Heard::Packets(flow, packets)).unwrap();
            }
            Input::Upper(..)
            | Input::UpperGone(..)
            | Input::UpperShut(_)
            | Input::UpperFull(_)
            | Input::UpperRoom(_)
            | Input::Timeout => {}
        }
    }

    fn poll(&mut self) -> Option<Output<FlowId, FlowAsk>> {
        self.out.pop_front()
    }

    fn knows(&self, flow: FlowId) -> bool {
        self.known == Some(flow)
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

pub(crate) const IT_IS_ME: &[u8] = b"it is me";
