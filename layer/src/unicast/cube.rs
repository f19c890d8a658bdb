//! The QoS cubes of this layer: what each is, and what is granted. Nothing is ever granted as less than was asked.

use std::time::Duration;

use proto::{Code, QosSpec, Reason};

/// A class of service. Its number stands in the header of each of its PDUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Cube {
    /// In any order, may lose.
    Raw = 0,
    /// In order, may lose.
    Best = 1,
    /// Everything, in order.
    Data = 2,
    /// Worth nothing after 250 ms.
    Video = 3,
    /// Worth nothing after 80 ms.
    Voice = 4,
    /// What other members say to each other of flows and keys, in transit. It stands in no header.
    Signal = 5,
}

/// What a cube's drops are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// Too much waited.
    pub(super) full: &'static str,
    /// The queue stood for too long.
    pub(super) aged: &'static str,
    /// The deadline was over.
    pub(super) late: &'static str,
}

impl Cube {
    /// All, by their numbers.
    pub(super) const ALL: [Self; 6] = [
        Self::Raw,
        Self::Best,
        Self::Data,
        Self::Video,
        Self::Voice,
        Self::Signal,
    ];
    /// Who goes first within a round.
    pub(super) const BY_PRIORITY: [Self; 6] = [
        Self::Signal,
        Self::Voice,
        Self::Video,
        Self::Data,
        Self::Best,
        Self::Raw,
    ];

    /// The cube that serves a QoS.
    pub(super) fn of(qos: &QosSpec) -> Self {
        match qos {
            QosSpec { reliable: true, .. } => Self::Data,
            QosSpec { priority: 5.., .. } => Self::Voice,
            QosSpec { priority: 1.., .. } => Self::Video,
            QosSpec { ordered: true, .. } => Self::Best,
            _ => Self::Raw,
        }
    }

    /// The cube with that number; one that isn't known yet is served as raw.
    pub(super) fn numbered(number: u8) -> Self {
        let known = Self::ALL.iter().find(|c| **c as u8 == number);
        known
            .copied()
            .filter(|c| *c != Self::Signal)
            .unwrap_or(Self::Raw)
    }

    /// Its share when all have something to send: of 28.
    pub(super) fn weight(self) -> i64 {
        match self {
            Self::Signal | Self::Voice | Self::Best | Self::Raw => 4,
            Self::Video | Self::Data => 6,
        }
    }

    /// Whether it is worth less the later it comes.
    pub(super) fn is_urgent(self) -> bool {
        matches!(self, Self::Signal | Self::Voice | Self::Video)
    }

    /// Whether its flows send less when their packets are marked.
    pub(super) fn reacts(self) -> bool {
        self == Self::Data
    }

    /// How long a packet may wait in a queue before it is worth nothing.
    pub(super) fn max_age(self) -> Option<Duration> {
        match self {
            Self::Voice => Some(Duration::from_millis(QosSpec::VOICE.max_delay_ms.into())),
            Self::Video => Some(Duration::from_millis(QosSpec::VIDEO.max_delay_ms.into())),
            Self::Signal | Self::Data | Self::Best | Self::Raw => None,
        }
    }

    /// The code point of its datagrams on an IP network below (RFC 4594): EF, AF41, AF11, default.
    pub(super) fn dscp(self) -> u8 {
        match self {
            Self::Signal => CONTROL_DSCP,
            Self::Voice => 46,
            Self::Video => 34,
            Self::Data => 10,
            Self::Best | Self::Raw => 0,
        }
    }

    /// What its drops are called.
    pub(super) fn names(self) -> Names {
        let [full, aged, late] = match self {
            Self::Raw => ["drop.full_raw", "drop.aged_raw", "drop.late_raw"],
            Self::Best => ["drop.full_best", "drop.aged_best", "drop.late_best"],
            Self::Data => ["drop.full_data", "drop.aged_data", "drop.late_data"],
            Self::Video => ["drop.full_video", "drop.aged_video", "drop.late_video"],
            Self::Voice => ["drop.full_voice", "drop.aged_voice", "drop.late_voice"],
            Self::Signal => ["drop.full_signal", "drop.aged_signal", "drop.late_signal"],
        };
        Names { full, aged, late }
    }
}

/// The code point of control (CS6, RFC 4594).
pub(super) const CONTROL_DSCP: u8 = 48;

/// Grants a QoS exactly as it was asked for, or says what to ask instead.
pub(super) fn grant(qos: &QosSpec) -> Result<(), Reason> {
    let text = match qos {
        QosSpec {
            reliable: true,
            ordered: false,
            ..
        } => "this layer keeps the order of all that it sends again; ask for data",
        QosSpec {
            reliable: true,
            max_delay_ms: 1..,
            ..
        } => "what loses nothing can't keep a deadline; ask for data, or for video or voice",
        _ => return Ok(()),
    };
    Err(Reason::new(
        Code::QosNotGranted,
        format!("qos {qos} is not granted: {text}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_granted_and_what_contradicts_itself_is_refused_with_advice() {
        for qos in [
            QosSpec::RAW,
            QosSpec::BEST,
            QosSpec::DATA,
            QosSpec::VIDEO,
            QosSpec::VOICE,
        ] {
            assert_eq!(grant(&qos), Ok(()));
        }
        for qos in [
            QosSpec {
                ordered: false,
                ..QosSpec::DATA
            },
            QosSpec {
                max_delay_ms: 80,
                ..QosSpec::DATA
            },
        ] {
            let reason = grant(&qos).unwrap_err();
            assert_eq!(reason.code, Code::QosNotGranted);
            assert!(reason.text.contains("ask for data"), "{reason}");
        }
    }

    #[test]
    fn each_word_has_its_cube_and_a_number_that_is_unknown_is_served_last() {
        let words = [
            QosSpec::RAW,
            QosSpec::BEST,
            QosSpec::DATA,
            QosSpec::VIDEO,
            QosSpec::VOICE,
        ];
        assert_eq!(words.map(|qos| Cube::of(&qos)), Cube::ALL[..5]);
        for cube in words.map(|qos| Cube::of(&qos)) {
            assert_eq!(Cube::numbered(cube as u8), cube);
        }
        for number in 5..=255 {
            assert_eq!(Cube::numbered(number), Cube::Raw);
        }
    }
}
