//! Segmentation and its opposite. The kernel gives and takes **super-packets** at a TUN device that was made with
//! `IFF_VNET_HDR`: up to 64 KiB of one TCP or UDP flow under one header, so that one system call moves what would else take some
//! forty. What travels between hosts are ordinary packets.
//!
//! - [`Vnet`]: the header in front of each, which says how it is to be cut and where a checksum is missing;
//! - [`Segments`]: the packets of a super-packet, made one by one where they are to lie;
//! - [`Joiner`]: super-packets out of packets, never across flows, flags or wrong checksums.

mod join;
mod layout;
mod segment;
mod vnet;

pub use join::{Frame, Joiner};
pub use segment::Segments;
pub use vnet::{BadFrame, Checksum, Gso, GsoKind, Vnet};

#[cfg(test)]
mod tests;
