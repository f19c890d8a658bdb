//! The root's key under a passphrase: what the operator says of it, and what is refused while nobody has said that.

use proto::{Code, Reason};
use zeroize::Zeroizing;

use super::Unicast;
use super::member::Member;
use crate::crypt::{Authority, Kept};

impl Unicast {
    /// Keeps the key under a passphrase from now on, or as it is.
    pub(super) fn seal(&mut self, passphrase: Option<&[u8]>) -> Result<(), Reason> {
        self.root_holder()?;
        let authority = self.me.as_mut().and_then(|me| me.authority.as_mut());
        let Some(authority) = authority else {
            return Ok(());
        };
        authority.seal(passphrase)?;
        let bytes = authority.to_bytes();
        self.save("authority", bytes);
        Ok(())
    }

    /// Takes the key into use until the next start, or until it is locked. One that is in use needs no passphrase.
    pub(super) fn unlock(&mut self, passphrase: &[u8]) -> Result<(), Reason> {
        let me = self.me.as_ref().ok_or_else(|| self.not_a_member())?;
        let Some(sealed) = &me.sealed else {
            return self.root_holder().map(drop);
        };
        let authority = sealed.unlock(passphrase)?;
        if let Some(me) = &mut self.me {
            me.sealed = None;
            me.authority = Some(authority);
        }
        self.issue_as_told();
        self.note_members();
        self.release_revoked();
        Ok(())
    }

    /// Forgets the key until it is unlocked again.
    pub(super) fn lock(&mut self) -> Result<(), Reason> {
        let me = self.me.as_ref().ok_or_else(|| self.not_a_member())?;
        if me.sealed.is_some() {
            return Ok(());
        }
        let (_, authority) = self.root_holder()?;
        if !authority.is_sealed() {
            let text = "the key lies on disk as it is; irm layer seal first, under a passphrase";
            return Err(Reason::new(Code::Conflict, text));
        }
        if let Some(me) = &mut self.me {
            me.sealed = me.authority.take().and_then(Authority::lock);
        }
        Ok(())
    }

    /// Who was revoked while this authority was locked has its name no more.
    fn release_revoked(&mut self) {
        let Some(me) = &mut self.me else { return };
        let Some(authority) = &mut me.authority else {
            return;
        };
        let roots = me.identity.roots();
        let gone = authority
            .issued()
            .filter(|cert| roots.is_revoked(cert.public_key(), cert.member()));
        let gone: Vec<_> = gone.map(|cert| cert.member().clone()).collect();
        for member in &gone {
            authority.release(member);
        }
        let bytes: Zeroizing<Vec<u8>> = authority.to_bytes();
        self.save("authority", bytes);
    }
}

impl Member {
    /// Takes the authority that lay on disk.
    pub(super) fn hold(&mut self, kept: Option<Kept>) {
        match kept {
            Some(Kept::Open(authority)) => self.authority = Some(*authority),
            Some(Kept::Sealed(sealed)) => self.sealed = Some(sealed),
            None => {}
        }
    }

    /// Whether it is the authority, be that locked or not.
    pub(super) fn has_authority(&self) -> bool {
        self.authority.is_some() || self.sealed.is_some()
    }

    /// Why nothing can be issued or said here now, where that is all that is missing.
    pub(super) fn locked(&self) -> Option<Reason> {
        self.sealed.as_ref()?;
        let text = format!(
            "the authority of {0} is locked at {1}; irm layer unlock {0} there",
            self.layer(),
            self.label()
        );
        Some(Reason::new(Code::Denied, text))
    }

    /// How the key is kept: for people.
    pub(super) fn key_word(&self) -> &'static str {
        match &self.authority {
            Some(authority) if authority.is_sealed() => "sealed",
            Some(_) => "open",
            None if self.sealed.is_some() => "locked",
            None => "",
        }
    }
}
