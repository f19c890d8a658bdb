//! Buffers that come back: a short free list per thread and size, so that the data path allocates nothing once warm.

use std::cell::RefCell;

/// The bytes of a small buffer: any packet of an Ethernet with room before and after.
pub(crate) const SMALL: usize = 2304;
/// The bytes of a large buffer: a whole record or train.
pub(crate) const LARGE: usize = 65_536;

/// An initialised buffer of one of two sizes; goes back to its thread's free list on drop.
pub(crate) struct Buf(Vec<u8>);

impl Buf {
    /// The smaller size that holds `len` bytes; larger ones are made to measure and not kept.
    pub(crate) fn holding(len: usize) -> Self {
        if len <= SMALL {
            Self::take(&FREE_SMALL, SMALL)
        } else if len <= LARGE {
            Self::take(&FREE_LARGE, LARGE)
        } else {
            Self(vec![0; len])
        }
    }

    fn take(list: &'static std::thread::LocalKey<RefCell<Vec<Vec<u8>>>>, size: usize) -> Self {
        // try_with: a buffer may be dropped or taken while its thread ends.
        let kept = list.try_with(|free| free.borrow_mut().pop()).ok().flatten();
        Self(kept.unwrap_or_else(|| vec![0; size]))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let buf = std::mem::take(&mut self.0);
        let (list, most) = match buf.len() {
            SMALL => (&FREE_SMALL, KEEP_SMALL),
            LARGE => (&FREE_LARGE, KEEP_LARGE),
            _ => return,
        };
        // Nothing to do when the thread is ending: the buffer is freed as any other.
        let _ = list.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < most {
                free.push(buf);
            }
        });
    }
}

/// 512 KiB at most stay with a thread in large buffers, 147 KiB in small ones.
const KEEP_LARGE: usize = 8;
const KEEP_SMALL: usize = 64;

thread_local! {
    static FREE_SMALL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static FREE_LARGE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}
