//! A model of the checks that the processor does at VM entry, for naming the rule after a failed one.
//!
//! The processor says only "invalid guest state" or an error number. [`check`] goes over the same fields by
//! the same rules, which are [`Rule`], and returns each [`Violation`]. SDM vol. 3, Basic VM-Entry Checks,
//! Checks on VMX Controls and Host-State Area, and Checking and Loading Guest State.
//!
//! What no VMCS field shows is left out: the contents of the virtual-APIC page and of the VMCS behind the link
//! pointer, PDPTEs in memory, and the reserved bits of IA32_PERF_GLOBAL_CTRL and IA32_RTIT_CTL, which hang on
//! CPUID. The MSR areas have [`msr_area`](crate::msr_area).

use alloc::vec::Vec;
use core::fmt;

use arch::is_canonical;

use crate::capability::Capabilities;
use crate::controls::{
    EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls, TertiaryControls,
};
use crate::event::{InterruptionInfo, InterruptionType};
use crate::fields::{self, Access, Encoding, Field, FieldWidth, VmcsReader};

mod controls;
mod guest_other;
mod guest_registers;
mod guest_segments;
mod host;
mod rule;

pub use rule::Rule;

/// A field that breaks a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The field.
    pub field: Encoding,
    /// What it holds.
    pub value: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, field, value } = self;
        write!(
            f,
            "{field} is {value:#x}: {} (SDM vol. 3, {})",
            rule.sentence(),
            rule.section()
        )
    }
}

/// Checks all fields of a VMCS and returns what the processor would object to, in the manual's order.
///
/// It stands for an entry from 64-bit mode outside SMM, as all of Plinth's are.
pub fn check(vmcs: &impl VmcsReader, caps: &Capabilities) -> Vec<Violation> {
    let mut checker = Checker::new(vmcs, caps);
    checker.execution_controls();
    checker.exit_controls();
    checker.entry_controls();
    checker.host_registers();
    checker.host_segments();
    checker.address_space_size();
    checker.guest_control_registers();
    checker.guest_msrs();
    checker.guest_segments();
    checker.guest_descriptor_tables();
    checker.guest_rip_rflags_ssp();
    checker.guest_activity();
    checker.guest_blocking();
    checker.guest_pending_debug();
    checker.guest_link_pointer();
    checker.guest_pdptes();
    checker.found
}

/// The fields under check and what was found so far. The control words are as the processor takes them: a
/// word that another word does not activate is empty.
struct Checker<'a, V> {
    vmcs: &'a V,
    caps: &'a Capabilities,
    pin: PinControls,
    primary: PrimaryControls,
    secondary: SecondaryControls,
    tertiary: TertiaryControls,
    exit: ExitControls,
    entry: EntryControls,
    found: Vec<Violation>,
}

impl<'a, V: VmcsReader> Checker<'a, V> {
    fn new(vmcs: &'a V, caps: &'a Capabilities) -> Self {
        let primary = PrimaryControls::from_bits_retain(vmcs.read(fields::PRIMARY_CONTROLS));
        let secondary = if primary.contains(PrimaryControls::ACTIVATE_SECONDARY_CONTROLS) {
            SecondaryControls::from_bits_retain(vmcs.read(fields::SECONDARY_CONTROLS))
        } else {
            SecondaryControls::empty()
        };
        let tertiary = if primary.contains(PrimaryControls::ACTIVATE_TERTIARY_CONTROLS) {
            TertiaryControls::from_bits_retain(vmcs.read(fields::TERTIARY_CONTROLS))
        } else {
            TertiaryControls::empty()
        };
        Self {
            vmcs,
            caps,
            pin: PinControls::from_bits_retain(vmcs.read(fields::PIN_BASED_CONTROLS)),
            primary,
            secondary,
            tertiary,
            exit: ExitControls::from_bits_retain(vmcs.read(fields::EXIT_CONTROLS)),
            entry: EntryControls::from_bits_retain(vmcs.read(fields::ENTRY_CONTROLS)),
            found: Vec::new(),
        }
    }

    fn get<W: FieldWidth, A: Access>(&self, field: Field<W, A>) -> W {
        self.vmcs.read(field)
    }

    /// Notes a violation of `rule` by `field` unless `holds` is true of its value.
    fn require<W: FieldWidth, A: Access>(
        &mut self,
        rule: Rule,
        field: Field<W, A>,
        holds: impl FnOnce(W) -> bool,
    ) {
        let value = self.get(field);
        if !holds(value) {
            self.found.push(Violation {
                rule,
                field: field.encoding(),
                value: value.into_u64(),
            });
        }
    }

    /// Whether no bit at or above MAXPHYADDR is set.
    fn in_physical_width(&self, address: u64) -> bool {
        upper(address, self.caps.address_widths().physical) == 0
    }

    fn is_canonical(&self, address: u64) -> bool {
        is_canonical(address, self.caps.address_widths().linear)
    }

    /// Whether CR3 has no bit beyond the physical-address width but for the two of linear-address masking.
    fn is_cr3_in_width(&self, cr3: u64) -> bool {
        const LAM: u64 = 3 << 61;
        self.in_physical_width(cr3 & !LAM)
    }

    fn require_canonical(&mut self, rule: Rule, field: Field<u64, fields::ReadWrite>) {
        let canonical = self.is_canonical(self.get(field));
        self.require(rule, field, |_| canonical);
    }

    /// The event to be injected, where there is one.
    fn injected(&self) -> Option<InterruptionInfo> {
        let info = InterruptionInfo(self.get(fields::ENTRY_INTERRUPTION_INFO));
        info.is_valid().then_some(info)
    }

    fn injects(&self, kind: InterruptionType) -> bool {
        self.injected().is_some_and(|info| info.kind() == kind)
    }

    fn is_long_mode_guest(&self) -> bool {
        self.entry.contains(EntryControls::IA32E_MODE_GUEST)
    }

    fn is_unrestricted(&self) -> bool {
        self.secondary
            .contains(SecondaryControls::UNRESTRICTED_GUEST)
    }
}

/// The bits of `value` from bit `from` on.
const fn upper(value: u64, from: u8) -> u64 {
    if from >= 64 { 0 } else { value >> from }
}

/// The same with the sign carried down.
const fn sign_part(value: u64, from: u8) -> i64 {
    (value as i64) >> if from >= 64 { 63 } else { from }
}

/// Whether each byte of a PAT value is a memory type.
fn is_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .into_iter()
        .all(|byte| matches!(byte, 0 | 1 | 4..=7))
}

/// Bits of IA32_EFER that are not reserved: SCE, LME, LMA and NXE.
const EFER_BITS: u64 = 0xd01;

#[cfg(test)]
mod tests;
