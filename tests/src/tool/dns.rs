//! One question to a name server, over UDP, and a server that knows one name.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

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

/// Answers for one name, and prints how often it has been asked as JSON, line by line.
pub(super) fn serve(at: SocketAddr, name: &str, address: IpAddr) -> anyhow::Result<()> {
    let known = Name::from_ascii(name).context("no name")?;
    let socket = UdpSocket::bind(at).with_context(|| format!("can't bind {at}"))?;
    let mut bytes = [0; 1500];
    for asked in 0.. {
        super::print(&serde_json::json!({ "asked": asked }).to_string())?;
        let (len, from) = socket.recv_from(&mut bytes).context("can't receive")?;
        let Ok(question) = Message::from_vec(&bytes[..len]) else {
            continue;
        };
        let answer = answer(&question, &known, address);
        socket
            .send_to(&answer.to_vec()?, from)
            .context("can't answer")?;
    }
    Ok(())
}

fn answer(question: &Message, known: &Name, address: IpAddr) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.response_code = ResponseCode::NXDomain;
    for query in &question.queries {
        answer.add_query(query.clone());
        // Without their dots at the end.
        if query.name().to_string().trim_end_matches('.') == known.to_string().trim_end_matches('.')
        {
            answer.metadata.response_code = ResponseCode::NoError;
            let (kind, data) = match address {
                IpAddr::V4(ip) => (RecordType::A, RData::A(ip.into())),
                IpAddr::V6(ip) => (RecordType::AAAA, RData::AAAA(ip.into())),
            };
            if query.query_type() == kind {
                answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
            }
        }
    }
    answer
}
