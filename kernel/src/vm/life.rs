//! How a VM runs, stands still and ends: [`Stance`], [`End`], and the pauses in which its time stops.

use core::fmt;
use core::sync::atomic::Ordering;

use vmm::VmError;
use vmm::freeze::Pause;

use super::{Mailbox, Vm};
use crate::backend::Backend;
use crate::hw::clock;
use crate::keeper;

/// What the vCPUs of a VM are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Stance {
    /// Run.
    Run = 0,
    /// Stay where they are.
    Pause = 1,
    /// Leave.
    End = 2,
}

/// How a VM ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest ended itself with a status, through the debug-exit device.
    Exit(u32),
    /// The VM could not go on.
    Crash(VmError),
    /// The operator has ended it.
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("poweroff: the guest switched itself off"),
            Self::Reset => f.write_str("reset: the guest asked for a reset"),
            Self::Exit(status) => {
                write!(f, "exit: the guest ended itself with status {status}")
            }
            Self::Crash(error) => write!(f, "crash: {error}"),
            Self::Stopped => f.write_str("killed: the operator has stopped it"),
        }
    }
}

impl<B: Backend> Vm<B> {
    /// What its vCPUs are to do.
    #[inline]
    pub(crate) fn stance(&self) -> Stance {
        match self.stance.load(Ordering::SeqCst) {
            0 => Stance::Run,
            1 => Stance::Pause,
            _ => Stance::End,
        }
    }

    /// Ends it, unless something has ended it already. Its vCPUs see that before they next enter the guest.
    #[cold]
    pub(crate) fn finish(&self, end: End) {
        self.end.call_once(|| end);
        // Under the lock, lest a vCPU come to a stand for a pause that is over.
        let freeze = self.freeze.lock();
        self.stance.store(Stance::End as u8, Ordering::SeqCst);
        drop(freeze);
        self.kick_all();
        keeper::tell();
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// Its time begins now, and not when it was made. No vCPU has run yet.
    pub(crate) fn begin_time(&self) {
        self.origin_tsc.store(clock::tsc(), Ordering::Relaxed);
    }

    /// Makes its vCPUs stand still, and its time once they do.
    pub(crate) fn pause(&self) {
        let mut freeze = self.freeze.lock();
        if self.stance() == Stance::Run {
            freeze.pause();
            self.stance.store(Stance::Pause as u8, Ordering::SeqCst);
        }
        drop(freeze);
        self.kick_all();
    }

    /// A vCPU has come to a stand that did so last in this pause, or in none; returns the pause, or nothing where that
    /// is over.
    pub(crate) fn park(&self, parked: Option<Pause>) -> Option<Pause> {
        let mut freeze = self.freeze.lock();
        if self.stance() != Stance::Pause {
            return None;
        }
        freeze.park(parked, clock::tsc())
    }

    /// Whether a vCPU that stands still in this pause, or in none, has to come to a stand.
    pub(crate) fn wants_to_pause(&self, parked: Option<Pause>) -> bool {
        self.freeze.lock().wants(parked)
    }

    /// Whether its time stands still.
    pub(crate) fn is_frozen(&self) -> bool {
        self.freeze.lock().is_frozen()
    }

    /// Lets its vCPUs go on, and its time where it had stopped.
    pub(crate) fn resume(&self) {
        let mut freeze = self.freeze.lock();
        if self.stance() != Stance::Pause {
            return;
        }
        let stood_still = freeze.resume(clock::tsc());
        if stood_still != 0 {
            let mut devices = self.devices.lock();
            self.origin_tsc.fetch_add(stood_still, Ordering::Relaxed);
            self.set_deadline(&mut devices);
        }
        self.stance.store(Stance::Run as u8, Ordering::SeqCst);
        drop(freeze);
        self.kick_all();
    }

    /// A vCPU falls asleep, and only another one of the VM can wake it. When that becomes true of all, it is the end.
    ///
    /// Whoever is woken takes itself out before it takes out of its mailbox what has woken it; and whoever wakes another
    /// does that before it falls asleep itself. So a mailbox is not empty while somebody in the set has been woken.
    #[cold]
    pub(crate) fn rests(&self, vcpu: u8) {
        let all_rest = {
            let mut resting = self.resting.lock();
            resting.insert(vcpu);
            resting.len() == self.mailboxes.len() && !self.mailboxes.iter().any(Mailbox::is_called)
        };
        if all_rest && !self.devices.lock().board.may_send_nmi() {
            self.finish(End::Crash(VmError::HaltedForEver));
        }
    }

    /// The opposite of [`rests`](Self::rests).
    #[cold]
    pub(crate) fn rests_no_more(&self, vcpu: u8) {
        self.resting.lock().remove(vcpu);
    }
}
