//! Interrupt lines and interrupt messages.

use arch::Vector;

/// A global system interrupt: the number of an interrupt line as ACPI counts them (ACPI, Global System
/// Interrupts); 0 to 23 are the pins of the I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gsi(pub u8);

/// The state of an interrupt line, by its meaning rather than its voltage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Level {
    /// The device asks for service.
    Asserted,
    /// It does not.
    Deasserted,
}

impl Level {
    /// Asserted while this holds.
    #[must_use]
    pub const fn asserted_if(condition: bool) -> Self {
        if condition {
            Self::Asserted
        } else {
            Self::Deasserted
        }
    }
}

/// How the destination field of a message names its CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DestinationMode {
    /// By local APIC ID.
    Physical,
    /// By logical destination (LDR and DFR).
    Logical,
}

/// What a message does to the CPUs that take it (SDM vol. 3, Interrupt Command Register).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeliveryMode {
    /// The interrupt of this vector.
    Fixed,
    /// The interrupt of this vector, to the one CPU that is least busy.
    LowestPriority,
    /// System-management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up; the vector is the page number of the entry point.
    StartUp,
    /// An interrupt whose vector the 8259 gives.
    ExtInt,
}

/// Edge or level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TriggerMode {
    /// Each assertion is one interrupt.
    Edge,
    /// The interrupt repeats while the line is asserted.
    Level,
}

/// What travels from an I/O APIC, an MSI write or an ICR write to the local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InterruptMessage {
    /// APIC ID or logical destination; 0xff in xAPIC form and 0xffff_ffff in x2APIC form mean all.
    pub destination: u32,
    /// How to read `destination`.
    pub destination_mode: DestinationMode,
    /// What to do.
    pub delivery_mode: DeliveryMode,
    /// The vector, where the delivery mode has one.
    pub vector: Vector,
    /// How the source signals.
    pub trigger_mode: TriggerMode,
}
