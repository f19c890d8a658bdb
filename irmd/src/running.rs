//! The children that live: kept on disk, so that the next daemon finds them, and known by the digest of their secret.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use proto::id::BadName;
use proto::{Label, Name};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::process::Child;
use crate::session::boot_id;
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
    programs: Mutex<BTreeMap<Name, Program>>,
    /// Of the kernel now: process numbers and times mean nothing after another boot.
    boot: String,
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

/// How a program is found again that was started for a name. It has no secret: to irmd it is as any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    pid: u32,
    start: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// Absent in files of versions that did not tell boots apart.
    #[serde(default)]
    boot_id: String,
    ipcps: BTreeMap<String, Entry>,
    vpns: BTreeMap<String, Entry>,
    #[serde(default)]
    programs: BTreeMap<String, Program>,
}

impl Running {
    /// With what an earlier daemon left. What it left before another boot is gone, whoever has those numbers now.
    pub(crate) fn load(store: &Store) -> Result<Self, StateError> {
        let boot = boot_id();
        let (before, (table, programs)) = store.load("running", parse)?;
        // Without an id this could be any boot.
        let known = !boot.is_empty() && before == boot;
        Ok(Self {
            table: Mutex::new(if known { table } else { BTreeMap::new() }),
            programs: Mutex::new(if known { programs } else { BTreeMap::new() }),
            boot,
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

    /// The names that an earlier daemon had started programs for.
    pub(crate) fn programs(&self) -> Vec<Name> {
        self.programs_table().keys().cloned().collect()
    }

    /// The program that an earlier daemon started for a name, if it still lives.
    pub(crate) fn surviving_program(&self, name: &Name) -> Option<Child> {
        let program = self.programs_table().get(name).cloned()?;
        Child::adopt(program.pid, program.start)
    }

    /// The program that was started for a name runs.
    pub(crate) fn program_started(&self, name: &Name, child: &Child) -> Result<(), StateError> {
        let (pid, start) = (child.pid, child.start);
        self.programs_table()
            .insert(name.clone(), Program { pid, start });
        self.save()
    }

    /// The program that was started for a name is gone.
    pub(crate) fn program_ended(&self, name: &Name) -> Result<(), StateError> {
        self.programs_table().remove(name);
        self.save()
    }

    fn save(&self) -> Result<(), StateError> {
        let programs = self.programs_table().clone().into_iter();
        let mut saved = Saved {
            boot_id: self.boot.clone(),
            programs: programs.map(|(name, p)| (name.to_string(), p)).collect(),
            ..Saved::default()
        };
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

    fn programs_table(&self) -> MutexGuard<'_, BTreeMap<Name, Program>> {
        self.programs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

type Tables = (BTreeMap<Instance, Entry>, BTreeMap<Name, Program>);

fn parse(saved: Saved) -> Result<(String, Tables), BadName> {
    let ipcps = saved.ipcps.into_iter();
    let ipcps = ipcps.map(|(name, entry)| Ok((Instance::Ipcp(Label::new(name)?), entry)));
    let vpns = saved.vpns.into_iter();
    let vpns = vpns.map(|(dev, entry)| Ok((Instance::Vpn(dev), entry)));
    let programs = saved.programs.into_iter();
    let programs = programs.map(|(name, program)| Ok((Name::new(name)?, program)));
    let table = ipcps.chain(vpns).collect::<Result<_, BadName>>()?;
    let programs = programs.collect::<Result<_, BadName>>()?;
    Ok((saved.boot_id, (table, programs)))
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
    use crate::session::start_time;
    use crate::state::torn;

    /// What a daemon of this boot leaves.
    fn left(pid: u32, start: u64) -> Saved {
        let entry = || Entry {
            pid,
            start,
            secret: hex(b"secret"),
        };
        Saved {
            boot_id: boot_id(),
            ipcps: [("ovl-a".to_owned(), entry())].into(),
            vpns: [("strata0".to_owned(), entry())].into(),
            programs: [("web é".to_owned(), Program { pid, start })].into(),
        }
    }

    #[test]
    fn a_torn_file_of_children_is_never_none_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.save("running", &left(17, 4711)).unwrap();
        let running = Running::load(&store).unwrap();
        running.save().unwrap();
        let again = Running::load(&store).unwrap();
        assert_eq!(*again.table(), *running.table());
        assert_eq!(again.table().len(), 2);
        assert_eq!(again.programs(), [Name::new("web é").unwrap()]);
        torn::is_never_a_fresh_start(dir.path(), "running", || Running::load(&store));
    }

    #[tokio::test]
    async fn children_of_another_boot_are_forgotten_whoever_has_their_numbers_now() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        // A process that lives, with the very number and time that were written down.
        let me = std::process::id();
        let this = left(me, start_time(me).unwrap());
        let (child, web) = (
            Instance::Ipcp(Label::new("ovl-a").unwrap()),
            Name::new("web é").unwrap(),
        );
        let found = |store| {
            let running = Running::load(store).unwrap();
            (
                running.survivor(&child).is_some(),
                running.surviving_program(&web).is_some(),
                running.who(b"secret").is_some(),
                running.strays(|_| false).len(),
                running.programs().len(),
            )
        };
        store.save("running", &this).unwrap();
        assert_eq!(found(&store), (true, true, true, 2, 1));
        let nothing = (false, false, false, 0, 0);
        let mut other = this.clone();
        other.boot_id = "00000000-0000-4000-8000-000000000000".to_owned();
        store.save("running", &other).unwrap();
        assert_eq!(found(&store), nothing);
        // As it was written before boots were told apart.
        let mut old = serde_json::to_value(&this).unwrap();
        old.as_object_mut().unwrap().remove("boot_id").unwrap();
        store.save("running", &old).unwrap();
        assert_eq!(found(&store), nothing);
    }

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
