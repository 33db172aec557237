//! The host's devices.

pub(crate) mod acpi;
pub(crate) mod bundle;
pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod io_apic;
pub(crate) mod pic;
pub(crate) mod power;
pub(crate) mod rtc;
pub(crate) mod screen;
pub(crate) mod serial;
