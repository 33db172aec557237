//! x86 as data: registers, segments, exceptions, MSRs, CPUID, paging formats and instruction decode.
//!
//! Nothing here touches a processor. The names are the manuals' ("SDM" is Intel's Software Developer's
//! Manual); sections are cited by title.
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

pub mod control;
pub mod cpuid;
pub mod debug;
pub mod decode;
pub mod descriptor;
pub mod exception;
pub mod gpr;
pub mod linear;
pub mod machine_check;
pub mod msr;
pub mod mtrr;
pub mod paging;
pub mod segment;
pub mod speculation;
pub mod walk;
mod width;

pub use control::{Cr0, Cr4, Efer, Rflags, Xcr0};
pub use cpuid::{CpuidLeaf, CpuidResult};
pub use debug::{DebugCtl, Dr6, Dr7};
pub use descriptor::{Descriptor, Selector};
pub use exception::{Exception, Vector};
pub use gpr::{Gpr, Gprs};
pub use linear::{CpuMode, LinearWidth, Segmentation, is_canonical};
pub use paging::PageFlags;
pub use segment::{AccessRights, DescriptorTable, Segment, SegmentName};
pub use walk::{AccessKind, GuestPaging, Privilege};
pub use width::Width;
