//! Keeps names answered while the VPN lives: binds again what could not be bound, and tells who is to be told.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use proto::Reason;
use tokio::task::JoinSet;

use super::{Resolved, Server, Zone};
use crate::config::Config;
use crate::ways::Names;

/// The names of one VPN.
#[derive(Debug, Default)]
pub struct Answering {
    server: Option<Server>,
    told: Option<Resolved>,
    telling: JoinSet<Result<(), Reason>>,
    unbound: Option<String>,
    untold: Option<Reason>,
    again: Option<Instant>,
}

impl Answering {
    /// Makes what is answered, where, and who knows of it, what the configuration says. To be called after each change, and
    /// when [`Answering::due`] says so.
    pub async fn keep(&mut self, now: Instant, config: &Config, device: u32) {
        self.again = None;
        if config.names == Names::Off {
            return;
        }
        let at: Vec<_> = config.addresses.iter().map(IpNet::addr).collect();
        let zone = Zone::of(config);
        match &self.server {
            Some(server) if server.at() == at => server.serve(zone),
            Some(_) | None => {
                // The port is free only once the old one is gone.
                self.server = None;
                match Server::bind(at.clone(), zone).await {
                    Ok(server) => (self.server, self.unbound) = (Some(server), None),
                    Err(e) => {
                        self.again = Some(now + AGAIN);
                        self.unbound = Some(format!(
                            "names are not answered: can't listen on port 53 of the VPN's address: {e}"
                        ));
                        return;
                    }
                }
            }
        }
        if config.names == Names::Resolved {
            let layer = config.layer.clone();
            self.tell(
                now,
                Resolved {
                    index: device,
                    at,
                    layer,
                },
            );
        }
    }

    fn tell(&mut self, now: Instant, wanted: Resolved) {
        while let Some(told) = self.telling.try_join_next() {
            self.untold = match told {
                Ok(told) => told.err(),
                // Its task is never aborted but with all of this.
                Err(_) => None,
            };
            if self.untold.is_some() {
                self.told = None;
                self.again = Some(now + AGAIN);
                return;
            }
        }
        if self.told.as_ref() != Some(&wanted) && self.telling.is_empty() {
            self.told = Some(wanted.clone());
            self.telling.spawn(async move { wanted.tell().await });
        }
        if !self.telling.is_empty() {
            self.again = Some(now + SOON);
        }
    }

    /// When to try again; `None`: there is no need.
    pub fn due(&self) -> Option<Instant> {
        self.again
    }

    /// What a person should know.
    pub fn warning(&self) -> Option<String> {
        let untold = self.untold.as_ref().map(|reason| reason.text.clone());
        self.unbound.clone().or(untold)
    }
}

/// Between attempts that fail.
const AGAIN: Duration = Duration::from_secs(10);
/// Until it is looked whether it was told.
const SOON: Duration = Duration::from_secs(1);
