//! The hypervisor's mind, without a vendor's word in it: what an exit means and what is to be done.
//!
//! [`VmExit`] says why a guest stopped, [`Cpu`] is its register file, [`Machine`] all that it can reach
//! outside the CPU, and the handlers bring the three together. All of it runs under plain `cargo test`.
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

pub mod advance;
mod breakpoint;
pub mod cpu;
pub mod cpuid;
pub mod device;
pub mod dump;
pub mod emulate;
pub mod exit;
pub mod fault;
pub mod freeze;
pub mod handle;
pub mod inject;
pub mod linear;
pub mod machine;
pub mod metrics;
pub mod monitor;
pub mod mtrr;
pub mod panic_watch;
pub mod paravirt;
pub mod pending;
pub mod power;
pub mod reset;
pub mod scheduler;
mod segments;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
pub mod tsc;

pub use cpu::Cpu;
pub use cpuid::CpuidTable;
pub use exit::VmExit;
pub use fault::{Event, GuestFault, VmError};
pub use handle::{Next, handle};
pub use machine::{Machine, Taken};
pub use state::VcpuState;
