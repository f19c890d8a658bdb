//! Decoders that nobody outside needs but a fuzzer. Not for use.

pub use crate::crypt::decode_prefixes;
pub use crate::unicast::decode_pdu;
