//! Memory as data: addresses, ranges, guest memory, and the algorithms over frames and page tables.
//!
//! The lowest layer: it knows no processor register and no device. What touches real memory implements
//! [`GuestMemory`] or [`TableMemory`](table::TableMemory) in the kernel; the tests here implement them over
//! plain vectors.
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

mod addr;
pub mod frames;
mod guest;
mod range;
pub mod table;
pub mod written;

pub use addr::{GuestPhys, GuestVirt, HostPhys, HostVirt, PageSize};
pub use frames::{FrameAllocator, Placement};
pub use guest::{GuestMemory, Unbacked};
pub use range::Range;
pub use table::{TableMemory, Tables, TlbEffect};
pub use written::Written;
