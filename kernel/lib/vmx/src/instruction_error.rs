//! Why a VMX instruction failed: the numbers of the VM-instruction error field.
//!
//! A VMLAUNCH or VMRESUME that fails on controls or host state reports 7 or 8 here, and never exits; which rule
//! it was, [`entry_checks`](crate::entry_checks) can say. SDM vol. 3, VM Instruction Error Numbers.

use core::fmt;

/// The value of the VM-instruction error field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct InstructionError(pub u32);

impl InstructionError {
    /// VM entry with invalid control fields.
    pub const INVALID_CONTROLS: Self = Self(7);
    /// VM entry with invalid host-state fields.
    pub const INVALID_HOST_STATE: Self = Self(8);

    /// What went wrong, or `None` for numbers that the manual does not list.
    pub const fn meaning(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "VMCALL in VMX root operation",
            2 => "VMCLEAR with an invalid physical address",
            3 => "VMCLEAR with the VMXON pointer",
            4 => "VMLAUNCH with a VMCS that is not clear",
            5 => "VMRESUME with a VMCS that is not launched",
            6 => "VMRESUME after VMXOFF",
            7 => "VM entry with invalid control fields",
            8 => "VM entry with invalid host-state fields",
            9 => "VMPTRLD with an invalid physical address",
            10 => "VMPTRLD with the VMXON pointer",
            11 => "VMPTRLD with a wrong VMCS revision identifier",
            12 => "VMREAD or VMWRITE of a field that this processor does not have",
            13 => "VMWRITE to a read-only field",
            15 => "VMXON in VMX root operation",
            16 => "VM entry with an invalid executive-VMCS pointer",
            17 => "VM entry with an executive VMCS that is not launched",
            18 => "VM entry with an executive-VMCS pointer that is not the VMXON pointer",
            19 => "VMCALL with a VMCS that is not clear",
            20 => "VMCALL with invalid VM-exit control fields",
            22 => "VMCALL with a wrong MSEG revision identifier",
            23 => "VMXOFF under the dual-monitor treatment of SMIs and SMM",
            24 => "VMCALL with invalid SMM-monitor features",
            25 => "VM entry with invalid execution control fields in the executive VMCS",
            26 => "VM entry with events blocked by MOV SS",
            28 => "INVEPT or INVVPID with an invalid operand",
            _ => return None,
        })
    }
}

impl fmt::Display for InstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = self
            .meaning()
            .unwrap_or("an error that the manual does not list");
        write!(f, "{meaning} (VM-instruction error {})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn an_error_is_named_as_in_the_manual() {
        assert_eq!(
            InstructionError(5).to_string(),
            "VMRESUME with a VMCS that is not launched (VM-instruction error 5)"
        );
        assert_eq!(
            InstructionError::INVALID_HOST_STATE.meaning(),
            Some("VM entry with invalid host-state fields")
        );
        for unlisted in [0, 14, 21, 27, 29] {
            assert_eq!(InstructionError(unlisted).meaning(), None);
        }
    }
}
