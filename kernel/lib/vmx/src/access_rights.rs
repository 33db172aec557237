//! Access rights between a segment register and its VMCS field.
//!
//! The layouts are the same; what differs is what may be in the reserved bits. SDM vol. 3, Guest Register
//! State, and Saving Segment Registers and Descriptor-Table Registers.

use arch::AccessRights;

/// All that is not reserved.
const DEFINED: u32 = 0x1_f0ff;

/// The value for the field: bits that the entry checks want to be 0 are 0.
#[inline]
pub const fn to_vmcs(access: AccessRights) -> u32 {
    access.bits() & DEFINED
}

/// The access rights out of the field. Of an unusable register all is undefined but the DPL, which for SS is
/// the CPL.
#[inline]
pub const fn from_vmcs(field: u32) -> AccessRights {
    let access = AccessRights::from_bits_retain(field & DEFINED);
    if access.contains(AccessRights::UNUSABLE) {
        access.intersection(AccessRights::UNUSABLE.union(AccessRights::DPL))
    } else {
        access
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reserved_bits_are_lost_on_the_way_in() {
        assert_eq!(to_vmcs(AccessRights::from_bits_retain(0xff_af9b)), 0x1_a09b);
        assert_eq!(to_vmcs(AccessRights::from_bits_retain(0xc0f3)), 0xc0f3);
    }

    #[test]
    fn only_undefined_bits_are_lost_on_the_way_out() {
        assert_eq!(from_vmcs(0xa09b).bits(), 0xa09b);
        assert_eq!(
            from_vmcs(0x1_c0f3).bits(),
            0x1_0060,
            "an unusable SS still has the CPL"
        );
    }
}
