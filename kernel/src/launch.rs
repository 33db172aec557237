//! From the bundle to running machines: memory, kernel, board and vCPUs of each VM in it.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use arch::{Gpr, SegmentName, msr};
use bundle::{Bundle, FileIndex, KernelFormat, Screen, TestDevices, VmConfig};
use host::Tail;
use machine::devices::FirmwareFiles;
use machine::devices::lapic::{ApicPage, Lapic, LapicConfig, LapicFeatures, Role};
use machine::devices::routing::RoutingTable;
use machine::firmware::Firmware;
use machine::layout::{self, MachineLayout};
use machine::loader::{self, Format, InitialState, LoadError, Module, Request};
use machine::{BoardConfig, Display, TestBoard};
use memory::{GuestPhys, Range};
use spin::Mutex;
use vmm::cpuid::{CpuidTable, GuestCpuConfig};
use vmm::inject::Delivery;
use vmm::machine::Machine as _;
use vmm::mtrr::Mtrrs;
use vmm::scheduler::{Account, Cap, CpuSet, Share, Weight};
use vmm::tsc::{self, GuestTsc, Rate};
use vmm::{Cpu, VcpuState, paravirt};

use crate::backend::{Backend, OutOfFrames, PauseLoops, VcpuSetup};
use crate::cpu::features::cpuid;
use crate::cpu::msr::try_read_msr;
use crate::crew::{Contention, Member, Seating};
use crate::hw::clock;
use crate::hw::console::GuestStyle;
use crate::memory::{DirtyRam, GuestRam, NotEnoughMemory, admit, used_bytes};
use crate::vcpu::Vcpu;
use crate::vm::{Vm, VmId, VmParts, VmPort};

/// Why a VM of the bundle cannot start. Each is one line for the operator.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// One of its files is damaged.
    File(String),
    /// Its kernel cannot be loaded.
    Load(LoadError),
    /// The machine has less memory than it wants.
    Memory(NotEnoughMemory),
    /// No frame is left for its page tables and control structures.
    OutOfFrames,
    /// It wants something that this hypervisor cannot do.
    Unsupported(String),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::OutOfFrames => f.write_str(
                "no memory left for its page tables; give the machine more memory or the guests less",
            ),
            Self::Unsupported(what) => f.write_str(what),
        }
    }
}

impl From<tsc::Unreachable> for LaunchError {
    fn from(error: tsc::Unreachable) -> Self {
        Self::Unsupported(error.to_string())
    }
}

impl From<OutOfFrames> for LaunchError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl From<LoadError> for LaunchError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

/// The local APIC timer's clock as guests see it: 1 GHz, which makes its counts nanoseconds, unless the processor
/// itself is slower, as an emulated one is: its timers must not outrun it.
fn apic_bus_hz() -> u32 {
    const GHZ: u32 = 1_000_000_000;
    u32::try_from(clock::tsc_hz()).map_or(GHZ, |tsc_hz| tsc_hz.min(GHZ))
}

/// The most vCPUs of a VM: xAPIC IDs have 8 bits, and 255 means all.
const MAX_CPUS: u8 = u8::MAX;

/// A VM and its vCPUs.
pub(crate) type Machine<B> = (Arc<Vm<B>>, Vec<Member<B>>);

/// What a VM is made from.
pub(crate) struct Plan<'a> {
    pub(crate) id: VmId,
    pub(crate) config: &'a VmConfig,
    /// Where its vCPUs may run.
    pub(crate) seatings: &'a [Seating],
    /// Whether they may have to wait for a CPU.
    pub(crate) contention: Contention,
    pub(crate) firmware: &'a Firmware,
    /// What takes the last of its console.
    pub(crate) tail: &'a Arc<Mutex<Tail>>,
}

fn layout_of(config: &VmConfig) -> MachineLayout {
    MachineLayout::new(config.memory_bytes, config.cpus)
}

/// Takes the memory of the machine that `config` describes.
///
/// # Errors
/// [`LaunchError`]; nothing is allocated then.
pub(crate) fn memory<B: Backend>(backend: &B, config: &VmConfig) -> Result<DirtyRam, LaunchError> {
    let layout = layout_of(config);
    let ranges = [layout.low_ram(), layout.high_ram()];
    let beside_bytes = beside_bytes(backend, config, ranges.iter().copied());
    DirtyRam::allocate(&ranges, beside_bytes).map_err(LaunchError::Memory)
}

/// The most that a machine takes beside its RAM once it is made. That is looked for before anything is made of it:
/// what the hypervisor allocates while it makes a machine may fail only here.
fn beside_bytes<B: Backend>(
    backend: &B,
    config: &VmConfig,
    pieces: impl Iterator<Item = Range<GuestPhys>> + Clone,
) -> u64 {
    /// What it has once: the board, the mailboxes, names, and what its parts lose to the heap's bookkeeping.
    const VM_BYTES: u64 = 64 << 10;
    /// The answers of CPUID, and its places in queues, which grow by doubling.
    const VCPU_BYTES: u64 = 8 << 10;
    // A page is aligned to its size.
    let lapic = 2 * size_of::<ApicPage>();
    let vcpu = size_of::<Vcpu<B>>() + size_of::<Member<B>>() * 6 + lapic;
    let vcpu_bytes = backend.vcpu_bytes() + VCPU_BYTES + vcpu as u64;
    VM_BYTES
        + size_of::<Vm<B>>() as u64
        + u64::from(config.cpus) * vcpu_bytes
        + backend.address_space_bytes(pieces)
        + GuestRam::books_bytes(config.memory_bytes)
}

/// Makes the machine that the plan describes in its memory: that filled, its vCPUs ready for their first turn.
///
/// # Errors
/// [`LaunchError`]; all that was allocated for it, the memory too, is free again.
pub(crate) fn vm<B: Backend>(
    backend: &B,
    plan: &Plan<'_>,
    bundle: &Bundle<'_>,
    ram: GuestRam,
) -> Result<Machine<B>, LaunchError> {
    let config = plan.config;
    let file = |index: FileIndex| {
        let file = bundle
            .file(index)
            .map_err(|error| LaunchError::File(error.to_string()))?;
        file.contents()
            .map_err(|error| LaunchError::File(error.to_string()))
    };
    let kernel = file(config.kernel)?;
    let initrd = config.initrd.map(file).transpose()?;
    let modules: Vec<_> = config
        .modules
        .iter()
        .map(|module| Ok((file(module.file)?, module.cmdline.as_str())))
        .collect::<Result<_, LaunchError>>()?;
    let modules: Vec<_> = modules
        .iter()
        .map(|(bytes, cmdline)| Module { bytes, cmdline })
        .collect();
    let format = wanted_format(config.kernel_format);
    // Files that had to be unpacked lie in the heap by now, and the memory may be in smaller pieces than it could be.
    let beside_bytes = beside_bytes(backend, config, ram.pieces().map(|(guest, _)| guest));
    admit(beside_bytes).map_err(LaunchError::Memory)?;
    let used_before = used_bytes();

    let cpus = u8::try_from(config.cpus).map_err(|_| too_many_cpus())?;
    if cpus == 0 {
        return Err(too_many_cpus());
    }
    let rate = Rate::choose(
        config.tsc_hz,
        clock::tsc_hz(),
        backend.guest_features().tsc_scaling,
    )?;
    let layout = layout_of(config);
    let display = match config.screen {
        Screen::None => Display::Absent,
        Screen::Text => Display::Vga,
    };
    let rsdp = plan
        .firmware
        .install(&layout, display, &ram)
        .map_err(|error| LaunchError::Unsupported(error.to_string()))?;
    let loaded = loader::load(
        &Request {
            kernel: &kernel,
            format,
            initrd: initrd.as_deref(),
            modules: &modules,
            cmdline: &config.cmdline,
            layout,
            rsdp: Some(rsdp),
            display,
        },
        &ram,
    )?;
    let space = backend.address_space(&ram)?;
    let board = BoardConfig {
        layout,
        epoch_s: clock::date_ns() / 1_000_000_000,
        display,
        handover: loaded.handover,
        test_board: match config.test_devices {
            TestDevices::Absent => TestBoard::Absent,
            TestDevices::Present => TestBoard::Present(FirmwareFiles {
                kernel: copy(&kernel)?,
                initrd: copy(initrd.as_deref().unwrap_or_default())?,
                cmdline: config.cmdline.as_str().into(),
                placement: loaded.placement,
            }),
        },
    };
    let ids: Vec<u32> = (0..u32::from(cpus)).collect();
    let routing = RoutingTable::new(&ids).ok_or_else(too_many_cpus)?;
    let vm = Arc::new(Vm::new(VmParts {
        id: plan.id,
        name: config.name.clone(),
        ram,
        space,
        board,
        routing,
        console: console_style(config),
        tail: Arc::clone(plan.tail),
        posts: (0..cpus).map(|_| backend.posts()).collect(),
        on_panic: config.on_panic,
    }));
    // A BIOS leaves the timer running: from now on it is looked after.
    vm.expire_board();
    // A VM's weight and cap are those of all its vCPUs together, but for those that own their CPU.
    let weight = Weight::new(config.weight);
    let account = (cpus > 1).then(|| Arc::new(Account::new(weight)));
    let cap = config
        .cap_percent
        .map(|percent| Arc::new(Cap::percent(percent)));
    let delivery = backend.guest_features().delivery;
    let paravirt = paravirt_features(delivery, plan.contention);
    let vcpus = (0..cpus)
        .map(|index| {
            let seating = plan.seatings.get(usize::from(index)).copied();
            let seating = seating.unwrap_or(Seating::Shared(CpuSet::EMPTY));
            let vcpu = vcpu(backend, &vm, index, seating, rate, paravirt, &loaded.state)?;
            let share = match (&account, seating) {
                (Some(account), Seating::Shared(_)) => Share::of_several(account, cap.clone()),
                (None, _) | (_, Seating::Owner(_)) => Share::new(weight, cap.clone()),
            };
            Ok((vcpu, share))
        })
        .collect::<Result<_, LaunchError>>()?;
    let taken_bytes = used_bytes().saturating_sub(used_before);
    let copies_bytes = match config.test_devices {
        TestDevices::Absent => 0,
        TestDevices::Present => kernel.len() + initrd.as_deref().map_or(0, <[u8]>::len),
    };
    if taken_bytes > beside_bytes + copies_bytes as u64 {
        log::error!(
            target: "vm",
            "{} has taken {taken_bytes} bytes where {beside_bytes} were counted: this is a bug in Plinth",
            config.name
        );
    }
    log::info!(
        target: "vm",
        "{}: {} MiB, {:?} kernel of {} KiB, {} KiB of ours",
        config.name,
        layout.ram_bytes() >> 20,
        loaded.format,
        kernel.len().div_ceil(1024),
        taken_bytes.div_ceil(1024),
    );
    Ok((vm, vcpus))
}

/// A file for the guest to read by fw_cfg, as long as the VM lives.
fn copy(file: &[u8]) -> Result<Arc<Vec<u8>>, LaunchError> {
    let mut bytes = Vec::new();
    if bytes.try_reserve_exact(file.len()).is_err() {
        return Err(LaunchError::Unsupported(format!(
            "no memory for {} bytes that its test devices are to show; give the machine more memory or the guests less",
            file.len()
        )));
    }
    bytes.extend_from_slice(file);
    Ok(Arc::new(bytes))
}

fn too_many_cpus() -> LaunchError {
    LaunchError::Unsupported(format!("a machine has 1 to {MAX_CPUS} CPUs"))
}

/// How the console of a machine appears.
pub(crate) const fn console_style(config: &VmConfig) -> GuestStyle {
    match (config.console, config.screen) {
        (bundle::Console::None, _) => GuestStyle::Silent,
        // Below the picture of its screen, the guest's serial port must not move the cursor.
        (bundle::Console::Shared, _) | (bundle::Console::Terminal, Screen::Text) => {
            GuestStyle::Named
        }
        (bundle::Console::Terminal, Screen::None) => GuestStyle::Raw,
    }
}

const fn wanted_format(format: KernelFormat) -> Option<Format> {
    match format {
        KernelFormat::Auto => None,
        KernelFormat::Linux => Some(Format::Linux),
        KernelFormat::Elf => Some(Format::Elf),
        KernelFormat::Multiboot => Some(Format::Multiboot),
        KernelFormat::Multiboot2 => Some(Format::Multiboot2),
        KernelFormat::Pvh => Some(Format::Pvh),
        KernelFormat::Flat { address } => Some(Format::Flat {
            address: GuestPhys::new(address as u64),
        }),
    }
}

/// One vCPU after power-on; the first one at the kernel's first instruction.
fn vcpu<B: Backend>(
    backend: &B,
    vm: &Arc<Vm<B>>,
    index: u8,
    seating: Seating,
    rate: Rate,
    paravirt: paravirt::Features,
    state: &InitialState,
) -> Result<Box<Vcpu<B>>, LaunchError> {
    let offered = backend.guest_features();
    let told = CpuidTable::build(
        &|leaf, subleaf| cpuid(leaf, subleaf, offered.pkru_offset),
        &GuestCpuConfig {
            vcpus: u32::from(vm.vcpus()),
            apic_id: u32::from(index),
            tsc_hz: rate.hz,
            crystal_hz: apic_bus_hz(),
            xcr0: offered.xcr0,
            backing: offered.backing,
            paravirt,
        },
    );
    let mut lapic = Lapic::new(LapicConfig {
        id: u32::from(index),
        role: if index == 0 {
            Role::Bootstrap
        } else {
            Role::Application
        },
        features: LapicFeatures::all(),
        bus_hz: apic_bus_hz(),
        physical_address_bits: told.physical_address_bits(),
    });
    if index == 0 {
        lapic.set_virtual_wire();
    }
    let setup = VcpuSetup {
        tsc: GuestTsc::new(rate.multiplier, vm.origin_tsc()),
        apic_page: Arc::clone(lapic.page()),
        cr4_allowed: told.allowed_cr4(),
        pause_loops: match seating {
            Seating::Owner(_) => PauseLoops::GoOn,
            Seating::Shared(_) => PauseLoops::Exit,
        },
    };
    let mut vcpu = backend.vcpu(vm.space(), &setup, vm.mailbox(index).direct())?;
    if index == 0 {
        enter_at(&mut backend.load(&mut vcpu), state);
        backend.unload(&mut vcpu);
    }
    VmPort { vm, vcpu: index }.reroute(lapic.route());
    let mtrrs = Mtrrs::as_firmware_leaves(&[layout::DEVICES], told.physical_address_bits());
    let mut state = VcpuState::new(told, lapic);
    state.msrs.mtrrs = mtrrs;
    state.msrs.microcode = try_read_msr(msr::IA32_BIOS_SIGN_ID).unwrap_or(0);
    state.msrs.arch_capabilities = offered.capabilities.bits();
    state.msrs.platform_id = try_read_msr(msr::IA32_PLATFORM_ID).unwrap_or(0);
    Ok(Box::new(Vcpu::new(
        Arc::clone(vm),
        index,
        seating,
        vcpu,
        state,
    )))
}

/// Hardware that ends interrupts by itself has to see each end. And where no vCPU ever waits, its TSC is all the clock
/// that a guest needs: Linux would take the other one for its scheduling, which costs it more instructions each time,
/// and ask for the stolen time as well.
fn paravirt_features(delivery: Delivery, contention: Contention) -> paravirt::Features {
    let mut features = paravirt::Features::all();
    if delivery == Delivery::Hardware {
        features.remove(paravirt::Features::PV_EOI);
    }
    if contention == Contention::None {
        features.remove(paravirt::Features::OF_WAITING);
    }
    features
}

/// Puts the registers of a loaded kernel's first instruction into a CPU.
fn enter_at(cpu: &mut impl Cpu, state: &InitialState) {
    for register in Gpr::ALL {
        cpu.set_gpr(register, state.gprs.get(register));
    }
    for name in SegmentName::ALL {
        cpu.set_segment(name, state.segment(name));
    }
    cpu.set_rip(state.rip);
    cpu.set_rflags(state.rflags);
    cpu.set_gdtr(state.gdtr);
    cpu.set_idtr(state.idtr);
    cpu.set_cr3(state.cr3);
    cpu.set_cr4(state.cr4);
    cpu.set_cr0(state.cr0);
    cpu.set_efer(state.efer);
}
