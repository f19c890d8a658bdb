//! A clock that can be set wrong, for the programs that have it: between them and the C library's, by `LD_PRELOAD`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// The wall clock of some programs. Their other clocks are everybody's. It goes with the directory that it was made in.
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock that is right, with its files in a directory. Takes a C compiler, as the build does.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
        fs::write(&source, SOURCE).context("can't write the clock's source")?;
        let out = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .output()
            .context("can't run the C compiler, cc")?;
        ensure!(
            out.status.success(),
            "the clock can't be compiled: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let clock = Self {
            library,
            offset: dir.join("clock.offset"),
        };
        clock.set(0)?;
        Ok(clock)
    }

    /// From now on it is so many seconds ahead of the true time.
    pub fn set(&self, ahead: i64) -> anyhow::Result<()> {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&self.offset)
            .context("can't open the clock")?;
        // In place, for those who have it mapped.
        file.write_all_at(&ahead.to_ne_bytes(), 0)
            .context("can't set the clock")
    }

    /// What a program that has this clock is started with.
    pub(super) fn env(&self) -> [(&'static str, OsString); 2] {
        [
            ("LD_PRELOAD", self.library.clone().into_os_string()),
            ("LAB_CLOCK", self.offset.clone().into_os_string()),
        ]
    }
}

const SOURCE: &str = include_str!("clock.c");
