//! How a CPU is told that something waits for it: vCPUs that wake up, something in its inbox, a question.
//!
//! Whoever rings first leaves what it has to say, then rings. The CPU answers the bell first and then looks. A ring
//! also ends the turn that the CPU is giving: by the time in [`turn_end`](Doorbell::turn_end), which the run loop
//! reads before each entry, and where the guest is running by an interrupt. Where the turn has no end, and no timer
//! would come to the rescue, that is an NMI, which no guest holds back (`cpu/nmi.rs`).
//!
//! Which of the two it is to be, the end of the turn tells. The CPU says it and then looks at what was left for it, and
//! so it does when it is about to halt and gives no turn any more; whoever kicks leaves something and then looks at the
//! end of the turn. All four are sequentially consistent. So one who finds a turn with an end, or none, where the CPU
//! begins one without, has left it before the CPU looked; or it finds that the turn was ended by a ring, and then who
//! rang sends the NMI.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Mutex;
use vmm::scheduler::{NEVER, Slot};

use crate::cpu::interrupts::HostVector;
use crate::cpu::smp::MAX_CPUS;
use crate::cpu::{self, PcpuId, apic, nmi};

/// The bell of one CPU; 128-byte aligned, so that no two share a cache line or its prefetched pair.
#[repr(align(128))]
pub(crate) struct Doorbell {
    rung: AtomicBool,
    /// The host's TSC when the present turn ends; [`NEVER`] where only a ring ends it. Written by the CPU itself, and set
    /// to 0 by whoever rings, and where the CPU halts.
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

    /// This CPU gives no turn: who rings sends an interrupt, which ends a halt that is about to begin. An NMI, of one who
    /// has not seen this, may come before the halt; but then its ring is seen after this.
    pub(crate) fn give_no_turn(&self) {
        self.turn_end_tsc.store(0, Ordering::SeqCst);
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
        let turn_end_tsc = bell.turn_end_tsc.swap(0, Ordering::SeqCst);
        kick(cpu, turn_end_tsc);
    }
}

/// Tells a CPU that one of its sleepers has something to wake up for.
pub(crate) fn wake(cpu: PcpuId, slot: Slot) {
    if let Some(bell) = DOORBELLS.get(cpu.index()) {
        bell.woken.lock().push(slot);
        ring(cpu);
    }
}

/// Interrupts another CPU, which makes the guest that it runs exit and look at what was left for it.
pub(crate) fn interrupt(cpu: PcpuId) {
    if let Some(bell) = DOORBELLS.get(cpu.index()) {
        kick(cpu, bell.turn_end_tsc.load(Ordering::SeqCst));
    }
}

/// Interrupts another CPU, whose turn had this end.
fn kick(cpu: PcpuId, turn_end_tsc: u64) {
    if cpu == cpu::this().id() {
        return;
    }
    let Some(target) = cpu::smp::cpu(cpu) else {
        return;
    };
    if turn_end_tsc == NEVER {
        nmi::kick(target);
    } else {
        apic::send(target.apic_id(), HostVector::Kick);
    }
}
