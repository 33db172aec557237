//! KVM's words to its guests, which other hypervisors use, too: where they are found, and what the guests here use of them.
//! Linux describes them under "KVM CPUID bits" and "KVM-specific MSRs".

use crate::cpu::{self, cpuid, rdtsc};

/// The leaf with KVM's signature where leaf 4000_0000H has the hypervisor's own.
const SIGNATURE_LEAF: u32 = 0x4000_0100;

/// kvm-clock, as a bit of [`features`].
pub const CLOCKSOURCE2: u32 = 1 << 3;
/// Stolen time is told.
pub const STEAL_TIME: u32 = 1 << 5;
/// Ends of interrupts without an exit.
pub const PV_EOI: u32 = 1 << 6;
/// A hypercall wakes a CPU that has halted.
pub const PV_UNHALT: u32 = 1 << 7;

/// The MSR that says where the hypervisor is to write what this CPU's clock is computed from.
pub const SYSTEM_TIME: u32 = 0x4b56_4d01;

/// The features that are offered; `None` without KVM's signature.
pub fn features() -> Option<u32> {
    let leaf = cpuid(SIGNATURE_LEAF, 0);
    let text = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    let is_there = cpu::hypervisor().is_some()
        && text.as_flattened() == b"KVMKVMKVM\0\0\0"
        && leaf.eax > SIGNATURE_LEAF;
    is_there.then(|| cpuid(SIGNATURE_LEAF + 1, 0).eax)
}

/// Whether the hypervisor offers kvm-clock.
pub fn has_clock() -> bool {
    features().is_some_and(|features| features & CLOCKSOURCE2 != 0)
}

/// Nanoseconds by kvm-clock, from the 64-bit words that the hypervisor keeps at the place that [`SYSTEM_TIME`] names.
/// It changes them only while this CPU does not run.
pub fn clock_ns(word: impl Fn(usize) -> u64) -> u64 {
    let delta = rdtsc().wrapping_sub(word(1));
    let factor = word(3);
    let shift = (factor >> 32) as u8 as i8;
    let shifted = if shift >= 0 {
        delta << shift
    } else {
        delta >> -shift
    };
    let scaled = (u128::from(shifted) * u128::from(factor & 0xffff_ffff)) >> 32;
    word(2).wrapping_add(scaled as u64)
}
