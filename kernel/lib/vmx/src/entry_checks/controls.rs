//! Checks on the VM-execution, VM-exit and VM-entry control fields.

use arch::{Cr0, Exception};

use super::{Checker, Rule, upper};
use crate::capability::{Basic, ControlWord, EptVpid, Misc};
use crate::controls::{
    EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls,
    SecondaryExitControls, TertiaryControls,
};
use crate::event::{InterruptionInfo, InterruptionType};
use crate::fields::{self, Field, FieldWidth, ReadWrite, VmcsReader};

/// Bit 0 of the VM-function controls.
const EPTP_SWITCHING: u64 = 1;

impl<V: VmcsReader> Checker<'_, V> {
    pub(super) fn execution_controls(&mut self) {
        self.reserved::<PinControls, _>(fields::PIN_BASED_CONTROLS);
        self.reserved::<PrimaryControls, _>(fields::PRIMARY_CONTROLS);
        if self
            .primary
            .contains(PrimaryControls::ACTIVATE_SECONDARY_CONTROLS)
        {
            self.reserved::<SecondaryControls, _>(fields::SECONDARY_CONTROLS);
        }
        if self
            .primary
            .contains(PrimaryControls::ACTIVATE_TERTIARY_CONTROLS)
        {
            self.reserved::<TertiaryControls, _>(fields::TERTIARY_CONTROLS);
        }
        let targets = self.caps.cr3_targets();
        self.require(Rule::Cr3TargetCount, fields::CR3_TARGET_COUNT, |count| {
            count <= targets
        });

        if self.primary.contains(PrimaryControls::USE_IO_BITMAPS) {
            self.page(fields::IO_BITMAP_A);
            self.page(fields::IO_BITMAP_B);
        }
        if self.primary.contains(PrimaryControls::USE_MSR_BITMAPS) {
            self.page(fields::MSR_BITMAPS);
        }
        self.nmi_controls();
        self.apic_controls();
        self.posted_interrupts();
        if self.secondary.contains(SecondaryControls::ENABLE_VPID) {
            self.require(Rule::VpidZero, fields::VPID, |vpid| vpid != 0);
        }
        self.ept_controls();
        self.optional_pages();
    }

    fn nmi_controls(&mut self) {
        let pin = self.pin;
        self.require(
            Rule::VirtualNmisNeedExiting,
            fields::PIN_BASED_CONTROLS,
            |_| !pin.contains(PinControls::VIRTUAL_NMIS) || pin.contains(PinControls::NMI_EXITING),
        );
        let window = self.primary.contains(PrimaryControls::NMI_WINDOW_EXITING);
        self.require(
            Rule::NmiWindowNeedsVirtualNmis,
            fields::PRIMARY_CONTROLS,
            |_| !window || pin.contains(PinControls::VIRTUAL_NMIS),
        );
    }

    fn apic_controls(&mut self) {
        let Self {
            secondary,
            tertiary,
            ..
        } = *self;
        let delivery = secondary.contains(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);
        if self.primary.contains(PrimaryControls::USE_TPR_SHADOW) {
            self.page(fields::VIRTUAL_APIC_ADDRESS);
            if !delivery {
                self.require(Rule::TprThresholdReserved, fields::TPR_THRESHOLD, |value| {
                    value < 16
                });
            }
        } else {
            let dependent = SecondaryControls::VIRTUALIZE_X2APIC_MODE
                | SecondaryControls::APIC_REGISTER_VIRTUALIZATION
                | SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY;
            self.require(
                Rule::ApicControlsNeedTprShadow,
                fields::SECONDARY_CONTROLS,
                |_| !secondary.intersects(dependent),
            );
            self.require(
                Rule::ApicControlsNeedTprShadow,
                fields::TERTIARY_CONTROLS,
                |_| !tertiary.contains(TertiaryControls::IPI_VIRTUALIZATION),
            );
        }
        if secondary.contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES) {
            self.page(fields::APIC_ACCESS_ADDRESS);
            self.require(
                Rule::X2apicExcludesAccesses,
                fields::SECONDARY_CONTROLS,
                |_| !secondary.contains(SecondaryControls::VIRTUALIZE_X2APIC_MODE),
            );
        }
        let exiting = self.pin.contains(PinControls::EXTERNAL_INTERRUPT_EXITING);
        self.require(
            Rule::DeliveryNeedsInterruptExiting,
            fields::SECONDARY_CONTROLS,
            |_| !delivery || exiting,
        );
        if tertiary.contains(TertiaryControls::IPI_VIRTUALIZATION) {
            self.require(
                Rule::IpiVirtualizationTable,
                fields::PID_POINTER_TABLE,
                |table| table.is_multiple_of(8),
            );
            let last = u64::from(self.get(fields::LAST_PID_POINTER_INDEX)) * 8;
            let end = self.get(fields::PID_POINTER_TABLE).saturating_add(last + 7);
            let fits = self.in_physical_width(end);
            self.require(Rule::PhysicalWidth, fields::PID_POINTER_TABLE, |_| fits);
        }
    }

    fn posted_interrupts(&mut self) {
        if !self.pin.contains(PinControls::PROCESS_POSTED_INTERRUPTS) {
            return;
        }
        let delivery = self
            .secondary
            .contains(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);
        self.require(
            Rule::PostedNeedsDelivery,
            fields::SECONDARY_CONTROLS,
            |_| delivery,
        );
        let acknowledge = self
            .exit
            .contains(ExitControls::ACKNOWLEDGE_INTERRUPT_ON_EXIT);
        self.require(Rule::PostedNeedsAcknowledge, fields::EXIT_CONTROLS, |_| {
            acknowledge
        });
        self.require(
            Rule::PostedVector,
            fields::POSTED_INTERRUPT_NOTIFICATION_VECTOR,
            |vector| vector <= 0xff,
        );
        let descriptor = fields::POSTED_INTERRUPT_DESCRIPTOR;
        self.require(Rule::PostedDescriptorAlignment, descriptor, |at| {
            at.is_multiple_of(64)
        });
        self.width(descriptor);
    }

    fn ept_controls(&mut self) {
        let secondary = self.secondary;
        let over_ept = SecondaryControls::ENABLE_PML
            | SecondaryControls::UNRESTRICTED_GUEST
            | SecondaryControls::MODE_BASED_EXECUTE_CONTROL
            | SecondaryControls::SUB_PAGE_WRITE_PERMISSIONS
            | SecondaryControls::PT_USES_GUEST_PHYSICAL;
        let tertiary_over_ept = TertiaryControls::ENABLE_HLAT
            | TertiaryControls::EPT_PAGING_WRITE_CONTROL
            | TertiaryControls::GUEST_PAGING_VERIFICATION;
        if !secondary.contains(SecondaryControls::ENABLE_EPT) {
            self.require(Rule::ControlNeedsEpt, fields::SECONDARY_CONTROLS, |_| {
                !secondary.intersects(over_ept)
            });
            let tertiary = self.tertiary;
            self.require(Rule::ControlNeedsEpt, fields::TERTIARY_CONTROLS, |_| {
                !tertiary.intersects(tertiary_over_ept)
            });
            return;
        }
        let can = self.caps.ept_vpid();
        let eptp = fields::EPT_POINTER;
        self.require(Rule::EptMemoryType, eptp, |pointer| match pointer & 7 {
            0 => can.contains(EptVpid::UNCACHEABLE),
            6 => can.contains(EptVpid::WRITE_BACK),
            _ => false,
        });
        self.require(Rule::EptWalkLength, eptp, |pointer| {
            match (pointer >> 3) & 7 {
                3 => can.contains(EptVpid::WALK_4),
                4 => can.contains(EptVpid::WALK_5),
                _ => false,
            }
        });
        self.require(Rule::EptAccessedDirty, eptp, |pointer| {
            pointer & (1 << 6) == 0 || can.contains(EptVpid::ACCESSED_DIRTY)
        });
        self.require(Rule::EptShadowStack, eptp, |pointer| {
            pointer & (1 << 7) == 0 || can.contains(EptVpid::SUPERVISOR_SHADOW_STACK)
        });
        self.require(Rule::EptReserved, eptp, |pointer| pointer & 0xf00 == 0);
        self.width(eptp);
    }

    /// Pages that single controls need.
    fn optional_pages(&mut self) {
        let Self {
            secondary,
            tertiary,
            ..
        } = *self;
        for (control, page) in [
            (SecondaryControls::ENABLE_PML, fields::PML_ADDRESS),
            (
                SecondaryControls::EPT_VIOLATION_VE,
                fields::VE_INFORMATION_ADDRESS,
            ),
            (
                SecondaryControls::SUB_PAGE_WRITE_PERMISSIONS,
                fields::SPP_TABLE_POINTER,
            ),
            (SecondaryControls::VMCS_SHADOWING, fields::VMREAD_BITMAP),
            (SecondaryControls::VMCS_SHADOWING, fields::VMWRITE_BITMAP),
            (
                SecondaryControls::PASID_TRANSLATION,
                fields::LOW_PASID_DIRECTORY,
            ),
            (
                SecondaryControls::PASID_TRANSLATION,
                fields::HIGH_PASID_DIRECTORY,
            ),
        ] {
            if secondary.contains(control) {
                self.page(page);
            }
        }
        if secondary.contains(SecondaryControls::ENABLE_VM_FUNCTIONS) {
            let allowed = self.caps.vm_functions();
            self.require(
                Rule::VmFunctionBits,
                fields::VM_FUNCTION_CONTROLS,
                |functions| functions & !allowed == 0,
            );
            if self.get(fields::VM_FUNCTION_CONTROLS) & EPTP_SWITCHING != 0 {
                self.require(
                    Rule::EptpSwitchingNeedsEpt,
                    fields::VM_FUNCTION_CONTROLS,
                    |_| secondary.contains(SecondaryControls::ENABLE_EPT),
                );
                self.page(fields::EPTP_LIST_ADDRESS);
            }
        }
        if secondary.contains(SecondaryControls::USE_TSC_SCALING) {
            self.require(Rule::TscMultiplierZero, fields::TSC_MULTIPLIER, |value| {
                value != 0
            });
        }
        let switches_rtit = self.entry.contains(EntryControls::LOAD_RTIT_CTL)
            && self.exit.contains(ExitControls::CLEAR_RTIT_CTL);
        self.require(Rule::PtNeedsRtit, fields::SECONDARY_CONTROLS, |_| {
            !secondary.contains(SecondaryControls::PT_USES_GUEST_PHYSICAL) || switches_rtit
        });
        if tertiary.contains(TertiaryControls::ENABLE_HLAT) {
            self.require(Rule::HlatPointerReserved, fields::HLAT_POINTER, |pointer| {
                pointer & 0xfe7 == 0
            });
            self.width(fields::HLAT_POINTER);
        }
    }

    pub(super) fn exit_controls(&mut self) {
        self.reserved::<ExitControls, _>(fields::EXIT_CONTROLS);
        if self
            .exit
            .contains(ExitControls::ACTIVATE_SECONDARY_CONTROLS)
        {
            self.reserved::<SecondaryExitControls, _>(fields::SECONDARY_EXIT_CONTROLS);
        }
        let timer = self.pin.contains(PinControls::ACTIVATE_PREEMPTION_TIMER);
        let saved = self.exit.contains(ExitControls::SAVE_PREEMPTION_TIMER);
        self.require(Rule::TimerSavedWithoutTimer, fields::EXIT_CONTROLS, |_| {
            timer || !saved
        });
        self.msr_area(fields::EXIT_MSR_STORE_COUNT, fields::EXIT_MSR_STORE_ADDRESS);
        self.msr_area(fields::EXIT_MSR_LOAD_COUNT, fields::EXIT_MSR_LOAD_ADDRESS);
    }

    pub(super) fn entry_controls(&mut self) {
        self.reserved::<EntryControls, _>(fields::ENTRY_CONTROLS);
        if let Some(event) = self.injected() {
            self.event(event);
        }
        self.msr_area(fields::ENTRY_MSR_LOAD_COUNT, fields::ENTRY_MSR_LOAD_ADDRESS);
        let smm = EntryControls::ENTRY_TO_SMM | EntryControls::DEACTIVATE_DUAL_MONITOR;
        let entry = self.entry;
        self.require(Rule::SmmOutsideSmm, fields::ENTRY_CONTROLS, |_| {
            !entry.intersects(smm)
        });
    }

    fn event(&mut self, event: InterruptionInfo) {
        let info = fields::ENTRY_INTERRUPTION_INFO;
        let traps = self.caps.allows(PrimaryControls::MONITOR_TRAP_FLAG);
        self.require(Rule::EventType, info, |_| match event.kind() {
            InterruptionType::Reserved => false,
            InterruptionType::Other => traps,
            _ => true,
        });
        let vector = event.vector().0;
        self.require(Rule::EventVector, info, |_| match event.kind() {
            InterruptionType::Nmi => vector == 2,
            InterruptionType::HardwareException => vector <= 31,
            InterruptionType::Other => vector == 0,
            _ => true,
        });
        let protected = !self.is_unrestricted()
            || Cr0::from_bits_retain(self.get(fields::GUEST_CR0)).contains(Cr0::PE);
        let any_vector = self.caps.basic().contains(Basic::ANY_ERROR_CODE);
        self.require(Rule::EventErrorCode, info, |_| {
            let possible = event.kind() == InterruptionType::HardwareException && protected;
            if !possible {
                return !event.has_error_code();
            }
            match Exception::from_vector(event.vector()) {
                // Processors of before and after CET differ about it.
                Some(Exception::ControlProtection) => true,
                exception => {
                    let has_code = exception.is_some_and(Exception::has_error_code);
                    any_vector || event.has_error_code() == has_code
                }
            }
        });
        self.require(Rule::EventReserved, info, |bits| bits & 0x7fff_f000 == 0);
        if event.has_error_code() {
            self.require(
                Rule::EventErrorCodeReserved,
                fields::ENTRY_EXCEPTION_ERROR_CODE,
                |code| code >> 16 == 0,
            );
        }
        let software = matches!(
            event.kind(),
            InterruptionType::SoftwareInterrupt
                | InterruptionType::PrivilegedSoftwareException
                | InterruptionType::SoftwareException
        );
        if software {
            let shortest = u32::from(!self.caps.misc().contains(Misc::ZERO_LENGTH_INJECTION));
            self.require(
                Rule::EventInstructionLength,
                fields::ENTRY_INSTRUCTION_LENGTH,
                |length| (shortest..=15).contains(&length),
            );
        }
    }

    /// The word must keep what its capability MSR fixes.
    fn reserved<C: ControlWord, W: FieldWidth>(&mut self, field: Field<W, ReadWrite>) {
        let allowed = self.caps.allowed(C::KIND);
        self.require(Rule::ControlBits, field, |word| {
            allowed.wrong_bits(word.into_u64()) == 0
        });
    }

    fn page(&mut self, field: Field<u64, ReadWrite>) {
        self.require(Rule::PageAddress, field, |address| {
            address.is_multiple_of(4096)
        });
        self.width(field);
    }

    fn width(&mut self, field: Field<u64, ReadWrite>) {
        let bits = self.caps.address_widths().physical;
        self.require(Rule::PhysicalWidth, field, |address| {
            upper(address, bits) == 0
        });
    }

    /// Entries of 16 bytes.
    fn msr_area(&mut self, count: Field<u32, ReadWrite>, address: Field<u64, ReadWrite>) {
        let count = u64::from(self.get(count));
        if count == 0 {
            return;
        }
        self.require(Rule::MsrAreaAlignment, address, |at| at.is_multiple_of(16));
        let end = self.get(address).saturating_add(count * 16 - 1);
        let fits = self.in_physical_width(end);
        self.require(Rule::MsrAreaEnd, address, |_| fits);
    }
}
