//! The programs under test, built once: `cargo test` alone doesn't build other packages' programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, ensure};

/// The folder that holds the programs, built in the profile of the running test.
pub fn binaries() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build().map_err(|e| format!("{e:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// An example that some crate's documentation shows, built like the programs.
pub fn example(name: &str) -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    cargo_build(&folder, &["--example", name])?;
    Ok(folder.join("examples").join(name))
}

/// Simulated members that real ones can join, built when somebody first wants them; no program has that feature either.
pub fn crowd() -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let what = ["--example", "crowd", "--features", "layer/sim"];
    cargo_build(&folder, &what)?;
    Ok(folder.join("examples").join("crowd"))
}

/// The IPC process that meddles with what passes through it, built when a test first wants it. It is an example with a
/// feature that no other build has, so nothing of it gets into the programs.
pub fn hostile() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || {
        let folder = folder()?;
        cargo_build(
            &folder,
            &["--example", "hostile", "--features", "ipcpd/hostile"],
        )?;
        Ok(folder.join("examples").join("hostile"))
    };
    BUILT
        .get_or_init(|| build().map_err(|e: anyhow::Error| format!("{e:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn build() -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    cargo_build(&folder, &["--bins"])?;
    Ok(folder)
}

fn cargo_build(folder: &Path, what: &[&str]) -> anyhow::Result<()> {
    let target = folder
        .parent()
        .context("the program has no target folder")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .args(["build", "--quiet", "--locked", "--workspace"])
        .args(what);
    cargo.arg("--target-dir").arg(target);
    // What cargo tells a program that it runs is no part of how to build: ring would be built anew for it, back and forth.
    for (name, _) in std::env::vars_os() {
        let known = name.to_string_lossy();
        if known.starts_with("CARGO_PKG_") || known.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    // `target/debug` is of the profile `dev`, which is the usual one; all others have folders of their names.
    if let Some(profile) = folder.file_name().filter(|name| *name != "debug") {
        cargo.arg("--profile").arg(profile);
    }
    let status = cargo
        .status()
        .context("can't run cargo to build the programs")?;
    ensure!(status.success(), "cargo could not build the programs");
    Ok(())
}

/// `target/PROFILE`, out of the path of the running program (`target/PROFILE/deps/…` for a test).
fn folder() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("can't tell where this program is")?;
    let mut folder = exe.parent().context("this program is in no folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder
            .parent()
            .context("this program is in no target folder")?;
    }
    Ok(folder.to_owned())
}
