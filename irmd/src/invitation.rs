//! What irmd needs of an invitation: its layer and where members can be reached. The secret in it is the joiner's alone;
//! a line that is not understood here is left for the IPC process to refuse.

use proto::Label;
use proto::ipcp::Host;

/// The open part of an invitation.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Open {
    /// The layer that it is for.
    pub(crate) layer: Option<Label>,
    /// Names of members with the addresses of their shims.
    pub(crate) hosts: Vec<Host>,
}

impl Open {
    /// Reads `strata://LAYER/enrol?v=1,…,at=NAME=ADDR:PORT,…`.
    pub(crate) fn read(url: &str) -> Self {
        let Some((layer, fields)) = url
            .trim()
            .strip_prefix("strata://")
            .and_then(|rest| rest.split_once('/'))
        else {
            return Self::default();
        };
        let fields = fields.split_once('?').map_or("", |(_, fields)| fields);
        let hosts = fields
            .split(',')
            .filter_map(|f| host(f.strip_prefix("at=")?))
            .take(MOST)
            .collect();
        Self {
            layer: Label::new(layer).ok(),
            hosts,
        }
    }
}

fn host(text: &str) -> Option<Host> {
    let (name, at) = text.rsplit_once('=')?;
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, rest) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |b: &u8| char::from(*b).to_digit(16);
                bytes.push(u8::try_from(digit(high)? << 4 | digit(low)?).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            _ => bytes.push(*first),
        }
    }
    Some(Host {
        name: proto::Name::from_bytes(&bytes).ok()?,
        at: at.parse().ok()?,
    })
}

/// More hosts than that no honest invitation names.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layer_and_hosts_are_read_and_the_rest_is_left_alone() {
        let open = Open::read(
            "strata://ovl/enrol?v=1,id=00,seed=11,at=ovl-a=10.0.0.1:3359,at=a%3Db=[fd00::1]:99,sum=1234\n",
        );
        assert_eq!(open.layer, Label::new("ovl").ok());
        assert_eq!(
            open.hosts,
            [
                "ovl-a=10.0.0.1:3359".parse().unwrap(),
                "a=b=[fd00::1]:99".parse().unwrap()
            ]
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(strata://[a-z]{0,5}/enrol\\?)?[%a-f0-9=,:at]{0,40}") {
            Open::read(&text);
        }
    }
}
