//! What the hypervisor knows of the machine that it runs on, as data: the algorithms of its bring-up that
//! touch nothing.
//!
//! The kernel reads the real thing (boot loader, ACPI tables, real-time clock, console) and decides with
//! what is here.
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

pub mod date;
pub mod destination;
pub mod frequency;
pub mod madt;
pub mod map;
pub mod on_its_way;
pub mod panic_line;
pub mod picture;
pub mod rate;
pub mod ring;
pub mod size_reports;
pub mod sleep;
pub mod start_place;
pub mod tail;
pub mod text;
pub mod told;
pub mod tsc_check;
pub mod viewing;

pub use date::{Reading, RtcFormat};
pub use frequency::Frequency;
pub use madt::Madt;
pub use map::{Kind, MemoryMap, Region};
pub use panic_line::PanicLine;
pub use picture::Picture;
pub use rate::Rate;
pub use ring::Ring;
pub use size_reports::{Reporting, SizeReports};
pub use start_place::StartPlace;
pub use tail::Tail;
pub use text::EscapeFilter;
pub use told::Told;
pub use tsc_check::TscCheck;
pub use viewing::Viewing;
