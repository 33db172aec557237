//! The hypervisor's own address space, the same on every CPU.
//!
//! [`build`] makes it beside the boot loader's, and [`enter`] switches over. W^X holds for the image,
//! nothing outside it can be executed, and the lower half of the address space is empty.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use arch::paging::{PageFlags, Paging4};
use host::{Kind, MemoryMap};
use memory::table::{Format, TableError};
use memory::{HostPhys, HostVirt, PageSize, Placement, Range, TableMemory, Tables, TlbEffect};
use raw_cpuid::{CpuId, CpuIdReaderNative};
use spin::{Mutex, Once};

use super::{direct_map, frames, reserve, zero_physical};
use crate::cpu::control;

/// Data: never executable, the same in all address spaces.
const DATA: PageFlags = PageFlags::WRITABLE
    .union(PageFlags::NO_EXECUTE)
    .union(PageFlags::GLOBAL);
const CONSTANTS: PageFlags = PageFlags::NO_EXECUTE.union(PageFlags::GLOBAL);
const TEXT: PageFlags = PageFlags::GLOBAL;
/// The PAT entry that `cpu/control.rs` makes write-combining.
const WRITE_COMBINING: PageFlags = PageFlags::with_pat_index(1);
/// Device registers are below this address.
const DEVICES_END: u64 = 1 << 32;
/// Entries of a PML4 table that map the upper half of the address space.
const UPPER_HALF: core::ops::Range<usize> = 256..512;

/// The machine's memory map, from [`build`] on.
static MAP: Once<MemoryMap> = Once::new();
static SPACE: Mutex<Option<Tables<Paging4>>> = Mutex::new(None);
/// The root of the tables, for CPUs that come up.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// Page tables in the direct map, made of frames.
pub(crate) struct TableFrames {
    placement: Placement,
}

impl TableFrames {
    pub(crate) const ANYWHERE: Self = Self {
        placement: Placement::Anywhere,
    };

    fn entry(table: HostPhys, index: usize) -> *mut u64 {
        (direct_map(table).as_u64() as *mut u64).wrapping_add(index & 511)
    }
}

impl TableMemory for TableFrames {
    fn read_entry(&self, table: HostPhys, index: usize) -> u64 {
        // SAFETY: tables lie in the direct map, and the index is masked to the page.
        unsafe { Self::entry(table, index).read_volatile() }
    }

    fn write_entry(&mut self, table: HostPhys, index: usize, entry: u64) {
        // SAFETY: as in `read_entry`; x86 keeps the order of stores.
        unsafe { Self::entry(table, index).write_volatile(entry) };
    }

    fn allocate_table(&mut self) -> Option<HostPhys> {
        let size = PageSize::Size4K;
        let table = frames::allocate_run(size.bytes(), size, self.placement)?;
        // SAFETY: the frame was just allocated.
        unsafe { zero_physical(table, size.bytes()) };
        Some(table)
    }

    fn free_table(&mut self, table: HostPhys) {
        frames::free_run(table, PageSize::Size4K.bytes());
    }
}

unsafe extern "C" {
    static image_text_start: u8;
    static image_text_end: u8;
    static image_rodata_start: u8;
    static image_rodata_end: u8;
    static image_data_start: u8;
    static image_data_end: u8;
}

/// The parts of the image and what may be done with each.
fn image() -> [(Range<HostVirt>, PageFlags); 3] {
    let range = |start: *const u8, end: *const u8| Range {
        start: HostVirt::new(start as u64),
        end: HostVirt::new(end as u64),
    };
    [
        (
            range(&raw const image_text_start, &raw const image_text_end),
            TEXT,
        ),
        (
            range(&raw const image_rodata_start, &raw const image_rodata_end),
            CONSTANTS,
        ),
        (
            range(&raw const image_data_start, &raw const image_data_end),
            DATA,
        ),
    ]
}

/// Whether an address is in the hypervisor's code.
pub(crate) fn is_text(address: u64) -> bool {
    image()[0].0.contains(HostVirt::new(address))
}

/// The boot loader's address space, as it is when the hypervisor starts.
struct LoaderSpace(Tables<Paging4>);

impl LoaderSpace {
    /// The tables that are in use now.
    fn current() -> Self {
        Self(Tables::from_root(HostPhys::new(
            control::read_cr3() & !0xfff,
        )))
    }

    /// Where an address leads.
    fn translate(&self, address: HostVirt) -> Option<HostPhys> {
        self.0
            .translate(&TableFrames::ANYWHERE, address.as_u64())
            .map(|translation| translation.address)
    }
}

/// Where an address leads in the address space that the boot loader has made: only before [`enter`].
pub(crate) fn translate_loader_address(address: HostVirt) -> Option<HostPhys> {
    LoaderSpace::current().translate(address)
}

/// The frame buffer, which stays at the address that the boot loader chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameBufferMapping {
    /// Its linear address.
    pub(crate) start: HostVirt,
    /// Its length.
    pub(crate) bytes: u64,
}

/// Keeps the frames of the image out of the frame allocator. The boot loader has scattered them over what
/// it used.
pub(crate) fn reserve_image(map: &mut MemoryMap) {
    let loader = LoaderSpace::current();
    for (range, _) in image() {
        for page in pages(range) {
            let frame = loader
                .translate(page)
                .map(|hpa| hpa.align_down(PageSize::Size4K));
            if let Some(range) =
                frame.and_then(|frame| Range::<HostPhys>::from_len(frame, PageSize::Size4K.bytes()))
            {
                reserve(map, range);
            }
        }
    }
}

/// Takes all free memory and builds the hypervisor's address space. It is not used yet, but pages can be
/// mapped in it.
///
/// # Safety
/// Called once, by the boot CPU, in the address space that the boot loader has made. `map` reserves
/// everything that is in use.
///
/// # Errors
/// [`TableError::OutOfTables`] where memory is too small.
pub(crate) unsafe fn build(
    map: MemoryMap,
    frame_buffer: Option<FrameBufferMapping>,
) -> Result<(), TableError> {
    let map = MAP.call_once(|| map);
    // SAFETY: free memory is nobody's, and the boot loader maps all of it where the direct map is.
    unsafe { frames::add(map, Kind::Usable) };
    let loader = LoaderSpace::current();
    let mut memory = TableFrames::ANYWHERE;
    let memory = &mut memory;
    // The root is loaded by CPUs in 32-bit mode when they start.
    let root = TableFrames {
        placement: Placement::Below(HostPhys::new(1 << 32)),
    }
    .allocate_table();
    let mut tables = Tables::<Paging4>::from_root(root.ok_or(TableError::OutOfTables)?);
    // Nobody uses these tables yet, so nothing can be stale: the effects of `map` do not matter.
    for (range, flags) in image() {
        for page in pages(range) {
            let Some(frame) = loader.translate(page) else {
                panic!("a hole in the image at {page}")
            };
            let _ = tables.map(
                memory,
                page.as_u64(),
                frame,
                PageSize::Size4K.bytes(),
                flags,
                PageSize::Size4K,
            )?;
        }
    }
    map_physical(&mut tables, memory, map)?;
    if let Some(FrameBufferMapping { start, bytes }) = frame_buffer
        && let Some(frame) = loader.translate(start)
    {
        let bytes = bytes.next_multiple_of(PageSize::Size4K.bytes());
        let flags = DATA | WRITE_COMBINING;
        let _ = tables.map(
            memory,
            start.as_u64(),
            frame,
            bytes,
            flags,
            PageSize::Size2M,
        )?;
    }
    // Every entry of the upper half is there from now on, so that copies of the root stay complete whatever
    // is mapped later.
    for index in UPPER_HALF {
        if memory.read_entry(tables.root(), index) == 0 {
            let table = memory.allocate_table().ok_or(TableError::OutOfTables)?;
            memory.write_entry(tables.root(), index, Paging4::table_entry(table));
        }
    }
    ROOT.store(tables.root().as_u64(), Ordering::Release);
    *SPACE.lock() = Some(tables);
    Ok(())
}

/// Maps all RAM as memory, and everything else below 4 GiB as device registers.
fn map_physical(
    tables: &mut Tables<Paging4>,
    memory: &mut TableFrames,
    map: &MemoryMap,
) -> Result<(), TableError> {
    let gigabyte_pages = CpuId::with_cpuid_reader(CpuIdReaderNative)
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|features| features.has_1gib_pages());
    let largest = if gigabyte_pages {
        PageSize::Size1G
    } else {
        PageSize::Size2M
    };
    let mut direct = |range: Range<HostPhys>, flags: PageFlags| {
        let address = direct_map(range.start).as_u64();
        tables
            .map(memory, address, range.start, range.len(), flags, largest)
            .map(|_| ())
    };
    let devices = Range {
        start: HostPhys::new(0),
        end: HostPhys::new(DEVICES_END),
    };
    direct(devices, DATA | PageFlags::UNCACHEABLE)?;
    // The boundaries between RAM and the rest are those of the MTRRs, too, so that no large page has two
    // memory types (SDM vol. 3, MTRR Considerations in Large Pages).
    for region in map
        .regions()
        .iter()
        .filter(|region| region.kind != Kind::Other)
    {
        let start = region.range.start.align_down(PageSize::Size4K);
        let end = region
            .range
            .end
            .align_up(PageSize::Size4K)
            .unwrap_or(region.range.end);
        direct(Range { start, end }, DATA)?;
    }
    Ok(())
}

fn pages(range: Range<HostVirt>) -> impl Iterator<Item = HostVirt> {
    let step = PageSize::Size4K.bytes() as usize;
    (range.start.as_u64()..range.end.as_u64())
        .step_by(step)
        .map(HostVirt::new)
}

/// Leaves the boot loader's address space and stack for the hypervisor's own, and goes on in `next`.
///
/// # Safety
/// Called once, by the boot CPU, after [`build`]. `stack_top` is the end of a stack in the new space that
/// nobody else uses. Nothing of the old stack, nor of what the boot loader has mapped, is needed any more.
pub(crate) unsafe fn enter(stack_top: HostVirt, next: extern "C" fn() -> !) -> ! {
    // SAFETY: the tables map the image where it runs, and the new stack; `next` gets no argument and never
    // returns. The old global translations go with the change of CR4.PGE in `control::init_this_cpu`.
    unsafe {
        asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {next}",
            "ud2",
            root = in(reg) ROOT.load(Ordering::Acquire),
            stack = in(reg) stack_top.as_u64(),
            next = in(reg) next,
            options(noreturn),
        );
    }
}

/// Makes the memory that the boot loader has used free, except for what the memory map reserves.
///
/// # Safety
/// Called once, after [`enter`], when nothing that the boot loader left is needed any more.
pub(crate) unsafe fn reclaim_loader_memory() {
    if let Some(map) = MAP.get() {
        // SAFETY: the old tables and stack are out of use, and the caller speaks for the rest.
        unsafe { frames::add(map, Kind::Loader) };
    }
}

/// Whether the direct map has all of this as memory, and not as device registers.
pub(crate) fn is_memory(range: Range<HostPhys>) -> bool {
    MAP.get()
        .is_some_and(|map| map.is_all(&[Kind::Usable, Kind::Loader, Kind::Firmware], range))
}

/// Says how much memory there is, and where.
pub(crate) fn report() {
    let Some(map) = MAP.get() else { return };
    for region in map.regions() {
        log::debug!(target: "memory", "{:#014x}..{:#014x} {:?}", region.range.start, region.range.end, region.kind);
    }
    let statistics = frames::statistics();
    let mib = |frames: u64| frames >> (20 - PageSize::Size4K.shift());
    log::info!(target: "memory", "{} MiB of memory, {} MiB free", map.ram_bytes() >> 20, mib(statistics.free));
}

/// Maps a new page of data, contents unknown, where nothing is mapped.
///
/// # Errors
/// [`TableError::OutOfTables`] where memory has run out.
pub(super) fn map_new_page(address: u64) -> Result<(), TableError> {
    let size = PageSize::Size4K;
    let frame = frames::allocate_run(size.bytes(), size, Placement::Anywhere)
        .ok_or(TableError::OutOfTables)?;
    let mut space = SPACE.lock();
    let Some(tables) = space.as_mut() else {
        panic!("memory is mapped before there is an address space")
    };
    let mut memory = TableFrames::ANYWHERE;
    let effect = tables.map(&mut memory, address, frame, size.bytes(), DATA, size)?;
    assert_eq!(effect, TlbEffect::None, "{address:#x} was mapped already");
    Ok(())
}

/// Makes device registers at or above 4 GiB reachable through the direct map; below, they are anyway.
///
/// # Errors
/// [`TableError`] where memory has run out.
pub(crate) fn map_device(registers: Range<HostPhys>) -> Result<HostVirt, TableError> {
    let address = direct_map(registers.start);
    if registers.end.as_u64() > DEVICES_END {
        let start = registers.start.align_down(PageSize::Size4K);
        let end = registers
            .end
            .align_up(PageSize::Size4K)
            .ok_or(TableError::OutOfRange)?;
        let flags = DATA | PageFlags::UNCACHEABLE;
        let mut space = SPACE.lock();
        let Some(tables) = space.as_mut() else {
            panic!("devices are mapped before there is an address space")
        };
        let bytes = Range { start, end }.len();
        let at = direct_map(start).as_u64();
        let mut memory = TableFrames::ANYWHERE;
        // Mapping the same registers twice changes nothing that a TLB may hold.
        let _ = tables.map(&mut memory, at, start, bytes, flags, PageSize::Size2M)?;
    }
    Ok(address)
}

/// Where an address of the hypervisor leads.
pub(crate) fn translate(address: HostVirt) -> Option<HostPhys> {
    let space = SPACE.lock();
    let translation = space
        .as_ref()?
        .translate(&TableFrames::ANYWHERE, address.as_u64())?;
    Some(translation.address)
}

/// The root of the hypervisor's tables.
pub(crate) fn root() -> HostPhys {
    HostPhys::new(ROOT.load(Ordering::Acquire))
}

/// Brings a CPU that starts from its [`StartSpace`] into the hypervisor's address space.
///
/// # Safety
/// The CPU runs on a stack that is part of both.
pub(crate) unsafe fn enter_space() {
    // SAFETY: the caller's promise; image and stack are at the same place in both.
    unsafe { control::write_cr3(root().as_u64()) };
}

/// An address space for a CPU that starts: the hypervisor's, and one page that is mapped where it lies in
/// physical memory.
pub(crate) struct StartSpace(Tables<Paging4>);

impl StartSpace {
    /// Builds it around the page at `page`; `None` where memory below 4 GiB has run out.
    pub(crate) fn new(page: HostPhys) -> Option<Self> {
        let memory = &mut TableFrames {
            placement: Placement::Below(HostPhys::new(1 << 32)),
        };
        let mut tables = Tables::<Paging4>::new(memory)?;
        let size = PageSize::Size4K;
        if tables
            .map(
                memory,
                page.as_u64(),
                page,
                size.bytes(),
                PageFlags::WRITABLE,
                size,
            )
            .is_err()
        {
            tables.destroy(memory);
            return None;
        }
        for index in UPPER_HALF {
            let entry = memory.read_entry(root(), index);
            memory.write_entry(tables.root(), index, entry);
        }
        Some(Self(tables))
    }

    /// The root, which lies below 4 GiB.
    pub(crate) fn root(&self) -> HostPhys {
        self.0.root()
    }
}

impl Drop for StartSpace {
    fn drop(&mut self) {
        let mut memory = TableFrames::ANYWHERE;
        // What is the hypervisor's must not go with it.
        for index in UPPER_HALF {
            memory.write_entry(self.0.root(), index, 0);
        }
        Tables::<Paging4>::from_root(self.0.root()).destroy(&mut memory);
    }
}
