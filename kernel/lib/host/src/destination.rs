//! Which CPU an interrupt is sent to, and how that is written: interrupt command registers of local APICs in both modes,
//! and entries of I/O APICs.
//!
//! Nobody here ever wants to reach all CPUs by an ID. So whoever has one that is too long for the way that it is to go, or
//! that means all there, is told that this CPU cannot be reached so; cut off, it would name another.

/// The mode that the CPUs' local APICs are in: an ID has 8 bits or 32 (SDM vol. 3, Determining IPI Destination).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicMode {
    /// Registers in memory.
    Xapic,
    /// Registers are MSRs.
    X2apic,
}

impl ApicMode {
    /// The destination of notifications in a posted-interrupt descriptor, for the CPU with this ID (SDM vol. 3, Format of
    /// Posted-Interrupt Descriptor): in xAPIC mode it is in bits 15:8.
    #[inline]
    pub const fn notification_destination(self, apic_id: u32) -> u32 {
        match self {
            Self::Xapic => (apic_id & 0xff) << 8,
            Self::X2apic => apic_id,
        }
    }

    /// Whose destination that is.
    #[inline]
    pub const fn notified_apic_id(self, destination: u32) -> u32 {
        match self {
            Self::Xapic => destination >> 8 & 0xff,
            Self::X2apic => destination,
        }
    }
}

/// What is written to an interrupt command register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpiCommand {
    /// Two registers; the second write sends.
    Xapic {
        /// Bits 63:32.
        high: u32,
        /// Bits 31:0.
        low: u32,
    },
    /// One MSR.
    X2apic(u64),
}

impl IpiCommand {
    /// With `low` to the CPU with this ID, if it can be reached.
    #[inline]
    pub const fn new(mode: ApicMode, apic_id: u32, low: u32) -> Option<Self> {
        match mode {
            ApicMode::Xapic if apic_id < 0xff => Some(Self::Xapic {
                high: apic_id << 24,
                low,
            }),
            ApicMode::X2apic if apic_id != u32::MAX => {
                Some(Self::X2apic((apic_id as u64) << 32 | low as u64))
            }
            ApicMode::Xapic | ApicMode::X2apic => None,
        }
    }

    /// Where a shorthand in `low` says who gets it.
    pub const fn by_shorthand(mode: ApicMode, low: u32) -> Self {
        match mode {
            ApicMode::Xapic => Self::Xapic { high: 0, low },
            ApicMode::X2apic => Self::X2apic(low as u64),
        }
    }
}

/// An entry of an I/O APIC (82093AA data sheet, I/O Redirection Table Registers).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedirectionEntry {
    /// Bits 63:32.
    pub high: u32,
    /// Bits 31:0.
    pub low: u32,
}

/// MPS INTI flags: polarity and trigger mode, where they differ from the bus's usual ones.
const FLAGS_ACTIVE_LOW: u16 = 3;
const FLAGS_LEVEL: u16 = 3 << 2;

impl RedirectionEntry {
    /// What sends nothing.
    pub const MASKED: Self = Self {
        high: 0,
        low: 1 << 16,
    };
    const LEVEL_TRIGGERED: u32 = 1 << 15;
    const ACTIVE_LOW: u32 = 1 << 13;

    /// An ISA interrupt with these MPS INTI flags as this vector to the CPU with this ID, if it can be reached: without
    /// interrupt remapping there are eight bits for that, whatever mode the local APICs are in.
    pub const fn of_isa(vector: u8, flags: u16, apic_id: u32) -> Option<Self> {
        if apic_id >= 0xff {
            return None;
        }
        let mut low = vector as u32;
        if flags & FLAGS_ACTIVE_LOW == FLAGS_ACTIVE_LOW {
            low |= Self::ACTIVE_LOW;
        }
        if flags & FLAGS_LEVEL == FLAGS_LEVEL {
            low |= Self::LEVEL_TRIGGERED;
        }
        Some(Self {
            high: apic_id << 24,
            low,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipi_to_a_cpu_with_a_long_id_went_to_another() {
        const INIT: u32 = 0x4500;
        let to = |mode, apic_id| IpiCommand::new(mode, apic_id, INIT);
        let xapic = |high| Some(IpiCommand::Xapic { high, low: INIT });
        assert_eq!(to(ApicMode::Xapic, 0), xapic(0));
        assert_eq!(to(ApicMode::Xapic, 0xfe), xapic(0xfe00_0000));
        // 255 is everybody, and 256 would be the first CPU.
        for apic_id in [0xff, 0x100, 0x1fe, u32::MAX] {
            assert_eq!(to(ApicMode::Xapic, apic_id), None, "{apic_id:#x}");
        }
        for apic_id in [0, 0xff, 0x100, 0x1_0000] {
            let value = u64::from(apic_id) * (1 << 32) + 0x4500;
            assert_eq!(
                to(ApicMode::X2apic, apic_id),
                Some(IpiCommand::X2apic(value))
            );
        }
        assert_eq!(to(ApicMode::X2apic, u32::MAX), None);
    }

    #[test]
    fn a_shorthand_needs_no_id() {
        let nmi = 0xc_4400;
        let xapic = IpiCommand::by_shorthand(ApicMode::Xapic, nmi);
        assert_eq!(xapic, IpiCommand::Xapic { high: 0, low: nmi });
        let x2apic = IpiCommand::by_shorthand(ApicMode::X2apic, nmi);
        assert_eq!(x2apic, IpiCommand::X2apic(0xc_4400));
    }

    #[test]
    fn notifications_of_posted_interrupts_name_cpus_in_the_apics_mode() {
        for (mode, apic_id, destination) in [
            (ApicMode::Xapic, 0, 0),
            (ApicMode::Xapic, 0xfe, 0xfe00),
            (ApicMode::X2apic, 0xfe, 0xfe),
            (ApicMode::X2apic, 0x100, 0x100),
            (ApicMode::X2apic, 0x1_0203, 0x1_0203),
        ] {
            assert_eq!(mode.notification_destination(apic_id), destination);
            assert_eq!(mode.notified_apic_id(destination), apic_id);
        }
    }

    #[test]
    fn an_interrupt_for_a_cpu_with_a_long_id_went_to_another_or_to_all() {
        let to = |apic_id| RedirectionEntry::of_isa(0xf2, 0, apic_id);
        for apic_id in [0, 1, 0xfe] {
            let entry = to(apic_id).expect("reached");
            assert_eq!((entry.high, entry.low), (apic_id * 0x100_0000, 0xf2));
        }
        for apic_id in [0xff, 0x100, 0x200, 0x1_0001, u32::MAX] {
            assert_eq!(to(apic_id), None, "{apic_id:#x}");
        }
    }

    #[test]
    fn polarity_and_trigger_mode_are_the_buss_unless_the_firmware_says_otherwise() {
        // Conforms to the bus, active high and edge, active low and level, active low alone, level alone.
        for (flags, low) in [
            (0, 0xf2),
            (0b0101, 0xf2),
            (0b1111, 0xa0f2),
            (0b0011, 0x20f2),
            (0b1100, 0x80f2),
        ] {
            let entry = RedirectionEntry::of_isa(0xf2, flags, 3).unwrap();
            assert_eq!((entry.high, entry.low), (0x300_0000, low), "{flags:#b}");
        }
    }
}
