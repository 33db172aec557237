//! The tables that the monitor shows: of the machines, the CPUs and the memory.

use alloc::string::String;
use core::sync::atomic::Ordering;

use super::{Desk, show};
use crate::backend::{AddressSpace, Backend};
use crate::memory;

impl<B: Backend> Desk<'_, B> {
    /// All machines, with what they are doing.
    pub(super) fn list_vms(&self) {
        show(format_args!(
            "{:<16} {:<12} {:>5} {:>8} {:>8} {:>8} {:>5} {:>6}  {}",
            "VM", "state", "CPUs", "MiB", "written", "weight", "cap", "lives", "last end"
        ));
        for machine in self.keeper.machines() {
            let config = machine.config;
            let state = if machine.is_building() {
                String::from("being built")
            } else {
                alloc::format!("{}", machine.power)
            };
            let cap = match config.cap_percent {
                Some(percent) => alloc::format!("{percent}%"),
                None => String::from("-"),
            };
            let written = match machine.life() {
                Some(vm) => alloc::format!("{}", vm.written_bytes() >> 20),
                None => String::from("-"),
            };
            let end = match machine.last_end {
                Some(end) => alloc::format!("{end}"),
                None => String::new(),
            };
            show(format_args!(
                "{:<16} {:<12} {:>5} {:>8} {:>8} {:>8} {:>5} {:>6}  {}",
                config.name,
                state,
                config.cpus,
                config.memory_bytes >> 20,
                written,
                config.weight,
                cap,
                machine.lives,
                end
            ));
        }
    }

    /// What each CPU has done.
    pub(super) fn list_cpus(&self) {
        show(format_args!(
            "{:<4} {:<9} {:>6} {:>12} {:>10} {:>8} {:>9}",
            "CPU", "use", "vCPUs", "turns", "busy ms", "stolen", "gave way"
        ));
        for seat in self.crew.seats() {
            let of = Ordering::Relaxed;
            show(format_args!(
                "{:<4} {:<9} {:>6} {:>12} {:>10} {:>8} {:>9}",
                seat.cpu,
                match seat.cpu_use() {
                    vmm::scheduler::Use::Shared => "shared",
                    vmm::scheduler::Use::Dedicated => "dedicated",
                },
                seat.members(),
                seat.figures.turns.load(of),
                seat.figures.busy_ns.load(of) / 1_000_000,
                seat.figures.stolen.load(of),
                seat.figures.yielded.load(of),
            ));
        }
    }

    /// What memory there is, and who has it.
    pub(super) fn show_memory(&self) {
        let usage = memory::usage();
        show(format_args!(
            "frames of 4 KiB: {} of {} free; heap: {} KiB of {} KiB used",
            usage.free_frames,
            usage.total_frames,
            usage.heap_used_bytes >> 10,
            usage.heap_bytes >> 10
        ));
        for machine in self.keeper.machines() {
            if let Some(vm) = machine.life() {
                show(format_args!(
                    "{:<16} {:>8} MiB of its own ({} MiB written; {}), and {:>6} KiB for it",
                    machine.config.name,
                    machine.config.memory_bytes >> 20,
                    vm.written_bytes() >> 20,
                    vm.space().page_counts(),
                    machine.overhead_bytes >> 10
                ));
            }
        }
    }
}
