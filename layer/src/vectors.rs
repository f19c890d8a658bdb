//! What docs/vectors.txt and the table of vectors in docs/protocol.md have, for the tests of the rooms that they are about. It
//! must not make a vector: another implementation did.

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

/// The bytes in the row of the table whose first cell begins so, one after another if there are several.
pub(crate) fn row<const N: usize>(what: &str) -> [Vec<u8>; N] {
    let page = include_str!("../../docs/protocol.md");
    let (_, vectors) = page.split_once("\n### Test vectors\n").unwrap();
    let mut rows = vectors.lines().filter_map(|line| line.strip_prefix("| "));
    let row = rows.find(|row| row.starts_with(what)).unwrap();
    let (_, cell) = row.trim_end_matches(" |").rsplit_once(" | ").unwrap();
    let quoted = cell.split('`').skip(1).step_by(2).map(hex);
    quoted.collect::<Vec<_>>().try_into().unwrap()
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
