//! Where things are in the physical memory of a PC.

pub use crate::apic::BASE as LOCAL_APIC;

/// The I/O APIC: the register that selects; its window is 16 bytes on.
pub const IO_APIC: u64 = 0xfec0_0000;
/// An address between RAM and devices, where no machine that these guests are made for has anything.
pub const NOTHING: u64 = 0xd200_0000;
