//! What irmd and users say to an IPC process, in the words of `proto` alone.

use proto::ipcp::{Allocate, Bootstrap, Command, Enroll, Entry, Invite, Respond, Settings, User};
use proto::{Batch, Code, FlowId, Framing, Label, Name, QosSpec, Reason};

/// One of most commands; bootstrap and invite come first.
pub(super) fn commands() -> [(&'static str, Command); 13] {
    let name = Name::new("echo").unwrap();
    let over = vec![label("udp")];
    let prefixes = vec!["10.1.0.0/16".parse().unwrap()];
    let bootstrap = Bootstrap {
        layer: label("ovl"),
        over: over.clone(),
        prefixes,
        pools: Some(Vec::new()),
        cert_life: None,
        passphrase: None,
        shim_udp: None,
    };
    let invite = Invite {
        member: Some(label("b")),
        prefixes: vec![],
        expires_ms: 600_000,
        uses: 1,
        hints: vec![],
        groups: Vec::new(),
    };
    let allocate = Allocate {
        flow: FlowId(7),
        name: name.clone(),
        source: None,
        qos: QosSpec::default(),
        peer: None,
        user: User {
            uid: 0,
            ipcp: false,
        },
        timeout_ms: 5000,
        at: Vec::new(),
    };
    let refuse = Respond {
        request: 1,
        verdict: Err(gone()),
    };
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: over.clone(),
        timeout_ms: 5000,
    };
    [
        ("bootstrap", Command::Bootstrap(bootstrap)),
        ("invite", Command::Invite(invite)),
        ("rejoin", Command::Enroll(rejoin)),
        (
            "set",
            Command::Set(Settings {
                over,
                ..Settings::default()
            }),
        ),
        ("register", Command::Register(name.clone())),
        ("unregister", Command::Unregister(name)),
        ("allocate", Command::Allocate(allocate)),
        ("refuse", Command::Respond(refuse)),
        ("dealloc", Command::Dealloc(FlowId(7), gone())),
        ("connect", Command::Connect(label("a"), None)),
        (
            "offer",
            Command::Offer(vec!["10.1.0.0/16".parse().expect("it is a network")]),
        ),
        ("status", Command::Status),
        ("shutdown", Command::Shutdown),
    ]
}

/// A record as a user may have written it; empty if these bytes are none.
pub(super) fn upper(bytes: &[u8]) -> Batch {
    let mut batch = Batch::new(Framing::Record);
    let len = bytes.len().min(Batch::CAPACITY);
    batch.space()[..len].copy_from_slice(&bytes[..len]);
    if batch.set_record(len).is_err() {
        batch.clear();
    }
    batch
}

pub(super) fn gone() -> Reason {
    Reason::new(Code::Failed, "it is gone; try again")
}

pub(super) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}
