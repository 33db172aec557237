//! The VMX instructions, each with its failure reported as the manual does (SDM vol. 3, Conventions of the
//! VMX instruction reference: VMsucceed, VMfailInvalid, VMfailValid).

use core::arch::asm;
use core::fmt;

use memory::HostPhys;

/// A VMX instruction did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum VmxFailure {
    /// CF: no current VMCS, or the operand is unusable.
    Invalid,
    /// ZF: the VM-instruction error field of the current VMCS says why.
    Valid,
}

impl fmt::Display for VmxFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "VMfailInvalid",
            Self::Valid => "VMfailValid",
        })
    }
}

/// What the flags say after a VMX instruction: `invalid` is CF, `valid` is ZF.
#[inline]
fn outcome(invalid: u8, valid: u8) -> Result<(), VmxFailure> {
    if invalid != 0 {
        Err(VmxFailure::Invalid)
    } else if valid != 0 {
        Err(VmxFailure::Valid)
    } else {
        Ok(())
    }
}

macro_rules! region_instruction {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        pub(super) unsafe fn $name(region: HostPhys) -> Result<(), VmxFailure> {
            let address = region.as_u64();
            let (invalid, valid): (u8, u8);
            // SAFETY: the caller vouches for the region and the CPU's state; the operand is a readable u64.
            unsafe {
                asm!(
                    concat!($mnemonic, " [{0}]"),
                    "setc {1}",
                    "setz {2}",
                    in(reg) &raw const address,
                    out(reg_byte) invalid,
                    out(reg_byte) valid,
                    options(nostack),
                );
            }
            outcome(invalid, valid)
        }
    };
}

region_instruction! {
    /// Enters VMX root operation.
    ///
    /// # Safety
    /// CR0, CR4 and IA32_FEATURE_CONTROL allow it, and `region` is a page of this CPU's own that holds the
    /// VMCS revision identifier and is used for nothing else until VMXOFF.
    vmxon, "vmxon"
}
region_instruction! {
    /// Writes a VMCS back to memory and marks it clear and not current.
    ///
    /// # Safety
    /// This CPU is in VMX root operation, and `region` is a VMCS region that no other CPU has active.
    vmclear, "vmclear"
}
region_instruction! {
    /// Makes a VMCS current on this CPU.
    ///
    /// # Safety
    /// This CPU is in VMX root operation, and `region` is a VMCS region with the right revision identifier
    /// that no other CPU has active.
    vmptrld, "vmptrld"
}

/// Reads a field of the current VMCS that this processor has.
///
/// # Safety
/// This CPU is in VMX root operation with the meant VMCS current.
#[inline(always)]
pub(super) unsafe fn vmread(encoding: u32) -> u64 {
    let value: u64;
    // SAFETY: VMREAD of a field touches no memory of ours; the caller vouches for the current VMCS.
    unsafe {
        asm!(
            "vmread {0}, {1}",
            out(reg) value,
            in(reg) u64::from(encoding),
            options(nomem, nostack),
        );
    }
    value
}

/// Reads a field of the current VMCS, or `None` where this processor has no such field.
///
/// # Safety
/// As for [`vmread`].
pub(super) unsafe fn vmread_checked(encoding: u32) -> Option<u64> {
    let value: u64;
    let (invalid, valid): (u8, u8);
    // SAFETY: VMREAD of a field touches no memory of ours; the caller vouches for the current VMCS.
    unsafe {
        asm!(
            "vmread {0}, {1}",
            "setc {2}",
            "setz {3}",
            inout(reg) 0u64 => value,
            in(reg) u64::from(encoding),
            out(reg_byte) invalid,
            out(reg_byte) valid,
            options(nomem, nostack),
        );
    }
    outcome(invalid, valid).ok().map(|()| value)
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// This CPU is in VMX root operation with the meant VMCS current, and the field may take the value.
#[inline(always)]
pub(super) unsafe fn vmwrite(encoding: u32, value: u64) {
    // SAFETY: VMWRITE touches no memory of ours; the caller vouches for the current VMCS.
    unsafe {
        asm!(
            "vmwrite {0}, {1}",
            in(reg) u64::from(encoding),
            in(reg) value,
            options(nomem, nostack),
        );
    }
}

/// What INVEPT and INVVPID take from memory.
#[repr(C, align(16))]
struct InvalidationDescriptor([u64; 2]);

/// Drops mappings derived from one EPT (`kind` 1, `eptp` given) or from all (`kind` 2).
///
/// # Safety
/// This CPU is in VMX root operation and supports the kind.
pub(super) unsafe fn invept(kind: u64, eptp: u64) {
    let descriptor = InvalidationDescriptor([eptp, 0]);
    // SAFETY: the descriptor is readable; dropping cached mappings is always sound.
    unsafe {
        asm!("invept {0}, [{1}]", in(reg) kind, in(reg) &raw const descriptor, options(nostack));
    }
}

/// Drops linear mappings tagged with a VPID: of one address (`kind` 0), all of it (1), all VPIDs (2), all but
/// globals (3).
///
/// # Safety
/// This CPU is in VMX root operation and supports the kind.
pub(super) unsafe fn invvpid(kind: u64, vpid: u16, address: u64) {
    let descriptor = InvalidationDescriptor([u64::from(vpid), address]);
    // SAFETY: the descriptor is readable; dropping cached mappings is always sound.
    unsafe {
        asm!("invvpid {0}, [{1}]", in(reg) kind, in(reg) &raw const descriptor, options(nostack));
    }
}
