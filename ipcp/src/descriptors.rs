//! How many descriptors this process may have, and what is said to flows beyond. It must not count any: whoever has them does.

use std::io;

use proto::{Code, Reason};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// The bound of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors {
    most: usize,
}

impl Descriptors {
    /// As the system has it now.
    pub(crate) fn of_process() -> Self {
        let most = getrlimit(Resource::Nofile).current;
        let most = most.and_then(|most| usize::try_from(most).ok());
        Self {
            most: most.unwrap_or(usize::MAX),
        }
    }

    /// Whether one more user may have one, where users have so many.
    pub(crate) fn room(self, used: usize) -> Result<(), Reason> {
        if used + OWN < self.most {
            return Ok(());
        }
        let text = format!(
            "too many flows: this IPC process may have {} descriptors, and {used} are taken by flows; end some, or raise irmd's limit of open files",
            self.most
        );
        Err(Reason::new(Code::Busy, text))
    }
}

/// Whether there was no descriptor left for what failed.
pub(crate) fn exhausted(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    matches!(error, Some(Errno::MFILE | Errno::NFILE))
}

/// What the process needs for itself: its lower network, its files, its stream to irmd.
const OWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_beyond_the_limit_are_refused_and_the_process_keeps_some_for_itself() {
        let few = Descriptors { most: 100 };
        assert_eq!(few.room(35), Ok(()));
        let refused = few.room(36).unwrap_err();
        assert_eq!(refused.code, Code::Busy);
        assert!(refused.text.contains("100 descriptors"), "{refused}");
        assert!(Descriptors { most: 10 }.room(0).is_err());
    }
}
