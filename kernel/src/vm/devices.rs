//! How devices are called, and what they want done.

use core::mem;
use core::sync::atomic::Ordering;

use bundle::PanicPolicy;
use machine::devices::WireHold;
use machine::devices::lapic::Kick;
use machine::{Board, Effects, Level};

use super::{BOOT_VCPU, Devices, Vm};
use crate::backend::Backend;
use crate::cpu;
use crate::doorbell;
use crate::hw::console::{Congestion, GuestConsole};

impl<B: Backend> Vm<B> {
    /// Calls a device, and does what it wants done.
    #[inline]
    pub(super) fn with_board<R>(&self, call: impl FnOnce(&mut Board, u64, &mut Effects) -> R) -> R {
        let mut devices = self.devices.lock();
        // Read behind the lock: for devices, time never goes back from one vCPU's call to another's.
        let now_ns = self.now_ns();
        let Devices {
            board,
            console,
            effects,
            ..
        } = &mut *devices;
        if board.wire_is_due(now_ns) {
            tend_wire(board, console, now_ns, effects);
        }
        let result = call(board, now_ns, effects);
        if !effects.output.is_empty() {
            console.write(&effects.output);
            effects.output.clear();
            if console.may_have_had_its_share() && !board.wire_is_busy(now_ns) {
                tend_wire(board, console, now_ns, effects);
            }
            if console.is_last_word() && self.on_panic == PanicPolicy::Crash {
                self.panic_watch.begin(now_ns);
                // The turn may have no end otherwise; the next ones are short.
                doorbell::ring(cpu::this().id());
            } else {
                self.panic_watch.end();
            }
        }
        let asserted = devices.board.pic_asserted();
        if asserted != devices.pic_asserted {
            devices.pic_asserted = asserted;
            if self
                .mailbox(BOOT_VCPU)
                .posted()
                .set_intr(Level::asserted_if(asserted))
                == Kick::Needed
            {
                self.kick(BOOT_VCPU);
            }
        }
        if devices.board.deadline_ns() != devices.deadline_ns {
            self.set_deadline(&mut devices);
        }
        if !devices.effects.messages.is_empty() || devices.effects.request.is_some() {
            let effects = mem::take(&mut devices.effects);
            drop(devices);
            self.apply(&effects);
        }
        result
    }

    pub(super) fn set_deadline(&self, devices: &mut Devices) {
        let old_tsc = self.board_deadline_tsc.load(Ordering::Relaxed);
        devices.deadline_ns = devices.board.deadline_ns();
        let tsc = match devices.deadline_ns {
            u64::MAX => u64::MAX,
            ns => self.tsc_at(ns),
        };
        self.board_deadline_tsc.store(tsc, Ordering::Relaxed);
        if tsc < old_tsc && self.mailbox(BOOT_VCPU).posted().post_timer() == Kick::Needed {
            self.kick(BOOT_VCPU);
        }
    }
}

/// Looks whether the host's serial port has sent enough of what the guest has said.
#[cold]
fn tend_wire(board: &mut Board, console: &mut GuestConsole, now_ns: u64, effects: &mut Effects) {
    let hold = match console.congestion() {
        Congestion::None => WireHold::Not,
        Congestion::OwnShare => WireHold::WhileDriversWait,
        Congestion::NoRoom => WireHold::UntilFree,
    };
    board.tend_wire(hold, now_ns, effects);
}
