//! The secret by which irmd knows a process that it started.

use std::fmt;
use std::io::{self, Read};

/// 32 bytes that irmd gives to a process that it starts, over a pipe. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Reads the secret, up to the end of the pipe.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; 32];
        from.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The secret out of the descriptor that `STRATA_SECRET_FD` names; `None` without that variable.
    pub fn from_env() -> io::Result<Option<Self>> {
        let Some(fd) = std::env::var_os("STRATA_SECRET_FD") else {
            return Ok(None);
        };
        let bad = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "STRATA_SECRET_FD holds no number of a descriptor",
            )
        };
        let fd: u32 = fd.to_str().and_then(|fd| fd.parse().ok()).ok_or_else(bad)?;
        let mut pipe = std::fs::File::open(format!("/proc/self/fd/{fd}"))?;
        Self::read(&mut pipe).map(Some)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Secret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_secret_is_refused_and_none_is_printed() {
        assert!(Secret::read(&mut &[1; 31][..]).is_err());
        let secret = Secret::read(&mut &[7; 32][..]).unwrap();
        assert_eq!(secret.bytes(), &[7; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
