//! Where the names must be once the network is quiet: at those that keep them, and at nobody that was told otherwise.

use std::collections::{BTreeMap, BTreeSet};

use proto::Addr;
use proto::irm::IpcpStatus;

use super::world::World;
use crate::crypt::name_hash;
use crate::dir::{KEEPERS, nearest};

/// The names of hosts that reach each other.
#[derive(Default)]
pub(super) struct Names {
    among: BTreeSet<usize>,
    /// All of them: the hash as a status shows it, and the member that serves it.
    served: BTreeSet<(String, String)>,
    /// What each host has to know.
    kept: BTreeMap<usize, BTreeSet<(String, String)>>,
}

impl Names {
    /// Works out who has to know what, unless these are the hosts that it was worked out for.
    pub(super) fn among(self, world: &World, among: &BTreeSet<usize>) -> Self {
        if self.among == *among {
            return self;
        }
        let mut names = Self {
            among: among.clone(),
            ..Self::default()
        };
        let by_address: BTreeMap<Addr, usize> = among
            .iter()
            .map(|h| (world.hosts[*h].address, *h))
            .collect();
        let members: Vec<Addr> = by_address.keys().copied().collect();
        for server in among {
            for name in &world.hosts[*server].names {
                let hash = name_hash(&world.layer, name);
                let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
                let entry = (hex, world.hosts[*server].name.to_string());
                let keepers = nearest(&members, &hash, KEEPERS).into_iter();
                for keeper in keepers.map(|addr| by_address[&addr]).chain([*server]) {
                    names.kept.entry(keeper).or_default().insert(entry.clone());
                }
                names.served.insert(entry);
            }
        }
        names
    }

    /// Whether a host knows what it has to, and nothing that is served no longer; says what is wrong.
    pub(super) fn check(&self, host: usize, status: &IpcpStatus) -> Result<(), String> {
        let members: BTreeSet<&str> = self.served.iter().map(|(_, m)| m.as_str()).collect();
        let known: BTreeSet<(String, String)> = status
            .directory
            .iter()
            .filter(|e| e.kind != "cached" && members.contains(e.member.as_str()))
            .map(|e| (e.name_hash.clone(), e.member.clone()))
            .collect();
        let mut lacks = self.kept.get(&host).into_iter().flatten();
        if let Some((_, of)) = lacks.find(|entry| !known.contains(entry)) {
            return Err(format!("m{host} lacks a name of {of} that it has to keep"));
        }
        match known.difference(&self.served).next() {
            Some((_, of)) => Err(format!("m{host} keeps a name that {of} serves no longer")),
            None => Ok(()),
        }
    }
}
