//! Names of members, asked for at the VPN's own address.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use proto::irm::{VpnWays, vpn_command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::in_own_namespace;
use crate::other::{Admin, until};
use crate::program::Bench;
use crate::support::{soon, wire_config};

pub(crate) fn names_are_answered_at_the_vpns_own_address_when_asked_for() {
    in_own_namespace(async {
        let bench = Bench::up().await;
        // A host's own addresses are reached by it.
        Admin::new().set_up("lo", true).await;
        // Not before somebody said so.
        assert!(TcpStream::connect("10.7.0.1:53").await.is_err());
        let mut config = wire_config();
        config.ways = Some(VpnWays {
            names: "on".to_owned(),
            ..VpnWays::default()
        });
        bench
            .attached
            .order(vpn_command::Command::Config(config))
            .await;
        until(async || TcpStream::connect("10.7.0.1:53").await.is_ok()).await;
        let mut ask = Message::new(7, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii("b.ovl.internal.").unwrap();
        ask.add_query(Query::query(name, RecordType::AAAA));
        let ask = ask.to_vec().unwrap();
        let has_b = |answer: &[u8]| {
            let answer = Message::from_vec(answer).unwrap();
            let data: Vec<_> = answer.answers.iter().map(|r| r.data.to_string()).collect();
            assert_eq!(data, ["fd07::2"]);
        };
        for (own, at) in [
            ("10.7.0.1:0", "10.7.0.1:53"),
            ("[fd07::1]:0", "[fd07::1]:53"),
        ] {
            let socket = UdpSocket::bind(own).await.unwrap();
            socket.send_to(&ask, at).await.unwrap();
            let mut answer = [0; 512];
            let (len, _) = soon(socket.recv_from(&mut answer)).await.unwrap();
            has_b(&answer[..len]);
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_u16(ask.len() as u16).await.unwrap();
            stream.write_all(&ask).await.unwrap();
            let len = soon(stream.read_u16()).await.unwrap();
            let mut answer = vec![0; len.into()];
            stream.read_exact(&mut answer).await.unwrap();
            has_b(&answer);
        }
    });
}
