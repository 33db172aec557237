//! One virtual machine: its memory, its board, and how it ends.
//!
//! A [`Vm`] is shared by its vCPUs, whichever CPU each of them is on. What they write together stands behind
//! locks or in atomics: the board behind one lock, which is the only one taken on the way of an exit (order:
//! board, then console, then log); how the VM ends in one word that the first to end it sets.

use alloc::string::String;
use core::fmt;

use arch::{Vector, Width};
use machine::{Board, BoardConfig, Effects, InterruptMessage, Request};
use memory::GuestPhys;
use spin::{Mutex, Once};
use vmm::{Machine, VmError};

use crate::backend::Backend;
use crate::hw::clock;
use crate::hw::console::{GuestConsole, GuestStyle};
use crate::memory::GuestRam;

/// The number of a VM, never used again while the hypervisor runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct VmId(pub(crate) u32);

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
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("poweroff: the guest switched itself off"),
            Self::Reset => f.write_str("reset: the guest asked for a reset"),
            Self::Exit(status) => write!(f, "exit: the guest ended itself with status {status}"),
            Self::Crash(error) => write!(f, "crash: {error}"),
        }
    }
}

/// A virtual machine, shared by its vCPUs.
pub(crate) struct Vm<B: Backend> {
    id: VmId,
    name: String,
    ram: GuestRam,
    space: B::AddressSpace,
    devices: Mutex<Devices>,
    /// The host's TSC when the VM's time began.
    origin_tsc: u64,
    end: Once<End>,
}

/// What stands behind the VM's one lock.
struct Devices {
    board: Board,
    console: GuestConsole,
}

impl<B: Backend> Vm<B> {
    /// A VM whose time begins now.
    pub(crate) fn new(
        id: VmId,
        name: String,
        ram: GuestRam,
        space: B::AddressSpace,
        board: BoardConfig,
        style: GuestStyle,
    ) -> Self {
        let console = GuestConsole::new(name.clone(), style);
        Self {
            id,
            name,
            ram,
            space,
            devices: Mutex::new(Devices { board: Board::new(board), console }),
            origin_tsc: clock::tsc(),
            end: Once::new(),
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> VmId {
        self.id
    }

    /// Its name, for the operator.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its RAM.
    pub(crate) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Its second-level page tables.
    pub(crate) fn space(&self) -> &B::AddressSpace {
        &self.space
    }

    /// The host's TSC when its time began.
    pub(crate) fn origin_tsc(&self) -> u64 {
        self.origin_tsc
    }

    /// Ends it, unless something has ended it already. Its vCPUs see that before they next enter the guest.
    #[cold]
    pub(crate) fn finish(&self, end: End) {
        self.end.call_once(|| end);
    }

    /// How it ended, if it has.
    #[inline]
    pub(crate) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// Shows the last line of its console even if the guest has not ended it.
    pub(crate) fn flush_console(&self) {
        self.devices.lock().console.flush();
    }

    /// Nanoseconds since its time began.
    #[inline]
    fn now_ns(&self) -> u64 {
        clock::ticks_to_ns(clock::tsc().wrapping_sub(self.origin_tsc))
    }

    /// Calls a device, and does what it wants done.
    #[inline]
    fn with_board<R>(&self, call: impl FnOnce(&mut Board, u64, &mut Effects) -> R) -> R {
        let mut effects = Effects::new();
        let now_ns = self.now_ns();
        let mut devices = self.devices.lock();
        let result = call(&mut devices.board, now_ns, &mut effects);
        if !effects.output.is_empty() {
            devices.console.write(&effects.output);
        }
        drop(devices);
        for message in effects.messages {
            self.deliver(message);
        }
        if let Some(request) = effects.request {
            self.finish(match request {
                Request::PowerOff => End::PowerOff,
                Request::Reset => End::Reset,
                Request::Exit(status) => End::Exit(status),
            });
        }
        result
    }

    fn deliver(&self, message: InterruptMessage) {
        let _ = message;
    }
}

/// The VM as one of its vCPUs reaches it.
pub(crate) struct VmPort<'a, B: Backend>(pub(crate) &'a Vm<B>);

impl<B: Backend> Machine for VmPort<'_, B> {
    type Memory = GuestRam;

    #[inline]
    fn memory(&self) -> &GuestRam {
        &self.0.ram
    }

    #[inline]
    fn read_port(&mut self, port: u16, width: Width) -> u32 {
        self.0.with_board(|board, now_ns, effects| board.read_port(port, width, now_ns, effects))
    }

    #[inline]
    fn write_port(&mut self, port: u16, width: Width, value: u32) {
        self.0.with_board(|board, now_ns, effects| {
            board.write_port(port, width, value, now_ns, effects);
        });
    }

    fn read_mmio(&mut self, gpa: GuestPhys, width: Width) -> u64 {
        self.0.with_board(|board, now_ns, effects| board.read_mmio(gpa, width, now_ns, effects))
    }

    fn write_mmio(&mut self, gpa: GuestPhys, width: Width, value: u64) {
        self.0.with_board(|board, now_ns, effects| {
            board.write_mmio(gpa, width, value, now_ns, effects);
        });
    }

    fn send(&mut self, message: InterruptMessage) {
        self.0.deliver(message);
    }

    fn end_of_interrupt(&mut self, vector: Vector) {
        let _ = vector;
    }

    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }
}
