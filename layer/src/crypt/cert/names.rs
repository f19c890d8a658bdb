//! The names in a certificate: which member of which layer it is, and in which groups.

use proto::Label;
use x509_parser::extensions::GeneralName;

use super::CertError;

/// The name of a member in a certificate.
pub(in crate::crypt) fn uri(layer: &Label, member: &Label) -> String {
    format!("{SCHEME}{layer}/{member}")
}

/// Layer and member of the only name of our scheme; names of other schemes don't matter.
pub(in crate::crypt) fn member_of<'a>(
    uris: impl Iterator<Item = &'a str>,
) -> Option<(Label, Label)> {
    let mut ours = uris.filter_map(|uri| uri.strip_prefix(SCHEME));
    let (only, None) = (ours.next()?, ours.next()) else {
        return None;
    };
    let (layer, member) = only.split_once('/')?;
    Some((Label::new(layer).ok()?, Label::new(member).ok()?))
}

/// The name of a group in a certificate. It has a scheme of its own, so that a reader of member names passes it over.
pub(in crate::crypt) fn group_uri(layer: &Label, group: &Label) -> String {
    format!("{GROUP}{layer}/{group}")
}

/// The groups among these names. One of another layer is refused, lest a name there count here.
pub(super) fn groups_of<'a>(
    layer: &Label,
    uris: impl Iterator<Item = &'a str>,
) -> Result<Vec<Label>, CertError> {
    let group = |text: &str| {
        let (of, group) = text.split_once('/')?;
        (of == layer.as_str())
            .then(|| Label::new(group).ok())
            .flatten()
    };
    let groups = uris.filter_map(|uri| uri.strip_prefix(GROUP)).map(group);
    let mut groups = groups
        .collect::<Option<Vec<_>>>()
        .ok_or(CertError::Malformed(
            "a group must be strata-group://LAYER/GROUP of its own layer",
        ))?;
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > MAX_GROUPS {
        return Err(CertError::Malformed("it has more than 16 groups"));
    }
    Ok(groups)
}

/// Its names that are URIs.
pub(super) fn uris<'a>(names: &'a [GeneralName<'a>]) -> impl Iterator<Item = &'a str> {
    names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    })
}

const SCHEME: &str = "strata://";
const GROUP: &str = "strata-group://";
/// So that a certificate stays within a few PDUs of a handshake, and a policy's check short.
pub(in crate::crypt) const MAX_GROUPS: usize = 16;
