//! The guest's PC: bus, interrupt lines, board, devices, ACPI tables and kernel loaders.
//!
//! A device knows no VM, CPU or lock. It gets an offset and a width, and what it wants done beyond its own
//! registers it leaves in [`Effects`].
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

extern crate alloc;

pub mod acpi;
pub mod bios;
mod board;
mod bus;
pub mod devices;
pub mod effects;
pub mod firmware;
pub mod interrupt;
pub mod layout;
pub mod loader;
pub mod smbios;

pub use board::{Board, BoardConfig, Display, Handover, TestBoard};
pub use effects::{A20Gate, Effects, LineChanges, OutputLine, Request};
pub use interrupt::{DeliveryMode, DestinationMode, Gsi, InterruptMessage, Level, TriggerMode};
