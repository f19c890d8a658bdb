//! What survives a restart: one versioned JSON file a concern, written atomically.
//!
//! A file that is torn, newer or unknown is never taken for an empty one: it is copied aside and the daemon ends with the reason.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version that this program writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

/// The state directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// Why a state file can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The system said no.
    #[error("cannot {what} the state file {path}: {error}; free space or mend permissions there")]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not what a daemon has written.
    #[error(
        "the state file {path} is damaged: {error}; a copy is at {backup}; mend the file, or remove it to begin without it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it broke.
        error: String,
        /// The copy.
        backup: PathBuf,
    },
    /// Written by a later version.
    #[error(
        "the state file {path} has version {found}, this irmd knows up to {VERSION}; a copy is at {backup}; \
         install the newer irmd, or remove the file to begin without it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The copy.
        backup: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    version: u32,
    data: T,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl Store {
    /// Files in this directory.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Reads a concern; a file that isn't there gives the default.
    pub(crate) fn load<T: DeserializeOwned + Default>(
        &self,
        concern: &str,
    ) -> Result<T, StateError> {
        let path = self.path(concern);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
            Err(error) => {
                return Err(StateError::Io {
                    what: "read",
                    path,
                    error,
                });
            }
        };
        let damaged = |error: serde_json::Error| match self.backup(&path, &bytes) {
            Ok(backup) => StateError::Damaged {
                path: path.clone(),
                error: error.to_string(),
                backup,
            },
            Err(e) => e,
        };
        let head: Head = serde_json::from_slice(&bytes).map_err(damaged)?;
        if head.version > VERSION {
            let backup = self.backup(&path, &bytes)?;
            return Err(StateError::Newer {
                path,
                found: head.version,
                backup,
            });
        }
        let envelope: Envelope<T> = serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(envelope.data)
    }

    /// Writes a concern: a new file beside the old one, on the disk before it takes its place.
    pub(crate) fn save<T: Serialize>(&self, concern: &str, data: &T) -> Result<(), StateError> {
        let path = self.path(concern);
        let fail = |error| StateError::Io {
            what: "write",
            path: path.clone(),
            error,
        };
        let mut bytes = serde_json::to_vec_pretty(&Envelope {
            version: VERSION,
            data,
        })
        .map_err(|e| fail(io::Error::other(e)))?;
        bytes.push(b'\n');
        let new = path.with_extension("new");
        write_synced(&new, &bytes).map_err(fail)?;
        fs::rename(&new, &path).map_err(fail)?;
        File::open(&self.dir)
            .and_then(|d| d.sync_all())
            .map_err(fail)
    }

    fn path(&self, concern: &str) -> PathBuf {
        self.dir.join(format!("{concern}.json"))
    }

    fn backup(&self, path: &Path, bytes: &[u8]) -> Result<PathBuf, StateError> {
        let backup = path.with_extension("json.bad");
        write_synced(&backup, bytes).map_err(|error| StateError::Io {
            what: "write",
            path: backup.clone(),
            error,
        })?;
        Ok(backup)
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    type Data = BTreeMap<String, Vec<u32>>;

    fn sample() -> Data {
        [
            ("a".to_owned(), vec![1, 22, 333]),
            ("b\"é".to_owned(), vec![]),
        ]
        .into()
    }

    #[test]
    fn what_is_written_is_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert_eq!(store.load::<Data>("x").unwrap(), Data::new());
        store.save("x", &sample()).unwrap();
        assert_eq!(store.load::<Data>("x").unwrap(), sample());
        let mode = fs::metadata(dir.path().join("x.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!dir.path().join("x.new").exists());
    }

    #[test]
    fn a_file_cut_at_any_byte_is_an_error_with_a_backup_and_never_an_empty_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.save("x", &sample()).unwrap();
        let path = dir.path().join("x.json");
        let whole = fs::read(&path).unwrap();
        // Without the last byte, a line break, nothing is lost.
        for end in 0..whole.len() - 1 {
            fs::write(&path, &whole[..end]).unwrap();
            let error = store.load::<Data>("x").unwrap_err();
            let StateError::Damaged { backup, .. } = error else {
                panic!("cut at {end}: {error}")
            };
            assert_eq!(fs::read(backup).unwrap(), &whole[..end]);
        }
    }

    #[test]
    fn a_newer_file_is_refused_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"version":2,"data":{},"more":1}"#;
        fs::write(dir.path().join("x.json"), text).unwrap();
        let error = Store::new(dir.path()).load::<Data>("x").unwrap_err();
        assert!(
            matches!(error, StateError::Newer { found: 2, .. }),
            "{error}"
        );
        assert_eq!(fs::read_to_string(dir.path().join("x.json")).unwrap(), text);
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = Store::new(&dir.path().join("gone"))
            .save("x", &sample())
            .unwrap_err();
        assert!(error.to_string().contains("x.json"), "{error}");
    }
}
