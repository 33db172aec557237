//! The stacks of one CPU.

use memory::HostVirt;

use super::descriptors::InterruptStack;
use crate::memory::Stack;

/// Bytes of the stack that a CPU usually runs on.
const MAIN_BYTES: u64 = 64 * 1024;
/// Bytes of each stack for an exception of its own. The epitaph of a double fault is written on one of
/// them.
const INTERRUPT_BYTES: u64 = 16 * 1024;

/// A CPU's stacks, all above unmapped pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuStacks {
    /// The one that the CPU usually runs on.
    pub(crate) main: Stack,
    interrupt: [Stack; InterruptStack::ALL.len()],
}

impl CpuStacks {
    /// Maps them, or returns `None` where memory has run out.
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            main: Stack::new(MAIN_BYTES)?,
            interrupt: [
                Stack::new(INTERRUPT_BYTES)?,
                Stack::new(INTERRUPT_BYTES)?,
                Stack::new(INTERRUPT_BYTES)?,
            ],
        })
    }

    /// The stack that an exception switches to.
    pub(crate) fn interrupt(&self, stack: InterruptStack) -> &Stack {
        &self.interrupt[stack as usize]
    }

    /// From an address on one of the stacks, or on the page below it, to the end of that stack.
    pub(crate) fn words_from(&self, address: HostVirt) -> Option<(HostVirt, HostVirt)> {
        let mut stacks = core::iter::once(&self.main).chain(&self.interrupt);
        let stack = stacks.find(|stack| stack.contains(address) || stack.overflowed_to(address))?;
        let start = HostVirt::new(address.max(stack.bottom()).as_u64() & !7);
        Some((start, stack.top()))
    }

    /// Whether an address lies where a stack of this CPU would overflow to.
    pub(crate) fn overflowed_to(&self, address: HostVirt) -> bool {
        core::iter::once(&self.main)
            .chain(&self.interrupt)
            .any(|stack| stack.overflowed_to(address))
    }
}
