//! The children that live: kept on disk, so that the next daemon finds them, and known by the digest of their secret.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use proto::Label;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::process::Child;
use crate::state::{StateError, Store};

/// Which child a process is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Instance {
    /// The IPC process of this name.
    Ipcp(Label),
    /// The vpn process of this device.
    Vpn(String),
}

/// All children.
#[derive(Debug)]
pub(crate) struct Running {
    table: Mutex<BTreeMap<Instance, Entry>>,
    store: Store,
}

/// How a child is found and known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    pid: u32,
    start: u64,
    /// SHA-256 of its secret, in hex: the file betrays no secret.
    secret: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    ipcps: BTreeMap<String, Entry>,
    vpns: BTreeMap<String, Entry>,
}

impl Running {
    /// With what an earlier daemon left.
    pub(crate) fn load(store: &Store) -> anyhow::Result<Self> {
        let saved = store.load::<Saved>("running")?;
        let mut table = BTreeMap::new();
        for (name, entry) in saved.ipcps {
            table.insert(Instance::Ipcp(Label::new(name)?), entry);
        }
        table.extend(
            saved
                .vpns
                .into_iter()
                .map(|(dev, entry)| (Instance::Vpn(dev), entry)),
        );
        Ok(Self {
            table: Mutex::new(table),
            store: store.clone(),
        })
    }

    /// The child that an earlier daemon started, if it still lives.
    pub(crate) fn survivor(&self, instance: &Instance) -> Option<Child> {
        let entry = self.table().get(instance).cloned()?;
        Child::adopt(entry.pid, entry.start)
    }

    /// A secret for a child that is about to be started; it counts at once.
    pub(crate) fn expect(&self, instance: Instance, secret: &[u8]) {
        self.table().insert(
            instance,
            Entry {
                pid: 0,
                start: 0,
                secret: hex(secret),
            },
        );
    }

    /// The child runs.
    pub(crate) fn started(&self, instance: &Instance, child: &Child) -> Result<(), StateError> {
        if let Some(entry) = self.table().get_mut(instance) {
            (entry.pid, entry.start) = (child.pid, child.start);
        }
        self.save()
    }

    /// The child is gone.
    pub(crate) fn ended(&self, instance: &Instance) -> Result<(), StateError> {
        self.table().remove(instance);
        self.save()
    }

    /// Who shows this secret.
    pub(crate) fn who(&self, secret: &[u8]) -> Option<Instance> {
        let shown = hex(secret);
        self.table()
            .iter()
            .find(|(_, e)| e.secret == shown)
            .map(|(instance, _)| instance.clone())
    }

    /// Children of an earlier daemon that none of these is.
    pub(crate) fn strays(&self, known: impl Fn(&Instance) -> bool) -> Vec<Instance> {
        self.table().keys().filter(|i| !known(i)).cloned().collect()
    }

    fn save(&self) -> Result<(), StateError> {
        let mut saved = Saved::default();
        for (instance, entry) in self.table().iter().filter(|(_, e)| e.pid != 0) {
            match instance {
                Instance::Ipcp(name) => saved.ipcps.insert(name.to_string(), entry.clone()),
                Instance::Vpn(dev) => saved.vpns.insert(dev.clone(), entry.clone()),
            };
        }
        self.store.save("running", &saved)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Instance, Entry>> {
        self.table
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn hex(secret: &[u8]) -> String {
    digest(&SHA256, secret)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_known_by_its_secret_and_the_file_does_not_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::load(&Store::new(dir.path())).unwrap();
        let me = Instance::Ipcp(Label::new("a").unwrap());
        running.expect(me.clone(), b"secret");
        assert_eq!(running.who(b"secret"), Some(me.clone()));
        assert_eq!(running.who(b"other"), None);
        assert_eq!(running.who(b""), None);
        running.save().unwrap();
        assert!(
            !std::fs::read_to_string(dir.path().join("running.json"))
                .unwrap()
                .contains("secret\": \"secret")
        );
        running.ended(&me).unwrap();
        assert_eq!(running.who(b"secret"), None);
    }
}
