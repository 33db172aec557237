//! The commands of `cargo xtask`, one file each.

pub mod run;
