//! The hypervisor's memory: physical frames, its own address space, its heap, and the RAM of guests.
//!
//! ```text
//! ffff_8000_0000_0000  all physical memory (the direct map): read, write, never execute
//! ffff_c000_0000_0000  the boot loader's choice; only the frame buffer stays there
//! ffff_d000_0000_0000  heap
//! ffff_e000_0000_0000  stacks, each above a page that is not mapped
//! ffff_ffff_8000_0000  the hypervisor's image: text (read, execute), constants (read), data (read, write)
//! ```

mod frames;
mod guest;
mod heap;
mod map;
mod space;
mod stack;

use core::arch::asm;

use memory::{HostPhys, HostVirt, PageSize};

pub(crate) use frames::{Frame, FrameRun, LowFrame, statistics};
pub(crate) use guest::{DirtyRam, GuestRam, NotEnoughMemory, ZeroedRam};
pub(crate) use map::{from_boot_info, reserve};
pub(crate) use space::{
    FrameBufferMapping, StartSpace, TableFrames, build, enter, enter_space, is_memory, is_text,
    map_device, reclaim_loader_memory, report, reserve_image, translate, translate_loader_address,
};
pub(crate) use stack::Stack;

/// Where the direct map starts. The boot loader has one at the same place, so that addresses stay valid
/// when the hypervisor's own tables take over.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where the boot loader may map what it chooses an address for.
pub(crate) const LOADER_RANGE: u64 = 0xffff_c000_0000_0000;
const HEAP: u64 = 0xffff_d000_0000_0000;
const STACKS: u64 = 0xffff_e000_0000_0000;

/// Where physical memory, and device registers below 4 GiB, can be reached.
#[inline]
pub(crate) const fn direct_map(hpa: HostPhys) -> HostVirt {
    HostVirt::new(hpa.as_u64().wrapping_add(DIRECT_MAP))
}

/// No VM gets the last of the memory: what the hypervisor needs while it runs (its log, the report of a crash, what the
/// operator asks for) comes from there.
const KEPT_BYTES: u64 = 8 << 20;

/// Bytes of frames that guests may still have.
fn free_for_guests() -> u64 {
    (statistics().free << PageSize::Size4K.shift()).saturating_sub(KEPT_BYTES)
}

/// What guests and all that is made for them may still take together: the heap's own free memory counts as well.
fn room_for_guests() -> u64 {
    let usage = usage();
    (usage.free_frames << PageSize::Size4K.shift())
        .saturating_add(usage.heap_bytes.saturating_sub(usage.heap_used_bytes))
        .saturating_sub(KEPT_BYTES)
}

/// Whether there is as much as this for what a guest needs beside its RAM.
pub(crate) fn admit(beside_bytes: u64) -> Result<(), NotEnoughMemory> {
    let free_bytes = room_for_guests();
    if beside_bytes <= free_bytes {
        return Ok(());
    }
    Err(NotEnoughMemory {
        wanted_bytes: 0,
        beside_bytes,
        free_bytes,
    })
}

/// Where the memory is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) total_frames: u64,
    pub(crate) free_frames: u64,
    pub(crate) heap_bytes: u64,
    pub(crate) heap_used_bytes: u64,
}

/// Where the memory is.
pub(crate) fn usage() -> Usage {
    let frames = statistics();
    let (used, size) = heap::statistics();
    Usage {
        total_frames: frames.total,
        free_frames: frames.free,
        heap_bytes: size as u64,
        heap_used_bytes: used as u64,
    }
}

/// What is in use, guests' RAM included, but not what the heap has and nobody uses.
pub(crate) fn used_bytes() -> u64 {
    let usage = usage();
    let frames = usage.total_frames.saturating_sub(usage.free_frames);
    (frames << PageSize::Size4K.shift())
        .saturating_sub(usage.heap_bytes)
        .saturating_add(usage.heap_used_bytes)
}

/// Copies bytes without any assumption about who else reads or writes them meanwhile.
///
/// # Safety
/// Both places are mapped for all `bytes` bytes, do not overlap, and may be read and written.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // The CPU's own copy is one instruction for each eight bytes, and opaque to the compiler: a guest may
    // change either side at any time, which a plain copy must not meet. SAFETY: as the caller promises; the
    // direction flag is clear in Rust code.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Fills memory with zeroes, without any assumption about who else reads or writes it meanwhile.
///
/// # Safety
/// The memory is mapped for all `bytes` bytes, and nobody relies on its contents.
#[inline]
unsafe fn zero(to: *mut u8, bytes: usize) {
    // As for `copy`: eight bytes at a time. SAFETY: as the caller promises; the direction flag is clear in Rust code.
    unsafe {
        asm!(
            "rep stosq",
            "mov ecx, {rest:e}",
            "rep stosb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rdi") to => _,
            in("rax") 0u64,
            options(nostack, preserves_flags),
        );
    }
}

/// Fills physical memory with zeroes.
///
/// # Safety
/// The direct map covers the memory, and nobody relies on its contents.
unsafe fn zero_physical(start: HostPhys, bytes: u64) {
    // SAFETY: as the caller promises.
    unsafe { zero(direct_map(start).as_u64() as *mut u8, bytes as usize) };
}
