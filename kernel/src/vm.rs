//! One virtual machine: its memory, its board, its vCPUs' mailboxes, and how it ends.
//!
//! A [`Vm`] is one life of a machine, from its kernel's first instruction to its end; `keeper.rs` has the machine
//! itself. It is shared by its vCPUs, whichever CPU each of them is on. What they write together stands behind
//! locks or in atomics: the board behind one lock, which is the only one taken on the way of an exit (order:
//! devices, then the host's console); interrupts in the mailboxes, each with the whereabouts of its vCPU; how the VM
//! ends in one word that the first to end it sets.

mod devices;
mod life;
mod mailbox;
mod port;
mod wishes;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bundle::PanicPolicy;
use host::Tail;
use machine::devices::TextView;
use machine::devices::lapic::Kick;
use machine::devices::routing::{RoutingTable, VcpuSet};
use machine::{Board, BoardConfig, Display, Effects, InterruptMessage, Level};
use spin::{Mutex, Once};
use vmm::VmError;
use vmm::freeze::Freeze;
use vmm::inject::PicAnswer;
use vmm::panic_watch::{PanicWatch, Sight};

use crate::backend::{AddressSpace, Backend};
use crate::hw::clock;
use crate::hw::console::{GuestConsole, GuestStyle};
use crate::memory::GuestRam;

pub(crate) use self::life::{End, Stance};
use self::mailbox::Mailbox;
pub(crate) use self::mailbox::Whereabouts;
pub(crate) use self::port::VmPort;

/// The number of a machine, never used again while the hypervisor runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct VmId(pub(crate) u32);

/// The vCPU that looks after the board's timers, and that the 8259A is wired to.
const BOOT_VCPU: u8 = 0;

/// What a new VM is made of.
pub(crate) struct VmParts<B: Backend> {
    pub(crate) id: VmId,
    pub(crate) name: String,
    pub(crate) ram: GuestRam,
    pub(crate) space: B::AddressSpace,
    pub(crate) board: BoardConfig,
    pub(crate) routing: RoutingTable,
    pub(crate) console: GuestStyle,
    /// What takes the last of its console.
    pub(crate) tail: Arc<Mutex<Tail>>,
    /// For each vCPU the way past the hypervisor, where the hardware has one.
    pub(crate) posts: Vec<Option<Arc<B::Posts>>>,
    pub(crate) on_panic: PanicPolicy,
}

/// A virtual machine, shared by its vCPUs.
pub(crate) struct Vm<B: Backend> {
    id: VmId,
    name: String,
    ram: GuestRam,
    space: B::AddressSpace,
    has_screen: bool,
    devices: Mutex<Devices>,
    /// The host's TSC when the board's next timer is due. Written under the devices' lock.
    board_deadline_tsc: AtomicU64,
    routing: RoutingTable,
    mailboxes: Box<[Mailbox<B>]>,
    /// vCPUs that sleep and that no interrupt wakes.
    resting: Mutex<VcpuSet>,
    /// The host's TSC when the VM's time began, moved by all the time that it stood still. Written while no vCPU runs.
    origin_tsc: AtomicU64,
    stance: AtomicU8,
    end: Once<End>,
    freeze: Mutex<Freeze>,
    on_panic: PanicPolicy,
    panic_watch: PanicWatch,
}

/// What stands behind the VM's one lock.
struct Devices {
    board: Board,
    console: GuestConsole,
    /// The board's next deadline and the 8259A's wire, as last passed on.
    deadline_ns: u64,
    pic_asserted: bool,
    /// What the devices want done by the one who calls them; empty between the calls.
    effects: Effects,
}

impl<B: Backend> Vm<B> {
    /// A VM whose time begins now.
    pub(crate) fn new(parts: VmParts<B>) -> Self {
        let vcpus = parts.posts.len() as u8;
        let console = GuestConsole::new(parts.id.0, parts.name.clone(), parts.console, parts.tail);
        Self {
            id: parts.id,
            name: parts.name,
            ram: parts.ram,
            space: parts.space,
            has_screen: parts.board.display == Display::Vga,
            devices: Mutex::new(Devices {
                board: Board::new(parts.board),
                console,
                deadline_ns: u64::MAX,
                pic_asserted: false,
                effects: Effects::new(),
            }),
            board_deadline_tsc: AtomicU64::new(u64::MAX),
            routing: parts.routing,
            mailboxes: parts.posts.into_iter().map(Mailbox::new).collect(),
            resting: Mutex::new(VcpuSet::EMPTY),
            origin_tsc: AtomicU64::new(clock::tsc()),
            stance: AtomicU8::new(Stance::Run as u8),
            end: Once::new(),
            freeze: Mutex::new(Freeze::new(vcpus)),
            on_panic: parts.on_panic,
            panic_watch: PanicWatch::new(),
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

    /// The host's TSC when its time began, moved by all the time that it stood still.
    #[inline]
    pub(crate) fn origin_tsc(&self) -> u64 {
        self.origin_tsc.load(Ordering::Relaxed)
    }

    /// How many vCPUs it has.
    pub(crate) fn vcpus(&self) -> u8 {
        self.mailboxes.len() as u8
    }

    /// How others reach a vCPU.
    #[inline]
    pub(crate) fn mailbox(&self, vcpu: u8) -> &Mailbox<B> {
        &self.mailboxes[usize::from(vcpu)]
    }

    /// Says where a vCPU is from now on. To be called by whoever has it.
    pub(crate) fn set_whereabouts(&self, vcpu: u8, whereabouts: Whereabouts) {
        self.mailbox(vcpu).set_whereabouts(whereabouts);
    }

    /// Where a vCPU is.
    pub(crate) fn whereabouts(&self, vcpu: u8) -> Whereabouts {
        self.mailbox(vcpu).whereabouts()
    }

    /// Shows all that the guest has said, ended by a line end or not.
    pub(crate) fn flush_console(&self) {
        self.devices.lock().console.flush();
    }

    /// How much of its memory this life has written, in bytes of the pages that it has touched.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.space.note_written();
        self.ram.written_bytes()
    }

    /// Takes it apart; its memory is what remains, and what of it was written is known.
    pub(crate) fn into_ram(self) -> GuestRam {
        self.space.finish();
        self.ram
    }

    /// Whether its kernel has said that it has panicked, and nothing since.
    #[inline]
    pub(crate) fn may_be_dead(&self) -> bool {
        self.panic_watch.is_on()
    }

    /// What one of its vCPUs was found doing, where the VM [may be dead](Self::may_be_dead); that it is dead ends it.
    #[cold]
    pub(crate) fn seen(&self, sight: Sight) {
        if self.panic_watch.look(sight, self.now_ns()) {
            self.finish(End::Crash(VmError::GuestPanic));
        }
    }

    /// Nanoseconds since its time began.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        clock::ticks_to_ns(clock::tsc().wrapping_sub(self.origin_tsc()))
    }

    /// The host's TSC at a time of the VM, or a tick or two later: whoever waits for it finds that the time has come.
    #[inline]
    pub(crate) fn tsc_at(&self, ns: u64) -> u64 {
        self.origin_tsc().saturating_add(clock::ticks_until(ns))
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

    /// Whether it has a text screen.
    pub(crate) fn has_screen(&self) -> bool {
        self.has_screen
    }

    /// What is on its text screen now, whose text is in its RAM.
    pub(crate) fn view(&self) -> Option<TextView> {
        self.devices.lock().board.view()
    }

    /// Shows a line of the console that the guest has begun and not ended, such as a prompt.
    pub(crate) fn show_prompt(&self) {
        let mut devices = self.devices.lock();
        if devices.console.has_unseen_text() {
            devices.console.flush();
        }
    }

    /// Whether the guest wants to be told of the terminal's size.
    pub(crate) fn wants_size_reports(&self) -> bool {
        self.devices.lock().console.wants_size_reports()
    }

    /// The INTA cycle of this vCPU.
    pub(crate) fn acknowledge_pic(&self, vcpu: u8) -> PicAnswer {
        let mut devices = self.devices.lock();
        let vector = devices.board.acknowledge_pic();
        devices.pic_asserted = devices.board.pic_asserted();
        let intr = Level::asserted_if(devices.pic_asserted);
        // Or the mailbox would say for ever that the wire is asserted, and its next rise would be no news.
        let wire = self.mailbox(BOOT_VCPU);
        if vcpu == BOOT_VCPU {
            wire.posted().answer_intr(intr);
        } else if wire.posted().set_intr(intr) == Kick::Needed {
            self.kick(BOOT_VCPU);
        }
        PicAnswer { vector, intr }
    }

    fn deliver(&self, message: &InterruptMessage, targets: VcpuSet) {
        for vcpu in targets {
            self.mailbox(vcpu).send(message);
        }
    }

    /// Makes a vCPU look into its mailbox.
    fn kick(&self, vcpu: u8) {
        self.mailbox(vcpu).kick();
    }

    fn kick_all(&self) {
        for vcpu in 0..self.vcpus() {
            self.kick(vcpu);
        }
    }
}
