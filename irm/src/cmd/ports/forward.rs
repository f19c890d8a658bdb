//! `irm forward`: a port of this host, to a name.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use libflow::Irm;
use proto::Reason;
use serde_json::json;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::super::Context;
use super::super::flow::stopped;
use super::{Count, Counts, Lane, Lanes, Tcp, accept, failed, most, no_port, say_ready};
use super::{wanted_for_tcp, wanted_for_udp};
use crate::args::{Forward, Port};

pub(in super::super) async fn run(c: &Context, args: Forward) -> Result<(), Reason> {
    let irm = Irm::connect(Some(&c.run_dir)).await?;
    let counts = Rc::new(Counts::default());
    let stop = stopped()?;
    let local = LocalSet::new();
    let work = async {
        match args.port().ok_or_else(no_port)? {
            Port::Tcp(at) => tcp(c, &args, at, irm, &counts).await,
            Port::Udp(at) => udp(c, &args, at, irm, &counts).await,
        }
    };
    let end = tokio::select! {
        end = local.run_until(work) => end,
        () = stop => Ok(()),
    };
    // What is still open ends here, and is counted.
    drop(local);
    end?;
    counts.tell(c)
}

async fn tcp(
    c: &Context,
    args: &Forward,
    at: SocketAddr,
    irm: Irm,
    counts: &Rc<Counts>,
) -> Result<(), Reason> {
    let wanted = wanted_for_tcp(&args.ask)?;
    let most = most(&args.bounds);
    let cant = |e| failed(format_args!("listen at {at}"), &e);
    let listener = TcpListener::bind(at).await.map_err(cant)?;
    ready(c, args, "tcp", listener.local_addr().map_err(cant)?)?;
    accept(listener, most, Rc::clone(counts), |tcp: Tcp| {
        let (irm, name, wanted) = (irm.clone(), args.name.clone(), wanted.clone());
        let counts = Rc::clone(counts);
        async move {
            let flow = irm.allocate(name, wanted).await.inspect_err(|_| {
                counts.add(Count::Failed, 1);
            })?;
            tcp.carry(flow, &counts).await
        }
    })
    .await
}

async fn udp(
    c: &Context,
    args: &Forward,
    at: SocketAddr,
    irm: Irm,
    counts: &Rc<Counts>,
) -> Result<(), Reason> {
    let wanted = wanted_for_udp(&args.ask);
    let cant = |e| failed(format_args!("take datagrams at {at}"), &e);
    let socket = Rc::new(UdpSocket::bind(at).await.map_err(cant)?);
    let room = Arc::new(Semaphore::new(most(&args.bounds)));
    let mut lanes = Lanes::new(room, args.bounds.idle, Rc::clone(counts));
    ready(c, args, "udp", socket.local_addr().map_err(cant)?)?;
    lanes
        .each(&socket, |lanes, datagram, from| {
            lanes.put(from, datagram, || {
                let (irm, name, wanted) = (irm.clone(), args.name.clone(), wanted.clone());
                let open = async move { Ok(irm.allocate(name, wanted).await?) };
                Some((open, Lane::new(Rc::clone(&socket), from, Vec::new())))
            });
        })
        .await
}

fn ready(c: &Context, args: &Forward, kind: &str, at: SocketAddr) -> Result<(), Reason> {
    let json = json!({"event": "ready", kind: at.to_string(), "name": args.name.to_string()});
    say_ready(c, &json, &format!("{kind} {at} goes to {}", args.name))
}
