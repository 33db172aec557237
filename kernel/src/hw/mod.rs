//! The host's devices.

pub mod serial;
