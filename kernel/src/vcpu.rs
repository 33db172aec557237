//! One vCPU and its run loop: enter, count, handle, inject, enter again.

use alloc::string::String;
use alloc::sync::Arc;

use vmm::handle::{Next, handle};
use vmm::{Event, VcpuState, VmError, VmExit};

use crate::backend::{Backend, LoadedVcpu};
use crate::cpu::interrupts;
use crate::vm::{End, Vm, VmPort};

/// A vCPU: what the hardware keeps of it, what the handlers keep, and the VM that it belongs to.
pub(crate) struct Vcpu<B: Backend> {
    vm: Arc<Vm<B>>,
    backend: B::Vcpu,
    state: VcpuState,
}

/// Why a vCPU's turn on a CPU ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// Its time was up.
    Expired,
    /// It spins; another one had better run.
    Yielded,
    /// It waits for an interrupt.
    Halted,
    /// Its VM has ended.
    Ended,
}

impl<B: Backend> Vcpu<B> {
    pub(crate) fn new(vm: Arc<Vm<B>>, backend: B::Vcpu, state: VcpuState) -> Self {
        Self { vm, backend, state }
    }

    /// The VM that it belongs to.
    pub(crate) fn vm(&self) -> &Arc<Vm<B>> {
        &self.vm
    }

    /// The vCPU at rest, for the backend.
    pub(crate) fn backend_mut(&mut self) -> &mut B::Vcpu {
        &mut self.backend
    }

    /// Runs it on this CPU until its turn ends, at the latest when the host's TSC reaches `until_tsc`.
    /// Interrupts are off all the while.
    pub(crate) fn run(&mut self, backend: &B, until_tsc: u64) -> Turn {
        let Self { vm, backend: vcpu, state } = self;
        let vm: &Vm<B> = vm;
        let mut port = VmPort(vm);
        let mut cpu = backend.load(vcpu);
        loop {
            if vm.end().is_some() {
                return Turn::Ended;
            }
            let exit = cpu.enter(until_tsc);
            match exit {
                VmExit::HostInterrupt(vector) => {
                    if let Some(vector) = vector {
                        interrupts::acknowledged(vector);
                    }
                    continue;
                }
                VmExit::HostTimer => return Turn::Expired,
                _ => {}
            }
            match handle(&mut cpu, state, &mut port, exit) {
                Ok(Next::Resume) => {}
                Ok(Next::Halt) => return Turn::Halted,
                Ok(Next::Yield) => return Turn::Yielded,
                Ok(Next::Inject(event)) => cpu.inject(event),
                Ok(Next::Stop(error)) => stop(vm, &cpu, error),
                Err(fault) => cpu.inject(Event::Exception {
                    exception: fault.exception(),
                    error_code: fault.error_code(),
                }),
            }
        }
    }
}

/// Ends the VM, and tells the operator what its CPU was doing.
#[cold]
fn stop<B: Backend, C: LoadedVcpu>(vm: &Vm<B>, cpu: &C, error: VmError) {
    let mut text = String::new();
    let _ = cpu.explain(&mut text);
    log::error!(target: "vm", "{}: {error}", vm.name());
    for line in text.lines() {
        log::error!(target: "vm", "{}: {line}", vm.name());
    }
    vm.finish(End::Crash(error));
}
