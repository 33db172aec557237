//! The physical frames of the machine: one allocator for all CPUs, and owners that give back what they
//! hold.
//!
//! Lock order: heap, address space, frames.

use core::fmt;

use host::{Kind, MemoryMap};
use memory::frames::FrameStatistics;
use memory::{FrameAllocator, HostPhys, PageSize, Placement, Range};
use spin::Mutex;

use super::{direct_map, zero_physical};

static FRAMES: Mutex<FrameAllocator<'static>> = Mutex::new(FrameAllocator::new());

/// Gives the allocator all frames of this kind that the map does not reserve.
///
/// # Safety
/// Nobody uses these frames, and the direct map covers them. Called once for each kind.
pub(super) unsafe fn add(map: &MemoryMap, kind: Kind) {
    let mut frames = FRAMES.lock();
    map.for_each_free(kind, |free| {
        let words = FrameAllocator::metadata_words(free);
        let bytes = (words * size_of::<u64>()) as u64;
        // The bitmaps take the first pages of the region that they describe.
        let Some(start) = free.start.wrapping_add(bytes).align_up(PageSize::Size4K) else {
            return;
        };
        let rest = Range {
            start,
            end: free.end,
        };
        if rest.is_empty() {
            return;
        }
        let metadata = direct_map(free.start).as_u64() as *mut u64;
        // SAFETY: the pages are in the direct map and nobody else's, as the caller promises, and the
        // allocator, which gets only what lies behind them, never gives them out.
        let metadata = unsafe { core::slice::from_raw_parts_mut(metadata, words) };
        if let Err(error) = frames.add_region(rest, metadata) {
            log::warn!("memory at {rest} is not used: {error}");
        }
    });
}

/// How much memory there is, and how much of it is free.
pub(crate) fn statistics() -> FrameStatistics {
    *FRAMES.lock().statistics()
}

/// A run of whole frames, contiguous, contents unknown. Nobody owns it until somebody wraps it up.
pub(super) fn allocate_run(
    bytes: u64,
    alignment: PageSize,
    placement: Placement,
) -> Option<HostPhys> {
    FRAMES.lock().allocate_run(bytes, alignment, placement)
}

/// Takes back what [`allocate_run`] gave.
pub(super) fn free_run(start: HostPhys, bytes: u64) {
    if let Err(error) = FRAMES.lock().free_run(start, bytes) {
        // Somebody's accounting is wrong. What is lost is memory; nothing is damaged.
        log::error!("{error}");
    }
}

/// A run of frames that belongs to whoever holds this, and is free again afterwards.
pub(crate) struct FrameRun {
    start: HostPhys,
    bytes: u64,
}

impl FrameRun {
    /// `bytes` bytes of zeroes, rounded up to whole frames; `None` where there is no such run.
    pub(crate) fn zeroed(bytes: u64, alignment: PageSize) -> Option<Self> {
        let run = Self::uninitialized(bytes, alignment, Placement::Anywhere)?;
        // SAFETY: the run was just allocated, and is this value's.
        unsafe { zero_physical(run.start, run.bytes) };
        Some(run)
    }

    /// A run whose contents are whatever they were.
    pub(super) fn uninitialized(
        bytes: u64,
        alignment: PageSize,
        placement: Placement,
    ) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(PageSize::Size4K.bytes())?;
        Some(Self {
            start: allocate_run(bytes, alignment, placement)?,
            bytes,
        })
    }

    /// A run whose length, a power of two, is also what its address is a multiple of. Contents unknown.
    pub(super) fn block(bytes: u64) -> Option<Self> {
        // A run of a power of two is exactly one block of the buddy system, and those are aligned to their
        // size.
        Self::uninitialized(bytes, PageSize::Size4K, Placement::Anywhere)
    }

    /// Where it is.
    pub(crate) const fn address(&self) -> HostPhys {
        self.start
    }

    /// Its length.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A pointer to `size` bytes at `offset`.
    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(
            offset
                .checked_add(size)
                .is_some_and(|end| end as u64 <= self.bytes),
            "an offset outside the frames"
        );
        (direct_map(self.start).as_u64() as *mut u8).wrapping_add(offset)
    }

    /// Reads the 64-bit value at a multiple of 8, in one piece.
    pub(crate) fn read_u64(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8), "a value that is not aligned");
        // SAFETY: inside the run, as `at` checks, and aligned; the run is mapped and this value's. The processor may
        // write to it by itself, which a volatile access stands.
        unsafe { self.at(offset, 8).cast::<u64>().read_volatile() }
    }

    /// Writes the 32-bit value at a multiple of 4, in one piece.
    pub(crate) fn write_u32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4), "a value that is not aligned");
        // SAFETY: as in `read_u64`.
        unsafe { self.at(offset, 4).cast::<u32>().write_volatile(value) };
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: inside the run, as just checked; the run is mapped and this value's, so `bytes` lies
        // elsewhere.
        unsafe { super::copy(bytes.as_ptr(), to, bytes.len()) };
    }
}

impl Drop for FrameRun {
    fn drop(&mut self) {
        free_run(self.start, self.bytes);
    }
}

impl fmt::Debug for FrameRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameRun({:#x}, {:#x} bytes)", self.start, self.bytes)
    }
}

/// One 4 KiB frame.
#[derive(Debug)]
pub(crate) struct Frame(FrameRun);

impl Frame {
    /// A frame of zeroes, or `None` where memory has run out.
    pub(crate) fn zeroed() -> Option<Self> {
        FrameRun::zeroed(PageSize::Size4K.bytes(), PageSize::Size4K).map(Self)
    }
}

impl core::ops::Deref for Frame {
    type Target = FrameRun;

    fn deref(&self) -> &FrameRun {
        &self.0
    }
}

/// A frame below 1 MiB, where real-mode code can run.
#[derive(Debug)]
pub(crate) struct LowFrame(FrameRun);

impl LowFrame {
    /// Such a frame, or `None` where there is none free.
    pub(crate) fn new() -> Option<Self> {
        let size = PageSize::Size4K;
        FrameRun::uninitialized(size.bytes(), size, Placement::Below(HostPhys::new(1 << 20)))
            .map(Self)
    }
}

impl core::ops::Deref for LowFrame {
    type Target = FrameRun;

    fn deref(&self) -> &FrameRun {
        &self.0
    }
}
