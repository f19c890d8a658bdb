//! Who is in the layer and how to get there: records signed by their originators, replicated to all, and shortest paths
//! over them. No member can alter or forge what another says.
//!
//! | file | holds |
//! |---|---|
//! | `record` | a record as it is signed, its bounds and what is wrong with a bad one |
//! | `lsdb` | everybody's newest records: flooding, digests, ageing |
//! | `names`, `graph` | members by number; their links, as both ends name them |
//! | `spf` | shortest paths, and what changes of them with a link |
//! | `lfa` | ways round a neighbour that has just died |
//! | `fib` | the table that packets are forwarded by |

mod fib;
mod graph;
mod lfa;
mod lsdb;
mod names;
mod record;
mod spf;

pub use fib::{Fib, Hop, Repair};
#[cfg(any(test, feature = "sim"))]
pub use graph::Drawn;
pub use graph::{LinkState, MAX_COST, tidy};
#[cfg(any(test, feature = "sim"))]
pub use lsdb::Pool;
pub(crate) use lsdb::packed;
pub use lsdb::{Clash, Inserted, Lsdb, yields};
pub(crate) use names::room;
pub use record::{MAX_LINKS, MAX_MEMBERS, MAX_OFFERS, MAX_RECORD, RecordError};
pub use spf::{Moves, Spf};

use proto::{Addr, EndpointId};

/// What tells the packets of one flow from those of others, the same at every member but one salt, so that members one
/// behind the other don't all choose alike.
pub(crate) fn flow_hash(salt: Addr, src: Addr, dst: Addr, endpoint: EndpointId) -> u64 {
    let hash = fib::mixed(salt.0 ^ src.0.rotate_left(17));
    let hash = fib::mixed(hash ^ dst.0);
    fib::mixed(hash ^ endpoint.0)
}
