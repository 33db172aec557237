//! Hypercalls: VMCALL with the number in RAX and up to four arguments in RBX, RCX, RDX and RSI.
//!
//! The registers, the error codes and the numbers below [`FIRST_OWN`] are those of KVM, whose guests exist; the
//! others are ours. Of KVM's there is [`KICK_CPU`], where CPUID offers it ([`paravirt`](crate::paravirt)). Outside 64-bit mode 32 bits of each register count.

use arch::{Gpr, Width};

use super::in_64_bit_mode;
use crate::cpu::Cpu;
use crate::machine::Machine;
use crate::paravirt::Features;
use crate::state::VcpuState;

/// Wakes the CPU whose APIC ID is the second argument; the first is flags, of which there are none.
const KICK_CPU: u64 = 5;
/// The first number of our own ("PL" in the upper half).
const FIRST_OWN: u64 = 0x504c_0000;
/// Returns the version of this interface.
const VERSION: u64 = FIRST_OWN;
/// Returns the nanoseconds since the VM was made.
const NOW_NS: u64 = FIRST_OWN + 1;

const INTERFACE_VERSION: i64 = 1;
const UNKNOWN_NUMBER: i64 = -1000;
const NOT_PERMITTED: i64 = -1;

/// Answers in RAX. An unknown number and a caller outside ring 0 get an error code, never a fault.
#[inline]
pub(super) fn hypercall<C: Cpu, M: Machine>(cpu: &mut C, vcpu: &VcpuState, machine: &mut M) {
    let width = if in_64_bit_mode(cpu) {
        Width::Qword
    } else {
        Width::Dword
    };
    let number = width.truncate(cpu.gpr(Gpr::Rax));
    let result = if cpu.cpl() != 0 {
        NOT_PERMITTED
    } else {
        match number {
            VERSION => INTERFACE_VERSION,
            KICK_CPU if vcpu.cpuid.paravirt().contains(Features::PV_UNHALT) => {
                machine.wake(cpu.gpr(Gpr::Rcx) as u32);
                0
            }
            NOW_NS => machine.now_ns() as i64,
            _ => UNKNOWN_NUMBER,
        }
    };
    cpu.write_gpr(Gpr::Rax, width, result as u64);
}
