//! The one epoll of the process, and the counters of what the runtime drops.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

/// What the runtime lends to a [`crate::Lower`]: waiting on descriptors, and counting.
#[derive(Debug)]
pub struct Io {
    epoll: Epoll,
    last_key: u64,
    /// What was dropped and why, among other events.
    pub counters: Counters,
}

/// Names a descriptor that is waited on. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// That it can be read, or was closed by the other side.
    pub read: bool,
    /// That it can be written.
    pub write: bool,
}

impl Interest {
    /// Only reading.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
    /// Only writing.
    pub const WRITE: Self = Self {
        read: false,
        write: true,
    };
    /// Both.
    pub const BOTH: Self = Self {
        read: true,
        write: true,
    };
    /// Not even that it was closed.
    pub const NONE: Self = Self {
        read: false,
        write: false,
    };
}

/// A descriptor's place in the epoll. It leaves when the descriptor is closed; [`Io::forget`] does so before.
#[derive(Debug)]
pub struct Watch {
    key: Key,
    interest: Interest,
}

impl Watch {
    /// Its name in [`crate::Lower::recv`] and [`crate::Lower::writable`].
    pub fn key(&self) -> Key {
        self.key
    }

    /// What is waited for.
    pub fn interest(&self) -> Interest {
        self.interest
    }
}

/// A descriptor that something happened to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) key: Key,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// Whose a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Lower,
    Upper,
}

impl Key {
    pub(crate) fn side(self) -> Side {
        if self.0 & 1 == 0 {
            Side::Lower
        } else {
            Side::Upper
        }
    }
}

impl Io {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        Ok(Self {
            epoll,
            last_key: 0,
            counters: Counters::default(),
        })
    }

    /// Begins to wait on a descriptor of the lower side. An epoll takes a descriptor once; `dup` it for a second time.
    pub fn watch(&mut self, fd: &impl AsFd, interest: Interest) -> io::Result<Watch> {
        self.watch_on(Side::Lower, fd, interest)
    }

    pub(crate) fn watch_on(
        &mut self,
        side: Side,
        fd: &impl AsFd,
        interest: Interest,
    ) -> io::Result<Watch> {
        self.last_key += 1;
        let key = Key(self.last_key << 1 | u64::from(side == Side::Upper));
        let mut watch = Watch {
            key,
            interest: Interest::NONE,
        };
        self.set(&mut watch, fd, interest)?;
        Ok(watch)
    }

    /// Changes what is waited for; nothing happens if it is that already.
    pub fn set(&mut self, watch: &mut Watch, fd: &impl AsFd, interest: Interest) -> io::Result<()> {
        if watch.interest == interest {
            return Ok(());
        }
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, interest.read);
        flags.set(EventFlags::OUT, interest.write);
        let data = EventData::new_u64(watch.key.0);
        if interest == Interest::NONE {
            // A descriptor without interests would still report that it was closed, again and again.
            epoll::delete(&self.epoll, fd)?;
        } else if watch.interest == Interest::NONE {
            epoll::add(&self.epoll, fd, data, flags)?;
        } else {
            epoll::modify(&self.epoll, fd, data, flags)?;
        }
        watch.interest = interest;
        Ok(())
    }

    /// No longer waits on a descriptor that lives on elsewhere.
    pub fn forget(&mut self, mut watch: Watch, fd: &impl AsFd) {
        // It was added, so that this can't fail.
        let _ = self.set(&mut watch, fd, Interest::NONE);
    }

    /// The epoll once more, to be waited on by the reactor.
    pub(crate) fn reactor_end(&self) -> io::Result<Epoll> {
        Ok(Epoll(self.epoll.0.try_clone()?))
    }
}

/// The epoll's descriptor; readable when something happened to one of its own.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    /// What has happened; `WouldBlock` if nothing has.
    pub(crate) fn poll(&self, ready: &mut Vec<Ready>) -> io::Result<()> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; EVENTS];
        let (events, _) = loop {
            match epoll::wait(
                &self.0,
                &mut events[..],
                Some(&rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                }),
            ) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        if events.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        ready.extend(events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            Ready {
                key: Key(data.u64()),
                read: flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR),
                write: flags.contains(EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Numbers by name; those of drops begin with `drop.`.
#[derive(Debug, Default)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Adds `n` to a counter.
    pub fn add(&mut self, name: &'static str, n: u64) {
        if n > 0 {
            *self.0.entry(name).or_default() += n;
        }
    }

    /// A counter's value; 0 if nothing was added yet.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, n)| (*name, *n))
    }
}

/// Descriptors that are looked at in one step; if more are ready, the next step goes on with those.
pub(crate) const EVENTS: usize = 64;
