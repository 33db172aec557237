//! [`Single`]: a static that only the first CPU of a guest touches.

use core::cell::UnsafeCell;

/// A static cell for the runtime's own tables. They are the first CPU's, and an exception handler only touches
/// what the interrupted code has left in a whole state, so pointers are handed out without a lock. Other CPUs
/// ([`siblings`](crate::siblings)) at most read what was there before they were started.
#[repr(transparent)]
pub struct Single<T>(UnsafeCell<T>);

// SAFETY: one CPU writes, and only while no other reads.
unsafe impl<T> Sync for Single<T> {}

impl<T> Single<T> {
    /// Wraps the initial value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The address of the value.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}
