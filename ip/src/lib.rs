//! IP packets as a data path meets them, cut and joined. It must not do IO, know a device, or decide where a packet goes.
//!
//! | module | holds |
//! |---|---|
//! | [`ends`] | where a packet comes from and where it goes, parsed strictly |
//! | [`mss`] | the largest segment of a TCP connection, lowered |
//! | [`offload`] | super-packets: segments out of one, one out of segments |
//! | [`sum`] | the Internet checksum |
//! | [`upper`] | what lies behind the IP header |

pub mod ends;
pub mod mss;
pub mod offload;
pub mod sum;
pub mod upper;
