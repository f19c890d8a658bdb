//! The two sockets, and who is served on which.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::libc;
use proto::irm::admin_server::AdminServer;
use proto::irm::ipcps_server::IpcpsServer;
use proto::irm::programs_server::ProgramsServer;
use proto::irm::vpns_server::VpnsServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::args::Dirs;
use crate::daemon::{Daemon, Ending};
use crate::{admin, attach, metrics, programs, vpns};

/// Binds the sockets and serves them until the daemon ends.
pub(crate) fn start(daemon: &Arc<Daemon>) -> anyhow::Result<()> {
    directory(&daemon.dirs.flows(), 0o1777)?;
    directory(&daemon.dirs.ipcps(), 0o755)?;
    let everybody = bind(&daemon.dirs.irm_sock(), 0o666)?;
    let admins = bind(&daemon.dirs.admin_sock(), 0o660)?;
    give_to_group(&daemon.dirs.admin_sock());
    if !refuse_descriptors(&everybody) {
        tracing::warn!(
            "this kernel can't refuse descriptors that come with messages, so that any user of this host can make irmd and the IPC \
             processes wait; Linux 6.16 can"
        );
    }
    let irm = Server::builder()
        .add_service(ProgramsServer::new(programs::Service(daemon.clone())))
        .add_service(
            IpcpsServer::new(attach::Service(daemon.clone())).max_decoding_message_size(MESSAGE),
        )
        .add_service(VpnsServer::new(vpns::Service(daemon.clone())));
    let admin = Server::builder()
        .accept_http1(true)
        .layer(metrics::Page::layer(daemon.clone()))
        .add_service(ProgramsServer::new(programs::Service(daemon.clone())))
        .add_service(AdminServer::new(admin::Service(daemon.clone())));
    let d = daemon.clone();
    tokio::spawn(async move {
        ended(
            &d,
            irm.serve_with_incoming(UnixListenerStream::new(everybody))
                .await,
        )
    });
    let d = daemon.clone();
    tokio::spawn(async move {
        ended(
            &d,
            admin
                .serve_with_incoming(UnixListenerStream::new(admins))
                .await,
        )
    });
    Ok(())
}

/// Removes what is left in the run directory when all children are gone: sockets that nobody listens on any more.
pub(crate) fn sweep(dirs: &Dirs) {
    for dir in [dirs.flows(), dirs.ipcps()] {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if is_abandoned(&path) {
                // Another user's, in a directory where only its owner may: it goes with the next boot.
                let _ = fs::remove_file(&path);
            }
        }
        // A program that goes on keeps its socket, and so the directory.
        let _ = fs::remove_dir(&dir);
    }
}

/// A socket that refuses connections: its owner has died.
fn is_abandoned(path: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let probe = || {
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)
    };
    probe() == Err(rustix::io::Errno::CONNREFUSED)
}

fn directory(dir: &Path, mode: u32) -> anyhow::Result<()> {
    let made = match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        Ok(()) | Err(_) => fs::set_permissions(dir, Permissions::from_mode(mode)),
    };
    made.map_err(|e| anyhow::anyhow!("cannot make {}: {e}; give another --run-dir", dir.display()))
}

fn ended(daemon: &Daemon, result: Result<(), tonic::transport::Error>) {
    if let Err(error) = result {
        tracing::error!(%error, "a socket is no longer served");
    }
    daemon.ending.send_replace(Ending::Shutdown);
}

fn bind(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    // The directory is locked, so a socket there is that of a daemon which has died.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            anyhow::bail!("cannot replace {}: {e}; remove it", path.display())
        }
        Ok(()) | Err(_) => {}
    }
    // Bound beside its place and moved there, so that nobody ever finds it with the wrong mode.
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let bound = UnixListener::bind(&new).and_then(|listener| {
        fs::set_permissions(&new, Permissions::from_mode(mode))?;
        refuse_descriptors(&listener);
        fs::rename(&new, path)?;
        Ok(listener)
    });
    bound.map_err(|e| {
        anyhow::anyhow!(
            "cannot make the socket {}: {e}; give another --run-dir",
            path.display()
        )
    })
}

/// Has the kernel refuse descriptors that somebody sends to those whom this lets in: each is closed by who receives it, also if
/// nobody asked for it, and whoever made it chooses how long that takes. `false`: it can't, before Linux 6.16.
fn refuse_descriptors(socket: &impl AsFd) -> bool {
    nix::sys::socket::setsockopt(socket, Rights, &false).is_ok()
}

/// `SO_PASSRIGHTS`; `libflow` has it too, for the sockets of flows.
#[derive(Debug, Clone, Copy)]
struct Rights;
nix::setsockopt_impl!(
    Rights,
    libc::SOL_SOCKET,
    RIGHTS,
    bool,
    nix::sys::socket::sockopt::SetBool
);
/// Everywhere but on SPARC and PA-RISC, which have no option of this number.
const RIGHTS: libc::c_int = 83;

/// The group `irm`, where there is one, may administrate.
fn give_to_group(path: &Path) {
    let Ok(groups) = fs::read_to_string("/etc/group") else {
        return;
    };
    let gid = groups
        .lines()
        .find_map(|line| line.strip_prefix("irm:")?.split(':').nth(1)?.parse().ok());
    if let Some(gid) = gid {
        let group = rustix::fs::Gid::from_raw(gid);
        if let Err(error) = rustix::fs::chown(path, None, Some(group)) {
            tracing::warn!(%error, path = %path.display(), "the group irm was not given the socket");
        }
    }
}

/// The status of a large layer is a large message.
const MESSAGE: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixStream;

    use rustix::io::Errno;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    use super::*;

    #[tokio::test]
    async fn nobody_sends_descriptors_to_the_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("irm.sock");
        let listener = bind(&path, 0o666).unwrap();
        if !refuse_descriptors(&UnixStream::pair().unwrap().0) {
            // Which `libflow` has a test of.
            assert!(!libflow::port::refuse_descriptors(&listener));
            return eprintln!("passed over: this kernel is older than Linux 6.16");
        }
        let client = UnixStream::connect(&path).unwrap();
        let gift = fs::File::open("/dev/null").unwrap();
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [gift.as_fd()];
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            let bytes = [IoSlice::new(b"PRI")];
            rustix::net::sendmsg(&client, &bytes, &mut control, SendFlags::empty())
        };
        assert_eq!(send(), Err(Errno::PERM));
        let _server = listener.accept().await.unwrap();
        assert_eq!(send(), Err(Errno::PERM));
    }
}
