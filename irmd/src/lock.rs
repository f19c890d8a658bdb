//! One daemon for one run directory and one state directory.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Holds a directory for this process until it is dropped.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
    path: PathBuf,
}

/// Why a directory can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another daemon has it.
    #[error("another irmd uses {dir}; stop it, or give this one another --run-dir")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It can't be made or opened.
    #[error("cannot use {dir}: {error}; make it, or give another --run-dir or --state-dir")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl DirLock {
    /// Makes the directory with this mode if it isn't there, and locks it.
    pub(crate) fn take(dir: &Path, mode: u32) -> Result<Self, LockError> {
        let io = |error| LockError::Io {
            dir: dir.to_owned(),
            error,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(dir)
            .map_err(io)?;
        let meta = fs::metadata(dir).map_err(io)?;
        if meta.uid() == rustix::process::geteuid().as_raw()
            && meta.permissions().mode() & 0o777 != mode
        {
            fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(io)?;
        }
        let path = dir.join("irmd.lock");
        for _ in 0..10 {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(io)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
                    return Err(LockError::InUse {
                        dir: dir.to_owned(),
                    });
                }
                Err(e) => return Err(io(e.into())),
            }
            // A daemon that ended between our open and lock has removed the file: what we hold is nobody's.
            let held = file.metadata().map_err(io)?.ino();
            if fs::metadata(&path).is_ok_and(|m| m.ino() == held) {
                return Ok(Self { _file: file, path });
            }
        }
        Err(LockError::InUse {
            dir: dir.to_owned(),
        })
    }

    /// Gives the directory up and removes the lock file.
    pub(crate) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "lock file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once_and_free_again_after() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::take(dir.path(), 0o700).unwrap();
        assert!(matches!(
            DirLock::take(dir.path(), 0o700),
            Err(LockError::InUse { .. })
        ));
        lock.remove();
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
        DirLock::take(dir.path(), 0o700).unwrap();
    }
}
