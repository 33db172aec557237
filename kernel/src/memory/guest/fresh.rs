//! RAM for a guest that is to begin: found in pieces as large as they come ([`DirtyRam::allocate`]), or left by the life
//! before ([`DirtyRam::reuse`]), and zeroed before anybody sees it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::AtomicU8;

use machine::A20Gate;
use memory::{GuestPhys, PageSize, Range, Written};

use super::super::{FrameRun, free_for_guests, room_for_guests, zero_physical};
use super::{GuestRam, Piece, granules};

/// Pieces are no larger than this: the largest page.
const LARGEST_PIECE: u64 = PageSize::Size1G.bytes();

/// The machine has less free memory than a guest wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotEnoughMemory {
    /// The RAM that the guest wants; 0 where it has that already.
    pub(crate) wanted_bytes: u64,
    /// What is wanted beside that, for its CPUs and tables.
    pub(crate) beside_bytes: u64,
    /// What is free for guests.
    pub(crate) free_bytes: u64,
}

impl fmt::Display for NotEnoughMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(
            f,
            "it wants {} MiB of memory, {} KiB for its CPUs and tables beside that, and {} MiB are free: give it less \
             (memory = ..., cpus = ...), or the machine more",
            mib(self.wanted_bytes),
            self.beside_bytes.div_ceil(1024),
            mib(self.free_bytes)
        )
    }
}

impl core::error::Error for NotEnoughMemory {}

/// The memory of a guest before anybody may see it: it still holds whatever it held before. Zeroing what was written
/// takes a while, in which a CPU may have other things to do, so it goes piece by piece.
#[derive(Debug)]
pub(crate) struct DirtyRam {
    ram: GuestRam,
    /// The piece that is being zeroed, and how much of it is clean.
    piece: usize,
    done_bytes: u64,
    zeroed_bytes: u64,
}

/// Memory that was zeroed.
#[derive(Debug)]
pub(crate) struct ZeroedRam {
    pub(crate) ram: GuestRam,
    /// How much of it was not known to be clean.
    pub(crate) zeroed_bytes: u64,
}

impl DirtyRam {
    /// Memory at these guest-physical addresses, which are sorted, do not overlap, and are made of whole pages.
    /// `beside_bytes` are to be left for what else the guest needs.
    ///
    /// # Errors
    /// [`NotEnoughMemory`]; nothing stays allocated then.
    pub(crate) fn allocate(
        ranges: &[Range<GuestPhys>],
        beside_bytes: u64,
    ) -> Result<Self, NotEnoughMemory> {
        let wanted_bytes = ranges.iter().map(Range::<GuestPhys>::len).sum();
        let free_bytes = free_for_guests();
        let not_enough = NotEnoughMemory {
            wanted_bytes,
            beside_bytes,
            free_bytes,
        };
        if wanted_bytes > free_bytes
            || wanted_bytes.saturating_add(beside_bytes) > room_for_guests()
        {
            return Err(not_enough);
        }
        let mut pieces = Vec::new();
        let mut largest = LARGEST_PIECE;
        for range in ranges {
            let mut at = range.start.as_u64();
            while at < range.end.as_u64() {
                let left = range.end.as_u64() - at;
                // The largest power of two that fits, that the address is a multiple of, and that there was
                // still room for.
                let aligned = if at == 0 {
                    LARGEST_PIECE
                } else {
                    1 << at.trailing_zeros()
                };
                let mut bytes = aligned.min(1 << left.ilog2()).min(largest);
                let frames = loop {
                    if bytes < PageSize::Size4K.bytes() {
                        return Err(not_enough);
                    }
                    // A block of the buddy system, and so a multiple of its size.
                    if let Some(frames) = FrameRun::block(bytes) {
                        break frames;
                    }
                    bytes /= 2;
                    largest = bytes;
                };
                pieces.push(Piece {
                    start: GuestPhys::new(at),
                    frames,
                });
                at += bytes;
            }
        }
        let end = pieces.last().map_or(GuestPhys::new(0), Piece::end);
        Ok(Self::reuse(GuestRam {
            granules: granules(&pieces),
            written: Arc::new(Written::all(end)),
            pieces,
            a20: AtomicU8::new(A20Gate::Open as u8),
        }))
    }

    /// The memory of a guest that is no more.
    pub(crate) fn reuse(ram: GuestRam) -> Self {
        ram.set_a20(A20Gate::Open);
        Self {
            ram,
            piece: 0,
            done_bytes: 0,
            zeroed_bytes: 0,
        }
    }

    /// Zeroes up to so many bytes more. Hands the memory out once all of it is done.
    pub(crate) fn zero_some(mut self, most_bytes: u64) -> Result<ZeroedRam, Self> {
        let mut left = most_bytes;
        while let Some(piece) = self.ram.pieces.get(self.piece) {
            let at = piece.start.wrapping_add(self.done_bytes);
            let rest = piece.granule_rest(self.done_bytes);
            if piece.has_granules() && !self.ram.written.is_marked(at) {
                self.done_bytes += rest;
            } else {
                let bytes = left.min(rest);
                if bytes == 0 {
                    return Err(self);
                }
                // SAFETY: the bytes lie in the piece's frames, which are this value's, and no guest has them.
                unsafe {
                    zero_physical(piece.frames.address().wrapping_add(self.done_bytes), bytes)
                };
                left -= bytes;
                self.done_bytes += bytes;
                self.zeroed_bytes += bytes;
                if bytes == rest && piece.has_granules() {
                    self.ram.written.unmark(at);
                }
            }
            if self.done_bytes == piece.frames.bytes() {
                self.piece += 1;
                self.done_bytes = 0;
            }
        }
        Ok(ZeroedRam {
            ram: self.ram,
            zeroed_bytes: self.zeroed_bytes,
        })
    }
}
