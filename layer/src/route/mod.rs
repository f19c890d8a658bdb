//! Who is in the layer and how to get there: records signed by their originators, replicated to all, and shortest paths
//! over them. No member can alter or forge what another says.
//!
//! | file | holds |
//! |---|---|
//! | `record` | a record as it is signed, its bounds and what is wrong with a bad one |
//! | `lsdb` | everybody's newest records: flooding, digests, ageing |
//! | `spf` | shortest paths |
//! | `fib` | the table that packets are forwarded by |

mod fib;
mod lsdb;
#[cfg(test)]
mod lsdb_tests;
mod record;
mod spf;

pub use fib::{Fib, Hop};
pub use lsdb::{Inserted, Lsdb};
pub use record::{MAX_LINKS, MAX_MEMBERS, MAX_NAMES, MAX_RECORD, RecordError};
pub use spf::{Graph, LinkState, tidy};

use proto::Addr;

/// The way to every member that can be reached from `me`, over links that both ends name.
pub fn routes(lsdb: &Lsdb, me: Addr) -> Fib {
    lsdb.graph().routes(me)
}
