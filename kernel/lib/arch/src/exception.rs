//! Interrupt and exception vectors.

/// An interrupt or exception vector, 0 to 255.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Vector(pub u8);

impl Vector {
    /// The non-maskable interrupt.
    pub const NMI: Self = Self(2);

    /// The interrupt-priority class: the upper four bits (SDM vol. 3, Interrupt, Task, and Processor
    /// Priority).
    pub const fn priority_class(self) -> u8 {
        self.0 >> 4
    }
}

/// An architectural exception (SDM vol. 3, Exception and Interrupt Vectors); the discriminant is its vector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Exception {
    /// #DE.
    DivideError = 0,
    /// #DB.
    Debug = 1,
    /// #BP.
    Breakpoint = 3,
    /// #OF.
    Overflow = 4,
    /// #BR.
    BoundRange = 5,
    /// #UD.
    InvalidOpcode = 6,
    /// #NM.
    DeviceNotAvailable = 7,
    /// #DF.
    DoubleFault = 8,
    /// #TS.
    InvalidTss = 10,
    /// #NP.
    SegmentNotPresent = 11,
    /// #SS.
    StackFault = 12,
    /// #GP.
    GeneralProtection = 13,
    /// #PF.
    PageFault = 14,
    /// #MF.
    X87FloatingPoint = 16,
    /// #AC.
    AlignmentCheck = 17,
    /// #MC.
    MachineCheck = 18,
    /// #XM.
    SimdFloatingPoint = 19,
    /// #VE.
    Virtualization = 20,
    /// #CP.
    ControlProtection = 21,
}

impl Exception {
    /// The exception with this vector, or `None` for reserved vectors, the NMI and interrupts.
    pub const fn from_vector(vector: Vector) -> Option<Self> {
        Some(match vector.0 {
            0 => Self::DivideError,
            1 => Self::Debug,
            3 => Self::Breakpoint,
            4 => Self::Overflow,
            5 => Self::BoundRange,
            6 => Self::InvalidOpcode,
            7 => Self::DeviceNotAvailable,
            8 => Self::DoubleFault,
            10 => Self::InvalidTss,
            11 => Self::SegmentNotPresent,
            12 => Self::StackFault,
            13 => Self::GeneralProtection,
            14 => Self::PageFault,
            16 => Self::X87FloatingPoint,
            17 => Self::AlignmentCheck,
            18 => Self::MachineCheck,
            19 => Self::SimdFloatingPoint,
            20 => Self::Virtualization,
            21 => Self::ControlProtection,
            _ => return None,
        })
    }

    /// Its vector.
    pub const fn vector(self) -> Vector {
        Vector(self as u8)
    }

    /// Whether delivery in protected mode pushes an error code.
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::DoubleFault
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::PageFault
                | Self::AlignmentCheck
                | Self::ControlProtection
        )
    }

    /// Whether it is of the contributory class (SDM vol. 3, Interrupt 8: Double Fault Exception).
    pub const fn is_contributory(self) -> bool {
        matches!(
            self,
            Self::DivideError
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::ControlProtection
        )
    }

    /// The manual's mnemonic, such as `#GP`.
    pub const fn mnemonic(self) -> &'static str {
        match self {
            Self::DivideError => "#DE",
            Self::Debug => "#DB",
            Self::Breakpoint => "#BP",
            Self::Overflow => "#OF",
            Self::BoundRange => "#BR",
            Self::InvalidOpcode => "#UD",
            Self::DeviceNotAvailable => "#NM",
            Self::DoubleFault => "#DF",
            Self::InvalidTss => "#TS",
            Self::SegmentNotPresent => "#NP",
            Self::StackFault => "#SS",
            Self::GeneralProtection => "#GP",
            Self::PageFault => "#PF",
            Self::X87FloatingPoint => "#MF",
            Self::AlignmentCheck => "#AC",
            Self::MachineCheck => "#MC",
            Self::SimdFloatingPoint => "#XM",
            Self::Virtualization => "#VE",
            Self::ControlProtection => "#CP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_names_its_exception_or_none() {
        for vector in 0..=255 {
            if let Some(exception) = Exception::from_vector(Vector(vector)) {
                assert_eq!(exception.vector(), Vector(vector));
            }
        }
        assert_eq!(Exception::from_vector(Vector::NMI), None);
        assert_eq!(
            Exception::from_vector(Vector(13)),
            Some(Exception::GeneralProtection)
        );
        assert_eq!(Exception::from_vector(Vector(32)), None);
    }
}
