//! The local APIC as software reaches it: the register page of xAPIC mode, the MSRs of x2APIC mode.

use crate::cpu::{self, cpuid, leaf1_ecx, leaf1_edx, msr};
use crate::exceptions::Fault;
use crate::paging;
use crate::x86;

/// Where the register page is after a reset.
pub const BASE: u64 = 0xfee0_0000;

/// The offsets of the registers in the page.
pub mod register {
    /// Local APIC ID.
    pub const ID: u32 = 0x20;
    /// Version.
    pub const VERSION: u32 = 0x30;
    /// Task priority (TPR).
    pub const TASK_PRIORITY: u32 = 0x80;
    /// Arbitration priority (APR).
    pub const ARBITRATION_PRIORITY: u32 = 0x90;
    /// Processor priority (PPR).
    pub const PROCESSOR_PRIORITY: u32 = 0xa0;
    /// End of interrupt.
    pub const EOI: u32 = 0xb0;
    /// Logical destination (LDR).
    pub const LOGICAL_DESTINATION: u32 = 0xd0;
    /// Destination format (DFR).
    pub const DESTINATION_FORMAT: u32 = 0xe0;
    /// Spurious-interrupt vector (SVR).
    pub const SPURIOUS: u32 = 0xf0;
    /// The first of eight in-service registers (ISR).
    pub const IN_SERVICE: u32 = 0x100;
    /// The first of eight trigger-mode registers (TMR).
    pub const TRIGGER_MODE: u32 = 0x180;
    /// The first of eight interrupt-request registers (IRR).
    pub const REQUEST: u32 = 0x200;
    /// Error status (ESR).
    pub const ERROR_STATUS: u32 = 0x280;
    /// The low half of the interrupt command register (ICR).
    pub const COMMAND: u32 = 0x300;
    /// The high half: the destination.
    pub const COMMAND_HIGH: u32 = 0x310;
    /// LVT: timer.
    pub const LVT_TIMER: u32 = 0x320;
    /// LVT: thermal sensor.
    pub const LVT_THERMAL: u32 = 0x330;
    /// LVT: performance counters.
    pub const LVT_PERFORMANCE: u32 = 0x340;
    /// LVT: LINT0.
    pub const LVT_LINT0: u32 = 0x350;
    /// LVT: LINT1.
    pub const LVT_LINT1: u32 = 0x360;
    /// LVT: errors.
    pub const LVT_ERROR: u32 = 0x370;
    /// The timer's initial count.
    pub const INITIAL_COUNT: u32 = 0x380;
    /// The timer's current count.
    pub const CURRENT_COUNT: u32 = 0x390;
    /// The timer's divider.
    pub const DIVIDE: u32 = 0x3e0;
    /// Self IPI, in x2APIC mode.
    pub const SELF_IPI: u32 = 0x3f0;
}

/// The bits of IA32_APIC_BASE.
pub mod base {
    /// This is the bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const EXTD: u64 = 1 << 10;
    /// The APIC is enabled.
    pub const EN: u64 = 1 << 11;
    /// The address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// The mask bit of an LVT entry.
pub const MASKED: u32 = 1 << 16;
/// The timer's mode in its LVT entry: periodic.
pub const PERIODIC: u32 = 1 << 17;
/// The timer's mode in its LVT entry: TSC-deadline.
pub const DEADLINE_MODE: u32 = 2 << 17;
/// An LVT or ICR delivery mode: NMI.
pub const DELIVER_NMI: u32 = 4 << 8;
/// An ICR destination mode: logical.
pub const LOGICAL: u32 = 1 << 11;
/// The ICR's level bit: assert.
pub const ASSERT: u32 = 1 << 14;
/// The ICR's shorthand: self.
pub const TO_SELF: u32 = 1 << 18;
/// The enable bit of the SVR.
pub const SOFTWARE_ENABLE: u32 = 1 << 8;
/// The MSR of IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// The vector of spurious interrupts that [`enable`] sets.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// True if CPUID shows a local APIC.
pub fn is_shown() -> bool {
    cpuid(1, 0).edx & leaf1_edx::APIC != 0
}

/// True if CPUID shows x2APIC mode.
pub fn shows_x2apic() -> bool {
    cpuid(1, 0).ecx & leaf1_ecx::X2APIC != 0
}

/// Reads a register of the page.
pub fn read(register: u32) -> u32 {
    paging::peek_32(BASE + u64::from(register))
}

/// Writes a register of the page.
pub fn write(register: u32, value: u32) {
    paging::poke_32(BASE + u64::from(register), value);
}

/// The MSR that a register is in x2APIC mode.
pub const fn msr_of(register: u32) -> u32 {
    0x800 + (register >> 4)
}

/// Reads a register in x2APIC mode, or says how that faults.
pub fn try_read_msr(register: u32) -> Result<u64, Fault> {
    cpu::try_rdmsr(msr_of(register))
}

/// Writes a register in x2APIC mode, or says how that faults.
pub fn try_write_msr(register: u32, value: u64) -> Result<(), Fault> {
    cpu::try_wrmsr(msr_of(register), value)
}

/// True in x2APIC mode.
pub fn is_x2apic() -> bool {
    cpu::rdmsr(msr::IA32_APIC_BASE) & base::EXTD != 0
}

/// Reads a register by whatever way the mode has; the low half of wider ones.
pub fn get(register: u32) -> u32 {
    if is_x2apic() {
        cpu::rdmsr(msr_of(register)) as u32
    } else {
        read(register)
    }
}

/// Writes a register by whatever way the mode has.
pub fn set(register: u32, value: u32) {
    if is_x2apic() {
        cpu::wrmsr(msr_of(register), u64::from(value));
    } else {
        write(register, value);
    }
}

/// Whether the bit of a vector is set in a bank of eight registers, such as [`register::REQUEST`].
pub fn has(bank: u32, vector: u8) -> bool {
    get(bank + u32::from(vector >> 5) * 0x10) >> (vector & 31) & 1 != 0
}

/// Ends the interrupt that is in service.
pub fn end_of_interrupt() {
    set(register::EOI, 0);
}

/// Sends an IPI: the low half of the ICR, and the destination.
pub fn send(command: u32, destination: u32) {
    if is_x2apic() {
        let value = u64::from(destination) << 32 | u64::from(command);
        cpu::wrmsr(msr_of(register::COMMAND), value);
    } else {
        write(register::COMMAND_HIGH, destination << 24);
        write(register::COMMAND, command);
        while read(register::COMMAND) & 1 << 12 != 0 {
            core::hint::spin_loop();
        }
    }
    settle();
}

/// Sends a vector to this processor.
pub fn send_to_self(vector: u8) {
    send(TO_SELF | ASSERT | u32::from(vector), 0);
}

/// This processor's ID, as destinations name it.
pub fn id() -> u32 {
    if is_x2apic() {
        get(register::ID)
    } else {
        read(register::ID) >> 24
    }
}

/// Gives an interrupt that was just asked for the time to arrive.
pub fn settle() {
    for _ in 0..20 {
        x86!("pause", options(nomem, nostack));
    }
}

/// Lets interrupts in for a moment.
pub fn open_window() {
    x86!("sti", "nop", "nop", "cli");
}

/// Enables the APIC in xAPIC mode by its SVR with everything masked and at priority 0.
pub fn enable() {
    set(
        register::SPURIOUS,
        SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR),
    );
    for entry in [
        register::LVT_TIMER,
        register::LVT_LINT0,
        register::LVT_LINT1,
        register::LVT_ERROR,
    ] {
        set(entry, MASKED);
    }
    set(register::TASK_PRIORITY, 0);
    set(register::INITIAL_COUNT, 0);
}
