//! A VMCS as text: the guest's registers for people, or every field for a bug report.

use core::fmt;

use arch::{AccessRights, SegmentName};

use crate::event::InterruptionInfo;
use crate::exit_reason::RawExitReason;
use crate::fields::{self, SegmentFields, VmcsReader};

/// The guest's registers and the last exit, about twenty lines. The general-purpose registers are not in the
/// VMCS, all but RSP.
#[derive(Debug)]
pub struct GuestDump<'a, V>(pub &'a V);

/// Every field that this processor has, one line each, in the order of [`fields::ALL`].
#[derive(Debug)]
pub struct FullDump<'a, V>(pub &'a V);

impl<V: VmcsReader> fmt::Display for GuestDump<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vmcs = self.0;
        writeln!(
            f,
            "rip {:#018x}  rsp {:#018x}  rflags {:#x}",
            vmcs.read(fields::GUEST_RIP),
            vmcs.read(fields::GUEST_RSP),
            vmcs.read(fields::GUEST_RFLAGS),
        )?;
        writeln!(
            f,
            "cr0 {:#x} (guest sees {:#x})  cr3 {:#x}  cr4 {:#x} (guest sees {:#x})  efer {:#x}",
            vmcs.read(fields::GUEST_CR0),
            seen(
                vmcs,
                fields::GUEST_CR0,
                fields::CR0_READ_SHADOW,
                fields::CR0_GUEST_HOST_MASK
            ),
            vmcs.read(fields::GUEST_CR3),
            vmcs.read(fields::GUEST_CR4),
            seen(
                vmcs,
                fields::GUEST_CR4,
                fields::CR4_READ_SHADOW,
                fields::CR4_GUEST_HOST_MASK
            ),
            vmcs.read(fields::GUEST_EFER),
        )?;
        for name in SegmentName::ALL {
            write_segment(f, vmcs, name)?;
        }
        for (name, base, limit) in [
            ("gdtr", fields::GUEST_GDTR_BASE, fields::GUEST_GDTR_LIMIT),
            ("idtr", fields::GUEST_IDTR_BASE, fields::GUEST_IDTR_LIMIT),
        ] {
            writeln!(
                f,
                "{name}      base {:#018x}  limit {:#x}",
                vmcs.read(base),
                vmcs.read(limit)
            )?;
        }
        writeln!(
            f,
            "dr7 {:#x}  debugctl {:#x}  pending debug {:#x}  activity {}  interruptibility {:#x}",
            vmcs.read(fields::GUEST_DR7),
            vmcs.read(fields::GUEST_DEBUGCTL),
            vmcs.read(fields::GUEST_PENDING_DEBUG_EXCEPTIONS),
            vmcs.read(fields::GUEST_ACTIVITY),
            vmcs.read(fields::GUEST_INTERRUPTIBILITY),
        )?;
        write_exit(f, vmcs)
    }
}

/// A control register as the guest reads it: host-owned bits come from the shadow.
fn seen(
    vmcs: &impl VmcsReader,
    register: fields::Field<u64, fields::ReadWrite>,
    shadow: fields::Field<u64, fields::ReadWrite>,
    mask: fields::Field<u64, fields::ReadWrite>,
) -> u64 {
    let mask = vmcs.read(mask);
    (vmcs.read(register) & !mask) | (vmcs.read(shadow) & mask)
}

fn write_segment(
    f: &mut fmt::Formatter<'_>,
    vmcs: &impl VmcsReader,
    name: SegmentName,
) -> fmt::Result {
    let fields = SegmentFields::guest(name);
    let label = match name {
        SegmentName::Es => "es",
        SegmentName::Cs => "cs",
        SegmentName::Ss => "ss",
        SegmentName::Ds => "ds",
        SegmentName::Fs => "fs",
        SegmentName::Gs => "gs",
        SegmentName::Ldtr => "ldtr",
        SegmentName::Tr => "tr",
    };
    let access = AccessRights::from_bits_retain(vmcs.read(fields.access_rights));
    writeln!(
        f,
        "{label:<4} {:04x} base {:#018x}  limit {:#x}  access {:#x}{}",
        vmcs.read(fields.selector),
        vmcs.read(fields.base),
        vmcs.read(fields.limit),
        access,
        if access.contains(AccessRights::UNUSABLE) {
            " (unusable)"
        } else {
            ""
        },
    )
}

fn write_exit(f: &mut fmt::Formatter<'_>, vmcs: &impl VmcsReader) -> fmt::Result {
    write!(
        f,
        "exit: {}, qualification {:#x}, guest-physical {:#x}, guest-linear {:#x}, \
         instruction length {}, information {:#x}",
        RawExitReason(vmcs.read(fields::EXIT_REASON)),
        vmcs.read(fields::EXIT_QUALIFICATION),
        vmcs.read(fields::GUEST_PHYSICAL_ADDRESS),
        vmcs.read(fields::GUEST_LINEAR_ADDRESS),
        vmcs.read(fields::EXIT_INSTRUCTION_LENGTH),
        vmcs.read(fields::EXIT_INSTRUCTION_INFO),
    )?;
    for (what, info, error_code) in [
        (
            "event",
            vmcs.read(fields::EXIT_INTERRUPTION_INFO),
            fields::EXIT_INTERRUPTION_ERROR_CODE,
        ),
        (
            "interrupted delivery",
            vmcs.read(fields::IDT_VECTORING_INFO),
            fields::IDT_VECTORING_ERROR_CODE,
        ),
    ] {
        let info = InterruptionInfo(info);
        if info.is_valid() {
            write!(f, "\n{what}: {:?}, vector {}", info.kind(), info.vector().0)?;
            if info.has_error_code() {
                write!(f, ", error code {:#x}", vmcs.read(error_code))?;
            }
        }
    }
    Ok(())
}

impl<V: VmcsReader> fmt::Display for FullDump<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &field in fields::ALL {
            if let Some(value) = self.0.read_raw(field) {
                writeln!(f, "{field:<38} {value:#x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Vmcs, set};
    use std::collections::BTreeMap;
    use std::string::ToString;

    fn vmcs() -> Vmcs {
        Vmcs(BTreeMap::from([
            set(fields::GUEST_RIP, 0x10_0000),
            set(fields::GUEST_CR0, 0x8000_0031),
            set(fields::CR0_READ_SHADOW, 0x8000_0011),
            set(fields::CR0_GUEST_HOST_MASK, 0x20),
            set(fields::GUEST_CS_SELECTOR, 8),
            set(fields::GUEST_CS_ACCESS_RIGHTS, 0xa09b),
            set(fields::GUEST_LDTR_ACCESS_RIGHTS, 0x1_0000),
            set(fields::EXIT_REASON, 48),
            set(fields::EXIT_QUALIFICATION, 0x182),
            set(fields::GUEST_PHYSICAL_ADDRESS, 0xfee0_0000),
            set(fields::IDT_VECTORING_INFO, 0x8000_0b0e),
            set(fields::IDT_VECTORING_ERROR_CODE, 2),
        ]))
    }

    #[test]
    fn the_guests_registers_and_the_exit_can_be_read_by_people() {
        let text = GuestDump(&vmcs()).to_string();
        for line in [
            "rip 0x0000000000100000  rsp 0x0000000000000000  rflags 0x0",
            "cr0 0x80000031 (guest sees 0x80000011)  cr3 0x0  cr4 0x0 (guest sees 0x0)  efer 0x0",
            "cs   0008 base 0x0000000000000000  limit 0x0  access 0xa09b",
            "ldtr 0000 base 0x0000000000000000  limit 0x0  access 0x10000 (unusable)",
            "exit: EPT violation (0x30), qualification 0x182, guest-physical 0xfee00000, \
             guest-linear 0x0, instruction length 0, information 0x0",
            "interrupted delivery: HardwareException, vector 14, error code 0x2",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line}\nnot in\n{text}"
            );
        }
        assert!(!text.contains("\nevent:"));
    }

    #[test]
    fn the_full_dump_has_a_line_for_each_field_that_is_there() {
        let text = FullDump(&vmcs()).to_string();
        assert_eq!(text.lines().count(), 12);
        assert!(text.contains("GUEST_PHYSICAL_ADDRESS                 0xfee00000\n"));
    }
}
