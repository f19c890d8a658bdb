//! The QoS cubes of this layer: what is granted. Nothing is ever granted as less than was asked.

use proto::{Code, QosSpec, Reason};

/// Grants a QoS exactly as it was asked for, or says what to ask instead.
pub(super) fn grant(qos: &QosSpec) -> Result<(), Reason> {
    let text = match qos {
        &QosSpec::RAW | &QosSpec::BEST => return Ok(()),
        QosSpec { reliable: true, .. } => {
            "this layer has no retransmission yet; ask for best (ordered, may lose) and repeat what matters"
        }
        QosSpec {
            max_delay_ms: 1.., ..
        } => "this layer keeps no deadlines yet; ask for best or raw",
        QosSpec { priority: 1.., .. } => "this layer has no priorities yet; ask for best or raw",
        _ => "this layer has no time-out per flow yet; ask for best or raw",
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
    fn raw_and_best_are_granted_and_everything_else_is_refused_with_advice() {
        assert_eq!(
            (grant(&QosSpec::RAW), grant(&QosSpec::BEST)),
            (Ok(()), Ok(()))
        );
        for qos in [
            QosSpec::DATA,
            QosSpec::VIDEO,
            QosSpec::VOICE,
            QosSpec {
                priority: 1,
                ..QosSpec::RAW
            },
            QosSpec {
                timeout_ms: 5,
                ..QosSpec::BEST
            },
        ] {
            let reason = grant(&qos).unwrap_err();
            assert_eq!(reason.code, Code::QosNotGranted);
            assert!(reason.text.contains("ask for best"), "{reason}");
        }
    }
}
