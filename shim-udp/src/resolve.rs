//! Host names to addresses, by the DNS, when the machine's own table has none.
//!
//! This module must not be asked for anything but host names: what leaves the host here is seen by others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::Resolver as Hickory;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use proto::Name;
use proto::ipcp::Dns;
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
    pub(crate) fn look_up(&mut self, key: SocketKey, name: Name, dns: Dns) {
        let Some(answers) = self.answers.clone() else {
            return;
        };
        self.running.retain(|_, task| !task.is_finished());
        let crowded = self.running.len() >= AT_ONCE;
        let task = tokio::spawn(async move {
            let tell = if crowded {
                Tell::NotResolved(key, format!("{AT_ONCE} look-ups are under way; try again"))
            } else {
                look_up(key, &name, dns).await
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

async fn look_up(key: SocketKey, name: &Name, dns: Dns) -> Tell {
    match tokio::time::timeout(WITHIN, addresses(name.as_str(), dns)).await {
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

async fn addresses(host: &str, dns: Dns) -> Result<Vec<IpAddr>, String> {
    match dns {
        Dns::System => {
            let found = tokio::net::lookup_host((host, 0))
                .await
                .map_err(|e| e.to_string())?;
            Ok(found.map(|at| at.ip()).collect())
        }
        Dns::Server(at) => {
            let config = ResolverConfig::from_name_servers(vec![server(at)]);
            let builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
            let resolver = builder.build().map_err(|e| e.to_string())?;
            // With a dot at its end the name is whole: no search list is tried.
            let whole = format!("{}.", host.trim_end_matches('.'));
            let found = resolver.lookup_ip(whole).await.map_err(|e| e.to_string())?;
            Ok(found.iter().collect())
        }
    }
}

fn server(at: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = at.port();
        connection
    });
    NameServerConfig::new(at.ip(), true, connections.to_vec())
}

/// The longest that a look-up takes.
const WITHIN: Duration = Duration::from_secs(5);
/// Look-ups at once.
const AT_ONCE: usize = 256;
