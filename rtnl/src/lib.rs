//! What the kernel knows of this host's network, as rtnetlink(7) has it. It must not judge any of it, nor know who asks.
//!
//! | module | holds |
//! |---|---|
//! | `ask` | questions, each answered by a deadline: addresses of devices, routes of a table |
//! | `news` | the kernel's word that something has changed |

mod ask;
mod news;

pub use ask::{Address, MAIN, Netlink, Refused, Route, To, within};
pub use news::{Heard, Link, News, Topic, Watch, links};
pub use rtnetlink::packet_route::address::AddressFlags;
