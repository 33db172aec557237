//! Page tables of the guest's own, above the identity map: [`map`] puts pages anywhere from 512 GiB on.
//!
//! The identity map of the first 4 GiB (`boot.S`) stays as it is; cases that look at page tables, and code of
//! ring 3, live in the upper part. Tables and frames come from a pool in the image and are not given back.

use crate::single::Single;
use crate::x86;

/// The bits of a page-table entry.
pub mod entry {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Writable.
    pub const RW: u64 = 1 << 1;
    /// Ring 3 may use it.
    pub const US: u64 = 1 << 2;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty.
    pub const D: u64 = 1 << 6;
    /// A page and not a table (levels 2 and 3).
    pub const PS: u64 = 1 << 7;
    /// Global.
    pub const G: u64 = 1 << 8;
    /// No execution.
    pub const XD: u64 = 1 << 63;
    /// The address bits of an entry.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// The sizes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// A level 1 entry.
    Size4K = 1,
    /// A level 2 entry.
    Size2M = 2,
    /// A level 3 entry.
    Size1G = 3,
}

/// Bytes in a frame.
pub const FRAME_BYTES: usize = 4096;
const POOL_FRAMES: usize = 64;

/// One page of memory.
#[repr(C, align(4096))]
pub struct FrameBytes(pub [u8; FRAME_BYTES]);

struct Pool {
    next: usize,
    frames: [FrameBytes; POOL_FRAMES],
}

static POOL: Single<Pool> = Single::new(Pool {
    next: 0,
    frames: [const { FrameBytes([0; FRAME_BYTES]) }; POOL_FRAMES],
});

unsafe extern "C" {
    static mut boot_pml4: [u64; 512];
}

/// The physical (and, identity-mapped, virtual) address of a zeroed frame.
pub fn new_frame() -> u64 {
    let pool = POOL.get();
    // SAFETY: one CPU; each frame is handed out once.
    unsafe {
        let next = (*pool).next;
        assert!(next < POOL_FRAMES, "the pool of frames is empty");
        (*pool).next = next + 1;
        &raw mut (*pool).frames[next] as u64
    }
}

/// The address of the top table, which is what CR3 holds.
pub fn root() -> u64 {
    &raw const boot_pml4 as u64
}

/// The address of the entry that maps `address` at a page size, with the tables above it made as needed. Those
/// are writable and open to ring 3, so that the last entry alone decides.
pub fn entry_address(address: u64, size: PageSize) -> u64 {
    let mut table = root();
    let mut level = 4;
    loop {
        let slot = table + (address >> (12 + 9 * (level - 1)) & 0x1ff) * 8;
        if level == size as u32 {
            return slot;
        }
        let mut value = peek(slot);
        if value & entry::P == 0 {
            value = new_frame() | entry::P | entry::RW | entry::US;
            poke(slot, value);
        }
        table = value & entry::ADDRESS;
        level -= 1;
    }
}

/// Maps one page, and returns the address of its entry. `flags` are the whole entry but the address.
pub fn map(address: u64, physical: u64, size: PageSize, flags: u64) -> u64 {
    let slot = entry_address(address, size);
    let page = if size == PageSize::Size4K {
        0
    } else {
        entry::PS
    };
    poke(slot, physical | flags | page);
    invlpg(address);
    slot
}

/// Reads 8 bytes of memory.
pub fn peek(address: u64) -> u64 {
    let value;
    x86!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags));
    value
}

/// Writes 8 bytes of memory.
pub fn poke(address: u64, value: u64) {
    x86!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack, preserves_flags));
}

/// Reads 4 bytes of memory, or a register of a device.
pub fn peek_32(address: u64) -> u32 {
    let value;
    x86!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags));
    value
}

/// Writes 4 bytes of memory, or a register of a device.
pub fn poke_32(address: u64, value: u32) {
    x86!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack, preserves_flags));
}

/// Drops the translation of one address.
pub fn invlpg(address: u64) {
    x86!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags));
}

/// Drops all translations but global ones.
pub fn reload_cr3() {
    crate::cpu::write_cr3(crate::cpu::read_cr3());
}
