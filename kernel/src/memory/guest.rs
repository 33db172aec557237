//! The RAM of a guest: large contiguous pieces of physical memory, and access to them through the direct
//! map.
//!
//! The guest's CPUs may change this memory at any time. So it is never referenced, only copied, by
//! instructions that the compiler does not look into. Where it comes from is in `fresh`.

mod fresh;

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use alloc::sync::Arc;
use alloc::vec::Vec;
use machine::A20Gate;
use memory::written::GRANULE;
use memory::{GuestMemory, GuestPhys, HostPhys, Range, Unbacked, Written};

pub(crate) use self::fresh::{DirtyRam, NotEnoughMemory, ZeroedRam};
use super::{FrameRun, copy, direct_map, zero};

/// A granule that does not lie in one piece. No RAM has this bias, since the direct map is in the upper half.
const NO_PIECE: u64 = 0;

/// A contiguous piece of a guest's RAM. Start and address are multiples of its size, which is a power of
/// two.
#[derive(Debug)]
struct Piece {
    start: GuestPhys,
    frames: FrameRun,
}

/// All RAM of one guest. Dropping it gives the memory back.
#[derive(Debug)]
pub(crate) struct GuestRam {
    /// Sorted by address; they do not overlap.
    pieces: Vec<Piece>,
    /// By granule, what is to be added to a guest-physical address in it for the address in the direct map: page
    /// walks and instruction fetches ask all the time.
    granules: Vec<AtomicU64>,
    /// Which granules may hold anything but zeroes. Pieces that are smaller always may.
    written: Arc<Written>,
    /// A packed [`A20Gate`]. Written by [`set_a20`](Self::set_a20) only.
    a20: AtomicU8,
}

impl Piece {
    /// The first address behind it.
    fn end(&self) -> GuestPhys {
        self.start.wrapping_add(self.frames.bytes())
    }

    /// Whether it is made of whole granules. Pieces are aligned to their size, so it is, or has no whole one.
    fn has_granules(&self) -> bool {
        self.frames.bytes() >= GRANULE.bytes()
    }

    /// How much is left at an offset of the granule there, or of the piece.
    fn granule_rest(&self, offset: u64) -> u64 {
        let granule = GRANULE.bytes().min(self.frames.bytes());
        granule - offset % granule
    }
}

impl GuestRam {
    /// What the heap needs for the books about so much RAM: by granule one bias, and one bit. They grow by doubling.
    pub(crate) const fn books_bytes(ram_bytes: u64) -> u64 {
        let granules = (ram_bytes >> GRANULE.shift()) + 1;
        granules * (size_of::<AtomicU64>() as u64) * 3 + granules / 8
    }

    /// What of it was written, for those who write, and those who know that others have.
    pub(crate) fn written(&self) -> &Arc<Written> {
        &self.written
    }

    /// How much of it may hold anything but zeroes.
    pub(crate) fn written_bytes(&self) -> u64 {
        let written_of = |piece: &Piece| {
            let granules = (0..piece.frames.bytes()).step_by(GRANULE.bytes() as usize);
            granules
                .filter(|offset| {
                    !piece.has_granules()
                        || self.written.is_marked(piece.start.wrapping_add(*offset))
                })
                .map(|offset| piece.granule_rest(offset))
                .sum::<u64>()
        };
        self.pieces.iter().map(written_of).sum()
    }

    /// The pieces, sorted: which guest-physical addresses lie at which physical address on. Both are
    /// multiples of the piece's size, so the largest pages that fit into it can map it.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Range<GuestPhys>, HostPhys)> + Clone {
        self.pieces.iter().map(|piece| {
            (
                Range {
                    start: piece.start,
                    end: piece.end(),
                },
                piece.frames.address(),
            )
        })
    }

    /// The gate of address line 20.
    pub(crate) fn a20(&self) -> A20Gate {
        A20Gate::open_if(self.a20.load(Ordering::Relaxed) == A20Gate::Open as u8)
    }

    /// Moves the gate of address line 20. While it is closed no granule lies in one piece, as half of each shows the
    /// other half; so an open gate costs no access anything.
    pub(crate) fn set_a20(&self, gate: A20Gate) {
        self.a20.store(gate as u8, Ordering::Relaxed);
        for piece in &self.pieces {
            let (range, bias) = piece.granules();
            for granule in self.granules.get(range).unwrap_or_default() {
                let bias = if gate.is_open() { bias } else { NO_PIECE };
                granule.store(bias, Ordering::Relaxed);
            }
        }
    }

    /// A pointer to what lies at a guest-physical address, and how many bytes from there on are known to lie together.
    #[inline]
    fn locate(&self, gpa: GuestPhys) -> Option<(*mut u8, u64)> {
        match self.granule_bias(gpa) {
            Some(bias) => {
                let left = GRANULE.bytes() - (gpa.as_u64() & (GRANULE.bytes() - 1));
                Some((gpa.as_u64().wrapping_add(bias) as *mut u8, left))
            }
            None => {
                let (hpa, left) = self.search(gpa)?;
                Some((direct_map(hpa).as_u64() as *mut u8, left))
            }
        }
    }

    /// The bias of the granule of an address, if it lies in one piece.
    #[inline]
    fn granule_bias(&self, gpa: GuestPhys) -> Option<u64> {
        let granule = (gpa.as_u64() >> GRANULE.shift()) as usize;
        let bias = self.granules.get(granule)?.load(Ordering::Relaxed);
        (bias != NO_PIECE).then_some(bias)
    }

    /// [`locate`](Self::locate) for what is in no granule: the small pieces, and what is no RAM.
    #[inline(never)]
    fn search(&self, gpa: GuestPhys) -> Option<(HostPhys, u64)> {
        let gate = self.a20();
        let gpa = GuestPhys::new(gpa.as_u64() & gate.mask());
        let at = self
            .pieces
            .partition_point(|piece| piece.start <= gpa)
            .checked_sub(1)?;
        let piece = self.pieces.get(at)?;
        let offset = gpa.as_u64() - piece.start.as_u64();
        let left = piece
            .frames
            .bytes()
            .checked_sub(offset)
            .filter(|&left| left > 0)?;
        let left = match gate {
            A20Gate::Open => left,
            A20Gate::Closed => left.min(A20Gate::LINE - (gpa.as_u64() & (A20Gate::LINE - 1))),
        };
        Some((piece.frames.address().wrapping_add(offset), left))
    }

    #[inline(never)]
    fn read_u64_slowly(&self, gpa: GuestPhys) -> Result<u64, Unbacked> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A pointer to `bytes` bytes that are known to lie together; only addresses of RAM have one.
    #[inline]
    fn single(&self, gpa: GuestPhys, bytes: u64) -> Option<*mut u8> {
        let (pointer, left) = self.locate(gpa)?;
        (left >= bytes).then_some(pointer)
    }

    /// A pointer to `bytes` bytes that lie together and are about to be written.
    #[inline]
    fn single_for_writing(&self, gpa: GuestPhys, bytes: u64) -> Option<*mut u8> {
        let to = self.single(gpa, bytes)?;
        self.written.mark(gpa);
        Some(to)
    }

    /// The `bytes` bytes from `gpa` on are about to be written, if all of them are RAM.
    fn prepare_for_writing(&self, gpa: GuestPhys, bytes: usize) -> Result<(), Unbacked> {
        self.for_each_piece(gpa, bytes, |_, offset, _| {
            self.written.mark(gpa.wrapping_add(offset as u64));
        })
    }

    /// Calls `each` with a pointer, an offset and a length for each piece of the `bytes` bytes from `gpa`
    /// on. None of them reaches from one granule into the next.
    fn for_each_piece(
        &self,
        gpa: GuestPhys,
        bytes: usize,
        mut each: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), Unbacked> {
        let mut done = 0;
        while done < bytes {
            let at = gpa.checked_add(done as u64).ok_or(Unbacked(gpa))?;
            let (pointer, left) = self.locate(at).ok_or(Unbacked(at))?;
            let length = (bytes - done).min(usize::try_from(left).unwrap_or(usize::MAX));
            each(pointer, done, length);
            done += length;
        }
        Ok(())
    }
}

impl Piece {
    /// The granules that lie in it, and their bias. Pieces are aligned to their size, so a granule lies in one
    /// altogether or not at all.
    fn granules(&self) -> (core::ops::Range<usize>, u64) {
        let pointer = direct_map(self.frames.address()).as_u64();
        let bias = pointer.wrapping_sub(self.start.as_u64());
        let first = (self.start.as_u64() >> GRANULE.shift()) as usize;
        let count = (self.frames.bytes() >> GRANULE.shift()) as usize;
        (first..first + count, bias)
    }
}

/// The bias of each granule.
fn granules(pieces: &[Piece]) -> Vec<AtomicU64> {
    let mut granules = Vec::new();
    for piece in pieces {
        let (range, bias) = piece.granules();
        if !range.is_empty() {
            granules.resize_with(range.start, || AtomicU64::new(NO_PIECE));
            granules.resize_with(range.end, || AtomicU64::new(bias));
        }
    }
    granules
}

/// Copies out of a guest's RAM: in one access where length and alignment allow it.
///
/// # Safety
/// `from` points to as many bytes of a guest's RAM as `to` has.
#[inline]
unsafe fn load(from: *const u8, to: &mut [u8]) {
    // SAFETY: the caller vouches for the memory, each arm for the alignment. Guests write to it at any
    // time, and all our accesses are volatile, atomic or the assembler's.
    unsafe {
        match to.len() {
            1 => to[0] = from.read_volatile(),
            2 if from.addr().is_multiple_of(2) => {
                to.copy_from_slice(&from.cast::<u16>().read_volatile().to_le_bytes())
            }
            4 if from.addr().is_multiple_of(4) => {
                to.copy_from_slice(&from.cast::<u32>().read_volatile().to_le_bytes())
            }
            8 if from.addr().is_multiple_of(8) => {
                to.copy_from_slice(&from.cast::<u64>().read_volatile().to_le_bytes())
            }
            length => copy(from, to.as_mut_ptr(), length),
        }
    }
}

/// Copies into a guest's RAM: in one access where length and alignment allow it.
///
/// # Safety
/// `to` points to as many bytes of a guest's RAM as `from` has.
#[inline]
unsafe fn store(to: *mut u8, from: &[u8]) {
    // SAFETY: as in `load`.
    unsafe {
        match *from {
            [a] => to.write_volatile(a),
            [a, b] if to.addr().is_multiple_of(2) => {
                to.cast::<u16>().write_volatile(u16::from_le_bytes([a, b]))
            }
            [a, b, c, d] if to.addr().is_multiple_of(4) => to
                .cast::<u32>()
                .write_volatile(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if to.addr().is_multiple_of(8) => {
                to.cast::<u64>()
                    .write_volatile(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
            }
            _ => copy(from.as_ptr(), to, from.len()),
        }
    }
}

impl GuestMemory for GuestRam {
    #[inline]
    fn read(&self, gpa: GuestPhys, buffer: &mut [u8]) -> Result<(), Unbacked> {
        if let Some(from) = self.single(gpa, buffer.len() as u64) {
            // SAFETY: `from` points to as many bytes of this guest's RAM as the buffer has.
            unsafe { load(from, buffer) };
            return Ok(());
        }
        self.for_each_piece(gpa, buffer.len(), |from, offset, length| {
            // SAFETY: `from` points to `length` bytes of this guest's RAM.
            unsafe { load(from, &mut buffer[offset..offset + length]) };
        })
    }

    #[inline]
    fn write(&self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), Unbacked> {
        if let Some(to) = self.single_for_writing(gpa, bytes.len() as u64) {
            // SAFETY: `to` points to as many bytes of this guest's RAM as there are.
            unsafe { store(to, bytes) };
            return Ok(());
        }
        // Nothing is written unless all of it can be.
        self.prepare_for_writing(gpa, bytes.len())?;
        self.for_each_piece(gpa, bytes.len(), |to, offset, length| {
            // SAFETY: `to` points to `length` bytes of this guest's RAM.
            unsafe { store(to, &bytes[offset..offset + length]) };
        })
    }

    #[inline]
    fn on_bus(&self, gpa: GuestPhys) -> GuestPhys {
        GuestPhys::new(gpa.as_u64() & self.a20().mask())
    }

    fn compare_exchange_u64(
        &self,
        gpa: GuestPhys,
        current: u64,
        new: u64,
    ) -> Result<u64, Unbacked> {
        let at = self
            .single_for_writing(gpa, 8)
            .filter(|_| gpa.as_u64().is_multiple_of(8))
            .ok_or(Unbacked(gpa))?;
        // SAFETY: eight aligned bytes of this guest's RAM, which are only ever accessed by volatile, atomic
        // or assembler accesses.
        let value = unsafe { AtomicU64::from_ptr(at.cast()) };
        let (Ok(old) | Err(old)) =
            value.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst);
        Ok(old)
    }

    fn compare_exchange_u32(
        &self,
        gpa: GuestPhys,
        current: u32,
        new: u32,
    ) -> Result<u32, Unbacked> {
        let at = self
            .single_for_writing(gpa, 4)
            .filter(|_| gpa.as_u64().is_multiple_of(4))
            .ok_or(Unbacked(gpa))?;
        // SAFETY: as for eight bytes.
        let value = unsafe { AtomicU32::from_ptr(at.cast()) };
        let (Ok(old) | Err(old)) =
            value.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst);
        Ok(old)
    }

    fn zero(&self, gpa: GuestPhys, bytes: u64) -> Result<(), Unbacked> {
        let length = usize::try_from(bytes).map_err(|_| Unbacked(gpa))?;
        self.prepare_for_writing(gpa, length)?;
        self.for_each_piece(gpa, length, |to, _, length| {
            // SAFETY: `to` points to `length` bytes of this guest's RAM.
            unsafe { zero(to, length) };
        })
    }

    #[inline]
    fn read_u32(&self, gpa: GuestPhys) -> Result<u32, Unbacked> {
        match self.single(gpa, 4) {
            Some(from) if gpa.as_u64().is_multiple_of(4) => {
                // SAFETY: four bytes of this guest's RAM, aligned; volatile.
                Ok(unsafe { from.cast::<u32>().read_volatile() })
            }
            _ => {
                let mut bytes = [0; 4];
                self.read(gpa, &mut bytes)?;
                Ok(u32::from_le_bytes(bytes))
            }
        }
    }

    #[inline]
    fn read_u64(&self, gpa: GuestPhys) -> Result<u64, Unbacked> {
        if gpa.as_u64().is_multiple_of(8)
            && let Some(bias) = self.granule_bias(gpa)
        {
            let from = gpa.as_u64().wrapping_add(bias) as *const u64;
            // SAFETY: eight bytes of this guest's RAM, aligned, in one granule; volatile.
            return Ok(unsafe { from.read_volatile() });
        }
        self.read_u64_slowly(gpa)
    }
}
