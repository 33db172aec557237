//! MSR areas: lists of MSRs that the processor loads or stores at entries and exits.
//!
//! SDM vol. 3, VM-Exit Controls for MSRs, and Loading MSRs.

use arch::msr;

/// One entry of an area, as it lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(16))]
pub struct MsrEntry {
    /// The MSR.
    pub index: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Its value.
    pub value: u64,
}

const _: () = assert!(size_of::<MsrEntry>() == 16);

/// Why the processor refuses to load an entry at VM entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LoadRefusal {
    /// IA32_FS_BASE and IA32_GS_BASE have fields in the VMCS.
    SegmentBase,
    /// The MSRs of the x2APIC cannot be loaded.
    X2apic,
    /// IA32_SMM_MONITOR_CTL can be written in SMM only.
    SmmOnly,
    /// Microcode updates cannot be triggered here.
    MicrocodeUpdate,
    /// Bits 63:32 of the entry are not 0.
    Reserved,
}

impl core::fmt::Display for LoadRefusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::SegmentBase => "FS and GS bases are loaded from their fields only",
            Self::X2apic => "MSRs of the x2APIC cannot be loaded",
            Self::SmmOnly => "the MSR can be written in SMM only",
            Self::MicrocodeUpdate => "a microcode update cannot be triggered by loading an MSR",
            Self::Reserved => "bits 63:32 of the entry must be 0",
        })
    }
}

const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
const IA32_SMM_MONITOR_CTL: u32 = 0x9b;

/// Checks one entry. Beyond this an entry is refused where WRMSR of the value would fault.
///
/// The exit qualification of a failed entry (reason 34) is the number of the entry, counted from 1.
///
/// # Errors
/// The rule that it breaks.
pub const fn check_load(entry: &MsrEntry) -> Result<(), LoadRefusal> {
    match entry.index {
        msr::IA32_FS_BASE | msr::IA32_GS_BASE => Err(LoadRefusal::SegmentBase),
        msr::IA32_X2APIC_FIRST..=msr::IA32_X2APIC_LAST => Err(LoadRefusal::X2apic),
        IA32_SMM_MONITOR_CTL => Err(LoadRefusal::SmmOnly),
        IA32_BIOS_UPDT_TRIG | msr::IA32_BIOS_SIGN_ID => Err(LoadRefusal::MicrocodeUpdate),
        _ if entry.reserved != 0 => Err(LoadRefusal::Reserved),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msrs_that_cannot_be_loaded_are_refused_for_their_reason() {
        for (index, expected) in [
            (0xc000_0082, Ok(())),
            (0xc000_0102, Ok(())),
            (0x7ff, Ok(())),
            (0x900, Ok(())),
            (0xc000_0100, Err(LoadRefusal::SegmentBase)),
            (0xc000_0101, Err(LoadRefusal::SegmentBase)),
            (0x800, Err(LoadRefusal::X2apic)),
            (0x8ff, Err(LoadRefusal::X2apic)),
            (0x9b, Err(LoadRefusal::SmmOnly)),
            (0x79, Err(LoadRefusal::MicrocodeUpdate)),
            (0x8b, Err(LoadRefusal::MicrocodeUpdate)),
        ] {
            let entry = MsrEntry {
                index,
                reserved: 0,
                value: 0,
            };
            assert_eq!(check_load(&entry), expected, "{index:#x}");
        }
        let entry = MsrEntry {
            index: 0xc000_0082,
            reserved: 1,
            value: 0,
        };
        assert_eq!(check_load(&entry), Err(LoadRefusal::Reserved));
    }
}
