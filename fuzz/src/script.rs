//! Bytes as a list of acts, so that a change of one of them is a change of what happens.

/// Reads acts from the front; what has run out reads as zero.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl<'a> Script<'a> {
    /// The next act, until there is none.
    pub(super) fn act(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.act().unwrap_or(0)
    }

    pub(super) fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Bytes behind their length (16 bits), or what is left.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.short()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }
}

/// Writes what [`Script::bytes`] reads.
pub(super) fn write(out: &mut Vec<u8>, act: &[u8], bytes: &[u8]) {
    out.extend(act);
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

/// `base`, cut, lengthened and changed as four bytes at a time say. No edits leave it as it is.
pub(super) fn edited(base: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut out = base.to_vec();
    for edit in edits.as_chunks::<4>().0 {
        let place = usize::from(u16::from_be_bytes([edit[1], edit[2]]));
        match edit[0] % 4 {
            0 => out.truncate(place),
            1 => out.push(edit[3]),
            2 => out.insert(place.min(out.len()), edit[3]),
            _ => {
                if let Some(byte) = out.get_mut(place) {
                    *byte ^= edit[3];
                }
            }
        }
    }
    out
}
