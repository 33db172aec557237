//! Where the emulated machine is not what the manuals describe, so that it cannot judge.
//!
//! Each entry names one case, whom it excuses, what Bochs 2.7 does, and what the manual says. The other side has to pass
//! the case, and who is excused must not.

use super::Side;

/// One case that one side is excused from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The guest.
    pub guest: &'static str,
    /// The case.
    pub case: &'static str,
    /// Who is excused.
    pub side: Side,
    /// What the emulator does.
    pub bochs: &'static str,
    /// What the manual says.
    pub manual: &'static str,
}

/// The exceptions of one guest.
#[must_use]
pub fn of(guest: &str) -> Vec<&'static Exception> {
    ALL.iter()
        .filter(|exception| exception.guest == guest)
        .collect()
}

/// All of them.
pub const ALL: &[Exception] = &[
    Exception {
        guest: "cpus",
        case: "init-in-an-nmi-handler-unblocks-nmis",
        side: Side::Guest,
        bochs: "VM entry blocks virtual NMIs where the interruptibility state says so, and never unblocks them where \
                it does not, so that the next exit reports them blocked again",
        manual: "SDM vol. 3, Loading Guest Non-Register State: blocking after VM entry is what the field says",
    },
    bare(
        "apic",
        "apic-can-be-enabled-again",
        "an APIC that IA32_APIC_BASE has disabled stays so until a reset",
        "SDM vol. 3, Enabling or Disabling the Local APIC: since the Pentium 4 the flag can be set again",
    ),
    bare(
        "apic",
        "xapic-lvt-entries-drop-reserved-bits",
        "the delivery status of the timer's LVT entry can be written",
        "SDM vol. 3, Local Vector Table: it is read only",
    ),
    bare(
        "apic",
        "xapic-software-disabled-apic-takes-nmis-only",
        "a fixed IPI is accepted all the same",
        "SDM vol. 3, Local APIC State After It Has Been Software Disabled: it responds to INIT, NMI, SMI and SIPI only",
    ),
    bare(
        "apic",
        "x2apic-software-disabled-apic-takes-nmis-only",
        "as in xAPIC mode",
        "as in xAPIC mode",
    ),
    bare(
        "apic",
        "xapic-illegal-vector-in-an-ipi-is-logged",
        "ESR knows no illegal vectors",
        "SDM vol. 3, Error Handling: send illegal vector",
    ),
    bare(
        "apic",
        "xapic-error-status-changes-by-a-write-only",
        "ESR knows no illegal vectors",
        "SDM vol. 3, Error Handling: send illegal vector",
    ),
    bare(
        "apic",
        "xapic-error-raises-its-interrupt",
        "ESR knows no illegal vectors, and raises nothing",
        "SDM vol. 3, Error Handling: the LVT error entry",
    ),
    bare(
        "apic",
        "xapic-deadline-fires-not-before-its-time",
        "IA32_TSC_DEADLINE keeps its value when it fires",
        "SDM vol. 3, TSC-Deadline Mode: it is cleared to disarm the timer",
    ),
    bare(
        "apic",
        "x2apic-deadline-fires-not-before-its-time",
        "as in xAPIC mode",
        "as in xAPIC mode",
    ),
    bare(
        "apic",
        "xapic-leaving-deadline-mode-disarms",
        "IA32_TSC_DEADLINE keeps its value when the mode is left",
        "SDM vol. 3, TSC-Deadline Mode: transitions between the modes disarm the timer",
    ),
    bare(
        "apic",
        "x2apic-leaving-deadline-mode-disarms",
        "as in xAPIC mode",
        "as in xAPIC mode",
    ),
    bare(
        "apic",
        "xapic-deadline-follows-writes-of-the-tsc",
        "the deadline is counted off when it is written, whatever becomes of the TSC",
        "SDM vol. 3, TSC-Deadline Mode: the interrupt comes when the TSC reaches the deadline",
    ),
    bare(
        "apic",
        "x2apic-deadline-follows-writes-of-the-tsc",
        "as in xAPIC mode",
        "as in xAPIC mode",
    ),
    bare(
        "apic",
        "x2apic-logical-destination-follows-from-the-id",
        "LDR reads as 0",
        "SDM vol. 3, Deriving Logical x2APIC ID from the Local x2APIC ID",
    ),
    bare(
        "apic",
        "x2apic-logical-destination-is-a-cluster-and-a-bit",
        "LDR is 0, so that no logical destination matches",
        "SDM vol. 3, Logical Destination Mode in x2APIC Mode",
    ),
    bare(
        "apic",
        "x2apic-lowest-priority-to-oneself",
        "LDR is 0, so that no logical destination matches",
        "SDM vol. 3, Logical Destination Mode in x2APIC Mode",
    ),
    bare(
        "apic",
        "x2apic-physical-broadcast",
        "the ID 0xff is still the broadcast",
        "SDM vol. 3, ICR Operation in x2APIC Mode: 0xffffffff is",
    ),
    bare(
        "apic",
        "x2apic-interrupt-command-reads-back-in-one-piece",
        "the destination reads as 0",
        "SDM vol. 3, ICR Operation in x2APIC Mode: the ICR is one register of 64 bits",
    ),
    bare(
        "apic",
        "x2apic-reserved-bits-fault",
        "reserved bits of LVT entries and the ICR are ignored",
        "SDM vol. 3, x2APIC Register Address Space: setting reserved bits raises #GP",
    ),
    bare(
        "cpus",
        "general-registers-after-init",
        "EDX is 0",
        "SDM vol. 3, Processor State After Reset: EDX has the family and model",
    ),
    bare(
        "events",
        "single-step-trap-wakes-hlt",
        "HLT sleeps until an interrupt, and traps then",
        "SDM vol. 2, HLT: a debug exception resumes execution",
    ),
    bare(
        "ioapic",
        "entry-drops-reserved-bits",
        "reserved bits of an entry can be written",
        "82093AA data sheet, I/O Redirection Table Registers: bits 17 to 55 are reserved",
    ),
    bare(
        "ioapic",
        "edge-to-a-disabled-apic-is-lost",
        "a software-disabled APIC accepts it",
        "SDM vol. 3, Local APIC State After It Has Been Software Disabled",
    ),
    bare(
        "ioapic",
        "level-fires-until-the-line-falls",
        "the I/O APIC does not look at the line at the EOI",
        "82093AA data sheet: a level-triggered interrupt is sent again while the line is asserted after the EOI",
    ),
    bare(
        "ioapic",
        "level-is-in-tmr-and-remote-irr",
        "remote IRR is always 0",
        "82093AA data sheet, remote IRR: set when a local APIC accepts a level interrupt",
    ),
    bare(
        "ioapic",
        "level-comes-once-while-in-service",
        "there is no remote IRR to hold back the second",
        "82093AA data sheet, remote IRR",
    ),
    bare(
        "ioapic",
        "eoi-of-an-edge-vector-is-not-the-pin's",
        "remote IRR is always 0",
        "82093AA data sheet, remote IRR",
    ),
    bare(
        "ioapic",
        "edge-trigger-forgets-remote-irr",
        "remote IRR is always 0",
        "82093AA data sheet, remote IRR",
    ),
    bare(
        "ioapic",
        "eoi-of-a-vector-that-was-changed-does-not-match",
        "remote IRR is always 0",
        "82093AA data sheet, remote IRR: reset by an EOI with its vector",
    ),
    bare(
        "ioapic",
        "masked-lint0-holds-the-8259a-back",
        "the 8259A's wire goes to the processor, past LINT0",
        "SDM vol. 3, Local Vector Table: LINT0",
    ),
    bare(
        "ioapic",
        "lint0-as-nmi",
        "the 8259A's wire goes past LINT0",
        "SDM vol. 3, Local Vector Table: LINT0 may deliver NMIs",
    ),
    bare(
        "ioapic",
        "lint0-as-a-fixed-interrupt",
        "the 8259A's wire goes past LINT0",
        "SDM vol. 3, Local Vector Table: LINT0 may deliver a fixed vector",
    ),
    bare(
        "ioapic",
        "globally-disabled-apic-lets-the-8259a-through",
        "no interrupt of the 8259A comes",
        "SDM vol. 3, Enabling or Disabling the Local APIC: LINT0 is then INTR",
    ),
];

/// A case that the bare machine is excused from.
const fn bare(
    guest: &'static str,
    case: &'static str,
    bochs: &'static str,
    manual: &'static str,
) -> Exception {
    Exception {
        guest,
        case,
        side: Side::Bare,
        bochs,
        manual,
    }
}
