//! ipcp
