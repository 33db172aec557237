//! [`stop`]: the end of a VM that cannot go on, by one of its vCPUs.

use alloc::string::String;
use core::fmt::Write;

use vmm::VmError;
use vmm::dump::Registers;
use vmm::trace::Trace;

use crate::backend::{Backend, LoadedVcpu};
use crate::hw::console;
use crate::vm::{End, Vm};

/// Ends the VM, and tells the operator what its CPU was doing.
#[cold]
pub(super) fn stop<B: Backend, C: LoadedVcpu>(vm: &Vm<B>, cpu: &C, trace: &Trace, error: VmError) {
    let mut text = String::new();
    // A string takes what is written. Its memory is of what no VM can have.
    let _ = write!(text, "{}", Registers(cpu));
    let _ = cpu.explain(&mut text);
    let _ = write!(text, "{trace}");
    log::error!(target: "vm", "{}: {error}", vm.name());
    console::report(vm.name(), &text);
    vm.finish(End::Crash(error));
}
