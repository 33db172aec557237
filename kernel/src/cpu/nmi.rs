//! Non-maskable interrupts: a [`kick`] that no guest holds back, the end of everything (`panic.rs`), and those that the
//! hardware sends.
//!
//! A CPU that gives a turn without an end is kicked by NMI. An ordinary interrupt would do by the manual, as external
//! interrupts exit whatever the guest's IF is; but where it did not, for whatever reason, no timer would come to the
//! rescue. NMIs exit always (NMI exiting), and with virtual NMIs nothing that a guest does blocks them.
//!
//! A kick is not lost, whatever it meets:
//!
//! * *A guest runs:* it exits. The exit leaves NMIs blocked until the next IRET, so the backend calls [`take_after_exit`],
//!   and the run loop looks at everything.
//! * *The hypervisor runs, on its way to an entry:* the handler closes the [gate](super::gate), and the entry turns back.
//! * *It runs, between two turns:* whoever kicks has left what it has to say before, and the next turn begins with a look
//!   at all of it. The gate may stay closed, and the first entry turns back in vain.
//! * *The CPU is about to halt:* it has said before its last look that it gives no turn (`doorbell.rs`). Who kicks it by
//!   NMI has not seen that, and so has left everything before that look. All others send an interrupt, which ends the halt.
//! * *The CPU starts:* it gives no turn yet, and nobody kicks it by NMI.
//! * *Another kick:* one that finds a kick on its way sends nothing ([`kick`]). The handler says that it has arrived first,
//!   and everything is looked at after that. So two kicks never meet in the processor, which remembers only one NMI while
//!   NMIs are blocked, and each that arrives is known for what it is.
//! * *An NMI of the hardware:* if one is remembered for both, the hardware's goes untold. Otherwise one of the two counts as
//!   the kick and the other one as the hardware's, in either order.
//! * *A panic:* each NMI looks for it first, and the CPU stops.
//! * *A machine check:* that of a guest is an exit like any other. One that interrupts the handler of NMIs returns without
//!   IRET (`exceptions.rs`), which would let the next NMI in, over the stack that this one uses.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use x86_64::instructions::port::Port;

use super::exceptions::TrapFrame;
use super::{PerCpu, apic, gate, this};
use crate::panic;

/// The NMIs of one CPU.
pub(super) struct Nmis {
    /// A kick is on its way. Set by whoever sends it, cleared by the CPU once it has arrived.
    is_kicked: AtomicBool,
    /// Those that no CPU has sent. Written by the CPU itself.
    foreign: AtomicU64,
}

impl Nmis {
    pub(super) const fn new() -> Self {
        Self {
            is_kicked: AtomicBool::new(false),
            foreign: AtomicU64::new(0),
        }
    }
}

/// Makes a CPU look at what was left for it, and a guest that runs there exit, whatever that does.
pub(crate) fn kick(cpu: &PerCpu) {
    // Sequentially consistent, as is the other side: either this kick is sent, or the one on its way arrives after all
    // that was left before.
    if !cpu.nmis.is_kicked.swap(true, Ordering::SeqCst) {
        apic::send_nmi(cpu.apic_id());
    }
}

/// The handler.
pub(super) fn taken(frame: &mut TrapFrame) {
    panic::stop_if_panicking();
    let cpu = this();
    if !cpu.nmis.is_kicked.swap(false, Ordering::SeqCst) {
        cpu.nmis.foreign.fetch_add(1, Ordering::Relaxed);
        cpu.has_news();
    }
    cpu.gate.close();
    if let Some(back) = gate::turned_back(frame.rip) {
        frame.rip = back;
    }
}

/// Handles an NMI that has made a guest exit. What others have left is to be looked at after this, and before the next
/// entry.
///
/// The exit leaves NMIs blocked until the next IRET (SDM vol. 3, Non-Maskable Interrupt Exiting and
/// Handling). So the handler is called as the processor would, and its return lets the next NMI in.
pub(crate) fn take_after_exit() {
    // SAFETY: the gate of vector 2 leads to a handler that changes no register and returns here.
    unsafe { asm!("int 2") };
    this().gate.open();
}

/// Tells of NMIs of the hardware on this CPU: of the first, since a device that goes on and on must not fill the log.
pub(super) fn tell() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if this().nmis.foreign.load(Ordering::Relaxed) == 0 || TOLD.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: reading port B of the chipset changes nothing (8254 data sheet; the upper bits are the NMI status).
    let status = unsafe { Port::<u8>::new(0x61).read() };
    log::error!(
        "an NMI that no CPU has sent: the hardware reports an error, or a watchdog; NMI status {status:#x} (0x80: SERR#, \
         0x40: IOCHK#); it is not told of again"
    );
}
