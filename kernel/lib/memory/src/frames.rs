//! The physical frame allocator: a buddy system over the usable regions of the machine's memory.
//!
//! [`FrameAllocator`] hands out runs of 4 KiB frames, aligned to any page size, and takes them back whole or
//! in part. Which blocks are free is kept in bitmaps beside the memory, one per region and order, never
//! in the memory itself: a stray write by anybody cannot corrupt the allocator, and a frame that is freed
//! twice, or that never was the allocator's, is an error and no damage. Every operation takes a number of
//! steps that grows with the logarithm of the memory's size.

mod bitmap;
#[cfg(test)]
mod tests;

use core::fmt;

use arrayvec::ArrayVec;

use self::bitmap::Bitmap;
use crate::{HostPhys, PageSize, Range};

/// Orders of blocks: 2^0 to 2^27 frames (512 GiB).
pub const ORDERS: usize = 28;

/// Regions that one allocator can look after. Firmware of large machines reports some dozens.
pub const MAX_REGIONS: usize = 128;

const FRAME_SHIFT: u32 = PageSize::Size4K.shift();

/// Addresses below this are scarce (start-up code of CPUs must lie there) and given out last.
const LOW_MEMORY: HostPhys = HostPhys::new(1 << 20);

/// Where a run of frames may lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Anywhere; low memory is spared as long as there is other.
    Anywhere,
    /// All of it below this address.
    Below(HostPhys),
}

/// Why a region was not taken on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionError {
    /// It overlaps a region that is there already.
    Overlap,
    /// There are [`MAX_REGIONS`] regions already.
    TooMany,
    /// The metadata storage is smaller than [`FrameAllocator::metadata_words`] says.
    MetadataTooSmall,
}

/// Why frames were not taken back. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// The run is not made of whole frames.
    Misaligned(HostPhys),
    /// This frame lies in none of the allocator's regions, or the run crosses from one to the next.
    Foreign(HostPhys),
    /// This frame, or one in the naturally aligned block that starts here, is free already.
    NotAllocated(HostPhys),
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlap => "memory regions overlap",
            Self::TooMany => "too many memory regions",
            Self::MetadataTooSmall => "too little room for a memory region's bitmaps",
        })
    }
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(hpa) => write!(f, "freed memory at {hpa} is not whole frames"),
            Self::Foreign(hpa) => write!(f, "freed memory at {hpa} is not the allocator's"),
            Self::NotAllocated(hpa) => write!(f, "memory at {hpa} was freed twice"),
        }
    }
}

impl core::error::Error for RegionError {}
impl core::error::Error for FreeError {}

/// How much there is. All counts are of 4 KiB frames, except where they are of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameStatistics {
    /// Frames in all regions.
    pub total: u64,
    /// Frames that are free.
    pub free: u64,
    /// Free blocks by order: block `n` has 2^n frames.
    pub free_blocks: [u64; ORDERS],
}

/// A buddy allocator over several regions; `'m` is the life of its metadata. It is large (some 30 KiB) and
/// belongs in a static.
#[derive(Debug)]
pub struct FrameAllocator<'m> {
    /// Sorted by address.
    regions: ArrayVec<Region<'m>, MAX_REGIONS>,
    statistics: FrameStatistics,
}

impl Default for FrameAllocator<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'m> FrameAllocator<'m> {
    /// An allocator without any memory.
    pub const fn new() -> Self {
        let statistics = FrameStatistics {
            total: 0,
            free: 0,
            free_blocks: [0; ORDERS],
        };
        Self {
            regions: ArrayVec::new_const(),
            statistics,
        }
    }

    /// Words of metadata that a region needs; about one bit for two frames.
    pub fn metadata_words(region: Range<HostPhys>) -> usize {
        let (first, end) = whole_frames(region);
        if end <= first {
            0
        } else {
            Shape::new(first, end).words()
        }
    }

    /// Takes on the whole frames of `region`, all of them free. The bitmaps go into `metadata`, which must
    /// lie elsewhere. An empty region is ignored.
    ///
    /// # Errors
    /// See [`RegionError`]; nothing has changed then.
    pub fn add_region(
        &mut self,
        region: Range<HostPhys>,
        metadata: &'m mut [u64],
    ) -> Result<(), RegionError> {
        let (first, end) = whole_frames(region);
        if end <= first {
            return Ok(());
        }
        if self.regions.is_full() {
            return Err(RegionError::TooMany);
        }
        let at = self
            .regions
            .partition_point(|other| other.shape.first < first);
        let before = at.checked_sub(1).and_then(|at| self.regions.get(at));
        if before.is_some_and(|other| other.shape.end > first)
            || self
                .regions
                .get(at)
                .is_some_and(|other| other.shape.first < end)
        {
            return Err(RegionError::Overlap);
        }
        let shape = Shape::new(first, end);
        if metadata.len() < shape.words() {
            return Err(RegionError::MetadataTooSmall);
        }
        metadata.fill(0);
        let mut region = Region {
            shape,
            bases: shape.bases(),
            free_blocks: [0; ORDERS],
            words: metadata,
        };
        for (frame, order) in Blocks::new(first, end) {
            region.insert(frame, order, &mut self.statistics);
        }
        self.regions
            .try_insert(at, region)
            .map_err(|_| RegionError::TooMany)?;
        self.statistics.total += end - first;
        self.statistics.free += end - first;
        Ok(())
    }

    /// One page.
    pub fn allocate(&mut self, size: PageSize, placement: Placement) -> Option<HostPhys> {
        self.allocate_run(size.bytes(), size, placement)
    }

    /// The smallest run of whole frames that holds `bytes` bytes, contiguous and aligned to `alignment`. Its
    /// contents are whatever they were.
    pub fn allocate_run(
        &mut self,
        bytes: u64,
        alignment: PageSize,
        placement: Placement,
    ) -> Option<HostPhys> {
        let frames = bytes.div_ceil(PageSize::Size4K.bytes());
        if frames == 0 {
            return None;
        }
        let aligned = frames.checked_next_multiple_of(alignment.bytes() >> FRAME_SHIFT)?;
        let order = aligned.checked_next_power_of_two()?.ilog2() as usize;
        let (at, frame, found_order) = self.find(order, placement)?;
        let region = self.regions.get_mut(at)?;
        region.remove(frame, found_order, &mut self.statistics);
        // What the run does not need of the block goes back, as the largest blocks that fit.
        for (rest, order) in Blocks::new(frame + frames, frame + (1 << found_order)) {
            region.insert(rest, order, &mut self.statistics);
        }
        self.statistics.free -= frames;
        Some(HostPhys::new(frame << FRAME_SHIFT))
    }

    /// Takes back a page.
    ///
    /// # Errors
    /// See [`FreeError`].
    pub fn free(&mut self, page: HostPhys, size: PageSize) -> Result<(), FreeError> {
        self.free_run(page, size.bytes())
    }

    /// Takes back the frames of the `bytes` bytes from `start` on, which may be a part of what was allocated.
    ///
    /// # Errors
    /// See [`FreeError`].
    pub fn free_run(&mut self, start: HostPhys, bytes: u64) -> Result<(), FreeError> {
        if !start.is_aligned(PageSize::Size4K) {
            return Err(FreeError::Misaligned(start));
        }
        let first = start.as_u64() >> FRAME_SHIFT;
        let frames = bytes.div_ceil(PageSize::Size4K.bytes());
        let end = first.saturating_add(frames);
        let at = self
            .regions
            .partition_point(|region| region.shape.end <= first);
        let region = self
            .regions
            .get_mut(at)
            .filter(|region| region.shape.first <= first)
            .ok_or(FreeError::Foreign(start))?;
        if end > region.shape.end {
            return Err(FreeError::Foreign(HostPhys::new(
                region.shape.end << FRAME_SHIFT,
            )));
        }
        for (frame, order) in Blocks::new(first, end) {
            if region.any_free(frame, order) {
                return Err(FreeError::NotAllocated(HostPhys::new(frame << FRAME_SHIFT)));
            }
        }
        for (frame, order) in Blocks::new(first, end) {
            region.release(frame, order, &mut self.statistics);
        }
        self.statistics.free += frames;
        Ok(())
    }

    /// How much there is.
    pub const fn statistics(&self) -> &FrameStatistics {
        &self.statistics
    }

    /// A free block of at least this order: region, frame, order. The smallest sufficient order is taken, so
    /// that large blocks stay whole, from the highest region that has one.
    fn find(&self, order: usize, placement: Placement) -> Option<(usize, u64, usize)> {
        let low_end = LOW_MEMORY.as_u64() >> FRAME_SHIFT;
        match placement {
            Placement::Anywhere => self
                .find_in(order, u64::MAX, |region| region.first >= low_end)
                .or_else(|| self.find_in(order, u64::MAX, |region| region.first < low_end)),
            Placement::Below(limit) => self.find_in(order, limit.as_u64() >> FRAME_SHIFT, |_| true),
        }
    }

    fn find_in(
        &self,
        order: usize,
        end: u64,
        wanted: impl Fn(&Shape) -> bool,
    ) -> Option<(usize, u64, usize)> {
        // The run lies at the start of the block, so the start decides whether it ends early enough.
        let last_start = end.checked_sub(1u64.checked_shl(order as u32)?)?;
        for (block_order, _) in self
            .statistics
            .free_blocks
            .iter()
            .enumerate()
            .skip(order)
            .filter(|&(_, n)| *n != 0)
        {
            for (at, region) in self.regions.iter().enumerate().rev() {
                if region.has(block_order)
                    && wanted(&region.shape)
                    && let Some(frame) = region.last_free(block_order, last_start)
                {
                    return Some((at, frame, block_order));
                }
            }
        }
        None
    }
}

/// The frames of a region, which determine the bitmap of each order.
#[derive(Clone, Copy, Debug)]
struct Shape {
    first: u64,
    end: u64,
}

impl Shape {
    const fn new(first: u64, end: u64) -> Self {
        Self { first, end }
    }

    /// Orders that a block in the region can have.
    const fn orders(self) -> usize {
        let largest = (self.end - self.first).ilog2() as usize + 1;
        if largest < ORDERS { largest } else { ORDERS }
    }

    /// Blocks of this order that touch the region.
    const fn blocks(self, order: usize) -> u64 {
        ((self.end - 1) >> order) - (self.first >> order) + 1
    }

    fn words(self) -> usize {
        (0..self.orders())
            .map(|order| Bitmap::words(self.blocks(order)))
            .sum()
    }

    /// Where the bitmap of each order starts in the metadata.
    fn bases(self) -> [u32; ORDERS] {
        let mut bases = [0; ORDERS];
        let mut next = 0;
        for (order, base) in bases.iter_mut().enumerate().take(self.orders()) {
            *base = next;
            next += Bitmap::words(self.blocks(order)) as u32;
        }
        bases
    }

    /// The number of the block that holds `frame` in the bitmap of this order.
    const fn bit(self, frame: u64, order: usize) -> u64 {
        (frame >> order) - (self.first >> order)
    }
}

#[derive(Debug)]
struct Region<'m> {
    shape: Shape,
    bases: [u32; ORDERS],
    free_blocks: [u32; ORDERS],
    words: &'m mut [u64],
}

impl Region<'_> {
    /// The bitmap of an order's free blocks.
    fn bitmap(&self, order: usize) -> Bitmap {
        let base = self.bases.get(order).map_or(0, |&base| base as usize);
        Bitmap::new(base, self.shape.blocks(order))
    }

    fn has(&self, order: usize) -> bool {
        self.free_blocks
            .get(order)
            .is_some_and(|&blocks| blocks != 0)
    }

    fn insert(&mut self, frame: u64, order: usize, statistics: &mut FrameStatistics) {
        self.bitmap(order)
            .insert(self.words, self.shape.bit(frame, order));
        if let Some(blocks) = self.free_blocks.get_mut(order) {
            *blocks += 1;
        }
        if let Some(blocks) = statistics.free_blocks.get_mut(order) {
            *blocks += 1;
        }
    }

    fn remove(&mut self, frame: u64, order: usize, statistics: &mut FrameStatistics) {
        self.bitmap(order)
            .remove(self.words, self.shape.bit(frame, order));
        if let Some(blocks) = self.free_blocks.get_mut(order) {
            *blocks -= 1;
        }
        if let Some(blocks) = statistics.free_blocks.get_mut(order) {
            *blocks -= 1;
        }
    }

    /// The highest free block of this order that starts at or below `last_start`.
    fn last_free(&self, order: usize, last_start: u64) -> Option<u64> {
        let base = self.shape.first >> order;
        let last_bit = (last_start >> order).checked_sub(base)?;
        let bit = self.bitmap(order).previous(self.words, last_bit)?;
        Some((base + bit) << order)
    }

    /// Whether any frame of this block is free: in a free block around it, or in a smaller one inside.
    fn any_free(&self, frame: u64, order: usize) -> bool {
        (0..self.shape.orders()).any(|other| {
            let bitmap = self.bitmap(other);
            let from = self.shape.bit(frame, other);
            if other >= order {
                return bitmap.contains(self.words, from);
            }
            let last = self.shape.bit(frame + (1 << order) - 1, other);
            bitmap
                .next(self.words, from)
                .is_some_and(|found| found <= last)
        })
    }

    /// Makes a block free, and joins it with its buddy as long as that is free, too.
    fn release(&mut self, mut frame: u64, mut order: usize, statistics: &mut FrameStatistics) {
        while order + 1 < self.shape.orders() {
            let buddy = frame ^ (1 << order);
            let inside = self.shape.first <= buddy && buddy < self.shape.end;
            let bitmap = self.bitmap(order);
            if !inside || !bitmap.contains(self.words, self.shape.bit(buddy, order)) {
                break;
            }
            self.remove(buddy, order, statistics);
            frame &= buddy;
            order += 1;
        }
        self.insert(frame, order, statistics);
    }
}

/// The naturally aligned blocks that a run of frames is made of, largest possible each, in order.
struct Blocks {
    next: u64,
    end: u64,
}

impl Blocks {
    const fn new(first: u64, end: u64) -> Self {
        Self { next: first, end }
    }
}

impl Iterator for Blocks {
    type Item = (u64, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let room = self.end.saturating_sub(self.next).checked_ilog2()?;
        let order = room.min(self.next.trailing_zeros()).min(ORDERS as u32 - 1) as usize;
        let block = (self.next, order);
        self.next += 1 << order;
        Some(block)
    }
}

/// The first frame that lies wholly in the range, and the first behind them.
fn whole_frames(range: Range<HostPhys>) -> (u64, u64) {
    let first = range.start.as_u64().div_ceil(PageSize::Size4K.bytes());
    (first, range.end.as_u64() >> FRAME_SHIFT)
}
