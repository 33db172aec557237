//! Valid states pass, and each rule is broken by itself.

use super::*;
use crate::capability::{AddressWidths, RawCapabilities};
use crate::fields::*;
use crate::testing::start::Start;
use crate::testing::{Vmcs, set};
use arch::SegmentName;
use std::collections::{BTreeMap, BTreeSet};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

/// A processor that allows every control, with the usual fixed bits; its EPT keeps no accessed and dirty
/// flags and knows no supervisor shadow stack.
fn raw() -> RawCapabilities {
    let all = 0xffff_ffff_0000_0000;
    RawCapabilities {
        basic: 1 << 55,
        true_pin: all | 0x16,
        true_primary: all | 0x0400_6172,
        true_exit: all | 0x0003_6dfb,
        true_entry: all | 0x11fb,
        secondary: all & !(1 << 63),
        tertiary: 0x9f,
        secondary_exit: 0xb,
        misc: 0x0004_01e5,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x01ff_ffff,
        ept_vpid: 0x0000_0f01_0613_4141,
        vmfunc: 1,
        ..RawCapabilities::default()
    }
}

fn caps_of(raw: RawCapabilities) -> Capabilities {
    Capabilities::new(raw).with_address_widths(AddressWidths {
        physical: 46,
        linear: 48,
    })
}

const PIN: u64 = 0x16 | 0x69;
/// TPR shadow, I/O and MSR bitmaps, TSC offsetting, HLT exiting, secondary controls.
const PRIMARY: u64 = 0x0400_6172 | 0x9220_0088;
/// EPT, VPID, unrestricted guest, APIC registers, x2APIC mode, virtual-interrupt delivery.
const SECONDARY: u64 = 0x3b2;
/// Host address-space size, acknowledge interrupt, save and load PAT and EFER, save the timer.
const EXIT: u64 = 0x0003_6dfb | 0x007c_8200;
/// Load debug controls, PAT and EFER.
const ENTRY: u64 = 0x11fb & !0x200 | 0xc004;
const LONG_MODE: u64 = 0x200;

/// Controls and host state that break no rule.
fn valid_frame() -> Vmcs {
    Vmcs(BTreeMap::from([
        set(PIN_BASED_CONTROLS, PIN),
        set(PRIMARY_CONTROLS, PRIMARY),
        set(SECONDARY_CONTROLS, SECONDARY),
        set(EXIT_CONTROLS, EXIT),
        set(ENTRY_CONTROLS, ENTRY),
        set(VPID, 1),
        set(EPT_POINTER, 0x1234_501e),
        set(IO_BITMAP_A, 0x10_0000),
        set(IO_BITMAP_B, 0x10_1000),
        set(MSR_BITMAPS, 0x10_2000),
        set(VIRTUAL_APIC_ADDRESS, 0x10_3000),
        set(VMCS_LINK_POINTER, u64::MAX),
        set(HOST_CR0, 0x8005_0033),
        set(HOST_CR3, 0x20_0000),
        set(HOST_CR4, 0x2020),
        set(HOST_CS_SELECTOR, 0x08),
        set(HOST_SS_SELECTOR, 0x10),
        set(HOST_TR_SELECTOR, 0x18),
        set(HOST_EFER, 0xd01),
        set(HOST_PAT, 0x0007_0406_0007_0406),
        set(HOST_GS_BASE, 0xffff_8000_0000_1000),
        set(HOST_GDTR_BASE, 0xffff_8000_0000_2000),
        set(HOST_RIP, 0xffff_8000_0000_3000),
    ]))
}

/// A frame with a guest state.
fn with_guest(start: Start) -> Vmcs {
    let mut vmcs = valid_frame();
    start.write(&mut vmcs);
    vmcs
}

/// The valid states that the rows below start from.
#[derive(Clone, Copy, Debug)]
enum Base {
    Long,
    Protected,
    Real,
    V86,
    /// 64-bit and not unrestricted.
    Restricted,
}

impl Base {
    fn vmcs(self) -> Vmcs {
        let long = |secondary| {
            let mut vmcs = with_guest(Start::Long);
            vmcs.write(ENTRY_CONTROLS, (ENTRY | LONG_MODE) as u32);
            vmcs.write(SECONDARY_CONTROLS, secondary as u32);
            vmcs
        };
        match self {
            Self::Long => long(SECONDARY),
            Self::Restricted => long(SECONDARY & !0x80),
            Self::Protected => with_guest(Start::Protected),
            Self::Real => with_guest(Start::Real),
            Self::V86 => with_guest(Start::V86),
        }
    }
}

/// What is found with these fields changed in a base, as rule and field.
fn found(base: Base, changes: &[(Encoding, u64)], raw: RawCapabilities) -> Vec<(Rule, Encoding)> {
    let mut vmcs = base.vmcs();
    vmcs.0.extend(changes.iter().copied());
    check(&vmcs, &caps_of(raw))
        .into_iter()
        .map(|violation| (violation.rule, violation.field))
        .collect()
}

/// One way to break one rule: the rule, the field that is blamed, the base, and what is changed in it.
type Row = (Rule, Encoding, Base, Vec<(Encoding, u64)>);

/// A row where the blamed field is the one changed.
fn row<W: FieldWidth, A: Access>(rule: Rule, base: Base, field: Field<W, A>, value: u64) -> Row {
    (rule, field.encoding(), base, vec![set(field, value)])
}

/// A row where other fields are changed too, or only they.
fn blame<W: FieldWidth, A: Access>(
    rule: Rule,
    base: Base,
    field: Field<W, A>,
    changes: &[(Encoding, u64)],
) -> Row {
    (rule, field.encoding(), base, changes.to_vec())
}

#[test]
fn every_kind_of_start_breaks_no_rule() {
    for base in [
        Base::Long,
        Base::Protected,
        Base::Real,
        Base::V86,
        Base::Restricted,
    ] {
        assert_eq!(found(base, &[], raw()), [], "{base:?}");
    }
    for start in [Start::Reset, Start::AfterIpi] {
        assert_eq!(check(&with_guest(start), &caps_of(raw())), [], "{start:?}");
    }
}

#[test]
fn each_rule_is_found_when_it_alone_is_broken() {
    let rows = [
        control_rows(),
        host_rows(),
        register_rows(),
        segment_rows(),
        other_rows(),
    ]
    .concat();
    for (rule, field, base, changes) in &rows {
        assert_eq!(
            found(*base, changes, raw()),
            [(*rule, *field)],
            "{base:?} with {changes:x?}"
        );
    }
    let tested: BTreeSet<Rule> = rows.iter().map(|row| row.0).collect();
    let untested: Vec<&Rule> = Rule::ALL
        .iter()
        .filter(|rule| !tested.contains(rule))
        .collect();
    assert_eq!(untested, Vec::<&Rule>::new());
}

fn control_rows() -> Vec<Row> {
    use Base::{Long, Protected, Restricted};
    use Rule::*;
    let second = |bits: u64| set(SECONDARY_CONTROLS, SECONDARY | bits);
    let third = [set(PRIMARY_CONTROLS, PRIMARY | 1 << 17)];
    let tertiary = |bits: u64| [third[0], set(TERTIARY_CONTROLS, bits)];
    let posted = set(PIN_BASED_CONTROLS, PIN | 0x80);
    let entry = ENTRY | LONG_MODE;
    let mut rows = vec![
        row(ControlBits, Long, PIN_BASED_CONTROLS, PIN & !2),
        row(ControlBits, Long, PRIMARY_CONTROLS, PRIMARY & !2),
        row(ControlBits, Long, SECONDARY_CONTROLS, SECONDARY | 1 << 31),
        blame(ControlBits, Long, TERTIARY_CONTROLS, &tertiary(1 << 63)),
        row(ControlBits, Long, EXIT_CONTROLS, EXIT & !1),
        blame(
            ControlBits,
            Long,
            SECONDARY_EXIT_CONTROLS,
            &[
                set(EXIT_CONTROLS, EXIT | 1 << 31),
                set(SECONDARY_EXIT_CONTROLS, 4),
            ],
        ),
        row(ControlBits, Long, ENTRY_CONTROLS, entry & !1),
        row(Cr3TargetCount, Long, CR3_TARGET_COUNT, 5),
        row(TprThresholdReserved, Long, TPR_THRESHOLD, 16),
        row(VirtualNmisNeedExiting, Long, PIN_BASED_CONTROLS, PIN & !8),
        blame(
            NmiWindowNeedsVirtualNmis,
            Long,
            PRIMARY_CONTROLS,
            &[
                set(PIN_BASED_CONTROLS, PIN & !0x20),
                set(PRIMARY_CONTROLS, PRIMARY | 1 << 22),
            ],
        ),
        blame(
            ApicControlsNeedTprShadow,
            Long,
            SECONDARY_CONTROLS,
            &[set(PRIMARY_CONTROLS, PRIMARY & !(1 << 21))],
        ),
        blame(
            ApicControlsNeedTprShadow,
            Long,
            TERTIARY_CONTROLS,
            &[
                set(PRIMARY_CONTROLS, PRIMARY & !(1 << 21) | 1 << 17),
                set(SECONDARY_CONTROLS, 0xa2),
                set(TERTIARY_CONTROLS, 1 << 4),
            ],
        ),
        row(
            X2apicExcludesAccesses,
            Long,
            SECONDARY_CONTROLS,
            SECONDARY | 1,
        ),
        blame(
            DeliveryNeedsInterruptExiting,
            Long,
            SECONDARY_CONTROLS,
            &[set(PIN_BASED_CONTROLS, PIN & !1)],
        ),
        blame(
            PostedNeedsDelivery,
            Long,
            SECONDARY_CONTROLS,
            &[posted, set(SECONDARY_CONTROLS, SECONDARY & !0x200)],
        ),
        blame(
            PostedNeedsAcknowledge,
            Long,
            EXIT_CONTROLS,
            &[posted, set(EXIT_CONTROLS, EXIT & !0x8000)],
        ),
        blame(
            PostedVector,
            Long,
            POSTED_INTERRUPT_NOTIFICATION_VECTOR,
            &[posted, set(POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0x100)],
        ),
        blame(
            PostedDescriptorAlignment,
            Long,
            POSTED_INTERRUPT_DESCRIPTOR,
            &[posted, set(POSTED_INTERRUPT_DESCRIPTOR, 0x20)],
        ),
        blame(
            PhysicalWidth,
            Long,
            POSTED_INTERRUPT_DESCRIPTOR,
            &[posted, set(POSTED_INTERRUPT_DESCRIPTOR, 1 << 46)],
        ),
        row(VpidZero, Long, VPID, 0),
        row(EptMemoryType, Long, EPT_POINTER, 0x1234_501c),
        row(EptWalkLength, Long, EPT_POINTER, 0x1234_5026),
        row(EptAccessedDirty, Long, EPT_POINTER, 0x1234_505e),
        row(EptShadowStack, Long, EPT_POINTER, 0x1234_509e),
        row(EptReserved, Long, EPT_POINTER, 0x1234_511e),
        row(PhysicalWidth, Long, EPT_POINTER, 1 << 46 | 0x1e),
        row(
            ControlNeedsEpt,
            Restricted,
            SECONDARY_CONTROLS,
            SECONDARY & !2,
        ),
        blame(
            ControlNeedsEpt,
            Restricted,
            TERTIARY_CONTROLS,
            &[
                third[0],
                set(SECONDARY_CONTROLS, SECONDARY & !0x82),
                set(TERTIARY_CONTROLS, 4),
            ],
        ),
        blame(
            IpiVirtualizationTable,
            Long,
            PID_POINTER_TABLE,
            &[
                third[0],
                set(TERTIARY_CONTROLS, 1 << 4),
                set(PID_POINTER_TABLE, 4),
            ],
        ),
        blame(
            PhysicalWidth,
            Long,
            PID_POINTER_TABLE,
            &[
                third[0],
                set(TERTIARY_CONTROLS, 1 << 4),
                set(PID_POINTER_TABLE, (1 << 46) - 8),
                set(LAST_PID_POINTER_INDEX, 1),
            ],
        ),
        blame(
            VmFunctionBits,
            Long,
            VM_FUNCTION_CONTROLS,
            &[second(1 << 13), set(VM_FUNCTION_CONTROLS, 2)],
        ),
        blame(
            EptpSwitchingNeedsEpt,
            Restricted,
            VM_FUNCTION_CONTROLS,
            &[
                set(SECONDARY_CONTROLS, SECONDARY & !0x82 | 1 << 13),
                set(VM_FUNCTION_CONTROLS, 1),
            ],
        ),
        row(
            TscMultiplierZero,
            Long,
            SECONDARY_CONTROLS,
            SECONDARY | 1 << 25,
        ),
        row(PtNeedsRtit, Long, SECONDARY_CONTROLS, SECONDARY | 1 << 24),
        blame(
            HlatPointerReserved,
            Long,
            HLAT_POINTER,
            &[
                third[0],
                set(TERTIARY_CONTROLS, 2),
                set(HLAT_POINTER, 0x800),
            ],
        ),
        blame(
            PhysicalWidth,
            Long,
            HLAT_POINTER,
            &[
                third[0],
                set(TERTIARY_CONTROLS, 2),
                set(HLAT_POINTER, 1 << 46),
            ],
        ),
        row(
            TimerSavedWithoutTimer,
            Long,
            PIN_BASED_CONTROLS,
            PIN & !0x40,
        ),
        row(EventType, Long, ENTRY_INTERRUPTION_INFO, 0x8000_0100),
        row(EventVector, Long, ENTRY_INTERRUPTION_INFO, 0x8000_0203),
        row(EventVector, Long, ENTRY_INTERRUPTION_INFO, 0x8000_0320),
        row(EventVector, Long, ENTRY_INTERRUPTION_INFO, 0x8000_0701),
        row(EventErrorCode, Long, ENTRY_INTERRUPTION_INFO, 0x8000_030d),
        row(EventErrorCode, Long, ENTRY_INTERRUPTION_INFO, 0x8000_0b06),
        row(
            EventErrorCode,
            Base::Real,
            ENTRY_INTERRUPTION_INFO,
            0x8000_0b0d,
        ),
        row(EventReserved, Long, ENTRY_INTERRUPTION_INFO, 0x8000_1b0d),
        blame(
            EventErrorCodeReserved,
            Long,
            ENTRY_EXCEPTION_ERROR_CODE,
            &[
                set(ENTRY_INTERRUPTION_INFO, 0x8000_0b0d),
                set(ENTRY_EXCEPTION_ERROR_CODE, 1 << 16),
            ],
        ),
        row(SmmOutsideSmm, Protected, ENTRY_CONTROLS, ENTRY | 1 << 10),
        row(SmmOutsideSmm, Protected, ENTRY_CONTROLS, ENTRY | 1 << 11),
    ];
    // Without virtual-interrupt delivery only.
    rows.iter_mut()
        .filter(|row| row.0 == TprThresholdReserved)
        .for_each(|row| row.3.push(set(SECONDARY_CONTROLS, SECONDARY & !0x200)));
    // The multiplier is blamed, which is still 0.
    rows.iter_mut()
        .filter(|row| row.0 == TscMultiplierZero)
        .for_each(|row| row.1 = TSC_MULTIPLIER.encoding());
    // The controls are blamed, not the timer's pin.
    rows.iter_mut()
        .filter(|row| row.0 == TimerSavedWithoutTimer)
        .for_each(|row| row.1 = EXIT_CONTROLS.encoding());
    for length in [0, 16] {
        rows.push(blame(
            EventInstructionLength,
            Long,
            ENTRY_INSTRUCTION_LENGTH,
            &[
                set(ENTRY_INTERRUPTION_INFO, 0x8000_0480),
                set(ENTRY_INSTRUCTION_LENGTH, length),
            ],
        ));
    }
    let pages = [
        (IO_BITMAP_A, 0),
        (IO_BITMAP_B, 0),
        (MSR_BITMAPS, 0),
        (VIRTUAL_APIC_ADDRESS, 0),
        (PML_ADDRESS, 1 << 17),
        (VE_INFORMATION_ADDRESS, 1 << 18),
        (SPP_TABLE_POINTER, 1 << 23),
        (VMREAD_BITMAP, 1 << 14),
        (VMWRITE_BITMAP, 1 << 14),
        (LOW_PASID_DIRECTORY, 1 << 21),
        (HIGH_PASID_DIRECTORY, 1 << 21),
    ];
    for (page, control) in pages {
        rows.push(blame(
            PageAddress,
            Long,
            page,
            &[second(control), set(page, 0x800)],
        ));
        rows.push(blame(
            PhysicalWidth,
            Long,
            page,
            &[second(control), set(page, 1 << 46)],
        ));
    }
    let accesses = set(SECONDARY_CONTROLS, SECONDARY & !0x10 | 1);
    rows.push(blame(
        PageAddress,
        Long,
        APIC_ACCESS_ADDRESS,
        &[accesses, set(APIC_ACCESS_ADDRESS, 8)],
    ));
    let switching = [
        second(1 << 13),
        set(VM_FUNCTION_CONTROLS, 1),
        set(EPTP_LIST_ADDRESS, 8),
    ];
    rows.push(blame(PageAddress, Long, EPTP_LIST_ADDRESS, &switching));
    for (count, address) in [
        (EXIT_MSR_STORE_COUNT, EXIT_MSR_STORE_ADDRESS),
        (EXIT_MSR_LOAD_COUNT, EXIT_MSR_LOAD_ADDRESS),
        (ENTRY_MSR_LOAD_COUNT, ENTRY_MSR_LOAD_ADDRESS),
    ] {
        rows.push(blame(
            MsrAreaAlignment,
            Long,
            address,
            &[set(count, 1), set(address, 8)],
        ));
        let last = (1 << 46) - 16;
        rows.push(blame(
            MsrAreaEnd,
            Long,
            address,
            &[set(count, 2), set(address, last)],
        ));
    }
    rows
}

fn host_rows() -> Vec<Row> {
    use Base::Long;
    use Rule::*;
    let noncanonical = 0x0000_8000_0000_0000;
    let cet = set(EXIT_CONTROLS, EXIT | 1 << 28);
    let mut rows = vec![
        row(HostCr0Fixed, Long, HOST_CR0, 0x8005_0013),
        row(HostCr0Fixed, Long, HOST_CR0, 0x1_8005_0033),
        row(HostCr4Fixed, Long, HOST_CR4, 0x20),
        blame(
            HostCetNeedsWp,
            Long,
            HOST_CR0,
            &[set(HOST_CR0, 0x8004_0033), set(HOST_CR4, 0x80_2020)],
        ),
        row(HostCr3Width, Long, HOST_CR3, 1 << 46),
        row(HostCr3Width, Long, HOST_CR3, 1 << 63),
        row(HostPat, Long, HOST_PAT, 0x0007_0406_0007_0402),
        row(HostPat, Long, HOST_PAT, 8 << 56),
        row(HostEferReserved, Long, HOST_EFER, 0xd03),
        row(HostEferLma, Long, HOST_EFER, 0x901),
        row(HostEferLma, Long, HOST_EFER, 0xc01),
        blame(
            HostCetReserved,
            Long,
            HOST_S_CET,
            &[cet, set(HOST_S_CET, 0xc00)],
        ),
        blame(
            HostCetReserved,
            Long,
            HOST_S_CET,
            &[cet, set(HOST_S_CET, 0x40)],
        ),
        blame(
            HostCetReserved,
            Long,
            HOST_S_CET,
            &[cet, set(HOST_S_CET, noncanonical)],
        ),
        blame(HostSspAlignment, Long, HOST_SSP, &[cet, set(HOST_SSP, 2)]),
        blame(
            HostShadowStackCanonical,
            Long,
            HOST_SSP,
            &[cet, set(HOST_SSP, noncanonical)],
        ),
        blame(
            HostShadowStackCanonical,
            Long,
            HOST_INTERRUPT_SSP_TABLE,
            &[cet, set(HOST_INTERRUPT_SSP_TABLE, noncanonical)],
        ),
        blame(
            HostPkrsReserved,
            Long,
            HOST_PKRS,
            &[set(EXIT_CONTROLS, EXIT | 1 << 29), set(HOST_PKRS, 1 << 32)],
        ),
        row(HostSelectorRpl, Long, HOST_CS_SELECTOR, 0x0b),
        row(HostSelectorRpl, Long, HOST_TR_SELECTOR, 0x1c),
        row(HostSelectorNull, Long, HOST_CS_SELECTOR, 0),
        row(HostSelectorNull, Long, HOST_TR_SELECTOR, 0),
        blame(
            HostAddressSpaceSize,
            Long,
            EXIT_CONTROLS,
            &[set(EXIT_CONTROLS, EXIT & !0x200), set(HOST_EFER, 0)],
        ),
        row(HostPae, Long, HOST_CR4, 0x2000),
        row(HostRipCanonical, Long, HOST_RIP, noncanonical),
        row(HostSysenterCanonical, Long, HOST_SYSENTER_ESP, noncanonical),
        row(HostSysenterCanonical, Long, HOST_SYSENTER_EIP, noncanonical),
    ];
    for selector in [
        HOST_SS_SELECTOR,
        HOST_DS_SELECTOR,
        HOST_ES_SELECTOR,
        HOST_FS_SELECTOR,
        HOST_GS_SELECTOR,
    ] {
        rows.push(row(HostSelectorRpl, Long, selector, 1));
    }
    for base in [
        HOST_FS_BASE,
        HOST_GS_BASE,
        HOST_TR_BASE,
        HOST_GDTR_BASE,
        HOST_IDTR_BASE,
    ] {
        rows.push(row(HostBaseCanonical, Long, base, noncanonical));
    }
    rows
}

fn register_rows() -> Vec<Row> {
    use Base::{Long, Protected, Restricted, V86};
    use Rule::*;
    let noncanonical = 0xffff_7fff_ffff_ffff;
    let entry = |bits: u64| set(ENTRY_CONTROLS, ENTRY | LONG_MODE | bits);
    let cet = entry(1 << 20);
    let pae = [set(GUEST_CR0, 0x8000_0031), set(GUEST_CR4, 0x2020)];
    vec![
        row(GuestCr0Fixed, Long, GUEST_CR0, 0x8000_0011),
        row(GuestCr0Fixed, Long, GUEST_CR0, 0x1_8000_0031),
        row(GuestPagingNeedsProtection, Long, GUEST_CR0, 0x8000_0030),
        row(GuestCr4Fixed, Long, GUEST_CR4, 0x20),
        blame(
            GuestCetNeedsWp,
            Long,
            GUEST_CR0,
            &[set(GUEST_CR4, 0x80_2020)],
        ),
        row(GuestDebugctlReserved, Long, GUEST_DEBUGCTL, 8),
        row(GuestDebugctlReserved, Long, GUEST_DEBUGCTL, 1 << 16),
        row(GuestLongModeNeedsPaging, Long, GUEST_CR0, 0x31),
        row(GuestLongModeNeedsPae, Long, GUEST_CR4, 0x2000),
        row(GuestPcideNeedsLongMode, Protected, GUEST_CR4, 0x2_2000),
        row(GuestCr3Width, Long, GUEST_CR3, 1 << 46),
        row(GuestCr3Width, Protected, GUEST_CR3, 1 << 63),
        row(GuestDr7High, Long, GUEST_DR7, 1 << 32 | 0x400),
        row(
            GuestSysenterCanonical,
            Long,
            GUEST_SYSENTER_ESP,
            noncanonical,
        ),
        row(
            GuestSysenterCanonical,
            Long,
            GUEST_SYSENTER_EIP,
            noncanonical,
        ),
        blame(
            GuestCetReserved,
            Long,
            GUEST_S_CET,
            &[cet, set(GUEST_S_CET, 0xc00)],
        ),
        blame(
            GuestCetReserved,
            Long,
            GUEST_S_CET,
            &[cet, set(GUEST_S_CET, 0x200)],
        ),
        blame(
            GuestShadowStackCanonical,
            Long,
            GUEST_INTERRUPT_SSP_TABLE,
            &[cet, set(GUEST_INTERRUPT_SSP_TABLE, noncanonical)],
        ),
        row(GuestPat, Long, GUEST_PAT, 0x0307_0406_0007_0406),
        row(GuestEferReserved, Long, GUEST_EFER, 0x1500),
        row(GuestEferLma, Protected, GUEST_EFER, 0x400),
        row(GuestEferLme, Long, GUEST_EFER, 0x400),
        blame(
            GuestBndcfgs,
            Long,
            GUEST_BNDCFGS,
            &[entry(1 << 16), set(GUEST_BNDCFGS, 4)],
        ),
        blame(
            GuestBndcfgs,
            Long,
            GUEST_BNDCFGS,
            &[entry(1 << 16), set(GUEST_BNDCFGS, 0x0000_8000_0000_0001)],
        ),
        blame(
            GuestPkrsReserved,
            Long,
            GUEST_PKRS,
            &[entry(1 << 22), set(GUEST_PKRS, 1 << 32)],
        ),
        blame(
            GuestUinv,
            Long,
            GUEST_UINV,
            &[entry(1 << 19), set(GUEST_UINV, 0x100)],
        ),
        blame(
            GuestLbrCtlReserved,
            Long,
            GUEST_LBR_CTL,
            &[entry(1 << 21), set(GUEST_LBR_CTL, 0x10)],
        ),
        row(TableBaseCanonical, Long, GUEST_GDTR_BASE, noncanonical),
        row(TableBaseCanonical, Long, GUEST_IDTR_BASE, noncanonical),
        row(TableLimit, Long, GUEST_GDTR_LIMIT, 0x1_0000),
        row(TableLimit, Restricted, GUEST_IDTR_LIMIT, 0xffff_ffff),
        row(RipHigh, Protected, GUEST_RIP, 1 << 32),
        blame(
            RipHigh,
            Long,
            GUEST_RIP,
            &[set(GUEST_CS_ACCESS_RIGHTS, 0xc09b), set(GUEST_RIP, 1 << 32)],
        ),
        row(RipUpper, Long, GUEST_RIP, 1 << 48),
        row(RflagsReserved, Long, GUEST_RFLAGS, 0),
        row(RflagsReserved, Long, GUEST_RFLAGS, 0xa),
        row(RflagsReserved, Long, GUEST_RFLAGS, 1 << 22 | 2),
        blame(RflagsVm, V86, GUEST_RFLAGS, &[set(GUEST_CR0, 0x30)]),
        blame(
            RflagsIf,
            Long,
            GUEST_RFLAGS,
            &[set(ENTRY_INTERRUPTION_INFO, 0x8000_0031)],
        ),
        blame(SspAlignment, Long, GUEST_SSP, &[cet, set(GUEST_SSP, 1)]),
        blame(SspUpper, Long, GUEST_SSP, &[cet, set(GUEST_SSP, 1 << 48)]),
        blame(
            SspUpper,
            Protected,
            GUEST_SSP,
            &[
                set(ENTRY_CONTROLS, ENTRY | 1 << 20),
                set(GUEST_SSP, 1 << 32),
            ],
        ),
        blame(
            PdpteReserved,
            Protected,
            GUEST_PDPTE2,
            &[pae[0], pae[1], set(GUEST_PDPTE2, 0x9003)],
        ),
        blame(
            PdpteReserved,
            Protected,
            GUEST_PDPTE0,
            &[pae[0], pae[1], set(GUEST_PDPTE0, 1 << 46 | 1)],
        ),
    ]
}

fn segment_rows() -> Vec<Row> {
    use Base::{Long, Protected, Real, Restricted, V86};
    use Rule::*;
    let noncanonical = 0x0000_8000_0000_0000;
    let mut rows = vec![
        row(TableSelectorTi, Long, GUEST_TR_SELECTOR, 0x24),
        blame(
            TableSelectorTi,
            Long,
            GUEST_LDTR_SELECTOR,
            &[
                set(GUEST_LDTR_ACCESS_RIGHTS, 0x82),
                set(GUEST_LDTR_SELECTOR, 0x24),
            ],
        ),
        blame(
            SsRpl,
            Restricted,
            GUEST_SS_SELECTOR,
            &[set(GUEST_CS_SELECTOR, 0x11)],
        ),
        row(SegmentBaseCanonical, Long, GUEST_TR_BASE, noncanonical),
        row(SegmentBaseCanonical, Long, GUEST_FS_BASE, noncanonical),
        row(SegmentBaseCanonical, Long, GUEST_GS_BASE, noncanonical),
        blame(
            SegmentBaseCanonical,
            Long,
            GUEST_LDTR_BASE,
            &[
                set(GUEST_LDTR_ACCESS_RIGHTS, 0x82),
                set(GUEST_LDTR_BASE, noncanonical),
            ],
        ),
        row(CsType, Long, GUEST_CS_ACCESS_RIGHTS, 0xa09a),
        row(CsType, Restricted, GUEST_CS_ACCESS_RIGHTS, 0xc093),
        row(SsType, Long, GUEST_SS_ACCESS_RIGHTS, 0xc091),
        row(SsType, Long, GUEST_SS_ACCESS_RIGHTS, 0xc09b),
        row(CsDplData, Protected, GUEST_CS_ACCESS_RIGHTS, 0xc0f3),
        row(CsDplNonconforming, Long, GUEST_CS_ACCESS_RIGHTS, 0xa0fb),
        row(CsDplConforming, Long, GUEST_CS_ACCESS_RIGHTS, 0xa0ff),
        blame(
            SsDplRpl,
            Restricted,
            GUEST_SS_ACCESS_RIGHTS,
            &[
                set(GUEST_CS_ACCESS_RIGHTS, 0xa09f),
                set(GUEST_SS_ACCESS_RIGHTS, 0xc0b3),
            ],
        ),
        blame(
            SsDplZero,
            Protected,
            GUEST_SS_ACCESS_RIGHTS,
            &[
                set(GUEST_CS_ACCESS_RIGHTS, 0xc093),
                set(GUEST_SS_ACCESS_RIGHTS, 0xc0f3),
            ],
        ),
        blame(
            SsDplZero,
            Real,
            GUEST_SS_ACCESS_RIGHTS,
            &[
                set(GUEST_CS_ACCESS_RIGHTS, 0xfb),
                set(GUEST_SS_ACCESS_RIGHTS, 0xf3),
            ],
        ),
        row(CsLongDefault, Long, GUEST_CS_ACCESS_RIGHTS, 0xe09b),
        row(TrType, Long, GUEST_TR_ACCESS_RIGHTS, 0x83),
        row(TrType, Protected, GUEST_TR_ACCESS_RIGHTS, 0x89),
        row(TrUsable, Long, GUEST_TR_ACCESS_RIGHTS, 0x1_008b),
        row(LdtrType, Long, GUEST_LDTR_ACCESS_RIGHTS, 0x83),
        row(SystemS, Long, GUEST_TR_ACCESS_RIGHTS, 0x9b),
        row(SystemS, Long, GUEST_LDTR_ACCESS_RIGHTS, 0x92),
        row(SegmentPresent, Long, GUEST_TR_ACCESS_RIGHTS, 0x0b),
        row(SegmentPresent, Long, GUEST_LDTR_ACCESS_RIGHTS, 0x02),
        row(SegmentPresent, Long, GUEST_CS_ACCESS_RIGHTS, 0xa01b),
        row(SegmentReserved, Long, GUEST_TR_ACCESS_RIGHTS, 0x18b),
        row(SegmentReserved, Long, GUEST_LDTR_ACCESS_RIGHTS, 0x2_0082),
        row(SegmentReserved, Long, GUEST_CS_ACCESS_RIGHTS, 0xa89b),
        blame(
            GranularitySet,
            Long,
            GUEST_TR_ACCESS_RIGHTS,
            &[set(GUEST_TR_LIMIT, 0x10_0000)],
        ),
        row(GranularityClear, Real, GUEST_CS_ACCESS_RIGHTS, 0x809b),
    ];
    // 64 KiB end in ones; one byte less does not.
    rows.last_mut().unwrap().3.push(set(GUEST_CS_LIMIT, 0xfffe));
    for name in [
        SegmentName::Cs,
        SegmentName::Ss,
        SegmentName::Ds,
        SegmentName::Es,
    ] {
        rows.push(row(
            SegmentBaseHigh,
            Long,
            SegmentFields::guest(name).base,
            1 << 32,
        ));
    }
    for name in [
        SegmentName::Ds,
        SegmentName::Es,
        SegmentName::Fs,
        SegmentName::Gs,
    ] {
        let SegmentFields {
            selector,
            limit,
            access_rights,
            ..
        } = SegmentFields::guest(name);
        rows.push(row(DataAccessed, Long, access_rights, 0xc092));
        rows.push(row(DataReadable, Long, access_rights, 0xc099));
        rows.push(row(SegmentS, Long, access_rights, 0xc083));
        rows.push(row(SegmentPresent, Long, access_rights, 0xc013));
        rows.push(row(SegmentReserved, Long, access_rights, 0xc193));
        rows.push(blame(
            DataDpl,
            Restricted,
            access_rights,
            &[set(selector, 0x1b)],
        ));
        rows.push(row(GranularitySet, Long, access_rights, 0x4093));
        rows.push(blame(
            GranularityClear,
            Long,
            access_rights,
            &[set(limit, 0xffff_fffe)],
        ));
    }
    for name in &SegmentName::ALL[..6] {
        let fields = SegmentFields::guest(*name);
        rows.push(row(V86Base, V86, fields.base, 0x1_0010));
        rows.push(row(V86Limit, V86, fields.limit, 0xffff_ffff));
        rows.push(row(V86AccessRights, V86, fields.access_rights, 0x93));
    }
    rows
}

fn other_rows() -> Vec<Row> {
    use Base::{Long, Protected};
    use Rule::*;
    let interrupts = set(GUEST_RFLAGS, 0x202);
    let trap = set(GUEST_RFLAGS, 0x102);
    let inject = |info| set(ENTRY_INTERRUPTION_INFO, info);
    let blocked = |bits| set(GUEST_INTERRUPTIBILITY, bits);
    vec![
        row(ActivityUnsupported, Long, GUEST_ACTIVITY, 4),
        blame(
            ActivityHltDpl,
            Long,
            GUEST_ACTIVITY,
            &[
                set(GUEST_ACTIVITY, 1),
                set(GUEST_CS_ACCESS_RIGHTS, 0xa0fb),
                set(GUEST_SS_ACCESS_RIGHTS, 0xc0f3),
            ],
        ),
        blame(
            ActivityBlocked,
            Long,
            GUEST_ACTIVITY,
            &[set(GUEST_ACTIVITY, 1), blocked(1), interrupts],
        ),
        blame(
            ActivityEvent,
            Long,
            GUEST_ACTIVITY,
            &[set(GUEST_ACTIVITY, 1), inject(0x8000_0b0d)],
        ),
        blame(
            ActivityEvent,
            Long,
            GUEST_ACTIVITY,
            &[set(GUEST_ACTIVITY, 2), inject(0x8000_0301)],
        ),
        blame(
            ActivityEvent,
            Long,
            GUEST_ACTIVITY,
            &[set(GUEST_ACTIVITY, 3), inject(0x8000_0202)],
        ),
        row(BlockingReserved, Long, GUEST_INTERRUPTIBILITY, 0x20),
        blame(
            BlockingBoth,
            Long,
            GUEST_INTERRUPTIBILITY,
            &[blocked(3), interrupts],
        ),
        row(BlockingStiWithoutIf, Long, GUEST_INTERRUPTIBILITY, 1),
        blame(
            BlockingInterrupt,
            Long,
            GUEST_INTERRUPTIBILITY,
            &[blocked(2), interrupts, inject(0x8000_0031)],
        ),
        blame(
            BlockingNmiByMovSs,
            Long,
            GUEST_INTERRUPTIBILITY,
            &[blocked(2), inject(0x8000_0202)],
        ),
        blame(
            BlockingNmiBySti,
            Long,
            GUEST_INTERRUPTIBILITY,
            &[blocked(1), interrupts, inject(0x8000_0202)],
        ),
        row(BlockingSmi, Protected, GUEST_INTERRUPTIBILITY, 4),
        blame(
            BlockingNmi,
            Long,
            GUEST_INTERRUPTIBILITY,
            &[blocked(8), inject(0x8000_0202)],
        ),
        row(BlockingEnclave, Long, GUEST_INTERRUPTIBILITY, 0x12),
        row(PendingReserved, Long, GUEST_PENDING_DEBUG_EXCEPTIONS, 0x10),
        row(
            PendingReserved,
            Long,
            GUEST_PENDING_DEBUG_EXCEPTIONS,
            1 << 17,
        ),
        blame(
            PendingStepMissing,
            Long,
            GUEST_PENDING_DEBUG_EXCEPTIONS,
            &[blocked(2), trap],
        ),
        blame(
            PendingStepMissing,
            Long,
            GUEST_PENDING_DEBUG_EXCEPTIONS,
            &[set(GUEST_ACTIVITY, 1), trap],
        ),
        blame(
            PendingStepExtra,
            Long,
            GUEST_PENDING_DEBUG_EXCEPTIONS,
            &[blocked(2), set(GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14)],
        ),
        blame(
            PendingStepExtra,
            Long,
            GUEST_PENDING_DEBUG_EXCEPTIONS,
            &[
                blocked(2),
                trap,
                set(GUEST_DEBUGCTL, 2),
                set(GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14),
            ],
        ),
        row(PendingRtm, Long, GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 16),
        blame(
            PendingRtm,
            Long,
            GUEST_PENDING_DEBUG_EXCEPTIONS,
            &[blocked(2), set(GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1_1000)],
        ),
        row(LinkPointerAlignment, Long, VMCS_LINK_POINTER, 0x1008),
        row(LinkPointerWidth, Long, VMCS_LINK_POINTER, 1 << 46),
    ]
}

#[test]
fn what_is_right_depends_on_the_processor() {
    let without = |change: fn(&mut RawCapabilities)| {
        let mut raw = raw();
        change(&mut raw);
        raw
    };
    let hlt = [set(GUEST_ACTIVITY, 1)];
    assert_eq!(found(Base::Long, &hlt, raw()), []);
    assert_eq!(
        found(Base::Long, &hlt, without(|raw| raw.misc &= !(1 << 6))),
        [(Rule::ActivityUnsupported, GUEST_ACTIVITY.encoding())]
    );
    let tracked = [set(EPT_POINTER, 0x1234_505e)];
    assert_eq!(
        found(Base::Long, &tracked, without(|raw| raw.ept_vpid |= 1 << 21)),
        []
    );
    let zero_length = [set(ENTRY_INTERRUPTION_INFO, 0x8000_0480)];
    assert_eq!(
        found(Base::Long, &zero_length, without(|raw| raw.misc |= 1 << 30)),
        []
    );
    let bare_gp = [set(ENTRY_INTERRUPTION_INFO, 0x8000_030d)];
    assert_eq!(
        found(Base::Long, &bare_gp, without(|raw| raw.basic |= 1 << 56)),
        []
    );
    let no_trap_flag = without(|raw| raw.true_primary &= !(1 << 59));
    let pending_trap = [set(ENTRY_INTERRUPTION_INFO, 0x8000_0700)];
    assert_eq!(found(Base::Long, &pending_trap, raw()), []);
    assert_eq!(
        found(Base::Long, &pending_trap, no_trap_flag),
        [(Rule::EventType, ENTRY_INTERRUPTION_INFO.encoding())]
    );
}

#[test]
fn what_looks_odd_and_is_allowed_passes() {
    for (base, changes) in [
        // The highest linear-address bit of RIP does not count.
        (Base::Long, vec![set(GUEST_RIP, 1 << 47)]),
        // A compatibility-mode guest.
        (Base::Long, vec![set(GUEST_CS_ACCESS_RIGHTS, 0xc09b)]),
        // Null data segments, with anything in the other fields.
        (
            Base::Long,
            vec![
                set(GUEST_DS_ACCESS_RIGHTS, 0x1_0fff),
                set(GUEST_DS_BASE, 1 << 60),
            ],
        ),
        // An interrupt and an NMI for a sleeping guest.
        (
            Base::Long,
            vec![
                set(GUEST_ACTIVITY, 1),
                set(GUEST_RFLAGS, 0x202),
                set(ENTRY_INTERRUPTION_INFO, 0x8000_0031),
            ],
        ),
        (
            Base::Long,
            vec![
                set(GUEST_ACTIVITY, 1),
                set(ENTRY_INTERRUPTION_INFO, 0x8000_0202),
            ],
        ),
        (
            Base::Long,
            vec![
                set(GUEST_ACTIVITY, 1),
                set(ENTRY_INTERRUPTION_INFO, 0x8000_0301),
            ],
        ),
        (
            Base::Long,
            vec![
                set(GUEST_ACTIVITY, 2),
                set(ENTRY_INTERRUPTION_INFO, 0x8000_0312),
            ],
        ),
        // Controls that are not activated may hold anything.
        (
            Base::Long,
            vec![
                set(TERTIARY_CONTROLS, u64::MAX),
                set(SECONDARY_EXIT_CONTROLS, u64::MAX),
            ],
        ),
        // A single step that is pending, as it must be.
        (
            Base::Long,
            vec![
                set(GUEST_INTERRUPTIBILITY, 2),
                set(GUEST_RFLAGS, 0x102),
                set(GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14),
            ],
        ),
        // The last values before a limit.
        (
            Base::Long,
            vec![
                set(CR3_TARGET_COUNT, 4),
                set(MSR_BITMAPS, (1 << 46) - 0x1000),
            ],
        ),
        (
            Base::Long,
            vec![
                set(SECONDARY_CONTROLS, SECONDARY & !0x200),
                set(TPR_THRESHOLD, 15),
            ],
        ),
        (
            Base::Long,
            vec![
                set(EXIT_MSR_LOAD_COUNT, 2),
                set(EXIT_MSR_LOAD_ADDRESS, (1 << 46) - 32),
                set(ENTRY_INTERRUPTION_INFO, 0x8000_0480),
                set(ENTRY_INSTRUCTION_LENGTH, 15),
            ],
        ),
        (Base::Long, vec![set(ENTRY_INTERRUPTION_INFO, 0x8000_031f)]),
        // Linear-address masking.
        (Base::Long, vec![set(GUEST_CR3, 3 << 61 | 0x9000)]),
        // Absent PDPTEs may hold anything.
        (
            Base::Protected,
            vec![
                set(GUEST_CR0, 0x8000_0031),
                set(GUEST_CR4, 0x2020),
                set(GUEST_PDPTE3, !1),
            ],
        ),
        // "Big real mode": the segment limits that protected mode left behind.
        (
            Base::Real,
            vec![
                set(GUEST_DS_LIMIT, 0xffff_ffff),
                set(GUEST_DS_ACCESS_RIGHTS, 0x8093),
            ],
        ),
    ] {
        assert_eq!(
            found(base, &changes, raw()),
            [],
            "{base:?} with {changes:x?}"
        );
    }
}

#[test]
fn a_violation_names_field_value_rule_and_section() {
    let mut vmcs = Base::Long.vmcs();
    vmcs.write(GUEST_CS_ACCESS_RIGHTS, 0xe09b);
    let violations = check(&vmcs, &caps_of(raw()));
    assert_eq!(
        violations[0].to_string(),
        "GUEST_CS_ACCESS_RIGHTS is 0xe09b: D must be 0 with L in an IA-32e mode guest \
         (SDM vol. 3, Checks on Guest Segment Registers)"
    );
}
