//! A program that is connected, and who it is.

use std::path::PathBuf;

use proto::irm::program_command::Command;
use proto::irm::{FlowGone, ProgramCommand};
use proto::{FlowId, Label, Reason};
use tokio::sync::mpsc;
use tonic::Status;

/// Names a session; the program shows it when it allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) [u8; 16]);

/// How many commands may wait for a program that doesn't read them: as many offers as its listener keeps, and as many others.
pub(crate) const QUEUE: usize = 2048;

/// One connected program.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Its id.
    pub(crate) id: SessionId,
    /// The user who owns its flows, from the socket.
    pub(crate) uid: u32,
    /// What it is to irmd.
    pub(crate) who: Who,
    /// Its file name, for people.
    pub(crate) program: String,
    /// The process, where it could be checked that it belongs to the user.
    pub(crate) process: Option<Process>,
    /// Where others join its direct flows.
    pub(crate) data_socket: String,
    /// To the program.
    pub(crate) tx: mpsc::Sender<Result<ProgramCommand, Status>>,
}

/// A process that can't be mistaken for a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    /// When it began, in clock ticks since boot.
    pub(crate) start: u64,
    /// Its program.
    pub(crate) exe: Option<PathBuf>,
}

/// What a caller is to irmd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// Any program.
    Program,
    /// The IPC process of this name, started by irmd.
    Ipcp(Label),
    /// The vpn process of this device, started by irmd.
    Vpn(String),
}

impl Session {
    /// Sends a command; false if the program is gone or has left too many unread.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.tx
            .try_send(Ok(ProgramCommand {
                command: Some(command),
            }))
            .is_ok()
    }

    /// Tells the program that a flow which it was offered or has accepted is gone.
    pub(crate) fn gone(&self, flow: FlowId, reason: Reason) {
        self.send(Command::Gone(FlowGone {
            flow: flow.0,
            reason: Some(reason.into()),
        }));
    }

    /// For people.
    pub(crate) fn label(&self) -> String {
        match &self.process {
            Some(p) => format!("{}[{}]", self.program, p.pid),
            None => self.program.clone(),
        }
    }
}

impl Process {
    /// Looks a process up; `None` if it is gone or belongs to another user than `uid` (root may name any).
    pub(crate) fn of(pid: u32, uid: u32) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let owner = std::fs::metadata(&dir).ok()?.uid();
        if uid != 0 && owner != uid {
            return None;
        }
        Some(Self {
            pid,
            start: start_time(pid)?,
            exe: std::fs::read_link(dir.join("exe")).ok(),
        })
    }
}

/// When a process began, in clock ticks since boot; `None` if it is gone or only waits to be reaped.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, in parentheses, may hold blanks and parentheses itself.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

/// Which boot of this host it is; empty where the system does not tell.
pub(crate) fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_beginning() {
        let me = std::process::id();
        let uid = rustix::process::geteuid().as_raw();
        let p = Process::of(me, uid).unwrap();
        assert_eq!(start_time(me), Some(p.start));
        assert!(p.start > 0 && p.exe.is_some());
        assert_eq!(start_time(u32::MAX), None);
        assert_eq!(Process::of(me, uid + 1), None);
        assert_eq!((boot_id().len(), boot_id()), (36, boot_id()));
    }
}
