//! The Lab, and the black-box tests on it. It must not reach into a program: it sees binaries and `libflow` only.
//!
//! A Lab is real programs of Strata on hosts that are network namespaces.

pub mod cat;
pub mod churn;
pub mod demo;
pub mod door;
pub mod flood;
pub mod host;
pub mod known;
pub mod lab;
pub mod line;
pub mod look;
pub mod narrow;
pub mod pair;
pub mod pki;
pub mod report;
pub mod streams;
pub mod talk;
pub mod tool;
pub mod vpns;

pub use host::Impairment;
pub use lab::{Clock, Group, Host, How, Lab, Link, Output, Process, eventually, example, until};
pub use line::Line;
pub use pair::{PAIR_V4, PAIR_V6, Pair};
