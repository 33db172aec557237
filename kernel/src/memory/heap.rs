//! The hypervisor's heap: mapped where it is needed, and as far as it is needed.
//!
//! What no VM may take ([`super::KEPT_BYTES`]) is there for the heap: an allocation that cannot fail is served from it. Large
//! ones are of VMs (their files) and may fail; they get none of it.
//!
//! The list of free blocks is first-fit and has one lock, so nothing on the way of a VM exit allocates.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use linked_list_allocator::Heap;
use memory::PageSize;
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;

use super::{HEAP, free_for_guests, space};

/// By how much the heap grows at least.
const STEP_BYTES: usize = 256 * 1024;
/// Allocations beyond this may fail, and whoever wants as much expects it.
const LARGEST_CERTAIN_BYTES: usize = 1 << 20;
/// How far it may grow.
const MAX_BYTES: usize = 64 << 30;

struct GrowingHeap(Mutex<Heap>);

#[global_allocator]
static ALLOCATOR: GrowingHeap = GrowingHeap(Mutex::new(Heap::empty()));

// SAFETY: the blocks that the list hands out are disjoint, mapped, and of the size and alignment asked for.
unsafe impl GlobalAlloc for GrowingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        without_interrupts(|| {
            let mut heap = self.0.lock();
            if let Ok(block) = heap.allocate_first_fit(layout) {
                return block.as_ptr();
            }
            grow(&mut heap, layout);
            heap.allocate_first_fit(layout)
                .map_or(ptr::null_mut(), |block| block.as_ptr())
        })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = ptr::NonNull::new(block) {
            // SAFETY: the block came from `alloc` with this layout, as the trait demands of the caller.
            without_interrupts(|| unsafe { self.0.lock().deallocate(block, layout) });
        }
    }
}

/// How many bytes of the heap are in use, and how many it has.
pub(super) fn statistics() -> (usize, usize) {
    without_interrupts(|| {
        let heap = ALLOCATOR.0.lock();
        (heap.used(), heap.size())
    })
}

/// Maps enough at the end of the heap for a block of this layout, if there is as much.
#[cold]
fn grow(heap: &mut Heap, layout: Layout) {
    // Room for the alignment, and for the list's own bookkeeping.
    let wanted = layout
        .size()
        .saturating_add(layout.align())
        .saturating_add(64);
    let size = heap.size();
    if wanted > MAX_BYTES - STEP_BYTES - size {
        return;
    }
    let for_guests = usize::try_from(free_for_guests()).unwrap_or(usize::MAX);
    if wanted > LARGEST_CERTAIN_BYTES && wanted > for_guests {
        return;
    }
    let page = PageSize::Size4K.bytes() as usize;
    // The last of the memory is not taken in advance.
    let step = if for_guests > wanted + STEP_BYTES {
        STEP_BYTES
    } else {
        page
    };
    let bytes = wanted.next_multiple_of(step);
    for offset in (0..bytes).step_by(page) {
        if space::map_new_page(HEAP + (size + offset) as u64).is_err() {
            // With what was free at the heap's end before, it may be enough.
            extend(heap, offset);
            return;
        }
    }
    extend(heap, bytes);
}

fn extend(heap: &mut Heap, bytes: usize) {
    if bytes == 0 {
        return;
    }
    if heap.size() == 0 {
        // SAFETY: the pages were just mapped and belong to the heap for ever.
        unsafe { heap.init(HEAP as *mut u8, bytes) };
    } else {
        // SAFETY: the pages right behind the heap's end were just mapped and belong to it for ever.
        unsafe { heap.extend(bytes) };
    }
}
