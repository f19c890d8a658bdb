//! Certificates renew themselves: before two thirds of their life are over a member asks those that issue, one after the other, for
//! another, over the way that enrolment takes. Nothing that stands is touched.

use std::time::{Duration, Instant};

use proto::ipcp::{Configured, Event, Notice};
use proto::wire;
use proto::{Code, Label, Reason};
use rand_core::RngCore;

use super::Unicast;
use super::expel::trusted;
use super::member::Member;
use super::relay::Asker;
use crate::crypt::{Identity, MemberCert};
use crate::{Now, Output, UnixTime};

/// When the certificate of this member is looked at, and whom it asks.
#[derive(Default)]
pub(super) struct Renewal {
    /// When it is looked at next.
    at: Option<Instant>,
    /// When it is renewed, of a certificate that ends then.
    due: Option<(UnixTime, UnixTime)>,
    /// When it is renewed though there is time, since the root that it is of ends.
    hastened: Option<UnixTime>,
    /// How often it was asked for without success.
    tries: u32,
    /// How many warnings of its end were given.
    warned: usize,
    /// Why it wasn't renewed when it was tried last.
    pub(super) last: Option<Reason>,
}

impl Renewal {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Has the certificate looked at soon.
    pub(super) fn look_again(&mut self) {
        self.at = None;
    }
}

/// Asking.
impl Unicast {
    /// Looks at the certificate, now and then: the clock may step.
    pub(super) fn tick_renewal(&mut self, now: Now) {
        self.tick_rollover(now);
        let Some(me) = &self.me else { return };
        if me.renewal.at.is_some_and(|at| at > now.mono) {
            return;
        }
        let cert = me.identity.cert().clone();
        let due = match me.renewal.due {
            Some((due, end)) if end == cert.not_after() => due,
            _ => due(&cert, self.rng.next_u32()),
        };
        self.warn_of_end(now, &cert);
        let hastened = self.hasten(now, &cert);
        let sooner = hastened.map_or(due, |at| at.min(due));
        let left = sooner.0.saturating_sub(now.wall.0);
        let wait = match left.is_zero() {
            true => self.ask_renewal(now, &cert),
            false => left.min(LOOK),
        };
        if let Some(me) = &mut self.me {
            // A renewal at once has made these anew.
            if me.identity.cert().der() == cert.der() {
                me.renewal.due = Some((due, cert.not_after()));
                me.renewal.hastened = hastened;
            }
            me.renewal.at = Some(now.mono + wait);
        }
    }

    /// When the certificate is to be renewed because its root ends; not all members at once, and those that issue first.
    fn hasten(&mut self, now: Now, cert: &MemberCert) -> Option<UnixTime> {
        let me = self.me.as_ref()?;
        if !me.identity.is_of_old_root(now.wall) {
            return None;
        }
        let known = me.renewal.hastened;
        if known.is_some() || me.authority.is_some() {
            return known.or(Some(now.wall));
        }
        let chance = self.rng.next_u32() % 1024;
        let spread = (life(cert) / 20).min(SPREAD) * chance / 1024;
        Some(UnixTime(now.wall.0 + spread))
    }

    /// Asks one of those that issue. Gives the time until the next is asked.
    fn ask_renewal(&mut self, now: Now, cert: &MemberCert) -> Duration {
        let spread = self.rng.next_u32();
        let Some(me) = &mut self.me else { return LOOK };
        if let Some(authority) = &mut me.authority {
            let made = authority.renew(cert, now.wall);
            let bytes = authority.to_bytes();
            self.save("authority", bytes);
            self.renewal_answered(now, made);
            return LOOK;
        }
        let issuers = me.issuers();
        if let Some(locked) = me.locked().filter(|_| issuers.is_empty()) {
            me.renewal.last = Some(locked);
        }
        if issuers.is_empty() {
            // A site's own PKI gives its members other certificates as it sees fit.
            return LOOK;
        }
        let tries = me.renewal.tries;
        me.renewal.tries = tries.saturating_add(1);
        let issuer = &issuers[tries as usize % issuers.len()];
        let request = me.identity.renewal(issuer, now.wall);
        let relay = wire::EnrolRelay {
            id: 0,
            request: Some(request),
            exporter: vec![0; 32],
            hops: 0,
        };
        self.stats.count("renew.asked");
        if let Err(reason) = self.hand_on(now, Asker::Own, relay) {
            self.renewal_failed(reason);
        }
        // All are asked in turn at first; whoever is down for a week is not asked each minute of it.
        let most = (life(cert) / 60).clamp(FIRST, MOST);
        let rounds = tries / u32::try_from(issuers.len()).unwrap_or(1);
        let wait = FIRST.saturating_mul(1 << rounds.min(16)).min(most);
        wait + wait * (spread % 256) / 1024
    }

    fn renewal_failed(&mut self, reason: Reason) {
        self.stats.count("renew.failed");
        if let Some(me) = &mut self.me {
            me.renewal.last = Some(reason);
        }
    }

    /// The answer of one that issues, or of a member on the way to it.
    pub(super) fn renewal_answered(&mut self, now: Now, answer: Result<wire::EnrolReply, Reason>) {
        let Some(me) = &mut self.me else { return };
        let taken = answer.and_then(|reply| me.identity.renew(&reply, now.wall));
        match taken {
            Ok(false) => {}
            Ok(true) => self.certificate_taken(now),
            Err(reason) => self.renewal_failed(reason),
        }
    }

    /// Takes another certificate of the site's own PKI into use, with its key and the roots that came with it.
    pub(super) fn take_certificate(
        &mut self,
        now: Now,
        identity: Identity,
    ) -> Result<Configured, Reason> {
        let Some(me) = &mut self.me else {
            return Err(self.not_a_member());
        };
        let (old, new) = (&me.identity, &identity);
        if old.cert().der() == new.cert().der() && old.roots().ders() == new.roots().ders() {
            return Ok(me.configured());
        }
        if !me.is_of_a_site() {
            let text = format!(
                "{} has its certificate of the layer's own authority; destroy it first, to enroll it with another",
                me.label()
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        let before = me.identity.roots().clone();
        let after = trusted(identity.roots().clone(), &me.decrees);
        me.identity = identity;
        self.believe(now, &before, &after);
        self.certificate_taken(now);
        let me = self.me.as_ref();
        me.map(Member::configured)
            .ok_or_else(|| self.not_a_member())
    }

    /// Another certificate of this member counts from now on.
    fn certificate_taken(&mut self, now: Now) {
        let Some(me) = &mut self.me else { return };
        me.renewal = Renewal::default();
        let until = me.identity.cert().not_after();
        let bytes = me.identity.to_bytes();
        self.save("identity", bytes);
        self.stats.count("renew.done");
        self.certificate_changed(now);
        let text = format!(
            "the certificate was renewed; it ends at second {}",
            until.secs()
        );
        let name = self.name.to_string();
        self.notice("certificate.renewed", text, &name, false);
    }

    /// Shakes hands with another certificate from now on, and signs what this member says with it.
    fn certificate_changed(&mut self, now: Now) {
        let Some(me) = &mut self.me else { return };
        if me.trust_anew(&self.clock).is_err() {
            return self.stats.count("renew.unusable");
        }
        let records = me.routing.lsdb.reissue(now, &me.identity);
        self.flood(now, records, None);
        self.groups_changed(now);
        self.members_changed();
    }

    /// Says so when little of the certificate's life is left.
    fn warn_of_end(&mut self, now: Now, cert: &MemberCert) {
        let level = level(cert, now.wall);
        let Some(me) = &mut self.me else { return };
        let before = std::mem::replace(&mut me.renewal.warned, level);
        if level <= before {
            return;
        }
        let text = me.ending(now);
        let fields = vec![("member".to_owned(), cert.member().to_string())];
        self.out.push_back(Output::Control(Event::Notice(Notice {
            kind: "certificate.ends".to_owned(),
            text,
            fields,
            warning: true,
        })));
    }

    /// What `status` warns of.
    pub(super) fn status_ending(&self, now: Now) -> Option<String> {
        let me = self.me.as_ref()?;
        let cert = me.identity.cert();
        (level(cert, now.wall) > 0).then(|| me.ending(now))
    }
}

impl Member {
    /// What is said of the end of its certificate, and what to do.
    fn ending(&self, now: Now) -> String {
        let cert = self.identity.cert();
        let left = cert.not_after().0.saturating_sub(now.wall.0).as_secs();
        let (member, layer) = (cert.member(), cert.layer());
        let when = match (left / 60, left / 3600, left / 86_400) {
            _ if left == 0 => "has expired".to_owned(),
            (minutes, 0..2, _) => format!("expires in {minutes} min"),
            (_, hours, 0..2) => format!("expires in {hours} h"),
            (_, _, days) => format!("expires in {days} days"),
        };
        let what = match (&self.renewal.last, left) {
            _ if self.is_of_a_site() => format!(
                "; give it another of your PKI: irm ipcp enroll {member} --layer {layer} --dst MEMBER --ca FILE --cert FILE --key FILE"
            ),
            (Some(why), 0) => format!("; it wasn't renewed: {why}; enroll it anew"),
            (Some(why), _) => format!("; it wasn't renewed: {why}"),
            (None, 0) => "; enroll it anew".to_owned(),
            (None, _) => String::new(),
        };
        format!("the certificate of {member} {when}{what}")
    }

    /// Whom to ask for another certificate, whoever gave this one first.
    fn issuers(&self) -> Vec<Label> {
        let trust = self.trust();
        let named = trust
            .issuers
            .iter()
            .filter_map(|der| crate::crypt::issuer_name(der));
        let mut all: Vec<Label> = Vec::new();
        for name in self.issuer.iter().cloned().chain(trust.holder).chain(named) {
            if !all.contains(&name) && name != *self.label() {
                all.push(name);
            }
        }
        all
    }
}

/// Between three fifths of its life and 65 hundredths, so that members that joined together don't ask together, and who has an
/// issuer has been given another when two thirds are over, with which warnings begin.
fn due(cert: &MemberCert, chance: u32) -> UnixTime {
    let life = life(cert);
    let spread = life / 20 * (chance % 1024) / 1024;
    UnixTime(cert.not_after().0.saturating_sub(life * 2 / 5) + spread)
}

/// How long it lives from when it was issued, as far as that can be told: it is dated back.
fn life(cert: &MemberCert) -> Duration {
    let all = cert.not_after().0.saturating_sub(cert.not_before().0);
    all.saturating_sub(BACK).max(all / 3)
}

/// How many of the times at which people are warned have come: 30, 7 and 1 days before its end, or with a third, an eighth and a
/// sixteenth of its life left if that is later, and its end.
fn level(cert: &MemberCert, now: UnixTime) -> usize {
    let life = life(cert);
    let left = cert.not_after().0.saturating_sub(now.0);
    let times = [(30, 3), (7, 8), (1, 16)];
    let passed = |(days, part): &(u32, u32)| left < (DAY * *days).min(life / *part);
    times.iter().filter(|time| passed(time)).count() + usize::from(left.is_zero())
}

/// How far our own issuers date a certificate back.
const BACK: Duration = Duration::from_secs(15 * 60);
/// How often the certificate is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// The first pause before another is asked, and the longest.
const FIRST: Duration = Duration::from_secs(30);
const MOST: Duration = Duration::from_secs(3600);
/// Over how long the members of a layer renew that is given another root.
const SPREAD: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);
