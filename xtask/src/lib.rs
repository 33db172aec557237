//! The front door of Plinth: builds, runs, tests, checks and installs it.
//!
//! `main.rs` only picks the command; each command is a file in [`commands`]. What they share: [`toolchain`] (the
//! compiler for the bare machine), [`build`] (the hypervisor, the guests, disk images), [`guests`] (the bundle),
//! [`config`] (machines as files describe them), [`linux`] (the guest that is a whole system, packed with [`cpio`]),
//! [`packaged`] (others' guests), [`bare`] (a guest without the hypervisor), [`emulator`] (machines to run them on),
//! [`terminal`] (the user's), [`bench`] (measurements), [`profile`] (where ticks go), [`gdb`] (a debugger for them),
//! [`flash`] (USB sticks), [`check`] (the rules of the house) and [`system`] (the distribution and its packages). The
//! integration tests in `tests/` use [`build`], [`guests`], [`linux`] and [`emulator`] as a library.

#![forbid(unsafe_code)]

pub mod bare;
pub mod bench;
pub mod bootlog;
pub mod build;
pub mod check;
pub mod commands;
pub mod config;
pub mod conformance;
pub mod cpio;
pub mod emulator;
pub mod flash;
pub mod gdb;
pub mod guests;
pub mod linux;
pub mod output;
pub mod packaged;
pub mod paths;
pub mod profile;
pub mod report;
pub mod system;
pub mod terminal;
pub mod toolchain;
