//! IA32_FEATURE_CONTROL: whether the firmware lets anybody use VT-x.
//!
//! VMXON faults unless the MSR is locked with VMX allowed outside SMX. Firmware should have decided; where it
//! left the MSR open, Plinth decides and locks it. SDM vol. 3, Enabling and Entering VMX Operation.

use core::fmt;

const LOCK: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// What is to be done before VMXON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeatureControl {
    /// Locked with VT-x on: nothing.
    Enabled,
    /// Left open: this value is to be written, which also locks it.
    Write(u64),
}

impl FeatureControl {
    /// Decides by the value read.
    ///
    /// # Errors
    /// [`LockedOff`] where the firmware forbids VT-x until the next reset.
    pub const fn decide(value: u64) -> Result<Self, LockedOff> {
        match (value & LOCK != 0, value & VMX_OUTSIDE_SMX != 0) {
            (true, true) => Ok(Self::Enabled),
            (true, false) => Err(LockedOff { value }),
            (false, _) => Ok(Self::Write(value | LOCK | VMX_OUTSIDE_SMX)),
        }
    }
}

/// The firmware locked VT-x off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockedOff {
    /// IA32_FEATURE_CONTROL as read.
    pub value: u64,
}

impl fmt::Display for LockedOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the firmware has locked VT-x off (IA32_FEATURE_CONTROL = {:#x}); switch on \"Intel \
             Virtualization Technology\" (VT-x, VMX) in the firmware setup, then power the machine off and on",
            self.value
        )
    }
}

impl core::error::Error for LockedOff {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn firmware_that_locked_vt_x_on_leaves_nothing_to_do() {
        assert_eq!(FeatureControl::decide(5), Ok(FeatureControl::Enabled));
        assert_eq!(
            FeatureControl::decide(0x4_0007),
            Ok(FeatureControl::Enabled)
        );
    }

    #[test]
    fn an_open_msr_is_set_and_locked_and_keeps_its_other_bits() {
        assert_eq!(FeatureControl::decide(0), Ok(FeatureControl::Write(5)));
        assert_eq!(
            FeatureControl::decide(0x4_0000),
            Ok(FeatureControl::Write(0x4_0005))
        );
        assert_eq!(FeatureControl::decide(4), Ok(FeatureControl::Write(5)));
    }

    #[test]
    fn firmware_that_locked_vt_x_off_gets_a_message_that_says_so() {
        for value in [1, 3] {
            let error = FeatureControl::decide(value).unwrap_err();
            assert!(error.to_string().contains("locked VT-x off"));
            assert!(error.to_string().contains("firmware setup"));
        }
    }
}
