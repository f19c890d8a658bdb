//! Other certificates for those that are members already.

use std::time::Duration;

use proto::{Code, Reason, wire};

use super::{Authority, Grant, Issued};
use crate::UnixTime;
use crate::crypt::identity::renewal_part;
use crate::crypt::issue::MemberKey;
use crate::crypt::{MemberCert, Roots};

impl Authority {
    /// Answers a member that asks for another certificate of its key and shows the one that it has.
    pub fn renewed(
        &mut self,
        request: &wire::EnrolRequest,
        roots: &Roots,
        now: UnixTime,
    ) -> Result<wire::EnrolReply, Reason> {
        let denied = |text: String| Reason::new(Code::Denied, text);
        let (shown, between) = (&request.certificate, &request.intermediates);
        let cert = MemberCert::verify(shown, between, roots, &self.layer, now)
            .map_err(|e| denied(format!("it can't be renewed: {e}")))?;
        let message = renewal_part(&self.layer, shown, request.at);
        cert.check(&message, &request.signature)
            .map_err(|e| denied(format!("it can't be renewed: {e}")))?;
        if request.at.abs_diff(now.secs()) > FRESH.as_secs() {
            return Err(denied(format!(
                "the request to renew is {} s from the issuer's time; set the clock of {} right",
                request.at.abs_diff(now.secs()),
                cert.member()
            )));
        }
        self.renew(&cert, now)
    }

    /// Another certificate for a member that was authenticated. Asked again soon, the answer is the same: the first may have
    /// got lost.
    pub fn renew(&mut self, cert: &MemberCert, now: UnixTime) -> Result<wire::EnrolReply, Reason> {
        let (key, member) = (*cert.public_key(), cert.member().clone());
        let known = self.members.get(&member);
        let recent = known.and_then(|issued| MemberCert::parse(&issued.certificate).ok());
        let recent = recent.filter(|recent| *recent.public_key() == key);
        if recent.is_none() && known.is_some() {
            let text =
                format!("member {member} was certified with another key here; enroll it anew");
            return Err(Reason::new(Code::Conflict, text));
        }
        let same = |recent: &MemberCert| {
            let left = recent.not_after().0.saturating_sub(now.0);
            let newer = recent.not_after() > cert.not_after();
            newer && left > self.cert_life * 5 / 6 && self.root.has_issued(recent.der())
        };
        if let Some(recent) = recent.as_ref().filter(|recent| same(recent)) {
            return Ok(self.reply(recent.der().to_vec()));
        }
        // What was granted since is in the ledger; who was let in by another issuer keeps what it has.
        let (grant, csr) = match known {
            Some(issued) => (issued.grant.clone(), issued.csr),
            None => (Grant::of(cert), None),
        };
        let key = MemberKey(key);
        let certificate =
            self.root
                .issue(&self.layer, &member, &grant, &key, self.cert_life, now)?;
        let issued = Issued {
            address: cert.address(),
            grant,
            csr,
            certificate: certificate.clone(),
        };
        self.members.insert(member, issued);
        Ok(self.reply(certificate))
    }

    /// The next certificate of a member puts it in these groups.
    #[cfg(test)]
    pub(crate) fn regroup(&mut self, member: &proto::Label, groups: &[proto::Label]) {
        if let Some(issued) = self.members.get_mut(member) {
            issued.grant.groups = groups.to_vec();
        }
    }
}

impl Grant {
    pub(super) fn of(cert: &MemberCert) -> Self {
        Self {
            prefixes: cert.prefixes().to_vec(),
            groups: cert.groups().to_vec(),
        }
    }
}

/// How old or early a request may be, by the issuer's clock.
const FRESH: Duration = Duration::from_secs(60 * 60);
