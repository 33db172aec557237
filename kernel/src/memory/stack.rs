//! Stacks with a page below them that is not mapped, so that an overflow is a fault and not damage.

use core::sync::atomic::{AtomicU64, Ordering};

use memory::{HostVirt, PageSize, Range};

use super::{STACKS, space};

/// The next free address for a stack.
static NEXT: AtomicU64 = AtomicU64::new(STACKS);

/// A stack. It is never given back: CPUs do not end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    range: Range<HostVirt>,
}

impl Stack {
    /// Maps a stack of whole pages, or returns `None` where memory has run out.
    pub(crate) fn new(bytes: u64) -> Option<Self> {
        let page = PageSize::Size4K.bytes();
        let bytes = bytes.next_multiple_of(page);
        let guard = NEXT.fetch_add(page + bytes, Ordering::Relaxed);
        let start = guard + page;
        for address in (start..start + bytes).step_by(page as usize) {
            space::map_new_page(address).ok()?;
        }
        let (start, end) = (HostVirt::new(start), HostVirt::new(start + bytes));
        Some(Self {
            range: Range { start, end },
        })
    }

    /// The address that the stack pointer starts with.
    pub(crate) const fn top(&self) -> HostVirt {
        self.range.end
    }

    /// Its lowest address.
    pub(crate) const fn bottom(&self) -> HostVirt {
        self.range.start
    }

    /// Whether an address lies on the stack.
    pub(crate) const fn contains(&self, address: HostVirt) -> bool {
        self.range.contains(address)
    }

    /// Whether an address lies on the page below, where an overflow strikes.
    pub(crate) fn overflowed_to(&self, address: HostVirt) -> bool {
        self.range
            .start
            .offset_from(address)
            .is_some_and(|below| 0 < below && below <= PageSize::Size4K.bytes())
    }
}
