//! Protobuf messages: what irmd and an IPC process say to each other, and what members do.

use prost::Message;
use proto::ipcp::{Allocated, Answer, Command, Event};
use proto::record::Peer;
use proto::{Code, FlowId, Name, QosSpec, Reason, irm, wire};

use super::commands::commands;
use super::script::Script;

/// The first byte tells the message; what is read as a domain type is written and read again the same.
pub fn run(bytes: &[u8]) {
    let mut script = Script(bytes);
    match script.byte() {
        0 => {
            let command = irm::IpcpCommand::decode(script.0)
                .ok()
                .map(Command::from_message);
            if let Some(Ok(Some(command))) = command {
                let again = Command::from_message(command.clone().into_message(1));
                assert_eq!(again, Ok(Some(command)));
            }
        }
        1 => {
            let event = irm::IpcpEvent::decode(script.0)
                .ok()
                .map(Event::from_message);
            if let Some(Ok(Some(event))) = event {
                assert_eq!(Event::from_message(event.clone().into()), Ok(Some(event)));
            }
        }
        2 => {
            let _ = wire::SignedRecord::decode(script.0);
        }
        3 => {
            let _ = wire::EnrolRequest::decode(script.0);
        }
        4 => {
            let _ = wire::EnrolReply::decode(script.0);
        }
        _ => {
            let _ = wire::Digest::decode(script.0);
        }
    }
}

/// Commands as for a member, and a few events.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut out: Vec<_> = commands()
        .into_iter()
        .map(|(name, command)| {
            (
                name,
                [&[0], &*command.into_message(5).encode_to_vec()].concat(),
            )
        })
        .collect();
    let allocated = Allocated {
        mtu: 1300,
        qos: QosSpec::default(),
        peer: Peer {
            name: Name::new("echo").ok(),
            ..Peer::default()
        },
        token: None,
    };
    let events = [
        (
            "allocated",
            Event::Done(3, Ok(Answer::Allocated(allocated))),
        ),
        (
            "failed",
            Event::Done(
                4,
                Err(Reason::new(Code::NotFound, "no such name; register it")),
            ),
        ),
        (
            "down",
            Event::FlowDown(
                FlowId(9),
                Reason::new(Code::Failed, "the peer is gone; try again"),
            ),
        ),
        ("state", Event::State(proto::ipcp::State::Up, "well".into())),
    ];
    for (name, event) in events {
        out.push((
            name,
            [&[1], &*irm::IpcpEvent::from(event).encode_to_vec()].concat(),
        ));
    }
    out
}
