//! Host names to addresses, by the DNS, when the machine's own table has none.
//!
//! This module must not be asked for anything but host names: what leaves the host here is seen by others.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use hickory_resolver::Resolver as Hickory;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use proto::Name;
use proto::ipcp::Dns;
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::{SocketKey, Tell};

/// Look-ups that are under way.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    running: BTreeMap<SocketKey, AbortHandle>,
    answers: Option<mpsc::Sender<Tell>>,
}

impl Resolver {
    /// Where the answers go.
    pub(crate) fn answer_to(&mut self, answers: mpsc::Sender<Tell>) {
        self.answers = Some(answers);
    }

    /// Starts a look-up; its answer goes where [`Resolver::answer_to`] said.
    pub(crate) fn look_up(
        &mut self,
        key: SocketKey,
        name: Name,
        (dns, own): (Dns, Option<IpAddr>),
    ) {
        let Some(answers) = self.answers.clone() else {
            return;
        };
        self.running.retain(|_, task| !task.is_finished());
        let crowded = self.running.len() >= AT_ONCE;
        let task = tokio::spawn(async move {
            let tell = if crowded {
                Tell::NotResolved(key, format!("{AT_ONCE} look-ups are under way; try again"))
            } else {
                look_up(key, &name, (dns, own)).await
            };
            // Nobody hears it only when the process ends.
            let _ = answers.send(tell).await;
        });
        self.running.insert(key, task.abort_handle());
    }

    /// The answer is no longer wanted.
    pub(crate) fn forget(&mut self, key: SocketKey) {
        if let Some(task) = self.running.remove(&key) {
            task.abort();
        }
    }
}

async fn look_up(key: SocketKey, name: &Name, (dns, own): (Dns, Option<IpAddr>)) -> Tell {
    match tokio::time::timeout(WITHIN, addresses(name.as_str(), dns, own)).await {
        Ok(Ok(ips)) if !ips.is_empty() => Tell::Resolved(key, ips),
        Ok(Ok(_)) => Tell::NotResolved(key, "the name server knows none".to_owned()),
        Ok(Err(text)) => Tell::NotResolved(key, text),
        Err(_) => Tell::NotResolved(
            key,
            format!(
                "the name server ({dns}) didn't answer within {} s",
                WITHIN.as_secs()
            ),
        ),
    }
}

async fn addresses(host: &str, dns: Dns, own: Option<IpAddr>) -> Result<Vec<IpAddr>, String> {
    match dns {
        Dns::System => {
            let found = tokio::net::lookup_host((host, 0))
                .await
                .map_err(|e| e.to_string())?;
            Ok(found.map(|at| at.ip()).collect())
        }
        Dns::Server(at) => match own.filter(|own| is_another(at, *own)) {
            None => ask(host, at, None).await,
            Some(own) => from_both(host, at, own).await,
        },
    }
}

/// Whether what is sent to there would come from another address than this one, of the same family, if nobody said from which.
fn is_another(at: SocketAddr, own: IpAddr) -> bool {
    let usual = || -> io::Result<_> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
        socket.connect(&at.into())?;
        socket.local_addr()
    };
    own.is_ipv4() == at.is_ipv4()
        && usual().is_ok_and(|usual| usual.as_socket().is_some_and(|usual| usual.ip() != own))
}

/// Where all goes out by a VPN (`--exit`), so does a question, and the VPN may wait for its answer; what comes from the shim's
/// address goes by the network below. But the server may take questions from the usual address alone. The first good answer counts.
async fn from_both(host: &str, at: SocketAddr, own: IpAddr) -> Result<Vec<IpAddr>, String> {
    let mut usual = pin!(ask(host, at, None));
    let mut own = pin!(ask(host, at, Some(own)));
    tokio::select! {
        found = &mut usual => match found {
            Ok(found) => Ok(found),
            Err(why) => own.await.or(Err(why)),
        },
        found = &mut own => match found {
            Ok(found) => Ok(found),
            Err(_) => usual.await,
        },
    }
}

async fn ask(host: &str, at: SocketAddr, from: Option<IpAddr>) -> Result<Vec<IpAddr>, String> {
    let config = ResolverConfig::from_name_servers(vec![server(at, from)]);
    let builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
    let resolver = builder.build().map_err(|e| e.to_string())?;
    // With a dot at its end the name is whole: no search list is tried.
    let whole = format!("{}.", host.trim_end_matches('.'));
    let found = resolver.lookup_ip(whole).await.map_err(|e| e.to_string())?;
    Ok(found.iter().collect())
}

fn server(at: SocketAddr, from: Option<IpAddr>) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = at.port();
        connection.bind_addr = from.map(|ip| SocketAddr::new(ip, 0));
        connection
    });
    NameServerConfig::new(at.ip(), true, connections.to_vec())
}

/// The longest that a look-up takes.
const WITHIN: Duration = Duration::from_secs(5);
/// Look-ups at once.
const AT_ONCE: usize = 256;
