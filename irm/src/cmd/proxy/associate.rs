//! UDP ASSOCIATE: datagrams of one client, each to the destination that it names, as long as its connection stands.

use std::net::SocketAddr;
use std::rc::Rc;

use libflow::{AllocOptions, Flow, QosSpec};
use proto::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};

use super::super::ports::{Count, Lane, Lanes, Tcp, failed};
use super::wire::{self, Destination, Reply, Request};
use super::wish::Wish;
use super::{Server, open, say};

impl Server {
    /// Takes datagrams at a port of its own until the client ends the connection.
    pub(super) async fn associate(&self, mut tcp: Tcp, request: &Request) -> Result<(), Reason> {
        let stream = tcp.stream();
        let cant = |e| failed("take datagrams for the client", &e);
        let client = stream.peer_addr().map_err(cant)?;
        let here = stream.local_addr().map_err(cant)?;
        let socket = Rc::new(UdpSocket::bind((here.ip(), 0)).await.map_err(cant)?);
        let at = socket.local_addr().map_err(cant)?;
        say(stream, &wire::answer(Reply::Done, at)).await?;
        // Where it says from which port it will send, only that one counts; else the first that does.
        let said = SocketAddr::new(client.ip(), request.to.port);
        let mut from = (said.port() != 0).then_some(said);
        let counts = Rc::clone(&self.counts);
        let mut lanes = Lanes::new(self.room.clone(), self.idle, counts);
        let relay = lanes.each(&socket, |lanes, datagram, sender| {
            if sender.ip() != client.ip() || from.is_some_and(|known| known != sender) {
                return self.counts.add(Count::Stranger, 1);
            }
            from = Some(sender);
            let Some((to, payload)) = wire::datagram(datagram) else {
                return self.counts.add(Count::Malformed, 1);
            };
            let (header, datagram) = datagram.split_at(payload);
            lanes.put(to.clone(), datagram, || {
                let open = self.open_for_datagrams(&to)?;
                let lane = Lane::new(Rc::clone(&socket), sender, header.to_vec());
                Some((open, lane))
            });
        });
        let done = tokio::select! {
            done = relay => done,
            () = ended(tcp.stream()) => Ok(()),
        };
        tcp.close();
        done
    }

    /// Nothing if the destination can't be a name.
    fn open_for_datagrams(
        &self,
        to: &Destination,
    ) -> Option<impl Future<Output = Result<Flow, Reason>> + use<>> {
        let wish = Wish::of(to, self.wanted.layer.as_ref()).ok()?;
        let wanted = AllocOptions {
            qos: QosSpec::RAW,
            ..self.wanted.clone()
        };
        let irm = self.irm.clone();
        Some(async move { open(&irm, wish, wanted).await })
    }
}

/// Waits for the end of the connection; what is said there means nothing.
async fn ended(stream: &mut TcpStream) {
    let mut space = [0; 64];
    while matches!(stream.read(&mut space).await, Ok(1..)) {}
}
