//! One CPU's share of the work: it takes a vCPU from the queue, gives it a turn, and puts it back.
//!
//! A vCPU is owned by whoever holds it, the queue or the CPU that runs it, so it needs no lock. The last vCPU to run
//! stays loaded on its CPU until another one is to run there: where there is only one, nothing is ever switched.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use crate::backend::Backend;
use crate::hw::clock;
use crate::vcpu::{Turn, Vcpu};

/// How long a vCPU runs before the next one's turn.
const TURN_NS: u64 = 10_000_000;

/// Gives turns to `vcpus` until all of their VMs have ended.
pub(crate) fn run<B: Backend>(backend: &B, vcpus: impl IntoIterator<Item = Box<Vcpu<B>>>) {
    let mut queue: VecDeque<_> = vcpus.into_iter().collect();
    let turn_ticks = clock::ns_to_ticks(TURN_NS);
    while let Some(mut vcpu) = queue.pop_front() {
        let turn = vcpu.run(backend, clock::tsc().wrapping_add(turn_ticks));
        if turn == Turn::Ended {
            continue;
        }
        if !queue.is_empty() {
            backend.unload(vcpu.backend_mut());
        }
        queue.push_back(vcpu);
    }
}
