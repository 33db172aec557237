//! Fakes for host tests: a CPU of plain fields, memory in a vector, and a machine that plays a script.
//!
//! They are compiled for this crate's own tests and, with the feature `testing`, for those of others. Being
//! test code, they panic where a test has set them up wrongly.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test code"
)]

mod cpu;
mod machine;
mod vcpu;

pub use cpu::FakeCpu;
pub use machine::{FakeMachine, FakeMemory};
pub use vcpu::{guest_cpu_config, host_cpuid, vcpu, vcpu_with};
