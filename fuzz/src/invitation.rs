//! The line that a user pastes.

use std::time::Duration;

use layer::crypt::Invitation;

use super::member::Layer;
use super::script::{Script, edited};

/// The first byte tells what: text as it is, or a true line with edits. A changed line is refused for its checksum.
pub fn run(bytes: &[u8]) {
    let layer = Layer::get();
    let now = layer.at(Duration::ZERO).wall;
    let mut script = Script(bytes);
    let edits = script.byte() == 1;
    let text = if edits {
        edited(layer.url.as_bytes(), script.0)
    } else {
        script.0.to_vec()
    };
    let Ok(text) = String::from_utf8(text) else {
        return;
    };
    let parsed = Invitation::parse(&text, now);
    if edits {
        assert_eq!(parsed.is_ok(), text.trim() == layer.url, "{text}");
    }
}

/// The true line, lines that differ in a letter, and one of another make.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("true", vec![1]),
        ("cut", vec![1, 0, 0, 60, 0]),
        ("changed", vec![1, 3, 0, 30, 1]),
        ("longer", vec![1, 1, 0, 0, b'&']),
        ("empty", vec![0]),
        (
            "other",
            b"\0strata://ovl/join?via=a&via=%zz&hint=a=192.0.2.1&x=1#00".to_vec(),
        ),
    ]
}
