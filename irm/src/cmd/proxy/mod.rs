//! `irm proxy`: SOCKS 5 for programs that know no flows. It reaches names, and no address.

mod associate;
mod users;
mod wire;
mod wish;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libflow::{AllocOptions, Flow, FlowError, Irm};
use proto::{Code, Reason};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use self::users::Users;
use self::wire::{Reply, Request, Unfit};
use self::wish::Wish;
use super::Context;
use super::flow::stopped;
use super::ports::{Count, Counts, Tcp, accept, failed, most, say_ready, wanted_for_tcp};
use crate::args::Proxy;

pub(super) async fn run(c: &Context, args: Proxy) -> Result<(), Reason> {
    let (at, most) = (args.socks5, most(&args.bounds));
    if args.users.is_none() && !at.ip().is_loopback() {
        let text = format!(
            "a proxy at {at} is for others too, and needs --users FILE; or listen at 127.0.0.1:{}",
            at.port()
        );
        return Err(Reason::new(Code::Usage, text));
    }
    let server = Rc::new(Server {
        users: args.users.as_deref().map(Users::read).transpose()?,
        wanted: wanted_for_tcp(&args.ask)?,
        irm: Irm::connect(Some(&c.run_dir)).await?,
        idle: args.bounds.idle,
        room: Arc::new(Semaphore::new(most)),
        counts: Rc::new(Counts::default()),
    });
    let stop = stopped()?;
    let cant = |e| failed(format_args!("listen at {at}"), &e);
    let listener = TcpListener::bind(at).await.map_err(cant)?;
    let at = listener.local_addr().map_err(cant)?;
    let json = json!({"event": "ready", "socks5": at.to_string()});
    say_ready(c, &json, &format!("SOCKS 5 at {at}"))?;
    let local = LocalSet::new();
    let work = accept(listener, most, Rc::clone(&server.counts), |tcp| {
        let server = Rc::clone(&server);
        async move { server.serve(tcp).await }
    });
    let end = tokio::select! {
        end = local.run_until(work) => end,
        () = stop => Ok(()),
    };
    // What is still open ends here, and is counted.
    drop(local);
    end?;
    server.counts.tell(c)
}

struct Server {
    irm: Irm,
    /// Who may use it; `None`: everybody.
    users: Option<Users>,
    /// Of a flow for a connection, where the client doesn't say the layer.
    wanted: AllocOptions,
    idle: Duration,
    /// For flows of datagrams.
    room: Arc<Semaphore>,
    counts: Rc<Counts>,
}

impl Server {
    async fn serve(&self, mut tcp: Tcp) -> Result<(), Reason> {
        let stream = tcp.stream();
        let greeted = timeout(GREETING, self.greet(stream)).await;
        let request = greeted.unwrap_or_else(|_| {
            let text = "the client did not say in time what it wants";
            Err(Reason::new(Code::TimedOut, text))
        })?;
        match request.command {
            wire::CONNECT => self.connect(tcp, &request).await,
            wire::ASSOCIATE => self.associate(tcp, &request).await,
            other => {
                say(tcp.stream(), &wire::answer(Reply::BadCommand, NOWHERE)).await?;
                tcp.close();
                let text = format!("command {other} of SOCKS is not known here");
                Err(Reason::new(Code::Usage, text))
            }
        }
    }

    /// Hello, login where there is one, and what the client wants.
    async fn greet(&self, stream: &mut TcpStream) -> Result<Request, Reason> {
        let hello = hear(stream, wire::hello).await.map_err(speaks_badly)?;
        let way = match &self.users {
            None => hello.open.then_some(wire::OPEN),
            Some(_) => hello.password.then_some(wire::PASSWORD),
        };
        say(stream, &wire::way(way)).await?;
        if way.is_none() {
            self.counts.add(Count::Denied, 1);
            let text = match self.users {
                None => "the client insists on a login, and there is none here",
                Some(_) => "the client has no name and password, which are needed here",
            };
            return Err(Reason::new(Code::Denied, text));
        }
        if let Some(users) = &self.users {
            let login = hear(stream, wire::login).await.map_err(speaks_badly)?;
            let known = users.know(&login);
            if !known {
                self.counts.add(Count::Denied, 1);
                // So that guessing takes its time.
                tokio::time::sleep(GUESS).await;
            }
            say(stream, &wire::logged_in(known)).await?;
            if !known {
                let text = "the client's name or password is not known";
                return Err(Reason::new(Code::Denied, text));
            }
        }
        match hear(stream, wire::request).await {
            Ok(request) => Ok(request),
            Err(unfit) => {
                let reply = match unfit {
                    Unheard::Unfit(Unfit::AddressKind) => Reply::BadAddress,
                    Unheard::Unfit(_) | Unheard::Gone(_) => Reply::Failed,
                };
                say(stream, &wire::answer(reply, NOWHERE)).await?;
                Err(speaks_badly(unfit))
            }
        }
    }

    async fn connect(&self, mut tcp: Tcp, request: &Request) -> Result<(), Reason> {
        let opened = match Wish::of(&request.to, self.wanted.layer.as_ref()) {
            Ok(wish) => open(&self.irm, wish, self.wanted.clone())
                .await
                .map_err(|reason| (reason.code.into(), reason)),
            Err(no) => Err(no),
        };
        match opened {
            Ok(flow) => {
                say(tcp.stream(), &wire::answer(Reply::Done, NOWHERE)).await?;
                tcp.carry(flow, &self.counts).await
            }
            Err((reply, reason)) => {
                self.counts.add(Count::Failed, 1);
                say(tcp.stream(), &wire::answer(reply, NOWHERE)).await?;
                tcp.close();
                Err(reason)
            }
        }
    }
}

/// A flow to the first of the names that is served.
async fn open(irm: &Irm, wish: Wish, wanted: AllocOptions) -> Result<Flow, Reason> {
    let end = Instant::now() + wanted.timeout;
    let mut none = Reason::new(Code::NotFound, "no such name");
    for name in wish.names {
        let wanted = AllocOptions {
            layer: wish.layer.clone().or_else(|| wanted.layer.clone()),
            timeout: end.saturating_duration_since(Instant::now()),
            ..wanted.clone()
        };
        match irm.allocate(name, wanted).await {
            Err(FlowError::NoSuchName(reason)) => none = reason,
            done => return Ok(done?),
        }
    }
    Err(none)
}

/// Why a message did not come.
enum Unheard {
    Unfit(Unfit),
    Gone(io::Error),
}

/// Reads one message, and not a byte more: what follows belongs to the flow.
async fn hear<T>(
    stream: &mut TcpStream,
    parse: impl Fn(&[u8]) -> Result<T, Unfit>,
) -> Result<T, Unheard> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes) {
            Ok(message) => return Ok(message),
            Err(Unfit::Need(len)) => {
                let have = bytes.len();
                bytes.resize(len, 0);
                let rest = &mut bytes[have..];
                stream.read_exact(rest).await.map_err(Unheard::Gone)?;
            }
            Err(unfit) => return Err(Unheard::Unfit(unfit)),
        }
    }
}

async fn say(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), Reason> {
    stream
        .write_all(bytes)
        .await
        .map_err(|e| speaks_badly(Unheard::Gone(e)))
}

fn speaks_badly(unheard: Unheard) -> Reason {
    match unheard {
        Unheard::Gone(e) => Reason::new(Code::Failed, format!("the client is gone: {e}")),
        Unheard::Unfit(Unfit::Bad(what)) => Reason::new(
            Code::PeerMisbehaved,
            format!("the client is refused: {what}"),
        ),
        Unheard::Unfit(Unfit::Need(_) | Unfit::AddressKind) => Reason::new(
            Code::PeerMisbehaved,
            "the client is refused: its address is of no kind that is known",
        ),
    }
}

/// A flow has no address that a client could be told.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// From the first byte to the request.
const GREETING: Duration = Duration::from_secs(10);
const GUESS: Duration = Duration::from_secs(1);
