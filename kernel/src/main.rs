//! Plinth's entry point. From top to bottom, this is the order in which the machine is brought up.
#![no_std]
#![no_main]

extern crate alloc;

mod backend;
mod cpu;
mod crash;
mod crew;
mod desk;
mod doorbell;
mod hw;
mod keeper;
mod launch;
mod log;
mod memory;
mod panic;
mod pcpu;
mod startup;
mod supervisor;
mod vcpu;
mod viewer;
mod vm;

use ::memory::{HostPhys, HostVirt};
use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::{BootInfo, entry_point};
use host::frequency::Evidence;
use spin::Once;

use crate::cpu::interrupts::HostVector;
use crate::hw::bundle::{BundleMemory, NoBundle};
use crate::hw::{acpi, clock, console, io_apic, pic, power, rtc};
use crate::memory::FrameBufferMapping;
use crate::startup::Phase;

/// The ISA interrupt of a PC's first serial port.
const SERIAL_IRQ: u8 = 4;

/// What the boot loader is asked for.
static BOOT_LOADER: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::FixedAddress(memory::DIRECT_MAP));
    config.mappings.dynamic_range_start = Some(memory::LOADER_RANGE);
    config.kernel_stack_size = 512 * 1024;
    config
};

entry_point!(main, config = &BOOT_LOADER);

/// What of the boot loader's information is needed after its memory is gone.
struct BootFacts {
    tsc: Evidence,
    rsdp: Option<HostPhys>,
    bundle: Result<BundleMemory, NoBundle>,
}

static FACTS: Once<BootFacts> = Once::new();

/// On the boot loader's ground: its address space, its stack, one CPU. Ends on the hypervisor's own.
fn main(boot_info: &'static mut BootInfo) -> ! {
    startup::begin();
    // Time first, as it counts from here; then what the log needs.
    let evidence = clock::init();
    // SAFETY: this is the boot CPU, and nothing of this has been called before.
    unsafe {
        cpu::init_boot_cpu();
        console::init_serial();
    }
    log::init();
    let frame_buffer = boot_info.framebuffer.as_mut().map(|frame_buffer| {
        let info = frame_buffer.info();
        let start = frame_buffer.buffer_mut().as_mut_ptr();
        // SAFETY: the boot loader has mapped the frame buffer there for us alone, and the hypervisor's own
        // address space has it at the same place.
        unsafe { console::init_screen(start, &info) };
        FrameBufferMapping {
            start: HostVirt::new(start as u64),
            bytes: info.byte_len as u64,
        }
    });
    startup::end(Phase::Console);
    ::log::info!("Plinth {}", env!("CARGO_PKG_VERSION"));

    let mut map = memory::from_boot_info(boot_info);
    memory::reserve_image(&mut map);
    let ramdisk = boot_info.ramdisk_addr.into_option().and_then(|address| {
        let address = HostVirt::new(address);
        memory::translate_loader_address(address).map(|hpa| (address, hpa))
    });
    // SAFETY: the boot loader's information is about the RAM disk that it has mapped, and its address space
    // is in use.
    let bundle = unsafe { BundleMemory::find(&mut map, ramdisk, boot_info.ramdisk_len) };
    let rsdp = boot_info.rsdp_addr.into_option().map(HostPhys::new);
    FACTS.call_once(|| BootFacts {
        tsc: evidence,
        rsdp,
        bundle,
    });

    // SAFETY: the map reserves the image and the bundle, and the boot loader's address space is in use.
    if let Err(error) = unsafe { memory::build(map, frame_buffer) } {
        panic!("this machine has too little memory: {error}");
    }
    let Some(stack) = cpu::prepare_boot_stacks() else {
        panic!("this machine has too little memory for stacks")
    };
    // SAFETY: the stack is new, and everything of the boot loader's that is needed is in `FACTS`.
    unsafe { memory::enter(stack, own_ground) }
}

/// On the hypervisor's own ground: its address space, its stack; soon with all devices and CPUs.
extern "C" fn own_ground() -> ! {
    // SAFETY: called once, by the boot CPU, in the new address space and on the new stack. Nothing of the
    // boot loader's is needed any more.
    unsafe {
        cpu::settle_boot_cpu();
        memory::reclaim_loader_memory();
    }
    let Some(facts) = FACTS.get() else {
        unreachable!("`main` comes first")
    };
    startup::end(Phase::Memory);
    let bundle = supervisor::open(&facts.bundle);
    cpu::features::report();
    cpu::machine_check::enable_here();
    memory::report();

    // SAFETY: the boot loader has found the RSDP, and the direct map is in place.
    let platform = unsafe { acpi::Platform::read(facts.rsdp) };
    power::init(&platform);
    clock::refine(facts.tsc, platform.pm_timer);
    match rtc::read_seconds() {
        Some(seconds) => clock::set_date(seconds),
        None => ::log::warn!("this machine has no real-time clock: guests see the year 1970"),
    }

    if let Err(missing) = cpu::features::check() {
        supervisor::refuse(&missing);
    }

    // SAFETY: called once, with interrupts off and the direct map in place; no device is in use.
    unsafe {
        pic::mask_all();
        cpu::apic::init();
        cpu::apic::init_this_cpu();
    }
    io_apic::mask_all(&platform);
    if io_apic::route_isa(
        &platform,
        SERIAL_IRQ,
        HostVector::Serial,
        cpu::this().apic_id(),
    ) {
        console::enable_interrupts();
    }
    startup::end(Phase::Platform);
    cpu::smp::init();
    cpu::smp::start_others(&platform.madt.apic_ids);
    startup::end(Phase::Cpus);
    // The first decode builds tables on the heap, for which no exit is to wait.
    arch::decode::warm_up();

    panic::set_last_exits(vcpu::write_last_exits);
    supervisor::run(bundle)
}
