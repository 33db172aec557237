//! One virtual machine: its memory, its board, its vCPUs' mailboxes, and how it ends.
//!
//! A [`Vm`] is shared by its vCPUs, whichever CPU each of them is on. What they write together stands behind
//! locks or in atomics: the board behind one lock, which is the only one taken on the way of an exit (order:
//! devices, then the host's console); interrupts in the mailboxes; how the VM ends in one word that the first to end
//! it sets.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arch::{Vector, Width};
use machine::devices::lapic::{Ipi, Kick, PostedInterrupts};
use machine::devices::routing::{Route, RoutingTable, VcpuSet};
use machine::{Board, BoardConfig, Effects, InterruptMessage, Level, Request};
use memory::GuestPhys;
use spin::{Mutex, Once};
use vmm::inject::PicAnswer;
use vmm::{Machine, VmError};

use crate::backend::Backend;
use crate::cpu::interrupts::HostVector;
use crate::cpu::{self, PcpuId, apic};
use crate::hw::clock;
use crate::hw::console::{GuestConsole, GuestStyle};
use crate::memory::GuestRam;
use crate::supervisor;

/// The number of a VM, never used again while the hypervisor runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct VmId(pub(crate) u32);

/// The vCPU that looks after the board's timers, and that the 8259A is wired to.
const BOOT_VCPU: u8 = 0;

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
            Self::Exit(status) => {
                write!(f, "exit: the guest ended itself with status {status}")
            }
            Self::Crash(error) => write!(f, "crash: {error}"),
        }
    }
}

/// What a new VM is made of.
pub(crate) struct VmParts<B: Backend> {
    pub(crate) id: VmId,
    pub(crate) name: String,
    pub(crate) ram: GuestRam,
    pub(crate) space: B::AddressSpace,
    pub(crate) board: BoardConfig,
    pub(crate) routing: RoutingTable,
    pub(crate) console: GuestStyle,
    pub(crate) vcpus: u8,
}

/// A virtual machine, shared by its vCPUs.
pub(crate) struct Vm<B: Backend> {
    id: VmId,
    name: String,
    ram: GuestRam,
    space: B::AddressSpace,
    devices: Mutex<Devices>,
    /// The host's TSC when the board's next timer is due. Written under the devices' lock.
    board_deadline_tsc: AtomicU64,
    routing: RoutingTable,
    mailboxes: Box<[Mailbox]>,
    /// vCPUs that sleep and that no interrupt wakes.
    resting: Mutex<VcpuSet>,
    /// The host's TSC when the VM's time began.
    origin_tsc: u64,
    end: Once<End>,
    /// vCPUs that are still there; the last one to leave tells how the VM ended.
    vcpus: AtomicU32,
}

/// What stands behind the VM's one lock.
struct Devices {
    board: Board,
    console: GuestConsole,
    /// The board's next deadline and the 8259A's wire, as last passed on.
    deadline_ns: Option<u64>,
    pic_asserted: bool,
}

/// How others reach a vCPU.
struct Mailbox {
    posted: PostedInterrupts,
    /// The CPU whose turn-giver has the vCPU: there a kick is of use.
    home: AtomicU32,
}

impl<B: Backend> Vm<B> {
    /// A VM whose time begins now.
    pub(crate) fn new(parts: VmParts<B>) -> Self {
        let console = GuestConsole::new(parts.name.clone(), parts.console);
        let mailbox = |_| Mailbox {
            posted: PostedInterrupts::new(),
            home: AtomicU32::new(PcpuId::BOOT.0),
        };
        Self {
            id: parts.id,
            name: parts.name,
            ram: parts.ram,
            space: parts.space,
            devices: Mutex::new(Devices {
                board: Board::new(parts.board),
                console,
                deadline_ns: None,
                pic_asserted: false,
            }),
            board_deadline_tsc: AtomicU64::new(u64::MAX),
            routing: parts.routing,
            mailboxes: (0..parts.vcpus).map(mailbox).collect(),
            resting: Mutex::new(VcpuSet::EMPTY),
            origin_tsc: clock::tsc(),
            end: Once::new(),
            vcpus: AtomicU32::new(u32::from(parts.vcpus)),
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

    /// Its second-level page tables.
    pub(crate) fn space(&self) -> &B::AddressSpace {
        &self.space
    }

    /// Its RAM.
    #[inline]
    pub(crate) fn memory(&self) -> &GuestRam {
        &self.ram
    }

    /// The host's TSC when its time began.
    pub(crate) fn origin_tsc(&self) -> u64 {
        self.origin_tsc
    }

    /// What others have left for a vCPU.
    #[inline]
    pub(crate) fn posted(&self, vcpu: u8) -> &PostedInterrupts {
        &self.mailboxes[usize::from(vcpu)].posted
    }

    /// A vCPU's turn-giver is this CPU from now on.
    pub(crate) fn set_home(&self, vcpu: u8, cpu: PcpuId) {
        self.mailboxes[usize::from(vcpu)]
            .home
            .store(cpu.0, Ordering::Release);
    }

    /// Ends it, unless something has ended it already. Its vCPUs see that before they next enter the guest.
    #[cold]
    pub(crate) fn finish(&self, end: End) {
        self.end.call_once(|| end);
        for vcpu in 0..self.mailboxes.len() as u8 {
            self.kick(vcpu);
        }
    }

    /// How it ended, if it has.
    #[inline]
    pub(crate) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// One of its vCPUs is gone. `true` if that was the last, and the VM is at its end.
    pub(crate) fn vcpu_left(&self) -> bool {
        let was_last = self.vcpus.fetch_sub(1, Ordering::AcqRel) == 1;
        if was_last && let Some(end) = self.end() {
            self.devices.lock().console.flush();
            supervisor::vm_ended(&self.name, end);
        }
        was_last
    }

    /// A vCPU falls asleep, and only another one of the VM can wake it. When that becomes true of all, it is the end.
    ///
    /// Whoever is woken takes itself out before it takes out of its mailbox what has woken it; and whoever wakes another
    /// does that before it falls asleep itself. So a mailbox is not empty while somebody in the set has been woken.
    #[cold]
    pub(crate) fn rests(&self, vcpu: u8) {
        let all_rest = {
            let mut resting = self.resting.lock();
            resting.insert(vcpu);
            let is_woken = |mailbox: &Mailbox| mailbox.posted.is_outstanding();
            resting.len() == self.mailboxes.len() && !self.mailboxes.iter().any(is_woken)
        };
        if all_rest && !self.devices.lock().board.may_send_nmi() {
            self.finish(End::Crash(VmError::HaltedForEver));
        }
    }

    /// The opposite of [`rests`](Self::rests).
    #[cold]
    pub(crate) fn rests_no_more(&self, vcpu: u8) {
        self.resting.lock().remove(vcpu);
    }

    /// Nanoseconds since its time began.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        clock::ticks_to_ns(clock::tsc().wrapping_sub(self.origin_tsc))
    }

    /// The host's TSC at a time of the VM.
    #[inline]
    pub(crate) fn tsc_at(&self, ns: u64) -> u64 {
        self.origin_tsc.saturating_add(clock::ns_to_ticks(ns))
    }

    /// The host's TSC when this vCPU has to look after the board's timers; `u64::MAX` for never.
    #[inline]
    pub(crate) fn board_deadline_tsc(&self, vcpu: u8) -> u64 {
        if vcpu == BOOT_VCPU {
            self.board_deadline_tsc.load(Ordering::Relaxed)
        } else {
            u64::MAX
        }
    }

    /// Does what is due on the board.
    pub(crate) fn expire_board(&self) {
        self.with_board(|board, now_ns, effects| board.expire(now_ns, effects));
    }

    /// Bytes typed for the guest's serial port; returns how many it took.
    pub(crate) fn receive(&self, bytes: &[u8]) -> usize {
        self.with_board(|board, now_ns, effects| board.receive(bytes, now_ns, effects))
    }

    /// Shows a line of the console that the guest has begun and not ended, such as a prompt.
    pub(crate) fn show_prompt(&self) {
        let mut devices = self.devices.lock();
        if devices.console.has_unseen_text() {
            devices.console.flush();
        }
    }

    /// The INTA cycle of a vCPU.
    pub(crate) fn acknowledge_pic(&self) -> PicAnswer {
        let mut devices = self.devices.lock();
        let vector = devices.board.acknowledge_pic();
        devices.pic_asserted = devices.board.pic_asserted();
        // Or the mailbox would say for ever that the wire is asserted, and its next rise would be no news.
        let _: Kick = self
            .posted(BOOT_VCPU)
            .set_intr(Level::asserted_if(devices.pic_asserted));
        PicAnswer {
            vector,
            intr: Level::asserted_if(devices.pic_asserted),
        }
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
        let asserted = devices.board.pic_asserted();
        if asserted != devices.pic_asserted {
            devices.pic_asserted = asserted;
            if self
                .posted(BOOT_VCPU)
                .set_intr(Level::asserted_if(asserted))
                == Kick::Needed
            {
                self.kick(BOOT_VCPU);
            }
        }
        if devices.board.next_deadline_ns() != devices.deadline_ns {
            self.set_deadline(&mut devices);
        }
        drop(devices);
        if !effects.messages.is_empty() || effects.request.is_some() {
            self.apply(&effects);
        }
        result
    }

    fn set_deadline(&self, devices: &mut Devices) {
        let old_tsc = self.board_deadline_tsc.load(Ordering::Relaxed);
        devices.deadline_ns = devices.board.next_deadline_ns();
        let tsc = devices.deadline_ns.map_or(u64::MAX, |ns| self.tsc_at(ns));
        self.board_deadline_tsc.store(tsc, Ordering::Relaxed);
        if tsc < old_tsc && self.posted(BOOT_VCPU).post_timer() == Kick::Needed {
            self.kick(BOOT_VCPU);
        }
    }

    fn apply(&self, effects: &Effects) {
        for message in &effects.messages {
            self.deliver(message, self.routing.resolve(message));
        }
        if let Some(request) = effects.request {
            self.finish(match request {
                Request::PowerOff => End::PowerOff,
                Request::Reset => End::Reset,
                Request::Panic => End::Crash(VmError::GuestPanic),
                Request::Exit(status) => End::Exit(status),
            });
        }
    }

    fn deliver(&self, message: &InterruptMessage, targets: VcpuSet) {
        for vcpu in targets {
            if self.posted(vcpu).post(message) == Kick::Needed {
                self.kick(vcpu);
            }
        }
    }

    /// Makes the CPU that has this vCPU look at its mailbox.
    fn kick(&self, vcpu: u8) {
        let home = self.mailboxes[usize::from(vcpu)]
            .home
            .load(Ordering::Acquire);
        if home != cpu::this().id().0
            && let Some(target) = cpu::smp::cpu(PcpuId(home))
        {
            apic::send(target.apic_id(), HostVector::Kick);
        }
    }
}

/// The VM as one of its vCPUs reaches it.
pub(crate) struct VmPort<'a, B: Backend> {
    pub(crate) vm: &'a Vm<B>,
    pub(crate) vcpu: u8,
}

impl<B: Backend> Machine for VmPort<'_, B> {
    type Memory = GuestRam;

    #[inline]
    fn memory(&self) -> &GuestRam {
        self.vm.memory()
    }

    #[inline]
    fn read_port(&mut self, port: u16, width: Width) -> u32 {
        self.vm
            .with_board(|board, now_ns, effects| board.read_port(port, width, now_ns, effects))
    }

    #[inline]
    fn write_port(&mut self, port: u16, width: Width, value: u32) {
        self.vm.with_board(|board, now_ns, effects| {
            board.write_port(port, width, value, now_ns, effects);
        });
    }

    fn read_mmio(&mut self, gpa: GuestPhys, width: Width) -> u64 {
        self.vm
            .with_board(|board, _, _| board.read_mmio(gpa, width))
    }

    fn write_mmio(&mut self, gpa: GuestPhys, width: Width, value: u64) {
        self.vm
            .with_board(|board, _, effects| board.write_mmio(gpa, width, value, effects));
    }

    #[inline]
    fn send(&mut self, ipi: Ipi) {
        let targets = self.vm.routing.resolve_ipi(&ipi, self.vcpu);
        self.vm.deliver(&ipi.message, targets);
    }

    fn wake(&mut self, apic_id: u32) {
        if let Some(vcpu) = self.vm.routing.index_of(apic_id)
            && self.vm.posted(vcpu).post_wake() == Kick::Needed
        {
            self.vm.kick(vcpu);
        }
    }

    fn date_at_start_ns(&self) -> u64 {
        clock::date_ns_at(self.vm.origin_tsc)
    }

    fn reroute(&mut self, route: Route) {
        self.vm.routing.publish(self.vcpu, route);
    }

    fn end_of_interrupt(&mut self, vector: Vector) {
        self.vm
            .with_board(|board, _, effects| board.end_of_interrupt(vector, effects));
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.vm.now_ns()
    }
}
