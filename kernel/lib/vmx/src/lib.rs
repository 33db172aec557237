//! VMX as data: VMCS fields, controls, capabilities, exit decoding, EPT, bitmaps and the entry checks.
//!
//! Nothing here executes a VMX instruction: the kernel's `backend/vmx` does, with these types. All of it runs
//! under plain `cargo test`. "SDM" is Intel's Software Developer's Manual; sections are cited by title.
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
#[cfg(test)]
extern crate std;

pub mod access_rights;
pub mod apic;
pub mod bitmap;
pub mod capability;
pub mod controls;
pub mod dump;
pub mod entry_checks;
pub mod ept;
pub mod event;
pub mod exit;
pub mod exit_reason;
pub mod feature_control;
pub mod features;
pub mod fields;
pub mod host_timer;
pub mod instruction_error;
pub mod large_pages;
pub mod pml;
pub mod posted;
pub mod preemption;
pub mod private_view;
pub mod residence;
pub mod space_id;
#[cfg(test)]
mod testing;
pub mod tlb;
pub mod vpid;

pub use bitmap::{IoBitmaps, MsrBitmap};
pub use capability::{Capabilities, MissingControls, RawCapabilities};
pub use controls::{
    EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls,
    SecondaryExitControls, TertiaryControls,
};
pub use ept::{Ept, EptFlags, EptPointer};
pub use event::{EntryEvent, InterruptionInfo};
pub use exit::{ExitFields, decode};
pub use exit_reason::{ExitReason, RawExitReason};
pub use feature_control::FeatureControl;
pub use features::{Feature, Features};
pub use fields::{Encoding, Field, VmcsReader, VmcsWriter};
pub use host_timer::HostTimer;
pub use large_pages::LargePages;
pub use pml::WriteTracking;
pub use preemption::PreemptionTimer;
pub use private_view::{Peculiarity, PrivateView};
pub use residence::{Arrival, Residence};
pub use space_id::SpaceId;
pub use tlb::Tlb;
pub use vpid::{Vpid, VpidAllocator};
