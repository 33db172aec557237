//! [`Heap`]: a binary heap, the least first, out of which any entry can be taken. The standard library's gives up
//! only its first.

use alloc::vec::Vec;

/// No parent is greater than its children.
#[derive(Debug)]
pub(super) struct Heap<T>(Vec<T>);

impl<T: Ord> Heap<T> {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn reserve(&mut self, additional: usize) {
        self.0.reserve(additional);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The least.
    pub(super) fn peek(&self) -> Option<&T> {
        self.0.first()
    }

    /// All of them, the least first and the others in no order. Their places count for [`remove`](Self::remove).
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    pub(super) fn push(&mut self, entry: T) {
        self.0.push(entry);
        self.rise(self.0.len() - 1);
    }

    /// Takes the least out.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.remove(0)
    }

    /// Takes the entry at a place out.
    pub(super) fn remove(&mut self, at: usize) -> Option<T> {
        if at >= self.0.len() {
            return None;
        }
        let entry = self.0.swap_remove(at);
        // Whoever was last is here now, and may belong further up or down.
        self.rise(at);
        self.sink(at);
        Some(entry)
    }

    /// Takes all out for which `is_meant` holds.
    pub(super) fn remove_all(&mut self, is_meant: impl Fn(&T) -> bool) -> Vec<T> {
        let (out, stay) = core::mem::take(&mut self.0)
            .into_iter()
            .partition(|entry| is_meant(entry));
        self.0 = stay;
        for at in (0..self.0.len() / 2).rev() {
            self.sink(at);
        }
        out
    }

    fn rise(&mut self, mut at: usize) {
        while let Some(parent) = at.checked_sub(1).map(|at| at / 2)
            && let (Some(entry), Some(above)) = (self.0.get(at), self.0.get(parent))
            && entry < above
        {
            self.0.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize) {
        while let Some(least) = [2 * at + 1, 2 * at + 2]
            .into_iter()
            .filter_map(|child| Some((self.0.get(child)?, child)))
            .min()
            && let Some(entry) = self.0.get(at)
            && least.0 < entry
        {
            let child = least.1;
            self.0.swap(at, child);
            at = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_least_comes_first_whatever_was_taken_out(
            entries in prop::collection::vec(0u32..100, 0..60), taken in prop::collection::vec(0usize..60, 0..30),
            meant in 0u32..100,
        ) {
            let mut heap = Heap::new();
            let mut model = entries.clone();
            for entry in entries {
                heap.push(entry);
            }
            for at in taken {
                let entry = heap.remove(at);
                prop_assert_eq!(entry.is_some(), at < model.len());
                if let Some(entry) = entry {
                    let place = model.iter().position(|other| *other == entry).unwrap();
                    model.swap_remove(place);
                }
            }
            let out = heap.remove_all(|entry| *entry < meant);
            prop_assert!(out.iter().all(|entry| *entry < meant));
            model.retain(|entry| *entry >= meant);
            model.sort_unstable();
            prop_assert_eq!(heap.len(), model.len());
            let mut sorted = Vec::new();
            while let Some(entry) = heap.pop() {
                prop_assert!(heap.iter().all(|other| *other >= entry));
                sorted.push(entry);
            }
            prop_assert_eq!(sorted, model);
        }
    }
}
