//! What docs/vectors.txt has, for the tests of the rooms that it is about. It must not make a vector: another
//! implementation did.

use std::time::Duration;

use proto::Label;

use crate::UnixTime;
use crate::crypt::Identity;

/// The time of the file.
pub(crate) const NOW: UnixTime = UnixTime(Duration::from_secs(1_800_000_000));

/// The bytes of a name.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    let file = include_str!("../../docs/vectors.txt");
    let mut lines = file.lines().filter_map(|line| line.split_once(" = "));
    let (_, text) = lines.find(|(n, _)| *n == name).unwrap();
    hex(text)
}

/// The member of that name, whose key is 32 times this byte, under the root.
pub(crate) fn member(name: &str, seed: u8) -> Identity {
    let label = |text: &str| Label::new(text).unwrap();
    let mut key = hex("302e020100300506032b657004220420");
    key.extend([seed; 32]);
    let (root, cert) = (vector("root"), vector(name));
    Identity::from_pki(&label("home"), &label(name), &root, &cert, &key, NOW).unwrap()
}

/// The bytes of a text in hexadecimal, which may have spaces.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let byte = |pair: &[u32]| (pair[0] << 4 | pair[1]) as u8;
    digits.chunks_exact(2).map(byte).collect()
}
