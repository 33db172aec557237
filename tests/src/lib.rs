//! Placeholder until the crate arrives.
