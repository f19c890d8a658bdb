//! The words of Strata: messages, gRPC services, the bytes of the data path. It must not do IO: no socket, clock or chance.
//!
//! Everybody may depend on it.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | newtype ids and names, parsed once at the border |
//! | [`qos`] | what a user asks of a flow, and the cube that serves it |
//! | [`packet`] | one packet with headroom, from a pool |
//! | [`batch`] | many packets in one buffer: a record or a GSO train |
//! | [`record`] | the record socket's control items: join, welcome, MTU, down |
//! | [`ipcp`] | what irmd asks of an IPC process and what that answers (domain types) |
//! | [`reason`] | why something failed, with what to do next |
//! | `codec` | how messages stand in gRPC frames |
//! | [`irm`] | generated `strata.irm.v1` messages and services |
//! | [`wire`] | generated `strata.layer.v1` messages, spoken between members |

pub mod batch;
#[cfg(feature = "grpc")]
pub mod codec;
mod convert;
pub mod id;
pub mod ipcp;
pub mod packet;
mod pool;
pub mod qos;
pub mod reason;
pub mod record;

pub use batch::{Batch, Framing, Margin};
pub use convert::BadMessage;
pub use id::{Addr, EndpointId, FlowId, Label, Name, Token};
pub use packet::Packet;
pub use qos::QosSpec;
pub use reason::{Code, Reason};

/// Generated from `strata/irm/v1/irm.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod irm {
    include!(concat!(env!("OUT_DIR"), "/strata.irm.v1.rs"));
}

/// Generated from `strata/layer/v1/layer.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::use_self,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/strata.layer.v1.rs"));
}
