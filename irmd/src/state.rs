//! What survives a restart: one versioned JSON file a concern, written atomically.
//!
//! A file that is torn, newer or unknown is never taken for an empty one: it is copied aside and the daemon ends with the reason.

use std::fmt::{self, Display};
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
        "the state file {path} is damaged: {error}; {backup}; mend the file, or remove it to begin without it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it broke.
        error: String,
        /// The copy.
        backup: Backup,
    },
    /// Written by a later version.
    #[error(
        "the state file {path} has version {found}, this irmd knows up to {VERSION}; {backup}; \
         install the newer irmd, or remove the file to begin without it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The copy.
        backup: Backup,
    },
}

/// The copy of a file that can't be used. A disk that is full must not hide what is wrong with the file.
#[derive(Debug)]
pub(crate) struct Backup {
    path: PathBuf,
    made: io::Result<()>,
}

impl Display for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.made {
            Ok(()) => write!(f, "a copy is at {path}"),
            Err(error) => write!(f, "it can't be copied to {path}: {error}"),
        }
    }
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

    /// Reads a concern and makes of it what the program works with; a file that isn't there gives the default. What is
    /// written well but makes no sense is damaged too.
    pub(crate) fn load<T: DeserializeOwned + Default, U, E: Display>(
        &self,
        concern: &str,
        parse: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<U, StateError> {
        let path = self.path(concern);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return parse(T::default()).map_err(|e| damaged(&path, &[], &e));
            }
            Err(error) => {
                return Err(StateError::Io {
                    what: "read",
                    path,
                    error,
                });
            }
        };
        let bad = |error: serde_json::Error| damaged(&path, &bytes, &error);
        let head: Head = serde_json::from_slice(&bytes).map_err(bad)?;
        if head.version > VERSION {
            return Err(StateError::Newer {
                found: head.version,
                backup: backup(&path, &bytes),
                path,
            });
        }
        let envelope: Envelope<T> = serde_json::from_slice(&bytes).map_err(bad)?;
        parse(envelope.data).map_err(|e| damaged(&path, &bytes, &e))
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
        write_synced(&new, &bytes)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| {
                // Half of it would only take the room that is missing.
                let _ = fs::remove_file(&new);
                fail(error)
            })?;
        File::open(&self.dir)
            .and_then(|d| d.sync_all())
            .map_err(fail)
    }

    fn path(&self, concern: &str) -> PathBuf {
        self.dir.join(format!("{concern}.json"))
    }
}

fn damaged(path: &Path, bytes: &[u8], error: &dyn Display) -> StateError {
    StateError::Damaged {
        path: path.to_owned(),
        error: error.to_string(),
        backup: backup(path, bytes),
    }
}

fn backup(path: &Path, bytes: &[u8]) -> Backup {
    let path = path.with_extension("json.bad");
    let made = write_synced(&path, bytes);
    Backup { path, made }
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

/// For the test of each concern.
#[cfg(test)]
pub(crate) mod torn {
    use super::*;

    /// What a daemon has written, then cut at each byte, changed at many, and of a later version: it is an error in one
    /// line that names the file and says what to do, with a copy, and the file stays as it was.
    pub(crate) fn is_never_a_fresh_start<T>(
        dir: &Path,
        concern: &str,
        load: impl Fn() -> Result<T, StateError>,
    ) {
        let path = dir.join(format!("{concern}.json"));
        let whole = fs::read(&path).unwrap();
        assert!(load().is_ok());
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = load().err()?;
            let text = error.to_string();
            assert!(text.contains(&*path.to_string_lossy()), "{text}");
            assert!(text.contains("remove"), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(fs::read(path.with_extension("json.bad")).unwrap(), bytes);
            Some(error)
        };
        // Without the last byte, a line break, nothing is lost.
        for end in 0..whole.len() - 1 {
            let error = refused(&whole[..end]).unwrap_or_else(|| panic!("taken, cut at {end}"));
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
        }
        // Another letter in a text may be as good; what counts is that nothing panics and nothing is half taken.
        for at in (0..whole.len()).step_by(5) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            refused(&bytes);
        }
        let newer = String::from_utf8(whole).unwrap();
        let newer = newer.replacen(r#""version": 1"#, r#""version": 2, "more": 1"#, 1);
        let error = refused(newer.as_bytes()).unwrap();
        assert!(
            matches!(error, StateError::Newer { found: 2, .. }),
            "{error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    type Data = BTreeMap<String, Vec<u32>>;

    fn read(store: &Store) -> Result<Data, StateError> {
        store.load("x", Ok::<Data, StateError>)
    }

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
        assert_eq!(read(&store).unwrap(), Data::new());
        store.save("x", &sample()).unwrap();
        assert_eq!(read(&store).unwrap(), sample());
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
        torn::is_never_a_fresh_start(dir.path(), "x", || read(&store));
    }

    #[test]
    fn what_makes_no_sense_is_damaged_and_a_copy_that_cannot_be_made_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.save("x", &sample()).unwrap();
        fs::create_dir(dir.path().join("x.json.bad")).unwrap();
        let error = store
            .load("x", |_: Data| Err::<(), _>("the moon is no layer"))
            .unwrap_err()
            .to_string();
        for word in [
            "x.json is damaged",
            "the moon is no layer",
            "can't be copied",
            "mend",
        ] {
            assert!(error.contains(word), "{error}");
        }
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
