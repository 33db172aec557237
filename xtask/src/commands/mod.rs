//! The commands of `cargo xtask`, one file each.

pub mod bench;
pub mod bootlog;
pub mod check;
pub mod conformance;
mod conversation;
pub mod debug;
pub mod doctor;
pub mod flash;
pub mod image;
pub mod options;
pub mod profile;
pub mod run;
pub mod test;
