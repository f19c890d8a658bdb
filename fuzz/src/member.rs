//! Members of one layer, made once a process: keys are the one thing here that differs from run to run.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use layer::crypt::{Authority, Identity, Invitation};
use layer::{Now, UnixTime};
use proto::ipcp::Invite;

use super::commands::label;

pub(super) struct Layer {
    pub(super) issuer: Identity,
    pub(super) member: Identity,
    /// An invitation that nobody has used.
    pub(super) url: String,
    start: Instant,
}

impl Layer {
    pub(super) fn get() -> &'static Self {
        static LAYER: OnceLock<Layer> = OnceLock::new();
        LAYER.get_or_init(Self::make)
    }

    /// The time, so long after the beginning.
    pub(super) fn at(&self, after: Duration) -> Now {
        Now {
            mono: self.start + after,
            wall: UnixTime(WALL + after),
        }
    }

    fn make() -> Self {
        let wall = UnixTime(WALL);
        let prefixes = [
            "10.1.0.0/16".parse().unwrap(),
            "fd00:1::/32".parse().unwrap(),
        ];
        let (mut authority, issuer) =
            Authority::create(&label("ovl"), &label("a"), &prefixes, wall).unwrap();
        let mut invited = |name: &str| {
            let ask = Invite {
                member: Some(label(name)),
                prefixes: vec![],
                expires_ms: 600_000,
                uses: 1,
                hints: vec!["a=192.0.2.1".parse().unwrap()],
                groups: Vec::new(),
            };
            authority
                .invite(&ask, &label("a"), &[label("a")], wall)
                .unwrap()
        };
        let (first, url) = (invited("b"), invited("c"));
        let joiner = Invitation::parse(&first, wall)
            .unwrap()
            .start(&label("b"))
            .unwrap();
        let reply = authority
            .redeem(&joiner.request(&[7; 32]), &[7; 32], wall)
            .unwrap();
        let member = joiner.finish(&reply, wall).unwrap();
        Self {
            issuer,
            member,
            url,
            start: Instant::now(),
        }
    }
}

const WALL: Duration = Duration::from_secs(1_800_000_000);
