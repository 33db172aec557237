//! [`Round`]: what one exit of a vCPU leads to.

use core::sync::atomic::{AtomicU64, Ordering};

use arch::machine_check::{Interrupted, Verdict};
use vmm::handle::{Next, handle, write_deadline};
use vmm::inject::Activity;
use vmm::metrics::ExitKind;
use vmm::{Event, GuestFault, VmExit};

use super::stop::stop;
use super::{Inner, Turn};
use crate::backend::{Backend, ExitVisitor, LoadedVcpu};
use crate::cpu::{interrupts, machine_check};
use crate::hw::clock;
use crate::panic;
use crate::vm::{Vm, VmPort};

/// What follows an exit.
pub(super) enum Flow {
    /// The next entry.
    Enter,
    /// A decision what the vCPU takes at the next entry.
    Settle,
    /// Nothing: the turn is over, and why stands in [`Inner::end`].
    End,
}

/// One exit of a vCPU.
pub(super) struct Round<'a, B: Backend> {
    pub(super) vm: &'a Vm<B>,
    pub(super) inner: &'a mut Inner,
    pub(super) turn_end: &'a AtomicU64,
}

impl<B: Backend, C: LoadedVcpu> ExitVisitor<C> for Round<'_, B> {
    type Outcome = Flow;

    #[inline(always)]
    fn visit(self, cpu: &mut C, exit: VmExit) -> Flow {
        let Self {
            vm,
            inner,
            turn_end,
        } = self;
        let exit_tsc = clock::tsc();
        let kind = ExitKind::of(&exit);
        inner.exit_tsc = exit_tsc;
        inner.exit_kind = kind;
        inner.trace.record(cpu, &exit, kind, exit_tsc);
        let is_over = || exit_tsc >= turn_end.load(Ordering::Relaxed);
        match exit {
            VmExit::HostTimer if is_over() => return inner.ends(Turn::Expired),
            VmExit::HostTimer => return inner.fire(vm, cpu, exit_tsc),
            VmExit::HostInterrupt(vector) => {
                match vector {
                    Some(vector) => interrupts::acknowledged(vector),
                    None => interrupts::let_in(),
                }
                // Where the processor has no preemption timer, this was the end of the turn; or somebody has rung
                // for this CPU, which ends it, too.
                return if is_over() {
                    inner.ends(Turn::Expired)
                } else {
                    Flow::Settle
                };
            }
            // What it was about has been done, but if it was a kick.
            VmExit::HostNmi if is_over() => return inner.ends(Turn::Expired),
            VmExit::HostNmi => return Flow::Settle,
            VmExit::HostMachineCheck | VmExit::EntryMachineCheck
                if survives_machine_check(exit) =>
            {
                inner.state.pending.interrupted(cpu.interrupted_event());
                return Flow::Settle;
            }
            // The event that was being delivered comes again, unless the handler raises another.
            VmExit::Memory(_)
            | VmExit::Exception(_)
            | VmExit::TaskSwitch(_)
            | VmExit::ApicAccess { .. }
            | VmExit::DirtyLogFull
            | VmExit::MemoryMapped => {
                let event = cpu.interrupted_event();
                inner.state.unsettled |= event.is_some();
                inner.state.pending.interrupted(event);
            }
            _ => {}
        }
        let mut port = VmPort {
            vm,
            vcpu: inner.index,
        };
        if matches!(exit, VmExit::WriteMsr)
            && let Some(armed) = write_deadline(cpu, &mut inner.state, &port)
        {
            return inner.armed(vm, cpu, armed, exit_tsc);
        }
        match handle(cpu, &mut inner.state, &mut port, exit) {
            Ok(Next::Resume) => match exit {
                // These concern nothing else.
                VmExit::Cpuid
                | VmExit::PortIo(_)
                | VmExit::Hypercall
                | VmExit::Xsetbv
                | VmExit::Wbinvd => Flow::Enter,
                // These may have to do with the local APIC, and then they say so.
                VmExit::ReadMsr | VmExit::WriteMsr | VmExit::Memory(_)
                    if !inner.state.unsettled =>
                {
                    Flow::Enter
                }
                _ => Flow::Settle,
            },
            Ok(Next::Halt) => {
                inner.activity = Activity::Halted;
                Flow::Settle
            }
            Ok(next) => inner.go_on(vm, cpu, next),
            Err(fault) => inner.raise(vm, cpu, fault),
        }
    }

    /// Counts as an exit for the host that came before the guest's first instruction.
    #[cold]
    fn turned_back(self, event: Option<Event>) -> Flow {
        let Self {
            inner, turn_end, ..
        } = self;
        inner.exit_tsc = clock::tsc();
        inner.exit_kind = ExitKind::HostInterrupt;
        if event.is_some() {
            inner.state.pending.interrupted(event);
        }
        if inner.exit_tsc >= turn_end.load(Ordering::Relaxed) {
            // It may have been an entry that was to be held.
            inner.timing.wait_out();
            return inner.ends(Turn::Expired);
        }
        Flow::Settle
    }
}

/// Whether the guest goes on after a machine check; one that met an entry has left it in a state between two. What ends
/// otherwise is this guest, or the machine.
#[cold]
fn survives_machine_check(exit: VmExit) -> bool {
    match machine_check::take(Interrupted::Guest) {
        Ok(verdict) => verdict == Verdict::GoOn && exit == VmExit::HostMachineCheck,
        Err(registers) => panic::by_machine_check(&registers, None),
    }
}

impl Inner {
    /// The turn is over.
    const fn ends(&mut self, why: Turn) -> Flow {
        self.end = why;
        Flow::End
    }

    /// What the rarer ends of an exit are followed by.
    #[inline(never)]
    fn go_on<B: Backend, C: LoadedVcpu>(&mut self, vm: &Vm<B>, cpu: &C, next: Next) -> Flow {
        match next {
            Next::Resume => {}
            Next::Halt => self.activity = Activity::Halted,
            Next::Yield => return self.ends(Turn::Yielded),
            Next::Inject(event) => {
                // The hardware tells INT1 from other #DB, and knows the length of the instruction.
                let event = cpu.exiting_event().unwrap_or(event);
                if let Err(error) = self.state.pending.reflect(event, cpu) {
                    stop(vm, cpu, &self.trace, error);
                }
            }
            Next::Stop(error) => stop(vm, cpu, &self.trace, error),
        }
        Flow::Settle
    }

    /// An exception is the guest's.
    #[inline(never)]
    fn raise<B: Backend, C: LoadedVcpu>(
        &mut self,
        vm: &Vm<B>,
        cpu: &mut C,
        fault: GuestFault,
    ) -> Flow {
        if let Err(error) = self.state.pending.raise(fault, cpu) {
            stop(vm, cpu, &self.trace, error);
        }
        Flow::Settle
    }
}
