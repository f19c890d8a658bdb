//! The headers of PDUs, as they come and as they lie inside a seal.

/// No bytes panic.
pub fn run(bytes: &[u8]) {
    layer::fuzzing::decode_pdu(bytes);
}

/// One of each kind, 60 bytes long, and each inner one without its last byte of header.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let of = |kind: u8, len: usize| {
        let mut pdu: Vec<u8> = (0..len.max(4) as u8).collect();
        pdu[..4].copy_from_slice(&[kind, 0, 0, 0]);
        pdu.truncate(len);
        pdu
    };
    vec![
        ("handshake", of(0x11, 60)),
        ("sealed", of(0x12, 60)),
        ("sequenced", of(0, 60)),
        ("direct", of(1, 60)),
        ("direct-short", of(1, 11)),
        ("routed", of(2, 60)),
        ("routed-short", of(2, 39)),
        ("link-channel", of(3, 60)),
        ("hello", of(4, 60)),
        ("hello-short", of(4, 27)),
        ("routed-handshake", of(5, 60)),
        ("routed-handshake-short", of(5, 19)),
        ("link-handshake", of(6, 60)),
        ("critical-field", vec![0x52, 2, 8, 1, 0xc0, 0x3e, 7]),
        ("probe", of(7, 60)),
        ("probed-short", of(8, 3)),
        ("sealed-next-version", of(0x22, 60)),
        (
            "met",
            [&of(0x11, 10)[..], &[4], &[7; 24], &[4], &[7; 23]].concat(),
        ),
        (
            "versions",
            b"strata\x01\x02\0\0\0\x03\0\0\0\x01and more".to_vec(),
        ),
    ]
}
