//! The second processor, as the first one drives it. `ap.S` has what it runs.

use core::arch::global_asm;

use plinth_guests::apic::{self, ASSERT};
use plinth_guests::cpu::{rdtsc, read_cr3};
use plinth_guests::descriptors::{KERNEL_CODE, gate_descriptor, kind};
use plinth_guests::paging::{peek_32, poke_32};
use plinth_guests::single::Single;

global_asm!(include_str!("ap.S"));

/// The pages that its code is copied to.
pub(super) const PAGES: [u8; 2] = [0x70, 0x71];

/// What it is told to do in real mode.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum RealCommand {
    /// Beats its heart.
    Run = 0,
    /// CLI and HLT.
    Sleep = 1,
    /// A loop of one instruction.
    Spin = 2,
    /// On to 64-bit mode.
    Long = 3,
}

/// What it is told to do in 64-bit mode.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum LongCommand {
    /// Beats its heart with IF clear.
    Closed = 0,
    /// Sleeps with IF set.
    Sleep = 1,
    /// Beats its heart with IF set.
    Open = 2,
    /// Sleeps with IF clear.
    SleepClosed = 3,
    /// Writes down the TSC each time that it is asked.
    TellTime = 4,
}

/// The registers that it found when it started.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) eax: u32,
    pub(super) ebx: u32,
    pub(super) ecx: u32,
    pub(super) edx: u32,
    pub(super) esi: u32,
    pub(super) edi: u32,
    pub(super) ebp: u32,
    pub(super) esp: u32,
    pub(super) eflags: u32,
    pub(super) cr0: u32,
    pub(super) cr2: u32,
    pub(super) cr3: u32,
    pub(super) cr4: u32,
    pub(super) dr6: u32,
    pub(super) dr7: u32,
    pub(super) cs: u32,
    pub(super) ds: u32,
    pub(super) es: u32,
    pub(super) fs: u32,
    pub(super) gs: u32,
    pub(super) ss: u32,
    pub(super) efer: u32,
    pub(super) apic_base: u32,
    reserved: u32,
    /// The limit, and 16 bits of the base.
    pub(super) gdtr: [u32; 2],
    pub(super) idtr: [u32; 2],
}

const FOUND: u64 = 0x800;
const STARTS: u64 = 0x880;
const COMMAND: u64 = 0x884;
const HEARTBEAT: u64 = 0x888;
const SPACE: u64 = 0x88c;
const ENTRY: u64 = 0x890;
const GDT_POINTER: u64 = 0x898;
const GDT: u64 = 0x8a0;

unsafe extern "C" {
    static ap_page: u8;
    static ap_page_end: u8;
    static ap_stubs: u8;
    static mut ap_idt_pointer: [u8; 16];
    static ap_counts: [u32; 256];
    static ap_time: u64;
    static ap_ready: u32;
    static ap_heartbeat: u32;
    static mut ap_command: u32;
    static ap_times: u32;
    static mut ap_times_wanted: u32;
    static mut ap_nmi_stays: u32;
    fn ap_long();
}

static IDT: Single<[u64; 512]> = Single::new([0; 512]);

fn base(page: u8) -> u64 {
    u64::from(page) << 12
}

/// Reads a variable that the other processor writes.
fn look<T: Copy>(variable: *const T) -> T {
    // SAFETY: only the addresses of the statics above come here.
    unsafe { variable.read_volatile() }
}

/// Puts the code into its pages, and makes what it needs in 64-bit mode.
pub(super) fn prepare() {
    let (start, end) = (&raw const ap_page, &raw const ap_page_end);
    let length = end as usize - start as usize;
    assert!(length <= FOUND as usize);
    for page in PAGES {
        let to = base(page);
        // SAFETY: both are RAM, of which the second is nobody's.
        unsafe {
            core::ptr::write_bytes(to as *mut u8, 0, 4096);
            core::ptr::copy_nonoverlapping(start, to as *mut u8, length);
        }
        poke_32(to + SPACE, read_cr3() as u32);
        poke_32(to + ENTRY, ap_long as *const () as u32);
        let gdt = [0u64, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
        for (index, entry) in gdt.into_iter().enumerate() {
            let at = to + GDT + index as u64 * 8;
            poke_32(at, entry as u32);
            poke_32(at + 4, (entry >> 32) as u32);
        }
        let linear = (to + GDT) as u32;
        poke_32(to + GDT_POINTER, 23 | linear << 16);
        poke_32(to + GDT_POINTER + 4, linear >> 16);
    }
    for vector in 0..256u64 {
        let handler = &raw const ap_stubs as u64 + vector * 16;
        // SAFETY: the other processor does not run yet.
        unsafe {
            (*IDT.get())[vector as usize * 2] =
                gate_descriptor(kind::INTERRUPT_GATE, KERNEL_CODE, handler);
            (*IDT.get())[vector as usize * 2 + 1] = handler >> 32;
        }
    }
    let pointer = IDT.get() as u64;
    // SAFETY: as above; the limit and the base, as LIDT reads them.
    unsafe {
        let at = &raw mut ap_idt_pointer as *mut u8;
        at.cast::<u16>().write_unaligned(4095);
        at.add(2).cast::<u64>().write_unaligned(pointer);
    }
}

/// The other processor's APIC ID: the two have 0 and 1.
pub(super) fn id() -> u32 {
    apic::id() ^ 1
}

/// INIT, and the time that the other processor needs for it.
pub(super) fn init() {
    apic::send(ASSERT | 5 << 8, id());
    pass(20_000);
}

/// A start-up IPI to a page.
pub(super) fn start_up(page: u8) {
    apic::send(ASSERT | 6 << 8 | u32::from(page), id());
}

/// INIT and a start-up IPI; true if it started within a while.
pub(super) fn start(page: u8) -> bool {
    tell_real(page, RealCommand::Run);
    let before = starts(page);
    init();
    start_up(page);
    wait(|| starts(page) != before)
}

/// How often it has started at a page.
pub(super) fn starts(page: u8) -> u32 {
    peek_32(base(page) + STARTS)
}

/// What it found the last time it started there.
pub(super) fn found(page: u8) -> Found {
    // SAFETY: the page is RAM, and any bits are valid for the structure.
    unsafe { ((base(page) + FOUND) as *const Found).read_volatile() }
}

/// Tells it what to do in real mode.
pub(super) fn tell_real(page: u8, command: RealCommand) {
    poke_32(base(page) + COMMAND, command as u32);
}

/// Tells it what to do in 64-bit mode.
pub(super) fn tell(command: LongCommand) {
    // SAFETY: the other processor only reads it.
    unsafe { (&raw mut ap_command).write_volatile(command as u32) };
}

/// Whether an NMI never returns.
pub(super) fn keep_in_nmi(stays: bool) {
    // SAFETY: as above.
    unsafe { (&raw mut ap_nmi_stays).write_volatile(u32::from(stays)) };
}

/// Starts it anew and brings it to 64-bit mode, where it does this.
pub(super) fn start_long(command: LongCommand) -> bool {
    keep_in_nmi(false);
    tell(command);
    let before = look(&raw const ap_ready);
    if !start(PAGES[0]) {
        return false;
    }
    tell_real(PAGES[0], RealCommand::Long);
    wait(|| look(&raw const ap_ready) != before)
}

/// How many interrupts of a vector it took, ever.
pub(super) fn count(vector: u8) -> u32 {
    let counts = (&raw const ap_counts).cast::<u32>();
    look(counts.wrapping_add(usize::from(vector)))
}

/// Whether its heart beats: in real mode at a page, or in 64-bit mode.
pub(super) fn is_alive(page: Option<u8>) -> bool {
    let heart = || match page {
        Some(page) => peek_32(base(page) + HEARTBEAT),
        None => look(&raw const ap_heartbeat),
    };
    let before = heart();
    wait_for(|| heart() != before, 60_000)
}

/// Its TSC at some time between the call and the return.
pub(super) fn time() -> Option<u64> {
    let before = look(&raw const ap_times);
    // SAFETY: the other processor only reads it.
    unsafe { (&raw mut ap_times_wanted).write_volatile(before + 1) };
    wait(|| look(&raw const ap_times) == before + 1).then(|| look(&raw const ap_time))
}

/// Lets some of the TSC's ticks pass.
pub(super) fn pass(ticks: u64) {
    let until = rdtsc() + ticks;
    while rdtsc() < until {
        core::hint::spin_loop();
    }
}

/// Waits until something holds; false if it does not within a while.
pub(super) fn wait(holds: impl Fn() -> bool) -> bool {
    wait_for(holds, 100_000_000)
}

fn wait_for(holds: impl Fn() -> bool, ticks: u64) -> bool {
    let until = rdtsc() + ticks;
    while rdtsc() < until {
        if holds() {
            return true;
        }
        core::hint::spin_loop();
    }
    holds()
}
