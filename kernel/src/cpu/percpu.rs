//! What each CPU has for itself, reached through the base of GS.
//!
//! [`this`] is valid from the first lines of `main` (or of an application CPU's start) on, and in exception
//! handlers: GS never holds anything else in the hypervisor, and VM exits load it from the VMCS.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arch::msr::IA32_GS_BASE;
use spin::Once;

use super::descriptors::{Descriptors, InterruptStack};
use super::gate::Gate;
use super::machine_check::Survived;
use super::msr::write_msr;
use super::nmi::Nmis;
use super::stack::CpuStacks;

/// The number of a CPU: 0 is the boot CPU, the others count up in the order in which they came up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PcpuId(pub u32);

impl PcpuId {
    /// The CPU that the firmware started.
    pub(crate) const BOOT: Self = Self(0);

    /// The number, to index tables with.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One CPU's own data. Other CPUs may read it; what changes after start-up is atomic.
#[repr(C)]
pub(crate) struct PerCpu {
    /// Its own address, so that `gs:[0]` gives the linear address of the rest.
    this: UnsafeCell<*const PerCpu>,
    /// What an entry to a guest looks at last.
    pub(crate) gate: Gate,
    /// The number of this CPU.
    id: PcpuId,
    /// Its local APIC's ID. Written once by the CPU itself.
    apic_id: AtomicU32,
    /// Its descriptor tables, changed by itself only while it starts.
    descriptors: UnsafeCell<Descriptors>,
    /// Its stacks, once there is memory for them.
    stacks: Once<CpuStacks>,
    /// Whether it runs hypervisor code on its own stacks and answers to IPIs. Written by itself.
    online: AtomicBool,
    /// NMIs on their way to it, and those that it has taken.
    pub(super) nmis: Nmis,
    /// Machine checks that it has survived.
    pub(super) survived: Survived,
    /// There is something to tell of the last two. Written by itself.
    news: AtomicBool,
}

const _: () = assert!(offset_of!(PerCpu, this) == 0, "`this` reads gs:[0]");

// SAFETY: `this` and `descriptors` are written only by the CPU itself, before it is online and before any
// other CPU looks at it; everything else is atomic or `Once`.
unsafe impl Sync for PerCpu {}
// SAFETY: nothing in it belongs to the CPU that made it.
unsafe impl Send for PerCpu {}

impl PerCpu {
    /// The data of a CPU that has not started yet.
    pub(crate) const fn new(id: PcpuId) -> Self {
        Self {
            this: UnsafeCell::new(core::ptr::null()),
            gate: Gate::new(),
            id,
            apic_id: AtomicU32::new(0),
            descriptors: UnsafeCell::new(Descriptors::new()),
            stacks: Once::new(),
            online: AtomicBool::new(false),
            nmis: Nmis::new(),
            survived: Survived::new(),
            news: AtomicBool::new(false),
        }
    }

    /// The number of this CPU.
    pub(crate) const fn id(&self) -> PcpuId {
        self.id
    }

    /// Its local APIC's ID.
    pub(crate) fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    pub(super) fn set_apic_id(&self, apic_id: u32) {
        self.apic_id.store(apic_id, Ordering::Relaxed);
    }

    /// Says that this CPU has come up.
    pub(super) fn set_online(&self) {
        self.online.store(true, Ordering::Release);
    }

    /// Whether the CPU has come up.
    pub(crate) fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// A handler on this CPU has something to tell, from where a line can be written at any time.
    pub(super) fn has_news(&self) {
        self.news.store(true, Ordering::Relaxed);
    }

    /// Whether a handler has had something to tell since the last call.
    #[inline]
    pub(super) fn take_news(&self) -> bool {
        self.news.load(Ordering::Relaxed) && self.news.swap(false, Ordering::Relaxed)
    }

    /// Its stacks, once there is memory for them.
    pub(crate) fn stacks(&self) -> Option<&CpuStacks> {
        self.stacks.get()
    }

    /// Gives the CPU that runs this its stacks; exceptions with stacks of their own use them from now on.
    ///
    /// # Safety
    /// Called on the CPU whose data it is, with interrupts off, in an address space that has the stacks.
    pub(super) unsafe fn set_stacks(&self, stacks: CpuStacks) {
        let stacks = self.stacks.call_once(|| stacks);
        for stack in InterruptStack::ALL {
            // SAFETY: only this CPU uses its tables, and it is here.
            unsafe {
                (*self.descriptors.get()).set_stack(stack, stacks.interrupt(stack).top().as_u64())
            };
        }
    }

    /// Makes this the data of the CPU that runs the call, and loads its descriptor tables.
    ///
    /// # Safety
    /// Called once, on the CPU whose data it is, before anything there calls [`this`].
    pub(super) unsafe fn install(&'static self) {
        // SAFETY: nobody else uses these fields yet, as the caller promises.
        unsafe {
            *self.this.get() = self;
            (*self.descriptors.get()).load();
        }
        // After the load of the selectors, which may clear the base of GS.
        // SAFETY: the base points to a `PerCpu` that lives for ever, which is what all users of GS expect.
        unsafe { write_msr(IA32_GS_BASE, core::ptr::from_ref(self) as u64) };
    }
}

/// The data of the CPU that runs the call.
#[inline]
pub(crate) fn this() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: GS holds the base of this CPU's data (see the top of the file), and its first field is a
    // pointer to itself.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) this, options(nostack, pure, readonly, preserves_flags));
        &*this
    }
}
