//! IP packets as a data path meets them, cut and joined. It must not do IO, know a device, or decide where a packet goes.
//!
//! | module | holds |
//! |---|---|
//! | [`ends`] | where a packet comes from and where it goes, parsed strictly |
//! | [`offload`] | super-packets: segments out of one, one out of segments |
//! | [`sum`] | the Internet checksum |

pub mod ends;
pub mod offload;
pub mod sum;
