//! Which class of service a packet asks for by its code point, and the flow that serves it. A peer has at most one flow of each class.

use ip::upper::dscp;
use proto::QosSpec;

/// A class of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// All that asks for nothing; what asks for less than that, too, since the layer has no lesser cube.
    Plain,
    /// Worth nothing after 250 ms: AF41 to AF43, CS4, AF31 to AF33, CS3 (RFC 4594).
    Video,
    /// Worth nothing after 80 ms: EF, VOICE-ADMIT, CS5, CS6, CS7.
    Voice,
}

impl Class {
    /// All, by their numbers.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Video, Self::Voice];

    /// What a packet asks for.
    pub fn of(packet: &[u8]) -> Self {
        Self::of_dscp(dscp(packet))
    }

    /// What a flow is good for that a peer has allocated.
    pub fn of_qos(qos: &QosSpec) -> Self {
        match qos.priority {
            0 => Self::Plain,
            1..5 => Self::Video,
            5.. => Self::Voice,
        }
    }

    /// What the flow is allocated with. The VPN's packets find their own way to order and certainty.
    pub fn qos(self) -> QosSpec {
        match self {
            Self::Plain => QosSpec::RAW,
            Self::Video => QosSpec::VIDEO,
            Self::Voice => QosSpec::VOICE,
        }
    }

    /// Its word, that of the layer's cube.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "raw",
            Self::Video => "video",
            Self::Voice => "voice",
        }
    }

    /// Its code points, each a bit.
    pub fn code_points(self) -> u64 {
        let mine = (0..64).filter(|point| Self::of_dscp(*point) == self);
        mine.fold(0, |mask, point| mask | 1 << point)
    }

    fn of_dscp(dscp: u8) -> Self {
        match dscp {
            40 | 44 | 46 | 48 | 56 => Self::Voice,
            24 | 26 | 28 | 30 | 32 | 34 | 36 | 38 => Self::Video,
            _ => Self::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_point_is_of_one_class_and_a_flow_of_a_class_is_known_as_such() {
        let masks = Class::ALL.map(Class::code_points);
        assert_eq!(masks.iter().fold(0, |all, mask| all ^ mask), u64::MAX);
        assert_eq!(masks.map(u64::count_ones), [51, 8, 5]);
        for class in Class::ALL {
            assert_eq!(Class::of_qos(&class.qos()), class);
        }
        assert_eq!(Class::of_qos(&QosSpec::BEST), Class::Plain);
    }

    #[test]
    fn both_families_say_it_in_their_way() {
        assert_eq!(Class::of(&[0x45, 46 << 2]), Class::Voice);
        assert_eq!(Class::of(&[0x60 | 34 >> 2, (34 & 3) << 6]), Class::Video);
        assert_eq!(Class::of(&[0x45, 8 << 2 | 3]), Class::Plain);
        assert_eq!(Class::of(&[]), Class::Plain);
    }
}
