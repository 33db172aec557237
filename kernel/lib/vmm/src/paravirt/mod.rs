//! What a guest that knows that it is one may ask for, in the words of KVM, since stock kernels have drivers for
//! these.
//!
//! Our own signature is at CPUID leaf 0x4000_0000, KVM's at [`KVM_LEAF`]; guests look for it in steps of 0x100. The
//! leaf behind it says what there is ([`Features`]), and no more than that answers: an MSR without its feature is a
//! #GP, a hypercall an error code.
//!
//! | feature                | what the guest gets                                  | by                          |
//! |------------------------|------------------------------------------------------|-----------------------------|
//! | `CLOCKSOURCE2`         | how to make nanoseconds of its TSC; the date at start | MSRs, [`clock`]             |
//! | `CLOCKSOURCE_STABLE`   | that this is the same on all of its CPUs             | a flag in [`clock`]'s page  |
//! | `NOP_IO_DELAY`         | that no device wants a pause between port accesses   | CPUID alone                 |
//! | `STEAL_TIME`           | how long it was ready to run and did not             | an MSR, [`steal`]           |
//! | `PV_EOI`               | ends of interrupts without an exit                   | an MSR, [`eoi`]             |
//! | `PV_UNHALT`            | waking a CPU that has halted, interrupts off or not  | a hypercall, [`Paravirt::wake`] |
//!
//! A VM whose vCPUs never have to wait for a CPU is not offered the clock, nor stolen time
//! ([`Features::OF_WAITING`]): its TSC is invariant, and CPUID says how fast it runs. Nor is one
//! whose interrupts the processor delivers (virtual-interrupt delivery) offered `PV_EOI`: the hardware has to see each end.
//!
//! The layouts are those that Linux describes under "KVM-specific MSRs", "KVM CPUID bits" and "Linux KVM
//! Hypercall". What lies in guest memory must be RAM and aligned when it is announced (#GP if not); it belongs to
//! one vCPU, and an INIT ends all of it. Not offered: asynchronous page faults (nothing is ever paged out), remote
//! TLB flushes and IPIs by hypercall (the hardware's own ways are short here), 15-bit MSI destinations (a VM has at
//! most 255 CPUs).

pub mod clock;
pub mod eoi;
pub mod steal;

use bitflags::bitflags;
use memory::{GuestMemory, GuestPhys};

use crate::machine::Machine;
use crate::state::VcpuState;
use eoi::EndOfInterrupt;
use steal::StealTime;

/// Where KVM's signature is; the features are in the next leaf.
pub const KVM_LEAF: u32 = 0x4000_0100;

/// "KVMKVMKVM" as EBX, ECX and EDX spell it.
pub const KVM_SIGNATURE: [u32; 3] = [
    u32::from_le_bytes(*b"KVMK"),
    u32::from_le_bytes(*b"VMKV"),
    u32::from_le_bytes(*b"M\0\0\0"),
];

bitflags! {
    /// EAX of the leaf behind [`KVM_LEAF`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Features: u32 {
        /// No pause between accesses to ports.
        const NOP_IO_DELAY = 1 << 1;
        /// [`MSR_SYSTEM_TIME`] and [`MSR_WALL_CLOCK`].
        const CLOCKSOURCE2 = 1 << 3;
        /// [`MSR_STEAL_TIME`].
        const STEAL_TIME = 1 << 5;
        /// [`MSR_PV_EOI`].
        const PV_EOI = 1 << 6;
        /// The hypercall that wakes a CPU.
        const PV_UNHALT = 1 << 7;
        /// The flag of the time-information page that says the clocks of all CPUs agree means something.
        const CLOCKSOURCE_STABLE = 1 << 24;
        /// What is of use only to a guest whose vCPUs may have to wait for a CPU. Its kernel may read two clocks of
        /// which one is late, and take its TSC for unstable: then it still has one that needs no exit.
        const OF_WAITING = Self::CLOCKSOURCE2.bits()
            | Self::CLOCKSOURCE_STABLE.bits()
            | Self::STEAL_TIME.bits();
    }
}

/// The first of KVM's MSRs.
pub const MSR_FIRST: u32 = MSR_WALL_CLOCK;
/// The last number that KVM keeps for its MSRs.
pub const MSR_LAST: u32 = 0x4b56_4dff;
/// Where the date at the start of the VM is to be written.
const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
/// Where the CPU's time-information page is.
const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Where the CPU's stolen time is told.
const MSR_STEAL_TIME: u32 = 0x4b56_4d03;
/// Where the CPU's end-of-interrupt flag is.
const MSR_PV_EOI: u32 = 0x4b56_4d04;

/// In the MSRs that announce memory: it is in use.
const ENABLED: u64 = 1;

/// What one vCPU has asked for.
#[derive(Debug, Default)]
pub struct Paravirt {
    system_time: Option<GuestPhys>,
    wall_clock: u64,
    steal: StealTime,
    eoi: EndOfInterrupt,
    wake: Wake,
}

/// Whether somebody has woken the CPU since it last halted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Wake {
    #[default]
    None,
    Pending,
}

impl Paravirt {
    /// Nothing is asked for, as after INIT.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Stolen time.
    pub fn steal(&mut self) -> &mut StealTime {
        &mut self.steal
    }

    /// Ends of interrupts without an exit.
    #[inline]
    pub fn eoi(&mut self) -> &mut EndOfInterrupt {
        &mut self.eoi
    }

    /// Somebody wakes the CPU. If it is not halted now, its next HLT will not last: the waker may have been
    /// quicker.
    pub fn wake(&mut self) {
        self.wake = Wake::Pending;
    }

    /// Whether a CPU that has halted goes on.
    #[inline]
    pub fn take_wake(&mut self) -> bool {
        core::mem::take(&mut self.wake) == Wake::Pending
    }

    /// RDMSR; `None` for a #GP.
    pub fn read_msr(&self, features: Features, index: u32) -> Option<u64> {
        if !features.contains(feature_of(index)?) {
            return None;
        }
        Some(match index {
            MSR_WALL_CLOCK => self.wall_clock,
            MSR_SYSTEM_TIME => announced(self.system_time),
            MSR_STEAL_TIME => announced(self.steal.area()),
            _ => announced(self.eoi.flag()),
        })
    }
}

/// WRMSR; `None` for a #GP.
pub fn write_msr<M: Machine>(
    vcpu: &mut VcpuState,
    machine: &M,
    index: u32,
    value: u64,
) -> Option<()> {
    if !vcpu.cpuid.paravirt().contains(feature_of(index)?) {
        return None;
    }
    let memory = machine.memory();
    let paravirt = &mut vcpu.paravirt;
    match index {
        MSR_WALL_CLOCK => {
            let at = GuestPhys::new(value);
            clock::write_date(memory, at, machine.date_at_start_ns())?;
            paravirt.wall_clock = value;
        }
        MSR_SYSTEM_TIME => {
            paravirt.system_time = area(memory, value, 4, clock::PAGE_BYTES)?;
            publish_clock(vcpu, memory);
        }
        MSR_STEAL_TIME => {
            let area = area(memory, value, 64, steal::AREA_BYTES)?;
            paravirt.steal.announce(memory, area);
        }
        _ => {
            let flag = area(memory, value, 4, eoi::FLAG_BYTES)?;
            paravirt.eoi.announce(flag, memory, &mut vcpu.lapic);
        }
    }
    Some(())
}

/// Writes the time-information page, if the guest has one: when it announces it, and when its TSC has been moved.
///
/// It says what was true when the VM began, the same for all of its CPUs: VM time 0 was when the TSC read what has
/// been added to it since. Between then and now the TSC has not changed its rate; so nothing has to be written ever
/// again, and no two CPUs differ by a rounding.
pub fn publish_clock(vcpu: &VcpuState, memory: &impl GuestMemory) {
    if let Some(page) = vcpu.paravirt.system_time
        && let Some(scale) = vcpu.cpuid.clock_scale()
    {
        clock::write_page(memory, page, vcpu.msrs.tsc_adjust, scale);
    }
}

/// The feature that an MSR belongs to.
const fn feature_of(index: u32) -> Option<Features> {
    Some(match index {
        MSR_WALL_CLOCK | MSR_SYSTEM_TIME => Features::CLOCKSOURCE2,
        MSR_STEAL_TIME => Features::STEAL_TIME,
        MSR_PV_EOI => Features::PV_EOI,
        _ => return None,
    })
}

/// What an MSR that announces memory reads as.
fn announced(area: Option<GuestPhys>) -> u64 {
    area.map_or(0, |gpa| gpa.as_u64() | ENABLED)
}

/// The memory that a value of such an MSR announces: `Some(None)` for none, `None` where it is no aligned RAM.
fn area(
    memory: &impl GuestMemory,
    value: u64,
    alignment: u64,
    bytes: usize,
) -> Option<Option<GuestPhys>> {
    let at = value & !ENABLED;
    if !at.is_multiple_of(alignment) {
        return None;
    }
    if value & ENABLED == 0 {
        return Some(None);
    }
    let gpa = GuestPhys::new(at);
    let mut room = [0; 64];
    memory.read(gpa, room.get_mut(..bytes)?).ok()?;
    Some(Some(gpa))
}

#[cfg(test)]
mod tests;
