//! Events on their way into and out of a guest: the interruption-information formats.
//!
//! Three fields share one layout, [`InterruptionInfo`]: what exited, what was being delivered when something
//! else exited, and what the next entry is to deliver. SDM vol. 3, VM-Entry Controls for Event Injection,
//! Information for VM Exits Due to Vectored Events, and Information for VM Exits That Occur During Event
//! Delivery.

use arch::{Exception, Vector};
use vmm::Event;

/// What kind of event an interruption-information field describes (its bits 10:8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum InterruptionType {
    /// External interrupt.
    ExternalInterrupt = 0,
    /// Reserved.
    Reserved = 1,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// Hardware exception.
    HardwareException = 3,
    /// INT n.
    SoftwareInterrupt = 4,
    /// INT1.
    PrivilegedSoftwareException = 5,
    /// INT3 and INTO.
    SoftwareException = 6,
    /// Other event: at entry the monitor trap flag, or SYSCALL and SYSENTER under FRED.
    Other = 7,
}

/// An interruption-information field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct InterruptionInfo(pub u32);

impl InterruptionInfo {
    const ERROR_CODE: u32 = 1 << 11;
    const NMI_UNBLOCKED: u32 = 1 << 12;
    const VALID: u32 = 1 << 31;

    const fn new(kind: InterruptionType, vector: Vector, error_code: Option<u32>) -> Self {
        let error_code = if error_code.is_some() {
            Self::ERROR_CODE
        } else {
            0
        };
        Self(Self::VALID | error_code | (kind as u32) << 8 | vector.0 as u32)
    }

    /// Whether the field describes an event at all.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// The vector.
    #[inline]
    pub const fn vector(self) -> Vector {
        Vector(self.0 as u8)
    }

    /// The kind of event.
    #[inline]
    pub const fn kind(self) -> InterruptionType {
        match (self.0 >> 8) & 7 {
            0 => InterruptionType::ExternalInterrupt,
            1 => InterruptionType::Reserved,
            2 => InterruptionType::Nmi,
            3 => InterruptionType::HardwareException,
            4 => InterruptionType::SoftwareInterrupt,
            5 => InterruptionType::PrivilegedSoftwareException,
            6 => InterruptionType::SoftwareException,
            _ => InterruptionType::Other,
        }
    }

    /// Whether an error code goes with it.
    #[inline]
    pub const fn has_error_code(self) -> bool {
        self.0 & Self::ERROR_CODE != 0
    }

    /// In the VM-exit field: whether the event hit an IRET that had already ended the blocking of NMIs.
    #[inline]
    pub const fn nmi_unblocked_by_iret(self) -> bool {
        self.0 & Self::NMI_UNBLOCKED != 0
    }

    /// The event, with what its two companion fields hold; they are asked for only where they count. `None`
    /// where the field is not valid or describes what cannot be injected.
    #[inline]
    pub fn event(
        self,
        error_code: impl FnOnce() -> u32,
        instruction_length: impl FnOnce() -> u32,
    ) -> Option<Event> {
        if !self.is_valid() {
            return None;
        }
        let vector = self.vector();
        Some(match self.kind() {
            InterruptionType::ExternalInterrupt => Event::Interrupt(vector),
            InterruptionType::Nmi => Event::Nmi,
            InterruptionType::HardwareException => Event::Exception {
                exception: Exception::from_vector(vector)?,
                error_code: self.has_error_code().then(error_code),
            },
            InterruptionType::SoftwareInterrupt => Event::SoftwareInterrupt {
                vector,
                length: instruction_length() as u8,
            },
            InterruptionType::PrivilegedSoftwareException => Event::PrivilegedSoftwareException {
                length: instruction_length() as u8,
            },
            InterruptionType::SoftwareException => Event::SoftwareException {
                exception: Exception::from_vector(vector)?,
                length: instruction_length() as u8,
            },
            InterruptionType::Reserved | InterruptionType::Other => return None,
        })
    }
}

/// The three VM-entry fields that inject one event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryEvent {
    /// The VM-entry interruption-information field.
    pub info: InterruptionInfo,
    /// The VM-entry exception error code; written only where there is one.
    pub error_code: Option<u32>,
    /// The VM-entry instruction length; written only where there is one.
    pub instruction_length: Option<u32>,
}

impl From<Event> for EntryEvent {
    #[inline]
    fn from(event: Event) -> Self {
        let (kind, vector, error_code, length) = match event {
            Event::Interrupt(vector) => (InterruptionType::ExternalInterrupt, vector, None, None),
            Event::Nmi => (InterruptionType::Nmi, Vector::NMI, None, None),
            Event::Exception {
                exception,
                error_code,
            } => (
                InterruptionType::HardwareException,
                exception.vector(),
                error_code,
                None,
            ),
            Event::SoftwareInterrupt { vector, length } => (
                InterruptionType::SoftwareInterrupt,
                vector,
                None,
                Some(length),
            ),
            Event::PrivilegedSoftwareException { length } => (
                InterruptionType::PrivilegedSoftwareException,
                Exception::Debug.vector(),
                None,
                Some(length),
            ),
            Event::SoftwareException { exception, length } => (
                InterruptionType::SoftwareException,
                exception.vector(),
                None,
                Some(length),
            ),
        };
        Self {
            info: InterruptionInfo::new(kind, vector, error_code),
            error_code,
            instruction_length: length.map(u32::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [(Event, u32, Option<u32>, Option<u32>); 8] {
        [
            (Event::Interrupt(Vector(0x31)), 0x8000_0031, None, None),
            (Event::Nmi, 0x8000_0202, None, None),
            (
                Event::Exception {
                    exception: Exception::GeneralProtection,
                    error_code: Some(0x18),
                },
                0x8000_0b0d,
                Some(0x18),
                None,
            ),
            (
                Event::Exception {
                    exception: Exception::GeneralProtection,
                    error_code: None,
                },
                0x8000_030d,
                None,
                None,
            ),
            (
                Event::Exception {
                    exception: Exception::InvalidOpcode,
                    error_code: None,
                },
                0x8000_0306,
                None,
                None,
            ),
            (
                Event::SoftwareInterrupt {
                    vector: Vector(0x80),
                    length: 2,
                },
                0x8000_0480,
                None,
                Some(2),
            ),
            (
                Event::PrivilegedSoftwareException { length: 1 },
                0x8000_0501,
                None,
                Some(1),
            ),
            (
                Event::SoftwareException {
                    exception: Exception::Breakpoint,
                    length: 1,
                },
                0x8000_0603,
                None,
                Some(1),
            ),
        ]
    }

    #[test]
    fn each_event_has_the_manuals_entry_fields() {
        for (event, info, error_code, instruction_length) in rows() {
            let info = InterruptionInfo(info);
            assert_eq!(
                EntryEvent::from(event),
                EntryEvent {
                    info,
                    error_code,
                    instruction_length
                }
            );
        }
    }

    #[test]
    fn an_event_that_an_exit_interrupted_is_the_one_to_inject_again() {
        for (event, info, error_code, length) in rows() {
            let read = InterruptionInfo(info).event(
                || error_code.expect("has none"),
                || length.expect("has none"),
            );
            assert_eq!(read, Some(event));
        }
    }

    #[test]
    fn an_invalid_field_is_no_event() {
        let none = |info| InterruptionInfo(info).event(|| 0, || 0);
        assert_eq!(none(0x0000_0b0d), None);
        assert_eq!(none(0x8000_0100), None);
        assert_eq!(none(0x8000_0700), None);
        assert_eq!(none(0x8000_030f), None);
    }
}
