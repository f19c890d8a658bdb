//! One question to a name server, over UDP.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};

/// Asks, and prints code and answers. For PTR the name may be an address.
pub(super) fn ask(at: SocketAddr, name: &str, kind: &str) -> anyhow::Result<()> {
    let kind: RecordType = kind.parse().context("an unknown kind of record")?;
    let name = match name.parse::<IpAddr>() {
        Ok(address) => Name::from(address),
        Err(_) => Name::from_ascii(name).context("no name")?,
    };
    let mut asked = Message::new(7, MessageType::Query, OpCode::Query);
    asked.add_query(Query::query(name, kind));
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("no socket")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(at)?;
    socket.send(&asked.to_vec()?)?;
    let mut bytes = [0; 1500];
    let len = socket.recv(&mut bytes).context("no answer")?;
    let said = Message::from_vec(&bytes[..len]).context("no DNS")?;
    ensure!(said.metadata.id == 7, "the answer to another question");
    let answers: Vec<_> = said.answers.iter().map(|r| r.data.to_string()).collect();
    let code = format!("{:?}", said.metadata.response_code);
    super::print(&serde_json::json!({ "code": code, "answers": answers }).to_string())
}
