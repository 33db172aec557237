//! The machines of the bundle, each with its present life: built, running, paused, ending, built anew. What follows
//! from which event is decided by [`vmm::power`]; here it is carried out.
//!
//! The boot CPU owns all of this and looks after it between turns, so nothing here is locked. What other CPUs have to
//! say (a guest has ended, a vCPU has left) they say by [`tell`]. Ending takes until the last vCPU has left its CPU;
//! the keeper has the last reference to that life then, and with it the memory, which the next life gets at once.
//! Memory is zeroed piece by piece, so that building a large machine keeps no other from its turns.

mod building;
mod machine;
mod words;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use ::log::warn;
use ::machine::firmware::Firmware;
use bundle::{Bundle, VmConfig};
use vmm::power::{self, Power, PowerEvent, Refused, RestartDelay, Step, Then};

use crate::backend::Backend;
use crate::cpu::PcpuId;
use crate::crew::Crew;
use crate::doorbell;
use crate::hw::clock;
use crate::hw::console::{self, GuestStyle};
use crate::hw::screen::Colour;
use crate::launch::{self, console_style};
use crate::memory::GuestRam;
use crate::supervisor;
use crate::vm::{End, Vm, VmId};

use self::machine::Building;
pub(crate) use self::machine::Machine;
pub(crate) use self::words::NotDone;
use self::words::Restart;

/// Something has happened to a machine.
static NEWS: AtomicBool = AtomicBool::new(false);

/// Tells the keeper that something has happened to a machine.
pub(crate) fn tell() {
    NEWS.store(true, Ordering::SeqCst);
    doorbell::ring(PcpuId::BOOT);
}

/// All machines.
pub(crate) struct Keeper<'a, B: Backend> {
    crew: &'a Crew<B>,
    bundle: &'a Bundle<'a>,
    firmware: Firmware,
    machines: Vec<Machine<'a, B>>,
    /// How many of them are being built.
    building: usize,
    /// While the first ones are built: those that are to begin with them.
    beginning: Option<Vec<launch::Machine<B>>>,
    next_id: u32,
}

/// Whether anything had happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attended {
    /// Something had.
    Something,
    /// Nothing had.
    Nothing,
}

impl<'a, B: Backend> Keeper<'a, B> {
    /// The machines of this bundle, all of them off.
    pub(crate) fn new(crew: &'a Crew<B>, bundle: &'a Bundle<'a>) -> Self {
        let mut keeper = Self {
            crew,
            bundle,
            firmware: Firmware::default(),
            machines: Vec::new(),
            building: 0,
            beginning: None,
            next_id: 0,
        };
        for config in &bundle.config().vms {
            keeper.enlist(config);
        }
        keeper
    }

    fn enlist(&mut self, config: &'a VmConfig) -> usize {
        let id = VmId(self.next_id);
        self.next_id += 1;
        self.machines.push(Machine::new(id, config));
        self.machines.len() - 1
    }

    /// All machines, in the order of the bundle; those that were destroyed are not among them.
    pub(crate) fn machines(&self) -> &[Machine<'a, B>] {
        &self.machines
    }

    /// The machine of this name.
    pub(crate) fn machine(&self, name: &str) -> Result<&Machine<'a, B>, NotDone> {
        let index = self
            .find(name)
            .ok_or_else(|| NotDone::Unknown(name.into()))?;
        Ok(&self.machines[index])
    }

    fn find(&self, name: &str) -> Option<usize> {
        let mut machines = self.machines.iter();
        machines.position(|machine| machine.config.name == name)
    }

    /// Whether all machines have ended by themselves: none runs, none is about to, and none is off because the
    /// operator, who may start it, wants it so.
    pub(crate) fn is_done(&self) -> bool {
        let mut machines = self.machines.iter();
        machines.all(|machine| machine.power == Power::Off && !machine.waits)
    }

    /// Whether nothing runs, nor will before the operator says so.
    pub(crate) fn is_idle(&self) -> bool {
        let mut machines = self.machines.iter();
        machines.all(|machine| machine.power == Power::Off)
    }

    /// The next machine after this one, in a circle, that runs.
    pub(crate) fn next_after(&self, id: Option<VmId>) -> Option<VmId> {
        let live = || {
            let machines = self.machines.iter();
            machines
                .filter(|machine| machine.life.is_some())
                .map(|machine| machine.id)
        };
        live()
            .find(|other| Some(*other) > id)
            .or_else(|| live().next())
    }

    /// The present life of a machine.
    pub(crate) fn life(&self, id: VmId) -> Option<&Arc<Vm<B>>> {
        let mut machines = self.machines.iter();
        machines.find(|machine| machine.id == id)?.life.as_ref()
    }

    /// What the operator wants done with a machine. One that was destroyed is made anew from the bundle by starting
    /// it.
    ///
    /// # Errors
    /// [`NotDone`], for the operator.
    pub(crate) fn command(&mut self, name: &str, event: PowerEvent) -> Result<(), NotDone> {
        let index = match self.find(name) {
            Some(index) => index,
            None => {
                let mut configs = self.bundle.config().vms.iter();
                let config = configs
                    .find(|config| event == PowerEvent::Start && config.name == name)
                    .ok_or_else(|| NotDone::Unknown(name.into()))?;
                self.enlist(config)
            }
        };
        let machine = &mut self.machines[index];
        let waits = match event {
            PowerEvent::Stop => true,
            PowerEvent::Start | PowerEvent::Reset => false,
            _ => machine.waits,
        };
        self.apply(index, event)
            .map_err(|refused| NotDone::Refused(name.into(), refused))?;
        // A destroyed one is not there any more.
        if let Some(machine) = self.machines.get_mut(index)
            && machine.config.name == name
        {
            machine.waits = waits;
        }
        Ok(())
    }

    /// Looks after what has happened, if anything has. To be called between turns.
    pub(crate) fn attend(&mut self) -> Attended {
        if NEWS.load(Ordering::Relaxed) && NEWS.swap(false, Ordering::SeqCst) {
            self.look();
            Attended::Something
        } else {
            Attended::Nothing
        }
    }

    /// Finds the machines whose guests have ended, and those whose last vCPU has left.
    fn look(&mut self) {
        let mut index = 0;
        while index < self.machines.len() {
            let id = self.machines[index].id;
            self.look_at(index);
            // One that was destroyed is not there any more.
            if self
                .machines
                .get(index)
                .is_some_and(|machine| machine.id == id)
            {
                index += 1;
            }
        }
    }

    fn look_at(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let Some(end) = machine.life.as_ref().and_then(|life| life.end()) else {
            return;
        };
        if matches!(machine.power, Power::Running | Power::Paused) {
            let event = match end {
                End::PowerOff | End::Exit(_) => PowerEvent::GuestPowerOff,
                End::Reset => PowerEvent::GuestReset,
                End::Crash(_) => PowerEvent::GuestCrash,
                End::Stopped => PowerEvent::Stop,
            };
            self.carry_out(index, event);
        }
        let machine = &mut self.machines[index];
        let all_left = machine
            .life
            .as_mut()
            .is_some_and(|life| Arc::get_mut(life).is_some());
        if all_left && matches!(machine.power, Power::Ending(_)) {
            self.carry_out(index, PowerEvent::VcpusLeft);
        }
    }

    /// An event that always fits.
    fn carry_out(&mut self, index: usize, event: PowerEvent) {
        if let Err(refused) = self.apply(index, event) {
            warn!(target: "vm", "{} {refused}", self.machines[index].config.name);
        }
    }

    fn apply(&mut self, index: usize, event: PowerEvent) -> Result<(), Refused> {
        let machine = &mut self.machines[index];
        let before = machine.power;
        let (after, steps) = power::apply(before, event, machine.policies())?;
        machine.power = after;
        let mut ram = None;
        let mut delay_ns = 0;
        for step in steps {
            let machine = &mut self.machines[index];
            match step {
                Step::Build => {
                    let due_ns = clock::now_ns().saturating_add(delay_ns);
                    let ram = ram.take();
                    machine.building = Building::Wanted { due_ns, ram };
                }
                // A new life runs once it is built.
                Step::Run => {
                    if let Some(life) = &machine.life {
                        life.resume();
                    }
                }
                Step::Freeze => {
                    if let Some(life) = &machine.life {
                        life.pause();
                    }
                }
                Step::Evict => match &machine.life {
                    Some(life) => life.finish(End::Stopped),
                    // It has not been built yet.
                    None => {
                        machine.building = Building::Nothing;
                        self.carry_out(index, PowerEvent::VcpusLeft);
                    }
                },
                Step::Release => {
                    let then = match before {
                        Power::Ending(then) => then,
                        _ => Then::Off,
                    };
                    (ram, delay_ns) = self.release(index, then);
                }
                Step::Forget => {
                    self.machines.remove(index);
                }
            }
        }
        self.count_building();
        Ok(())
    }

    /// Takes a life apart of which all vCPUs have left, and says how it ended. For a machine that starts again, its
    /// memory, and for how long it is to wait.
    fn release(&mut self, index: usize, then: Then) -> (Option<GuestRam>, u64) {
        let machine = &mut self.machines[index];
        for cpu in machine.owned.drain(..) {
            self.crew.give_back(cpu);
        }
        let Some(vm) = machine.life.take().and_then(Arc::into_inner) else {
            if then != Then::Start {
                supervisor::vm_ended(&machine.config.name, End::Stopped);
            }
            return (None, 0);
        };
        vm.flush_console();
        let end = vm.end().unwrap_or(End::Stopped);
        machine.last_end = Some(end);
        let name = &machine.config.name;
        if matches!(end, End::Crash(_)) && console_style(machine.config) == GuestStyle::Silent {
            machine.show_last_words();
        }
        if then != Then::Start {
            machine.delay = RestartDelay::new();
            supervisor::vm_ended(name, end);
            return (None, 0);
        }
        let delay_ns = if end == End::Stopped {
            machine.delay = RestartDelay::new();
            0
        } else {
            let lived_ns = clock::now_ns().saturating_sub(machine.began_ns);
            machine.delay.after_life_of(lived_ns, machine.built_ns)
        };
        let end = End::Stopped.ne(&end).then_some(end);
        console::line(
            Colour::Text,
            format_args!(
                "plinth: restart {name} {}",
                Restart {
                    end,
                    delay_ms: delay_ns / 1_000_000
                }
            ),
        );
        (Some(vm.into_ram()), delay_ns)
    }
}
