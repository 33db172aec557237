//! Runs a machine that boots Plinth: [`Machine`] says what is wanted, [`Running`] is the emulator at work.
//!
//! The configuration of each emulator is a pure function ([`bochs::configuration`], [`qemu::arguments`]). Whatever
//! the emulator, its first serial port is a TCP connection to a listener of ours: two ways, no overrun, and the
//! same for all. Every run has a folder of its own, with its copy of the disk image, and leaves nothing behind.

pub mod bochs;
pub mod cleanup;
pub mod console;
mod disk;
mod engine;
pub mod hang;
mod machine;
pub mod monitor;
pub mod qemu;
mod running;

use std::process::Command;

pub use disk::{Disk, bytes_with_bundle};
pub use engine::Engine;
pub use machine::{CpuModel, Debugger, Firmware, Machine, Msrs, Pace, SerialPort};
pub use running::Running;

/// Names of the files in a run's folder. The emulator runs in that folder, so no configuration has to quote a path.
pub(crate) mod files {
    pub(crate) const DISK: &str = "hd.img";
    pub(crate) const BUNDLE: &str = "bundle";
    pub(crate) const SECOND_SERIAL: &str = "com2.out";
    pub(crate) const DEBUG_PORT: &str = "debug-port.out";
    pub(crate) const OUTPUT: &str = "emulator.out";
    pub(crate) const LOG: &str = "emulator.log";
    pub(crate) const UEFI_VARIABLES: &str = "uefi-variables.fd";
}

/// A command for an emulator that is not to see the surroundings of `xtask`.
fn emulator_command(program: &str) -> Command {
    let mut command = Command::new(program);
    // `cargo run` puts the toolchain's libraries there; an emulator has its own.
    command.env_remove("LD_LIBRARY_PATH");
    command
}
