//! Another root for the layer while every flow stands: the holder of the root begins and ends that, and every member renews
//! in between.

use std::collections::BTreeMap;

use proto::ipcp::Rollover;
use proto::{Code, Label, Reason};

use super::Unicast;
use super::expel::revocations;
use crate::Now;
use crate::crypt::{Authority, MemberCert, Roots};
use crate::decree::{Kind, Revocation};

/// The holder of the root's key.
impl Unicast {
    pub(super) fn rollover(&mut self, now: Now, ask: Rollover) -> Result<(), Reason> {
        match ask {
            Rollover::Begin(ends) => {
                let until = ends.map(|ends| (now.wall.0 + ends).as_secs());
                self.begin_rollover(now, until)
            }
            Rollover::Finish { force } => self.finish_rollover(now, force),
        }
    }

    fn begin_rollover(&mut self, now: Now, until: Option<u64>) -> Result<(), Reason> {
        self.publish_trust(now)?;
        let (me, authority) = self.root_holder()?;
        let trust = me.trust();
        if trust.is_rolling() && !authority.is_rolling() {
            let text = "the root is being changed already, and the one before is held here no more; say --finish";
            return Err(Reason::new(Code::Conflict, text));
        }
        let until = until.or(trust.until);
        let Some(authority) = self.authority() else {
            return Ok(());
        };
        let told = authority.begin_rollover(trust.clone(), until, now.wall)?;
        // Kept before anything is said: a root that is believed must not get lost.
        let bytes = authority.to_bytes();
        self.save("authority", bytes);
        if told == trust {
            return Ok(());
        }
        self.publish_decree(now, Kind::TRUST, told.write())?;
        self.say_again(now)
    }

    /// What holds is said once more, by every key that speaks now.
    fn say_again(&mut self, now: Now) -> Result<(), Reason> {
        let Some(me) = &self.me else { return Ok(()) };
        let mut revoked = revocations(&me.decrees);
        revoked.retain(|r| r.until > now.wall.secs());
        revoked.sort_by(|a, b| (a.key, &a.member, a.until).cmp(&(b.key, &b.member, b.until)));
        revoked.dedup_by(|a, b| (a.key, &a.member) == (b.key, &b.member));
        let policy = self.current_decree(Kind::POLICY).map(<[u8]>::to_vec);
        if !revoked.is_empty() {
            self.publish_decree(now, Kind::REVOKED, Revocation::write(&revoked))?;
        }
        if let Some(policy) = policy {
            self.publish_decree(now, Kind::POLICY, policy)?;
        }
        Ok(())
    }

    fn finish_rollover(&mut self, now: Now, force: bool) -> Result<(), Reason> {
        self.note_members();
        let (me, authority) = self.root_holder()?;
        let trust = me.trust();
        if !trust.is_rolling() {
            return match authority.is_rolling() {
                true => Err(Reason::new(
                    Code::Conflict,
                    "the new root was not said to all yet; begin again, then finish",
                )),
                false => Ok(()),
            };
        }
        let waiting = self.waiting(now);
        if !waiting.is_empty() && !force {
            return Err(still_waiting(me.layer(), &waiting));
        }
        let Some(authority) = self.authority() else {
            return Ok(());
        };
        let told = authority.end_rollover(trust)?;
        for member in &waiting {
            authority.release(member);
        }
        let bytes = authority.to_bytes();
        self.save("authority", bytes);
        // The root before is believed as well until the last word here.
        self.say_again(now)?;
        self.publish_decree(now, Kind::TRUST, told.write())
            .map(drop)
    }

    /// Ends the change of the root when its time has come.
    pub(super) fn tick_rollover(&mut self, now: Now) {
        let Ok((me, _)) = self.root_holder() else {
            return;
        };
        let trust = me.trust();
        let over = trust.until.is_some_and(|until| now.wall.secs() >= until);
        if over && trust.is_rolling() && self.finish_rollover(now, true).is_err() {
            self.stats.count("rollover.failed");
        }
    }

    /// The members whose certificates end with the root that ends, as far as is known here.
    pub(super) fn waiting(&self, now: Now) -> Vec<Label> {
        let Some(me) = &self.me else {
            return Vec::new();
        };
        let roots = me.identity.roots();
        if roots.ders().len() < 2 {
            return Vec::new();
        }
        let first = roots.first();
        let ledger = me.authority.iter().flat_map(Authority::issued);
        let live = me.routing.lsdb.members().cloned();
        let named = |cert: MemberCert| (cert.member().clone(), cert);
        let newest: BTreeMap<Label, MemberCert> = ledger.chain(live).map(named).collect();
        let ends = |cert: &MemberCert| {
            let counts = !cert.is_over(now.wall) && !cert.is_revoked(roots);
            counts && cert.is_foreign(&[], &first, now.wall)
        };
        let waiting = newest.into_iter().filter(|(_, cert)| ends(cert));
        waiting.map(|(member, _)| member).collect()
    }

    fn authority(&mut self) -> Option<&mut Authority> {
        self.me.as_mut()?.authority.as_mut()
    }
}

/// Every member.
impl Unicast {
    /// Tells people that another root is believed, or one no more.
    pub(super) fn notice_roots(&mut self, before: &Roots, after: &Roots) {
        let Some(me) = &self.me else { return };
        let layer = me.layer();
        let (kind, text) = match (after.lost_any(before), before.lost_any(after)) {
            (true, false) => (
                "rollover.begun",
                format!("the root of {layer} is being changed; certificates renew themselves"),
            ),
            (_, true) => (
                "rollover.ended",
                format!("the root of {layer} was changed; the one before is believed no more"),
            ),
            (false, false) => return,
        };
        let name = self.name.to_string();
        self.notice(kind, text, &name, false);
    }

    /// What `status` warns of while the root is changed.
    pub(super) fn status_rolling(&self, now: Now) -> Option<String> {
        let me = self.me.as_ref()?;
        let trust = me.trust();
        if !trust.is_rolling() {
            return None;
        }
        let (layer, member) = (me.layer(), me.label());
        let ends = match trust.until {
            Some(until) => format!("in {} min", until.saturating_sub(now.wall.secs()) / 60),
            None => "when that is finished".to_owned(),
        };
        if me.identity.is_of_old_root(now.wall) {
            let why = me.renewal.last.as_ref();
            let why = why.map_or_else(String::new, |why| format!("; it wasn't renewed: {why}"));
            return Some(format!(
                "the root of {layer} is being changed and the certificate of {member} is of the one before: it is out {ends}{why}"
            ));
        }
        self.root_holder().ok()?;
        let waiting = self.waiting(now);
        Some(match waiting.is_empty() {
            true => format!(
                "the root of {layer} is being changed and all members have renewed; irm layer rollover {layer} --finish"
            ),
            false => format!(
                "the root of {layer} is being changed; {} would be out {ends}",
                names(&waiting)
            ),
        })
    }
}

fn still_waiting(layer: &Label, waiting: &[Label]) -> Reason {
    let text = format!(
        "{} have certificates of the root before and would be out of {layer}; wait until they have renewed, or give --force",
        names(waiting)
    );
    Reason::new(Code::Conflict, text)
}

/// A few of them, for a person.
fn names(members: &[Label]) -> String {
    let shown: Vec<&str> = members.iter().take(MAX_NAMED).map(Label::as_str).collect();
    let more = match members.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

const MAX_NAMED: usize = 8;
