//! Placeholder until the crate arrives.
#![no_std]
