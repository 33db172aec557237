//! The devices of the guest's PC, one file each.
//!
//! A device is a plain struct. Byte-wide ones have `read(offset, now_ns, fx) -> u8` and `write(offset, value,
//! now_ns, fx)`; the bus splits wider accesses for them. Those whose registers are wider take a width, too.
//! Time is guest time in nanoseconds, passed in; a device that wants to act later says when by
//! `next_deadline_ns()` and acts in `expire(now_ns, fx)`.

mod calendar;
mod fw_cfg;
mod i8042;
mod ioapic;
pub(crate) mod keyboard;
pub mod lapic;
mod pci;
mod pic;
mod pit;
mod pm;
mod pvpanic;
mod reset;
pub mod routing;
mod rtc;
pub(crate) mod testdev;
mod uart;
mod vga;

pub use fw_cfg::FirmwareFiles;
pub use i8042::I8042;
pub use ioapic::IoApic;
pub use keyboard::{Keyboard, characters_of};
pub use pci::Pci;
pub use pic::Pic;
pub use pit::Pit;
pub use pm::{PowerManagement, SOFT_OFF_TYPE};
pub use pvpanic::PanicDevice;
pub use reset::ResetControl;
pub use rtc::{CENTURY, Rtc};
pub use testdev::TestDevices;
pub use uart::{Uart, WireHold};
pub use vga::{TextView, Vga};
