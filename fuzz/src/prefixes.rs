//! The prefix extension of a certificate (RFC 3779).

/// What is accepted has one encoding only, and that is what was read.
pub fn run(bytes: &[u8]) {
    if let Some(again) = layer::fuzzing::decode_prefixes(bytes) {
        assert_eq!(again, bytes);
    }
}

/// Extensions with one prefix, both families, everything, and a range.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let v4 = [0x30, 0x0b, 0x04, 2, 0, 1, 0x30, 5, 0x03, 3, 0, 10, 1];
    let v6 = [
        0x30, 0x0d, 0x04, 2, 0, 2, 0x30, 7, 0x03, 5, 0, 0xfd, 0, 0, 1,
    ];
    let both = [&[0x30, (v4.len() + v6.len()) as u8], &v4[..], &v6].concat();
    let all = [0x30, 0x0b, 0x30, 9, 0x04, 2, 0, 1, 0x30, 3, 0x03, 1, 0];
    let range = [
        0x30, 0x0e, 0x30, 0x0c, 0x04, 2, 0, 1, 0x30, 6, 0x30, 4, 0x03, 2, 0, 10,
    ];
    vec![
        ("v4", [&[0x30, v4.len() as u8], &v4[..]].concat()),
        ("v6", [&[0x30, v6.len() as u8], &v6[..]].concat()),
        ("both", both),
        ("everything", all.to_vec()),
        ("range", range.to_vec()),
    ]
}
