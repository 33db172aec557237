//! How the keeper brings machines to life: when each is due, a piece of its memory at a time, and then its vCPUs.

use alloc::sync::Arc;
use alloc::vec::Vec;

use bundle::Autostart;
use vmm::power::{Power, PowerEvent};

use super::machine::{Building, Machine};
use super::{Keeper, tell};
use crate::backend::Backend;
use crate::crew::Seating;
use crate::hw::clock;
use crate::launch::{self, LaunchError};
use crate::memory::{self, DirtyRam, GuestRam};
use crate::supervisor;

impl<B: Backend> Keeper<'_, B> {
    /// Builds the machines that start with the hypervisor, and then starts them all at once: none is ahead of those that
    /// were built after it. One that cannot start does not keep the others from it.
    pub(crate) fn start_all(&mut self) {
        self.beginning = Some(Vec::new());
        for index in 0..self.machines.len() {
            if self.machines[index].config.autostart == Autostart::Yes {
                // Nothing is in the way of starting what is off.
                let _ = self.apply(index, PowerEvent::Start);
                while self.machines[index].is_building() {
                    self.build(index);
                }
            }
        }
        for (vm, vcpus) in self.beginning.take().unwrap_or_default() {
            vm.begin_time();
            self.crew.add(vcpus);
        }
    }

    pub(super) fn count_building(&mut self) {
        let machines = self.machines.iter();
        self.building = machines.filter(|machine| machine.is_building()).count();
    }

    /// The machine that is to be built now, for [`build`](Self::build).
    pub(crate) fn due(&self) -> Option<usize> {
        if self.building == 0 {
            return None;
        }
        let now_ns = clock::now_ns();
        let mut machines = self.machines.iter();
        machines.position(|machine| match machine.building {
            Building::Nothing => false,
            Building::Wanted { due_ns, .. } => due_ns <= now_ns,
            Building::Zeroing { .. } => true,
        })
    }

    /// When it has something to do again by itself.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        if self.building == 0 {
            return None;
        }
        let due = |machine: &Machine<'_, B>| match machine.building {
            Building::Nothing => None,
            Building::Wanted { due_ns, .. } => Some(due_ns),
            Building::Zeroing { .. } => Some(0),
        };
        self.machines.iter().filter_map(due).min()
    }

    /// Goes on building a machine, for a moment. No vCPU is loaded on this CPU, or the new ones would be loaded over
    /// it.
    pub(crate) fn build(&mut self, index: usize) {
        let begin_ns = clock::now_ns();
        let machine = &mut self.machines[index];
        let built = match core::mem::replace(&mut machine.building, Building::Nothing) {
            Building::Nothing => return,
            Building::Wanted { ram: Some(ram), .. } => {
                machine.zero(DirtyRam::reuse(ram), 0, begin_ns)
            }
            Building::Wanted { ram: None, .. } => {
                match launch::memory(&self.crew.backend, machine.config) {
                    Ok(ram) => machine.zero(ram, 0, begin_ns),
                    Err(error) => Some(Err(error)),
                }
            }
            Building::Zeroing { ram, spent_ns } => machine.zero(ram, spent_ns, begin_ns),
        };
        let started = match built {
            None => return,
            Some(Ok(ram)) => self.begin_life(index, ram, begin_ns),
            Some(Err(error)) => Err(error),
        };
        if let Err(error) = started {
            let machine = &mut self.machines[index];
            machine.power = Power::Off;
            for cpu in machine.owned.drain(..) {
                self.crew.give_back(cpu);
            }
            supervisor::not_started(&machine.config.name, &error);
            // Whether that was the last one is somebody's news.
            tell();
        }
        self.count_building();
    }

    /// Makes a VM in this memory, and lets it run.
    fn begin_life(
        &mut self,
        index: usize,
        ram: GuestRam,
        begin_ns: u64,
    ) -> Result<(), LaunchError> {
        let before = memory::used_bytes();
        let configs = self.machines.iter().map(|machine| machine.config);
        let contention = self.crew.contention(configs);
        let machine = &self.machines[index];
        let others = self.bundle.config().vms.iter();
        let others = others.filter(|other| other.name != machine.config.name);
        let seatings = self.crew.seatings(machine.config, others);
        let machine = &mut self.machines[index];
        machine.owned = seatings
            .iter()
            .filter_map(|seating| match seating {
                Seating::Owner(cpu) => Some(*cpu),
                Seating::Shared(_) => None,
            })
            .collect();
        let (vm, vcpus) = launch::vm(
            &self.crew.backend,
            &launch::Plan {
                id: machine.id,
                config: machine.config,
                seatings: &seatings,
                contention,
                firmware: &self.firmware,
                tail: &machine.tail,
            },
            self.bundle,
            ram,
        )?;
        if machine.power == Power::Paused {
            vm.pause();
        }
        machine.overhead_bytes = memory::used_bytes().saturating_sub(before);
        machine.life = Some(Arc::clone(&vm));
        machine.lives += 1;
        machine.began_ns = clock::now_ns();
        machine.built_ns += machine.began_ns.saturating_sub(begin_ns);
        match &mut self.beginning {
            Some(beginning) => beginning.push((vm, vcpus)),
            None => {
                vm.begin_time();
                self.crew.add(vcpus);
            }
        }
        Ok(())
    }
}
