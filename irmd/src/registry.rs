//! Names: who created them, who listens to them, which programs are bound to them, where they are registered. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proto::irm::{Binding as BindingInfo, NameInfo};
use proto::{Code, Label, Name, Reason};
use serde::{Deserialize, Serialize};

use crate::policy;
use crate::session::{Process, SessionId, boot_id};
use crate::state::{StateError, Store};

/// All names of this host.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    saved: BTreeMap<Name, Saved>,
    listeners: Vec<Listener>,
    /// Counts choices, so that several listeners of one name take turns.
    turn: usize,
}

/// What an administrator said of a name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Saved {
    /// Where it is to be registered.
    pub(crate) layers: BTreeSet<Label>,
    /// Who accepts for it.
    pub(crate) bindings: Vec<Bound>,
}

/// A program or process that is bound to a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum Bound {
    /// Every process of this program.
    Program {
        /// Its file.
        path: PathBuf,
        /// Started when somebody asks and nobody listens.
        auto: bool,
        /// With these arguments.
        args: Vec<String>,
    },
    /// One process.
    Process {
        /// Its number.
        pid: u32,
        /// When it began: a later process with the number is another.
        start: u64,
    },
}

/// The form in which [`Saved`] names are kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedNames {
    /// Absent in files of versions that did not tell boots apart.
    #[serde(default)]
    boot_id: String,
    names: Vec<SavedName>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedName {
    name: String,
    layers: Vec<String>,
    bindings: Vec<Bound>,
}

/// Somebody who takes flows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listener {
    /// Its session.
    pub(crate) session: SessionId,
    /// Its number there.
    pub(crate) id: u64,
    /// To which name; `None`: to all that its process is bound to.
    pub(crate) name: Option<Name>,
    /// Where the program registers the name.
    pub(crate) layers: BTreeSet<Label>,
    /// The program's user.
    pub(crate) uid: u32,
    /// The program's process.
    pub(crate) process: Option<Process>,
}

impl Registry {
    /// With what is on disk.
    pub(crate) fn load(store: &Store) -> Result<Self, StateError> {
        store.load("names", Self::from_saved)
    }

    fn from_saved(saved: SavedNames) -> Result<Self, Reason> {
        let mut names = BTreeMap::new();
        let boot = boot_id();
        // Without an id this could be any boot; a process of another is gone, whoever has its number now.
        let known = !boot.is_empty() && saved.boot_id == boot;
        for mut one in saved.names {
            one.bindings
                .retain(|b| known || matches!(b, Bound::Program { .. }));
            let layers = one
                .layers
                .into_iter()
                .map(Label::new)
                .collect::<Result<_, _>>()?;
            names.insert(
                Name::new(one.name)?,
                Saved {
                    layers,
                    bindings: one.bindings,
                },
            );
        }
        Ok(Self {
            saved: names,
            ..Self::default()
        })
    }

    /// What belongs on disk.
    pub(crate) fn to_saved(&self) -> SavedNames {
        let one = |(name, saved): (&Name, &Saved)| SavedName {
            name: name.to_string(),
            layers: saved.layers.iter().map(Label::to_string).collect(),
            bindings: saved.bindings.clone(),
        };
        SavedNames {
            boot_id: boot_id(),
            names: self.saved.iter().map(one).collect(),
        }
    }

    /// What an administrator said, for [`Registry::restore`] when it can't be written.
    pub(crate) fn snapshot(&self) -> BTreeMap<Name, Saved> {
        self.saved.clone()
    }

    /// Undoes all changes since the snapshot.
    pub(crate) fn restore(&mut self, snapshot: BTreeMap<Name, Saved>) {
        self.saved = snapshot;
    }

    /// Creates a name; one that exists is left as it is.
    pub(crate) fn create(&mut self, name: Name) {
        self.saved.entry(name).or_default();
    }

    /// Forgets a name with its bindings and registrations; what is not there stays so.
    pub(crate) fn destroy(&mut self, name: &Name) {
        self.saved.remove(name);
    }

    /// Wants the name registered in the layer; creates it.
    pub(crate) fn register(&mut self, name: Name, layer: Label) {
        self.saved.entry(name).or_default().layers.insert(layer);
    }

    /// No longer wants the name registered in the layer; what is not registered there stays so.
    pub(crate) fn unregister(&mut self, name: &Name, layer: &Label) {
        if let Some(saved) = self.saved.get_mut(name) {
            saved.layers.remove(layer);
        }
    }

    /// Binds a program or process to the name; creates the name. The same again is fine, other arguments are a conflict.
    pub(crate) fn bind(&mut self, name: &Name, bound: Bound) -> Result<(), Reason> {
        let bindings = &mut self.saved.entry(name.clone()).or_default().bindings;
        match bindings.iter().find(|b| b.same_target(&bound)) {
            Some(old) if *old == bound => Ok(()),
            Some(_) => Err(Reason::new(
                Code::Conflict,
                format!(
                    "{name} is bound to that program with other arguments; unbind it first with `irm unbind`"
                ),
            )),
            None => {
                bindings.push(bound);
                Ok(())
            }
        }
    }

    /// Undoes [`Registry::bind`]; what is not bound stays so.
    pub(crate) fn unbind(&mut self, name: &Name, matches: impl Fn(&Bound) -> bool) {
        if let Some(saved) = self.saved.get_mut(name) {
            saved.bindings.retain(|b| !matches(b));
        }
    }

    /// Adds a listener. One number names one listener of a session.
    pub(crate) fn listen(&mut self, listener: Listener) -> Result<(), Reason> {
        if let Some(name) = &listener.name {
            for other in self
                .listeners
                .iter()
                .filter(|l| l.name.as_ref() == Some(name))
            {
                policy::may_share(name, other.uid, listener.uid)?;
            }
        } else if listener.process.is_none() {
            return Err(Reason::new(
                Code::Usage,
                "cannot listen without a name: the process is not known to this host, so it has no bindings; give a name",
            ));
        }
        self.unlisten(listener.session, listener.id);
        let own = self
            .listeners
            .iter()
            .filter(|l| l.session == listener.session)
            .count();
        if own >= MOST {
            let text = format!(
                "a program may have {MOST} listeners at once; end some, or open another session"
            );
            return Err(Reason::new(Code::Busy, text));
        }
        self.listeners.push(listener);
        Ok(())
    }

    /// Takes a listener away.
    pub(crate) fn unlisten(&mut self, session: SessionId, id: u64) {
        self.listeners
            .retain(|l| (l.session, l.id) != (session, id));
    }

    /// Takes all listeners of a session away.
    pub(crate) fn end_session(&mut self, session: SessionId) {
        self.listeners.retain(|l| l.session != session);
    }

    /// Who takes the next flow to this name. Several take turns.
    pub(crate) fn pick(&mut self, name: &Name) -> Option<Listener> {
        let able: Vec<&Listener> = self.listeners_of(name).collect();
        let chosen = able
            .get(self.turn % able.len().max(1))
            .map(|l| (*l).clone());
        self.turn = self.turn.wrapping_add(1);
        chosen
    }

    /// Does anybody take flows to the name?
    pub(crate) fn has_listener(&self, name: &Name) -> bool {
        self.listeners_of(name).next().is_some()
    }

    /// Does this session, or another of the same user, go by that name?
    pub(crate) fn goes_by(&self, name: &Name, uid: u32) -> bool {
        self.listeners_of(name).any(|l| l.uid == uid)
    }

    /// The program to start for a name that nobody listens to.
    pub(crate) fn auto(&self, name: &Name) -> Option<(PathBuf, Vec<String>)> {
        self.saved.get(name)?.bindings.iter().find_map(|b| match b {
            Bound::Program {
                path,
                auto: true,
                args,
            } => Some((path.clone(), args.clone())),
            Bound::Program { .. } | Bound::Process { .. } => None,
        })
    }

    /// All registrations that should be: by administrators, and by programs that listen.
    pub(crate) fn wanted(&self) -> BTreeSet<(Label, Name)> {
        let saved = self
            .saved
            .iter()
            .flat_map(|(name, s)| s.layers.iter().map(|l| (l.clone(), name.clone())));
        let own = self
            .listeners
            .iter()
            .filter_map(|l| l.name.as_ref().map(|name| (name, &l.layers)));
        saved
            .chain(own.flat_map(|(name, layers)| layers.iter().map(|l| (l.clone(), name.clone()))))
            .collect()
    }

    /// Is the name known here at all?
    pub(crate) fn knows(&self, name: &Name) -> bool {
        self.saved.contains_key(name) || self.has_listener(name)
    }

    /// All names as the administrator sees them; `registered` says where a name really is, `label` who a session is.
    pub(crate) fn infos(
        &self,
        registered: impl Fn(&Label, &Name) -> bool,
        label: impl Fn(SessionId) -> String,
    ) -> Vec<NameInfo> {
        let mut layers: BTreeMap<&Name, BTreeSet<Label>> =
            self.saved.keys().map(|n| (n, BTreeSet::new())).collect();
        for name in self.listeners.iter().filter_map(|l| l.name.as_ref()) {
            layers.entry(name).or_default();
        }
        let wanted = self.wanted();
        for (layer, name) in &wanted {
            layers.entry(name).or_default().insert(layer.clone());
        }
        let info = |(name, layers): (&Name, BTreeSet<Label>)| {
            let listeners: Vec<String> =
                self.listeners_of(name).map(|l| label(l.session)).collect();
            let there = match layers.is_empty() {
                true => !listeners.is_empty(),
                false => layers.iter().all(|l| registered(l, name)),
            };
            NameInfo {
                name: name.to_string(),
                layers: layers.iter().map(Label::to_string).collect(),
                state: if there { "registered" } else { "unregistered" }.to_owned(),
                listeners,
                bindings: self
                    .saved
                    .get(name)
                    .map(|s| s.bindings.iter().map(Bound::info).collect())
                    .unwrap_or_default(),
            }
        };
        layers.into_iter().map(info).collect()
    }

    fn listeners_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Listener> {
        let bindings = self.saved.get(name).map_or(&[][..], |s| &s.bindings);
        self.listeners.iter().filter(move |l| match &l.name {
            Some(own) => own == name,
            None => l
                .process
                .as_ref()
                .is_some_and(|p| bindings.iter().any(|b| b.is(p))),
        })
    }
}

impl Bound {
    fn is(&self, process: &Process) -> bool {
        match self {
            Self::Program { path, .. } => process.exe.as_deref() == Some(Path::new(path)),
            Self::Process { pid, start } => (*pid, *start) == (process.pid, process.start),
        }
    }

    fn same_target(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Program { path: a, .. }, Self::Program { path: b, .. }) => a == b,
            (Self::Process { pid: a, start: s }, Self::Process { pid: b, start: t }) => {
                (a, s) == (b, t)
            }
            _ => false,
        }
    }

    fn info(&self) -> BindingInfo {
        match self {
            Self::Program { path, auto, args } => BindingInfo {
                program: path.display().to_string(),
                pid: 0,
                auto: *auto,
                args: args.clone(),
            },
            Self::Process { pid, .. } => BindingInfo {
                pid: *pid,
                ..BindingInfo::default()
            },
        }
    }
}

/// How many listeners one session may have.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::torn;

    fn name(s: &str) -> Name {
        Name::new(s).unwrap()
    }

    fn label(s: &str) -> Label {
        Label::new(s).unwrap()
    }

    fn listener(session: u8, id: u64, n: Option<&str>, uid: u32) -> Listener {
        let process = Some(Process {
            pid: u32::from(session),
            start: 7,
            exe: Some("/bin/x".into()),
        });
        Listener {
            session: SessionId([session; 16]),
            id,
            name: n.map(name),
            layers: BTreeSet::new(),
            uid,
            process,
        }
    }

    #[test]
    fn listeners_of_one_name_take_turns_and_leave_with_their_session() {
        let mut r = Registry::default();
        assert_eq!(r.pick(&name("n")), None);
        r.listen(listener(1, 1, Some("n"), 0)).unwrap();
        r.listen(listener(2, 1, Some("n"), 0)).unwrap();
        let picked: BTreeSet<_> = (0..2)
            .map(|_| r.pick(&name("n")).unwrap().session)
            .collect();
        assert_eq!(picked.len(), 2);
        r.end_session(SessionId([1; 16]));
        assert_eq!(r.pick(&name("n")).unwrap().session, SessionId([2; 16]));
        r.unlisten(SessionId([2; 16]), 1);
        assert_eq!(r.pick(&name("n")), None);
    }

    #[test]
    fn a_bound_process_need_not_know_its_name_and_a_later_process_with_its_number_is_another() {
        let mut r = Registry::default();
        r.listen(listener(9, 1, None, 0)).unwrap();
        r.bind(&name("old"), Bound::Process { pid: 9, start: 6 })
            .unwrap();
        assert_eq!(r.pick(&name("old")), None);
        r.bind(&name("n"), Bound::Process { pid: 9, start: 7 })
            .unwrap();
        assert!(r.pick(&name("n")).is_some());
        r.bind(
            &name("p"),
            Bound::Program {
                path: "/bin/x".into(),
                auto: false,
                args: vec![],
            },
        )
        .unwrap();
        assert!(r.pick(&name("p")).is_some());
        r.unbind(&name("p"), |b| matches!(b, Bound::Program { .. }));
        assert_eq!(r.pick(&name("p")), None);
    }

    #[test]
    fn a_repeated_binding_is_fine_and_another_for_the_same_program_a_conflict() {
        let mut r = Registry::default();
        let bound = |auto| Bound::Program {
            path: "/bin/x".into(),
            auto,
            args: vec![],
        };
        r.bind(&name("n"), bound(true)).unwrap();
        r.bind(&name("n"), bound(true)).unwrap();
        assert_eq!(
            r.bind(&name("n"), bound(false)).unwrap_err().code,
            Code::Conflict
        );
        assert_eq!(r.auto(&name("n")), Some(("/bin/x".into(), vec![])));
    }

    #[test]
    fn registrations_of_programs_end_with_them_and_those_of_administrators_stay() {
        let mut r = Registry::default();
        r.register(name("a"), label("ovl"));
        r.listen(Listener {
            layers: [label("ovl")].into(),
            ..listener(1, 1, Some("b"), 0)
        })
        .unwrap();
        assert_eq!(
            r.wanted(),
            [(label("ovl"), name("a")), (label("ovl"), name("b"))].into()
        );
        r.end_session(SessionId([1; 16]));
        assert_eq!(r.wanted(), [(label("ovl"), name("a"))].into());
    }

    #[test]
    fn what_is_saved_is_what_was_said_and_torn_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let mut r = Registry::default();
        r.register(name("a"), label("ovl"));
        r.bind(&name("a"), Bound::Process { pid: 3, start: 4 })
            .unwrap();
        let program = Bound::Program {
            path: "/bin/é".into(),
            auto: true,
            args: vec!["-x".into()],
        };
        r.bind(&name("vpn é"), program).unwrap();
        store.save("names", &r.to_saved()).unwrap();
        assert_eq!(Registry::load(&store).unwrap().saved, r.saved);
        torn::is_never_a_fresh_start(dir.path(), "names", || Registry::load(&store));
    }

    #[test]
    fn a_process_that_was_bound_before_another_boot_is_bound_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let program = Bound::Program {
            path: "/bin/web".into(),
            auto: false,
            args: vec![],
        };
        let mut r = Registry::default();
        r.register(name("a"), label("ovl"));
        r.bind(&name("a"), Bound::Process { pid: 3, start: 4 })
            .unwrap();
        r.bind(&name("a"), program.clone()).unwrap();
        let this = serde_json::to_value(r.to_saved()).unwrap();
        let (mut other, mut old) = (this.clone(), this.clone());
        other["boot_id"] = "00000000-0000-4000-8000-000000000000".into();
        old.as_object_mut().unwrap().remove("boot_id").unwrap();
        store.save("names", &this).unwrap();
        assert_eq!(Registry::load(&store).unwrap().saved, r.saved);
        for saved in [other, old] {
            store.save("names", &saved).unwrap();
            let loaded = Registry::load(&store).unwrap().saved;
            assert_eq!(loaded[&name("a")].bindings, vec![program.clone()]);
            assert_eq!(loaded[&name("a")].layers, [label("ovl")].into());
        }
    }

    #[test]
    fn another_user_does_not_get_a_name_that_is_listened_to() {
        let mut r = Registry::default();
        r.listen(listener(1, 1, Some("n"), 1000)).unwrap();
        assert_eq!(
            r.listen(listener(2, 1, Some("n"), 1001)).unwrap_err().code,
            Code::Denied
        );
        assert!(r.goes_by(&name("n"), 1000) && !r.goes_by(&name("n"), 1001));
    }

    #[test]
    fn a_session_has_a_bounded_number_of_listeners() {
        let mut r = Registry::default();
        for id in 0..1024 {
            r.listen(listener(1, id, Some("n"), 0)).unwrap();
        }
        assert_eq!(
            r.listen(listener(1, 1024, Some("n"), 0)).unwrap_err().code,
            Code::Busy
        );
        r.listen(listener(1, 5, Some("again"), 0)).unwrap();
        r.listen(listener(2, 1, Some("n"), 0)).unwrap();
    }

    #[test]
    fn a_name_is_registered_when_all_its_layers_say_so() {
        let mut r = Registry::default();
        r.register(name("a"), label("x"));
        r.register(name("a"), label("y"));
        let state = |r: &Registry, there: &[&str]| {
            r.infos(|l, _| there.contains(&l.as_str()), |_| String::new())[0]
                .state
                .clone()
        };
        assert_eq!(state(&r, &["x"]), "unregistered");
        assert_eq!(state(&r, &["x", "y"]), "registered");
    }
}
