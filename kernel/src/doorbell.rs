//! How a CPU is told that something waits for it: vCPUs that wake up, something in its inbox, a question.
//!
//! Whoever rings first leaves what it has to say, then rings. The CPU answers the bell first and then looks. A ring
//! also ends the turn that the CPU is giving: by the time in [`turn_end`](Doorbell::turn_end), which the run loop
//! reads before each entry, and where the guest is running by an interrupt.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Mutex;
use vmm::scheduler::Slot;

use crate::cpu::interrupts::HostVector;
use crate::cpu::smp::MAX_CPUS;
use crate::cpu::{self, PcpuId, apic};

/// The bell of one CPU; 128-byte aligned, so that no two share a cache line or its prefetched pair.
#[repr(align(128))]
pub(crate) struct Doorbell {
    rung: AtomicBool,
    /// The host's TSC when the present turn ends. Written by the CPU itself, and set to 0 by whoever rings.
    turn_end_tsc: AtomicU64,
    /// Sleepers with something to wake up for. Pushed by anybody; taken by the CPU.
    woken: Mutex<Vec<Slot>>,
}

static DOORBELLS: [Doorbell; MAX_CPUS] = [const { Doorbell::new() }; MAX_CPUS];

impl Doorbell {
    const fn new() -> Self {
        Self {
            rung: AtomicBool::new(false),
            turn_end_tsc: AtomicU64::new(0),
            woken: Mutex::new(Vec::new()),
        }
    }

    /// The bell of this CPU; of another one, or of one that may not be there, see [`ring`] and [`wake`].
    pub(crate) fn here() -> &'static Self {
        &DOORBELLS[cpu::this().id().index()]
    }

    /// Whether somebody has rung since the last call. What was left before that can be seen from now on.
    pub(crate) fn answer(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::SeqCst)
    }

    /// Whether somebody has rung and was not answered.
    pub(crate) fn is_ringing(&self) -> bool {
        self.rung.load(Ordering::SeqCst)
    }

    /// When the turn that this CPU gives is over, and who may end it sooner.
    pub(crate) fn turn_end(&self) -> &AtomicU64 {
        &self.turn_end_tsc
    }

    /// Begins a turn up to this time of the host's TSC. It ends at once where somebody has rung meanwhile.
    pub(crate) fn begin_turn(&self, until_tsc: u64) {
        // Sequentially consistent, as are the two accesses of a ring in the other order: one sees the other.
        self.turn_end_tsc.store(until_tsc, Ordering::SeqCst);
        if self.is_ringing() {
            self.turn_end_tsc.store(0, Ordering::Relaxed);
        }
    }

    /// Takes the list of those that were woken. `into` is empty, and is what the next ones are pushed to.
    pub(crate) fn take_woken(&self, into: &mut Vec<Slot>) {
        core::mem::swap(&mut *self.woken.lock(), into);
    }
}

/// Makes a CPU look at what was left for it.
pub(crate) fn ring(cpu: PcpuId) {
    if let Some(bell) = DOORBELLS.get(cpu.index()) {
        bell.rung.store(true, Ordering::SeqCst);
        bell.turn_end_tsc.store(0, Ordering::SeqCst);
        interrupt(cpu);
    }
}

/// Tells a CPU that one of its sleepers has something to wake up for.
pub(crate) fn wake(cpu: PcpuId, slot: Slot) {
    if let Some(bell) = DOORBELLS.get(cpu.index()) {
        bell.woken.lock().push(slot);
        ring(cpu);
    }
}

/// Interrupts another CPU, which makes the guest that it runs exit.
pub(crate) fn interrupt(cpu: PcpuId) {
    if cpu != cpu::this().id()
        && let Some(target) = cpu::smp::cpu(cpu)
    {
        apic::send(target.apic_id(), HostVector::Kick);
    }
}
