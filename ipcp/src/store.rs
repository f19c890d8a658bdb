//! Small files that survive: each is written whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::{Code, Reason};
use zeroize::Zeroizing;

/// A directory (0700) of files (0600) that belong to one IPC process.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the directory and makes it if need be.
    pub fn open(dir: &Path) -> Result<Self, Reason> {
        let make = || {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        };
        make().map_err(|e| failed("open the state directory", dir, &e))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// All that was saved, by file name.
    pub fn files(&self) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, Reason> {
        let mut files = BTreeMap::new();
        let entries = fs::read_dir(&self.dir).map_err(|e| failed("read", &self.dir, &e))?;
        for entry in entries {
            let path = entry.map_err(|e| failed("read", &self.dir, &e))?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
                continue;
            };
            if name.ends_with(UNFINISHED) {
                // A crash came before the rename: the file itself is still the old one.
                let _ = fs::remove_file(&path);
            } else if path.is_file() {
                let mut bytes = Zeroizing::new(Vec::new());
                let read =
                    File::open(&path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
                read.map_err(|e| failed("read", &path, &e))?;
                files.insert(name.to_owned(), bytes);
            }
        }
        Ok(files)
    }

    /// Replaces a file in one step; what was there before stays if that fails. No bytes: removes it.
    pub fn save(&self, name: &str, bytes: &[u8]) -> Result<(), Reason> {
        let path = self.dir.join(name);
        let unfinished = self.dir.join(format!("{name}{UNFINISHED}"));
        let write = || {
            if bytes.is_empty() {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => return File::open(&self.dir)?.sync_all(),
                }
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&unfinished);
            failed("save", &path, &e)
        })
    }
}

fn failed(what: &str, path: &Path, e: &io::Error) -> Reason {
    use io::ErrorKind as K;
    let hint = if matches!(e.kind(), K::StorageFull | K::QuotaExceeded) {
        "make room on the disk"
    } else if matches!(e.kind(), K::PermissionDenied | K::ReadOnlyFilesystem) {
        "make the state directory writable for this user"
    } else {
        "see --state-dir of irmd"
    };
    Reason::new(
        Code::Failed,
        format!("can't {what} {}: {e}; {hint}", path.display()),
    )
}

const UNFINISHED: &str = ".tmp";
/// No file of a machine comes near this; a larger one is cut and will be found corrupt.
const LARGEST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_given_back_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/b");
        let store = Store::open(&dir).unwrap();
        store.save("identity", b"first").unwrap();
        store.save("identity", b"second").unwrap();
        store.save("gone", b"x").unwrap();
        store.save("gone", b"").unwrap();
        store.save("never", b"").unwrap();
        let files = Store::open(&dir).unwrap().files().unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files["identity"].as_slice(), b"second");
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("identity"))), (0o700, 0o600));
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save("identity", b"old").unwrap();
        fs::write(dir.path().join("identity.tmp"), b"ne").unwrap();
        let files = store.files().unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["identity"]);
        assert_eq!(files["identity"].as_slice(), b"old");
        assert!(!dir.path().join("identity.tmp").exists());
    }

    #[test]
    fn a_write_that_fails_says_why_and_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save("identity", b"old").unwrap();
        fs::create_dir(dir.path().join("identity.tmp")).unwrap();
        let reason = store.save("identity", b"new").unwrap_err();
        assert!(reason.text.starts_with("can't save "), "{reason}");
        assert_eq!(fs::read(dir.path().join("identity")).unwrap(), b"old");
    }
}
