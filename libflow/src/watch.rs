//! Descriptors in tokio's reactor.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor to be waited on; must be called in a tokio runtime with IO.
///
/// tokio calls its own function for this deprecated, since it takes types that could close or change their descriptor
/// while it is registered; the successor is `unsafe`. [`AsFd`] as a second bound leaves types that own or borrow an open one.
pub fn watch<T: AsFd + AsRawFd>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[expect(
        deprecated,
        reason = "the successor needs unsafe, which the bound on AsFd makes needless"
    )]
    AsyncFd::with_interest(inner, interest)
}
