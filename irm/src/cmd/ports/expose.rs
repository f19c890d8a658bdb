//! `irm expose`: a name, served by a port. It connects there and nowhere else.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use libflow::{Incoming, Irm};
use proto::{Code, Reason};
use serde_json::json;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

use super::super::Context;
use super::super::flow::{each, stopped};
use super::datagrams::{Connected, carry};
use super::{Count, Counts, Tcp, carries_bytes, most, no_port, say_ready};
use crate::args::{Expose, Port, Target};
use crate::out::remark;

pub(in super::super) async fn run(c: &Context, args: Expose) -> Result<(), Reason> {
    let port = args.port().ok_or_else(no_port)?;
    let irm = Irm::connect(Some(&c.run_dir)).await?;
    let stop = stopped()?;
    let most = most(&args.bounds);
    let listener = irm.listen(args.name.as_str(), &args.layers).await?;
    let (name, kind, at) = (&args.name, port.word(), port.at());
    let json = json!({"event": "ready", "name": name.to_string(), kind: at.to_string()});
    say_ready(c, &json, &format!("{name} is served by {kind} {at}"))?;
    let exposed = Rc::new(Exposed {
        args,
        port,
        counts: Counts::default(),
    });
    let serve = |incoming| {
        let exposed = Rc::clone(&exposed);
        async move { exposed.serve(incoming).await }
    };
    let beyond = || exposed.counts.add(Count::Busy, 1);
    let end = tokio::select! {
        end = each(listener, most, serve, beyond) => end,
        () = stop => Ok(()),
    };
    end?;
    exposed.counts.tell(c)
}

/// What is served, and by what.
struct Exposed {
    args: Expose,
    port: Port<Target>,
    counts: Counts,
}

impl Exposed {
    async fn serve(&self, incoming: Incoming) {
        let peer = incoming.peer();
        let who = match (&peer.member, &peer.layer) {
            (Some(member), _) => format!("from {member}"),
            (None, Some(layer)) => format!("from somebody in {layer}"),
            (None, None) => "from this host".to_owned(),
        };
        let flow = incoming.id();
        let done = match self.unwanted(&incoming) {
            Some(reason) => Err(self.refuse(incoming, reason)),
            None => match &self.port {
                Port::Tcp(to) => self.tcp(incoming, to).await,
                Port::Udp(to) => self.udp(incoming, to).await,
            },
        };
        if let Err(reason) = done {
            remark(&format!("flow {flow} {who}: {reason}"));
        }
    }

    /// Why a flow isn't for us, before anything is done for it.
    fn unwanted(&self, incoming: &Incoming) -> Option<Reason> {
        let (peers, qos) = (&self.args.peers, incoming.qos());
        let known = |member| peers.contains(member);
        if !peers.is_empty() && !incoming.peer().member.as_ref().is_some_and(known) {
            let text = "this name is served for certain members only";
            return Some(Reason::new(Code::Denied, text));
        }
        if self.args.qos.is_some_and(|only| only != qos) {
            let text = "this name is served for flows of another QoS only";
            return Some(Reason::new(Code::QosNotGranted, text));
        }
        if matches!(self.port, Port::Tcp(_)) && !carries_bytes(qos) {
            let text =
                "TCP is behind this name, which takes reliable, ordered flows; ask for qos data";
            return Some(Reason::new(Code::QosNotGranted, text));
        }
        None
    }

    /// The port is asked first: who wants the flow then hears at once what is wrong with it.
    async fn tcp(&self, incoming: Incoming, to: &Target) -> Result<(), Reason> {
        let connected = TcpStream::connect((to.host.as_str(), to.port));
        let stream = match within(self.args.timeout, connected).await {
            Ok(stream) => stream,
            Err(error) => return Err(self.cant_connect(incoming, to, &error)),
        };
        let tcp = Tcp::new(stream);
        let accepted = incoming.accept().await;
        let flow = accepted.inspect_err(|_| self.counts.add(Count::Failed, 1))?;
        tcp.carry(flow, &self.counts).await
    }

    async fn udp(&self, incoming: Incoming, to: &Target) -> Result<(), Reason> {
        let socket = match within(self.args.timeout, udp_to(to)).await {
            Ok(socket) => socket,
            Err(error) => return Err(self.cant_connect(incoming, to, &error)),
        };
        let accepted = incoming.accept().await;
        let flow = accepted.inspect_err(|_| self.counts.add(Count::Failed, 1))?;
        carry(
            flow,
            &Connected(socket),
            self.args.bounds.idle,
            &self.counts,
        )
        .await
    }

    /// The other side hears what is wrong; where the port is, only we do.
    fn cant_connect(&self, incoming: Incoming, to: &Target, error: &io::Error) -> Reason {
        let code = code_of(error);
        let text = format!(
            "what serves {} can't be reached: {}",
            incoming.name(),
            error.kind()
        );
        self.refuse(incoming, Reason::new(code, text));
        Reason::new(code, format!("can't reach {to}: {error}"))
    }

    fn refuse(&self, incoming: Incoming, reason: Reason) -> Reason {
        self.counts.add(Count::Failed, 1);
        incoming.refuse(reason.clone());
        reason
    }
}

async fn udp_to(to: &Target) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for at in lookup_host((to.host.as_str(), to.port)).await? {
        let any: std::net::IpAddr = match at.is_ipv4() {
            true => std::net::Ipv4Addr::UNSPECIFIED.into(),
            false => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        match socket.connect(at).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What a caller makes of it: SOCKS has other answers for a port that refuses and a host that is not there.
fn code_of(error: &io::Error) -> Code {
    use io::ErrorKind as K;
    let kind = error.kind();
    if matches!(kind, K::ConnectionRefused | K::ConnectionReset) {
        Code::Refused
    } else if matches!(kind, K::TimedOut) {
        Code::TimedOut
    } else if matches!(kind, K::PermissionDenied) {
        Code::Denied
    } else {
        Code::Unreachable
    }
}
