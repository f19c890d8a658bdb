//! libflow
