//! What the tests say: boot these guests on that machine, expect this line, see how it ends.
//!
//! A [`Boot`] is a machine with Plinth and some guests on it, described with few words; [`Session`] is the same at
//! work. Every wait has a deadline. A test that misses one prints what the serial port has said, what the
//! hypervisor tells about its guests when asked (their registers and last exits), and the registers of the
//! machine itself.

#![forbid(unsafe_code)]

mod boot;
mod phantom;
mod picture;
mod session;
pub mod terminal;

use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use xtask::build::Artifacts;
use xtask::paths::Paths;

pub use xtask::emulator::console;

pub use self::boot::Boot;
pub use self::session::Session;

/// The checkout's artifacts, which `cargo xtask test` has built.
pub fn artifacts() -> Result<&'static Artifacts> {
    static ARTIFACTS: OnceLock<Result<Artifacts, String>> = OnceLock::new();
    ARTIFACTS
        .get_or_init(|| {
            Artifacts::built(&Paths::of_checkout()).map_err(|error| format!("{error:#}"))
        })
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}
