//! Where `irmd` is found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::{Code, Reason};
use tonic::transport::{Channel, Endpoint};

use crate::error::FlowError;

/// The socket for everybody's flows, in the run directory.
pub const IRM_SOCKET: &str = "irm.sock";
/// The socket for administrators, in the run directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// The run directory of an `irmd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The directory given; else `IRM_RUN_DIR`; else `$XDG_RUNTIME_DIR/irm` if an irmd lives there; else `/run/irm`.
    pub fn find(given: Option<&Path>) -> Self {
        Self::choose(given, |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A gRPC channel to one of its sockets. Nothing is connected yet; a broken connection is made anew at the next call.
    pub fn channel(&self, socket: &str) -> Result<Channel, FlowError> {
        let path = self.0.join(socket);
        let unusable = |why: &str| {
            FlowError::Daemon(Reason::new(
                Code::Usage,
                format!("can't use {}: {why}", path.display()),
            ))
        };
        let text = path
            .to_str()
            .ok_or_else(|| unusable("the path is not UTF-8"))?;
        if text.len() > 107 {
            return Err(unusable(
                "the path is too long for a socket (107 bytes); use a shorter run directory",
            ));
        }
        let endpoint = Endpoint::from_shared(format!("unix://{text}"))
            .map_err(|e| unusable(&e.to_string()))?;
        Ok(endpoint.connect_timeout(CONNECT).connect_lazy())
    }

    /// What to say when nobody answers there.
    pub(crate) fn unreachable(&self, why: impl std::fmt::Display) -> FlowError {
        let at = self.0.join(IRM_SOCKET);
        let text = format!(
            "irmd can't be reached at {}: {why}; start irmd or set IRM_RUN_DIR",
            at.display()
        );
        FlowError::Daemon(Reason::new(Code::Unreachable, text))
    }

    fn choose(given: Option<&Path>, env: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let of_user = || {
            env("XDG_RUNTIME_DIR")
                .map(|dir| dir.join("irm"))
                .filter(|dir| dir.join(IRM_SOCKET).exists())
        };
        let dir = given
            .map(Path::to_owned)
            .or_else(|| env("IRM_RUN_DIR"))
            .or_else(of_user);
        let dir = dir.unwrap_or_else(|| PathBuf::from("/run/irm"));
        // irmd hears of sockets in it, and has another working directory. Fails only for an empty path.
        Self(std::path::absolute(&dir).unwrap_or(dir))
    }
}

const CONNECT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_directory_is_looked_for_in_order() {
        let home = tempfile::tempdir().unwrap();
        let env = |irm: Option<&'static str>| {
            let xdg = home.path().to_owned();
            move |name: &str| match name {
                "IRM_RUN_DIR" => irm.map(PathBuf::from),
                "XDG_RUNTIME_DIR" => Some(xdg.clone()),
                _ => None,
            }
        };
        assert_eq!(
            RunDir::choose(Some(Path::new("/a")), env(Some("/b"))).path(),
            Path::new("/a")
        );
        assert_eq!(
            RunDir::choose(None, env(Some("/b"))).path(),
            Path::new("/b")
        );
        assert_eq!(
            RunDir::choose(None, env(None)).path(),
            Path::new("/run/irm")
        );
        let here = std::env::current_dir().unwrap().join("r");
        assert_eq!(RunDir::choose(Some(Path::new("r")), env(None)).path(), here);
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            RunDir::choose(Some(Path::new("r")), env(None)).path(),
            here.join("r")
        );
        std::fs::create_dir(home.path().join("irm")).unwrap();
        std::fs::write(home.path().join("irm").join(IRM_SOCKET), "").unwrap();
        assert_eq!(
            RunDir::choose(None, env(None)).path(),
            home.path().join("irm")
        );
    }
}
