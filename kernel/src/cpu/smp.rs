//! Starts the other CPUs: INIT, then start-up IPIs (SDM vol. 3, Multiple-Processor Initialization).
//!
//! A CPU starts in real mode in a page below 1 MiB, the trampoline. It goes straight to 64-bit mode, in an
//! address space that has the trampoline where it lies beside everything that the hypervisor has, looks for
//! its own [`StartPlace`] by its APIC ID, takes its stack there and arrives in [`arrive`]. A CPU that does not
//! come up in time is reported and left out. Should it start late, it disturbs nobody: the trampoline and all
//! that its first steps need are kept where one was late, its place is nobody else's, and it halts.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use alloc::boxed::Box;
use arch::msr::IA32_TSC_ADJUST;
use host::{StartPlace, TscCheck, tsc_check};
use memory::PageSize;
use spin::Mutex;

use super::msr::{read_msr, write_msr};
use super::stack::CpuStacks;
use super::{PcpuId, PerCpu, apic, control, halt_forever, this};
use crate::hw::clock;
use crate::memory::{LowFrame, StartSpace, enter_space};

/// CPUs that can be used.
pub(crate) const MAX_CPUS: usize = 256;
/// Waits of the start-up sequence.
const INIT_US: u64 = 10_000;
const STARTUP_US: u64 = 200;
/// How long a CPU gets to arrive.
const ARRIVAL_US: u64 = 200_000;

/// All CPUs that have come up, by their number. Written by the boot CPU, before the others are released.
static CPUS: [spin::Once<&'static PerCpu>; MAX_CPUS] = [const { spin::Once::new() }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// What the CPUs do once all have come up.
static RELEASED: spin::Once<fn() -> !> = spin::Once::new();
/// Where the CPUs find their stacks, in the order in which they are started.
static PLACES: [StartPlace; MAX_CPUS] = [const { StartPlace::new() }; MAX_CPUS];
/// What else they need, in the same order.
static ARRIVALS: [spin::Once<Arrival>; MAX_CPUS] = [const { spin::Once::new() }; MAX_CPUS];

#[derive(Clone, Copy)]
struct Arrival {
    cpu: &'static PerCpu,
    stacks: CpuStacks,
}

/// The parameters behind the trampoline's code, the same for all CPUs.
#[repr(C)]
struct Parameters {
    /// Puts the base of the GDT at a multiple of 4.
    padding: u16,
    gdt_limit: u16,
    gdt_base: u32,
    root: u32,
    reserved: u32,
    gdt: [u64; 2],
    places: u64,
    entry: u64,
}

/// Where the parameters are in the page; the code is shorter.
const PARAMETERS: usize = 256;

/// A flat 64-bit code segment.
const CODE_64: u64 = 0x00af_9b00_0000_ffff;

global_asm!(
    // Step 1: real mode, at the start of a page; CS is the page, everything else unknown. Uses and changes
    // all registers.
    ".pushsection .rodata",
    ".balign 16",
    ".code16",
    "trampoline_start:",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    // The base has 24 bits here, which is enough below 1 MiB.
    "lgdt [{gdt_limit}]",
    // Step 2: paging structures, PAE, then long mode and NX, then paging and protection at once: 64-bit
    // mode begins with the far jump.
    "mov eax, {cr4}",
    "mov cr4, eax",
    "mov eax, [{root}]",
    "mov cr3, eax",
    "mov ecx, {efer_index}",
    "xor edx, edx",
    "mov eax, {efer}",
    "wrmsr",
    "mov eax, {cr0}",
    "mov cr0, eax",
    // A far jump with its target in the instruction, written by `prepare`: data cannot be relied on between
    // the modes.
    ".byte 0x66, 0xea",
    "trampoline_target: .long 0",
    ".short 8",
    ".code64",
    "trampoline_64:",
    // Step 3: 64-bit mode. The segment registers still hold real-mode values, which nothing uses; there is
    // no stack. The own APIC ID, from leaf 0BH where there is one, else eight bits of it from leaf 1.
    "xor eax, eax",
    "cpuid",
    "cmp eax, 0xb",
    "jb 3f",
    "mov eax, 0xb",
    "xor ecx, ecx",
    "cpuid",
    "mov esi, edx",
    "test ebx, ebx",
    "jnz 4f",
    "3: mov eax, 1",
    "cpuid",
    "shr ebx, 24",
    "mov esi, ebx",
    // Step 4: the own place, by its number, and the stack there. Who finds none was not called, or was given up.
    "4: mov r8, [rip + trampoline_parameters + {places}]",
    "xor edi, edi",
    "5: cmp [r8 + {place_apic_id}], esi",
    "je 6f",
    "add r8, {place_bytes}",
    "inc edi",
    "cmp edi, {place_count}",
    "jb 5b",
    "jmp 2f",
    "6: xor ebx, ebx",
    "xchg rbx, [r8 + {place_stack_top}]",
    "test rbx, rbx",
    "jz 2f",
    "mov rsp, rbx",
    "xor ebp, ebp",
    "call [rip + trampoline_parameters + {entry}]",
    "2: cli",
    "hlt",
    "jmp 2b",
    ".org trampoline_start + {parameters}",
    "trampoline_parameters:",
    ".zero {parameter_bytes}",
    "trampoline_end:",
    ".popsection",
    parameters = const PARAMETERS,
    // Offsets from the start of the page, which is the base of CS and DS.
    gdt_limit = const PARAMETERS + offset_of!(Parameters, gdt_limit),
    root = const PARAMETERS + offset_of!(Parameters, root),
    places = const offset_of!(Parameters, places),
    place_apic_id = const StartPlace::APIC_ID,
    place_stack_top = const StartPlace::STACK_TOP,
    place_bytes = const size_of::<StartPlace>(),
    place_count = const MAX_CPUS,
    entry = const offset_of!(Parameters, entry),
    parameter_bytes = const size_of::<Parameters>(),
    cr4 = const arch::Cr4::PAE.bits(),
    efer_index = const arch::msr::IA32_EFER,
    efer = const arch::Efer::LME.union(arch::Efer::NXE).bits(),
    cr0 = const arch::Cr0::PE.union(arch::Cr0::PG).union(arch::Cr0::WP).union(arch::Cr0::ET).union(arch::Cr0::NE).bits(),
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_target: u8;
    static trampoline_64: u8;
    static trampoline_end: u8;
}

/// The trampoline in its page, for as long as CPUs are started.
struct Trampoline {
    page: LowFrame,
    space: StartSpace,
}

impl Trampoline {
    fn new() -> Option<Self> {
        let page = LowFrame::new()?;
        let space = StartSpace::new(page.address())?;
        let start = &raw const trampoline_start;
        let bytes = &raw const trampoline_end as usize - start as usize;
        // SAFETY: the two symbols enclose the code and the parameters above.
        page.write(0, unsafe { core::slice::from_raw_parts(start, bytes) });
        let trampoline = Self { page, space };
        trampoline.set_parameters();
        Some(trampoline)
    }

    fn set_parameters(&self) {
        let start = &raw const trampoline_start as usize;
        let page = self.page.address().as_u64() as u32;
        let gdt = page + (PARAMETERS + offset_of!(Parameters, gdt)) as u32;
        let values = Parameters {
            padding: 0,
            gdt_limit: (size_of::<[u64; 2]>() - 1) as u16,
            gdt_base: gdt,
            root: self.space.root().as_u64() as u32,
            reserved: 0,
            gdt: [0, CODE_64],
            places: PLACES.as_ptr() as u64,
            entry: arrive as *const () as u64,
        };
        // SAFETY: all bytes of the value belong to fields, so it may be looked at as bytes.
        let bytes = unsafe {
            core::slice::from_raw_parts((&raw const values).cast::<u8>(), size_of::<Parameters>())
        };
        self.page.write(PARAMETERS, bytes);
        let target = page + (&raw const trampoline_64 as usize - start) as u32;
        self.page.write(
            &raw const trampoline_target as usize - start,
            &target.to_le_bytes(),
        );
    }
}

/// Enters the boot CPU into the list.
pub(crate) fn init() {
    CPUS[0].call_once(this);
    COUNT.store(1, Ordering::Release);
    this().set_online();
}

/// The CPUs that are up, in the order of their numbers.
pub(crate) fn cpus() -> impl Iterator<Item = &'static PerCpu> {
    CPUS.iter()
        .take(COUNT.load(Ordering::Acquire))
        .filter_map(|cpu| cpu.get().copied())
}

/// The CPU with this number.
pub(crate) fn cpu(id: PcpuId) -> Option<&'static PerCpu> {
    CPUS.get(id.index()).and_then(|cpu| cpu.get().copied())
}

/// Starts all CPUs that the firmware lists, and reports those that do not come up.
pub(crate) fn start_others(apic_ids: &[u32]) {
    let others = apic_ids
        .iter()
        .copied()
        .filter(|&apic_id| apic_id != this().apic_id());
    if others.clone().next().is_none() {
        return;
    }
    if let Some(adjust) = tsc_adjust() {
        BOOT_TSC_ADJUST.store(adjust, Ordering::Relaxed);
    }
    let Some(trampoline) = Trampoline::new() else {
        log::error!("no memory below 1 MiB to start other CPUs: only this one is used");
        return;
    };
    let mut is_one_late = false;
    for (number, apic_id) in others.enumerate() {
        let count = COUNT.load(Ordering::Relaxed);
        if count == MAX_CPUS || number == MAX_CPUS {
            log::warn!(
                "more than {MAX_CPUS} CPUs: the one with APIC ID {apic_id} and what follows is not used"
            );
            break;
        }
        if !apic::can_reach(apic_id) {
            log::warn!(
                "the CPU with APIC ID {apic_id} is left out: it can be reached in x2APIC mode only"
            );
            continue;
        }
        let Some(stacks) = CpuStacks::new() else {
            log::error!("no memory for the stacks of the CPU with APIC ID {apic_id}");
            break;
        };
        let cpu: &'static PerCpu = Box::leak(Box::new(PerCpu::new(PcpuId(count as u32))));
        if start(&trampoline, number, apic_id, Arrival { cpu, stacks }) {
            let apart = TSC_CHECK.lock().apart();
            if apart > 0 {
                log::warn!(
                    "the TSCs of CPU {} and CPU 0 differ by {} ns or more: guests on both may see time jump",
                    cpu.id(),
                    clock::ticks_to_ns(apart)
                );
            }
            CPUS[count].call_once(|| cpu);
            COUNT.store(count + 1, Ordering::Release);
        } else {
            log::warn!("the CPU with APIC ID {apic_id} does not come up and is left out");
            is_one_late = true;
        }
    }
    if is_one_late {
        // It may be there, or come there, at any time.
        log::info!("the page that CPUs start in is kept for one that starts late");
        core::mem::forget(trampoline);
    }
    log::info!(
        "{} of {} CPUs are up",
        COUNT.load(Ordering::Relaxed),
        apic_ids.len()
    );
}

/// Starts one CPU and waits for it. Nobody was started by this number before.
fn start(trampoline: &Trampoline, number: usize, apic_id: u32, arrival: Arrival) -> bool {
    let page_number = (trampoline.page.address().as_u64() >> PageSize::Size4K.shift()) as u8;
    let place = &PLACES[number];
    ARRIVALS[number].call_once(|| arrival);
    place.offer(apic_id, arrival.stacks.main.top().as_u64());
    apic::send_init(apic_id);
    clock::delay_us(INIT_US);
    for _ in 0..2 {
        apic::send_startup(apic_id, page_number);
        if wait_for(arrival.cpu, STARTUP_US) {
            return true;
        }
    }
    if wait_for(arrival.cpu, ARRIVAL_US) {
        return true;
    }
    if place.give_up() {
        // Wherever it is, it waits for a start-up IPI again.
        apic::send_init(apic_id);
        return false;
    }
    // It has come in at the very end, and says so next.
    while !arrival.cpu.is_online() {
        core::hint::spin_loop();
    }
    true
}

fn wait_for(cpu: &PerCpu, us: u64) -> bool {
    let end = clock::now_ns() + us * 1000;
    while !cpu.is_online() {
        // Meanwhile the other one compares, too.
        compare_tsc();
        if clock::now_ns() >= end {
            return false;
        }
    }
    true
}

/// What the boot CPU and the one that starts have read of their time-stamp counters.
static TSC_CHECK: Mutex<TscCheck> = Mutex::new(TscCheck::new());
/// Readings of the CPU that starts.
const TSC_READINGS: u32 = 300;

fn compare_tsc() {
    let mut check = TSC_CHECK.lock();
    check.observe(clock::tsc());
}

/// Compares, on the CPU that starts; returns by how much the counters differ at least.
fn compare_tsc_anew() -> u64 {
    *TSC_CHECK.lock() = TscCheck::new();
    for _ in 0..TSC_READINGS {
        compare_tsc();
    }
    TSC_CHECK.lock().apart()
}

/// IA32_TSC_ADJUST of the boot CPU, which writes it before it starts the others; `u64::MAX` where there is none.
static BOOT_TSC_ADJUST: AtomicU64 = AtomicU64::new(u64::MAX);

/// What has been added to this CPU's time-stamp counter since its reset, by firmware or whoever was here before us;
/// CPUID.7.EBX\[1\].
fn tsc_adjust() -> Option<u64> {
    raw_cpuid::CpuId::with_cpuid_reader(raw_cpuid::CpuIdReaderNative)
        .get_extended_feature_info()
        .is_some_and(|features| features.has_tsc_adjust_msr())
        .then(|| read_msr(IA32_TSC_ADJUST))
}

/// Compares this CPU's counter with that of the boot CPU, which compares as well, and brings the two together where that
/// can be: vCPUs move between them. What remains stands in [`TSC_CHECK`].
fn agree_on_tsc() {
    let apart = compare_tsc_anew();
    let boot = match BOOT_TSC_ADJUST.load(Ordering::Relaxed) {
        u64::MAX => None,
        value => Some(value),
    };
    let here = tsc_adjust();
    let Some(value) = tsc_check::adjustment(apart, here, boot) else {
        return;
    };
    // SAFETY: the register is there, and nothing else has looked at this CPU's counter yet.
    unsafe { write_msr(IA32_TSC_ADJUST, value) };
    if compare_tsc_anew() > apart {
        // SAFETY: as above, and it held this value before.
        unsafe { write_msr(IA32_TSC_ADJUST, here.unwrap_or(value)) };
        compare_tsc_anew();
    }
}

/// Where a CPU arrives that was started by this number, in 64-bit mode, on its stack, with nothing else set up.
extern "C" fn arrive(number: u32) -> ! {
    let number = number as usize;
    let Some(&Arrival { cpu, stacks }) = ARRIVALS[number].get() else {
        halt_forever()
    };
    // SAFETY: this CPU runs on its own new stack and has used none of this before; interrupts are off.
    unsafe {
        cpu.install();
        enter_space();
        control::init_this_cpu();
        cpu.set_stacks(stacks);
        apic::init_this_cpu();
    }
    super::machine_check::enable_here();
    agree_on_tsc();
    if !PLACES[number].come_in() {
        halt_forever();
    }
    cpu.set_online();
    wait_for_release()
}

/// Halts until all CPUs are to go to work.
fn wait_for_release() -> ! {
    loop {
        if let Some(work) = RELEASED.get() {
            work();
        }
        // Interrupts are off until the very HLT, so that no kick falls between the look and the wait.
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
    }
}

/// Lets all other CPUs go to work, which is to call `work`.
pub(crate) fn release(work: fn() -> !) {
    RELEASED.call_once(|| work);
    for cpu in cpus().filter(|cpu| cpu.id() != this().id()) {
        apic::send(cpu.apic_id(), super::interrupts::HostVector::Kick);
    }
}
