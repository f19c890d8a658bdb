//! What an authority has given away already: no name, address or prefix is given twice.

use ipnet::IpNet;
use proto::{Addr, Code, Label, Reason};

use super::{Authority, Open};
use crate::UnixTime;
use crate::crypt::cert::issuer_prefixes;
use crate::crypt::{address, prefix};

impl Authority {
    /// Invitations that can still be used.
    pub(super) fn open(&self, now: UnixTime) -> impl Iterator<Item = (&[u8; 16], &Open)> {
        self.invitations
            .iter()
            .filter(move |(_, open)| open.left > 0 && now.secs() < open.expires)
    }

    /// Refuses a name that a member or an open invitation other than `except` has, or whose address would collide.
    pub(super) fn check_name(
        &self,
        name: &Label,
        except: Option<&[u8; 16]>,
        now: UnixTime,
    ) -> Result<(), Reason> {
        let conflict = |text: String| Err(Reason::new(Code::Conflict, text));
        if self.members.contains_key(name) {
            return conflict(format!(
                "member {name} of {} exists already; choose another name",
                self.layer
            ));
        }
        let mut invited = self
            .open(now)
            .filter(|(id, _)| Some(*id) != except)
            .filter_map(|(_, open)| open.member.as_ref());
        if invited.any(|invited| invited == name) {
            return conflict(format!(
                "an open invitation grants the name {name}; use that one, or wait until it expires"
            ));
        }
        let taken = self.address_taken(address(&self.layer, name), except, now);
        match taken {
            Some(other) => conflict(format!(
                "the address of {name} would collide with that of {other}; choose another name"
            )),
            None => Ok(()),
        }
    }

    pub(super) fn address_taken(
        &self,
        wanted: Addr,
        except: Option<&[u8; 16]>,
        now: UnixTime,
    ) -> Option<&Label> {
        let invited = self
            .open(now)
            .filter(|(id, _)| Some(*id) != except)
            .filter_map(|(_, open)| open.member.as_ref());
        let invited = invited.map(|name| (name, address(&self.layer, name)));
        let members = self.members.iter();
        let members = members.map(|(name, issued)| (name, issued.address));
        let mut all = members.chain(invited);
        all.find(|(_, taken)| *taken == wanted)
            .map(|(name, _)| name)
    }

    /// Prefixes in their canonical form; refuses what a member or an open invitation has already.
    pub(super) fn checked_prefixes(
        &self,
        prefixes: &[IpNet],
        now: UnixTime,
    ) -> Result<Vec<IpNet>, Reason> {
        let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
        let conflict = |text: String| Err(Reason::new(Code::Conflict, text));
        for (i, prefix) in prefixes.iter().enumerate() {
            if let Some(other) = prefixes[..i].iter().find(|other| overlap(prefix, other)) {
                return conflict(format!(
                    "the prefixes {other} and {prefix} overlap; give each address once"
                ));
            }
            if let Some(part) = self.part_of_another(prefix) {
                return conflict(format!(
                    "prefix {prefix} overlaps {part}, which another member that issues gives addresses from; choose another, or invite there"
                ));
            }
            let owner = self.members.iter().find_map(|(m, issued)| {
                issued
                    .grant
                    .prefixes
                    .iter()
                    .find(|p| overlap(p, prefix))
                    .map(|p| (m, p))
            });
            if let Some((member, taken)) = owner {
                return conflict(format!(
                    "prefix {prefix} overlaps {taken}, which member {member} owns; choose another"
                ));
            }
            let open = self.open(now).find_map(|(_, open)| {
                open.grant
                    .prefixes
                    .iter()
                    .find(|p| overlap(p, prefix))
                    .map(|p| (&open.member, p))
            });
            if let Some((member, taken)) = open {
                let whom = member
                    .as_ref()
                    .map_or_else(|| "anybody".to_string(), ToString::to_string);
                return conflict(format!(
                    "prefix {prefix} overlaps {taken}, which an open invitation for {whom} grants; choose another"
                ));
            }
        }
        let own = issuer_prefixes(self.root.der());
        let within = |prefix: &&IpNet| {
            own.as_ref()
                .is_none_or(|own| own.iter().any(|own| own.contains(*prefix)))
        };
        if let Some(prefix) = prefixes.iter().find(|prefix| !within(prefix)) {
            return Err(Reason::new(
                Code::Denied,
                format!("this issuer may not grant {prefix}; invite at one that may"),
            ));
        }
        let canonical = prefix::canonical(prefixes);
        if canonical.len() > MAX_PREFIXES {
            return Err(Reason::new(
                Code::Usage,
                "a member can own at most 64 prefixes; grant larger ones",
            ));
        }
        Ok(canonical)
    }
}

/// So that a certificate stays within a few PDUs of a handshake.
const MAX_PREFIXES: usize = 64;
