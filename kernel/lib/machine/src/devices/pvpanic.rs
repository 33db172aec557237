//! [`PanicDevice`]: the port by which a guest's kernel says that it has panicked.
//!
//! QEMU documents it as `pvpanic`, and stock Linux has the driver, which finds it by its ACPI device. Reading the port
//! tells which events it knows; writing one of them reports it.

use crate::{Effects, Request};

/// The kernel has panicked.
const PANICKED: u8 = 1 << 0;
/// It has panicked, and another kernel that it has loaded looks after that.
const CRASH_LOADED: u8 = 1 << 1;

/// The port. It has no state.
#[derive(Debug)]
pub struct PanicDevice;

impl PanicDevice {
    /// The port's address.
    pub const PORT: u16 = 0x505;

    /// Reads the port.
    pub const fn read(&self) -> u8 {
        PANICKED | CRASH_LOADED
    }

    /// Writes the port. A guest that has a kernel for its crashes goes on.
    pub const fn write(&self, value: u8, fx: &mut Effects) {
        if value & PANICKED != 0 {
            fx.ask(Request::Panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_panic_that_nobody_looks_after_is_one() {
        for (value, request) in [
            (0, None),
            (1, Some(Request::Panic)),
            (2, None),
            (4, None),
            (0xff, Some(Request::Panic)),
        ] {
            let mut fx = Effects::new();
            PanicDevice.write(value, &mut fx);
            assert_eq!(fx.request, request, "{value:#x}");
        }
        assert_eq!(PanicDevice.read(), 3);
    }
}
