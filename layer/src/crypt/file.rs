//! How a secret of this layer lies in a file: a kind, a version, fields behind their lengths, and a checksum, so that a
//! torn, foreign or newer file is named as such and never read by half.

use ring::digest;
use zeroize::Zeroizing;

/// Why the bytes of a file can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// Not such a file at all.
    #[error("the {kind} file is none of ours; restore it from a backup or remove it")]
    Foreign {
        /// What was looked for.
        kind: &'static str,
    },
    /// Written by a newer version.
    #[error("the {kind} file has version {found}, this program reads up to {known}; update it")]
    Newer {
        /// What was looked for.
        kind: &'static str,
        /// The version of the file.
        found: u16,
        /// The newest version that is understood.
        known: u16,
    },
    /// Cut or altered.
    #[error("the {kind} file is damaged: {what}; restore it from a backup")]
    Damaged {
        /// What was looked for.
        kind: &'static str,
        /// What doesn't hold.
        what: &'static str,
    },
}

/// A file of one field.
pub(crate) fn wrap_file(kind: &'static str, version: u16, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut w = Writer::new(kind, version);
    w.bytes(bytes);
    w.finish()
}

/// The field of a file that [`wrap_file`] made.
pub(crate) fn unwrap_file<'a>(
    kind: &'static str,
    known: u16,
    bytes: &'a [u8],
) -> Result<&'a [u8], Corrupt> {
    let mut r = Reader::new(kind, known, bytes)?;
    let field = r.bytes()?;
    r.end()?;
    Ok(field)
}

/// Builds a file.
pub(super) struct Writer(Zeroizing<Vec<u8>>);

/// Takes one apart.
pub(super) struct Reader<'a> {
    kind: &'static str,
    rest: &'a [u8],
}

impl Writer {
    pub(super) fn new(kind: &'static str, version: u16) -> Self {
        // Roomy, so that growing leaves no copies of a key behind in freed memory for all but large authorities.
        let mut out = Zeroizing::new(Vec::with_capacity(64 * 1024));
        out.extend(format!("strata {kind}\n").bytes());
        out.extend(version.to_be_bytes());
        Self(out)
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u64(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    pub(super) fn finish(mut self) -> Zeroizing<Vec<u8>> {
        let sum = digest::digest(&digest::SHA256, &self.0);
        self.0.extend(sum.as_ref());
        self.0
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(kind: &'static str, known: u16, bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let rest = bytes
            .strip_prefix(format!("strata {kind}\n").as_bytes())
            .ok_or(Corrupt::Foreign { kind })?;
        let (version, rest) = rest.split_first_chunk().ok_or(Corrupt::Foreign { kind })?;
        let version = u16::from_be_bytes(*version);
        // A newer file may be summed in another way, so its version is looked at first.
        if version > known {
            return Err(Corrupt::Newer {
                kind,
                found: version,
                known,
            });
        }
        let damaged = Corrupt::Damaged {
            kind,
            what: "its checksum doesn't match",
        };
        let (rest, sum) = rest
            .split_last_chunk::<32>()
            .ok_or_else(|| damaged.clone())?;
        if version == 0
            || digest::digest(&digest::SHA256, &bytes[..bytes.len() - 32]).as_ref() != sum
        {
            return Err(damaged);
        }
        Ok(Self { kind, rest })
    }

    pub(super) fn u64(&mut self) -> Result<u64, Corrupt> {
        let (number, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.damaged("a field is missing"))?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*number))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let len =
            usize::try_from(self.u64()?).map_err(|_| self.damaged("a length is too large"))?;
        let (bytes, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.damaged("a field is cut"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn text<T: std::str::FromStr>(&mut self) -> Result<T, Corrupt> {
        let text =
            std::str::from_utf8(self.bytes()?).map_err(|_| self.damaged("a text is not UTF-8"))?;
        text.parse()
            .map_err(|_| self.damaged("a text is no valid name or prefix"))
    }

    /// A list: its length, then its items.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Corrupt>,
    ) -> Result<Vec<T>, Corrupt> {
        let count = self.u64()?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// Whether a later version may have added something.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn end(&self) -> Result<(), Corrupt> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.damaged("bytes are left over"))
        }
    }

    pub(super) fn damaged(&self, what: &'static str) -> Corrupt {
        Corrupt::Damaged {
            kind: self.kind,
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new("sample", 3);
        w.u64(7).bytes(b"hello").u64(2).bytes(b"a").bytes(b"b");
        w.finish()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = sample();
        let mut r = Reader::new("sample", 3, &bytes).unwrap();
        assert_eq!((r.u64().unwrap(), r.bytes().unwrap()), (7, &b"hello"[..]));
        assert_eq!(r.list(|r| r.text::<String>()).unwrap(), ["a", "b"]);
        assert_eq!(r.end(), Ok(()));
    }

    #[test]
    fn a_file_cut_or_altered_at_any_byte_is_refused() {
        let bytes = sample();
        for at in 0..bytes.len() {
            assert!(
                Reader::new("sample", 3, &bytes[..at]).is_err(),
                "cut at {at}"
            );
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x40;
            assert!(Reader::new("sample", 3, &bad).is_err(), "altered at {at}");
        }
    }

    #[test]
    fn a_newer_or_foreign_file_is_named() {
        let bytes = sample();
        assert_eq!(
            Reader::new("sample", 2, &bytes).err(),
            Some(Corrupt::Newer {
                kind: "sample",
                found: 3,
                known: 2
            })
        );
        assert_eq!(
            Reader::new("other", 3, &bytes).err(),
            Some(Corrupt::Foreign { kind: "other" })
        );
    }
}
