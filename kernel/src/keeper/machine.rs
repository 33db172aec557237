//! One machine as the keeper has it: what it is to be, what it is doing, and its present life, or the memory that is made
//! ready for the next one.

use alloc::sync::Arc;
use alloc::vec::Vec;

use ::log::info;
use bundle::{Autostart, EndPolicy, VmConfig};
use host::Tail;
use spin::Mutex;
use vmm::power::{self, EndPolicies, Power, RestartDelay};

use crate::backend::Backend;
use crate::cpu::PcpuId;
use crate::hw::clock;
use crate::hw::console;
use crate::hw::screen::Colour;
use crate::launch::LaunchError;
use crate::memory::{DirtyRam, GuestRam, ZeroedRam};
use crate::vm::{End, Vm, VmId};

/// For how long memory is zeroed before others have their turn.
const ZEROING_NS: u64 = 1_000_000;
/// So much of it between two looks at the clock.
const ZEROED_BYTES: u64 = 256 << 10;
/// Lines of a guest's console that are shown after it has crashed: as many as a kernel's report of its end has.
const LAST_WORDS: usize = 64;

/// One machine.
pub(crate) struct Machine<'a, B: Backend> {
    pub(crate) id: VmId,
    pub(crate) config: &'a VmConfig,
    pub(crate) power: Power,
    pub(super) life: Option<Arc<Vm<B>>>,
    pub(super) building: Building,
    /// CPUs that its vCPUs own.
    pub(super) owned: Vec<PcpuId>,
    pub(super) delay: RestartDelay,
    /// How often it was built.
    pub(crate) lives: u32,
    pub(crate) began_ns: u64,
    pub(super) built_ns: u64,
    /// What its present life takes of the host beyond its RAM.
    pub(crate) overhead_bytes: u64,
    /// It is off because somebody wants it so, and waits for being started.
    pub(super) waits: bool,
    pub(crate) last_end: Option<End>,
    pub(crate) tail: Arc<Mutex<Tail>>,
}

/// A life that is not there yet.
pub(super) enum Building {
    Nothing,
    /// It is to begin at this time, with the memory of the last one where there was one.
    Wanted {
        due_ns: u64,
        ram: Option<GuestRam>,
    },
    /// Its memory is being zeroed, which has taken so long.
    Zeroing {
        ram: DirtyRam,
        spent_ns: u64,
    },
}

impl<'a, B: Backend> Machine<'a, B> {
    /// One that is off.
    pub(super) fn new(id: VmId, config: &'a VmConfig) -> Self {
        Self {
            id,
            config,
            power: Power::Off,
            life: None,
            building: Building::Nothing,
            owned: Vec::new(),
            delay: RestartDelay::new(),
            lives: 0,
            began_ns: 0,
            built_ns: 0,
            overhead_bytes: 0,
            waits: config.autostart == Autostart::No,
            last_end: None,
            tail: Arc::new(Mutex::new(Tail::new())),
        }
    }

    /// Its present life, while it has one.
    pub(crate) fn life(&self) -> Option<&Arc<Vm<B>>> {
        self.life.as_ref()
    }

    /// Whether it is being built, or waits for that.
    pub(crate) fn is_building(&self) -> bool {
        !matches!(self.building, Building::Nothing)
    }

    pub(super) fn policies(&self) -> EndPolicies {
        let policy = |policy| match policy {
            EndPolicy::Stop => power::EndPolicy::Stop,
            EndPolicy::Restart => power::EndPolicy::Restart,
        };
        EndPolicies {
            on_crash: policy(self.config.on_crash),
            on_reboot: policy(self.config.on_reboot),
        }
    }

    /// Zeroes some of its memory, which is the long part of building it. `None` where there is more to do.
    pub(super) fn zero(
        &mut self,
        mut ram: DirtyRam,
        spent_ns: u64,
        begin_ns: u64,
    ) -> Option<Result<GuestRam, LaunchError>> {
        loop {
            ram = match ram.zero_some(ZEROED_BYTES) {
                Ok(ZeroedRam { ram, zeroed_bytes }) => {
                    self.built_ns = spent_ns;
                    let spent_ns = spent_ns + clock::now_ns().saturating_sub(begin_ns);
                    info!(
                        target: "vm",
                        "{}: {} of {} MiB zeroed, {} ticks",
                        self.config.name,
                        zeroed_bytes >> 20,
                        self.config.memory_bytes >> 20,
                        clock::ns_to_ticks(spent_ns)
                    );
                    return Some(Ok(ram));
                }
                Err(rest) => rest,
            };
            let passed_ns = clock::now_ns().saturating_sub(begin_ns);
            if passed_ns >= ZEROING_NS {
                let spent_ns = spent_ns + passed_ns;
                self.building = Building::Zeroing { ram, spent_ns };
                return None;
            }
        }
    }

    pub(super) fn show_last_words(&self) {
        for line in self.tail.lock().lines(LAST_WORDS) {
            console::line(
                Colour::Text,
                format_args!("plinth: {} said: {line}", self.config.name),
            );
        }
    }
}
