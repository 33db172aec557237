//! [`Sleepers`]: the vCPUs of one CPU that wait for something, each in a slot by which others can name it, and the
//! times at which they wake up by themselves.
//!
//! The times are a binary heap whose entries know their slot and whose slots know their entry: a vCPU that is woken
//! by something else takes its entry with it, so a guest that arms far timers and wakes up all the time leaves
//! nothing behind. Every operation costs the logarithm of their number.

use alloc::vec::Vec;

/// The place of a sleeper. It may be somebody else's after the sleeper has been taken out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u32);

/// A time that never comes.
pub const NEVER: u64 = u64::MAX;

/// `T` is whatever owns a vCPU; times are of any clock that does not run backwards.
#[derive(Debug)]
pub struct Sleepers<T> {
    slots: Vec<Option<Sleeper<T>>>,
    free: Vec<Slot>,
    /// Slots of those that have a time, as a heap: no parent's time is later than its children's.
    timers: Vec<Slot>,
}

#[derive(Debug)]
struct Sleeper<T> {
    vcpu: T,
    wakes_at: u64,
    /// Its entry in `timers`.
    timer: Option<usize>,
}

impl<T> Default for Sleepers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Sleepers<T> {
    /// Nobody.
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            timers: Vec::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts one to sleep until `wakes_at`, or until somebody takes it out.
    pub fn insert(&mut self, vcpu: T, wakes_at: u64) -> Slot {
        let sleeper = Sleeper {
            vcpu,
            wakes_at: NEVER,
            timer: None,
        };
        let slot = if let Some(slot) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(slot.0 as usize) {
                *place = Some(sleeper);
            }
            slot
        } else {
            self.slots.push(Some(sleeper));
            Slot((self.slots.len() - 1) as u32)
        };
        self.set_wakes_at(slot, wakes_at);
        slot
    }

    /// Takes one out.
    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        self.set_wakes_at(slot, NEVER);
        let sleeper = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.free.push(slot);
        Some(sleeper.vcpu)
    }

    /// Who sleeps there.
    pub fn get(&self, slot: Slot) -> Option<&T> {
        Some(&self.sleeper(slot)?.vcpu)
    }

    /// Who sleeps there, to be changed.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        Some(&mut self.sleeper_mut(slot)?.vcpu)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten().map(|sleeper| &sleeper.vcpu)
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots
            .iter_mut()
            .flatten()
            .map(|sleeper| &mut sleeper.vcpu)
    }

    /// The slots that are in use.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..).zip(&self.slots).filter_map(|(slot, sleeper)| {
            let _: &Sleeper<T> = sleeper.as_ref()?;
            Some(Slot(slot))
        })
    }

    /// When the first of them wakes up by itself; [`NEVER`] where none does.
    pub fn next_wake(&self) -> u64 {
        self.timers
            .first()
            .map_or(NEVER, |slot| self.wakes_at(*slot))
    }

    /// One whose time has come. It stays where it is.
    pub fn due(&self, now: u64) -> Option<Slot> {
        let first = *self.timers.first()?;
        (self.wakes_at(first) <= now).then_some(first)
    }

    /// Gives one another time.
    pub fn set_wakes_at(&mut self, slot: Slot, wakes_at: u64) {
        let Some(sleeper) = self.sleeper_mut(slot) else {
            return;
        };
        sleeper.wakes_at = wakes_at;
        match (sleeper.timer, wakes_at) {
            (None, NEVER) => {}
            (None, _) => {
                let at = self.timers.len();
                self.timers.push(slot);
                self.moved(at);
                self.rise(at);
            }
            (Some(at), NEVER) => {
                sleeper.timer = None;
                self.timers.swap_remove(at);
                // Whoever was last is here now, and may belong further up or down.
                self.moved(at);
                self.rise(at);
                self.sink(at);
            }
            (Some(at), _) => {
                self.rise(at);
                self.sink(at);
            }
        }
    }

    fn sleeper(&self, slot: Slot) -> Option<&Sleeper<T>> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    fn sleeper_mut(&mut self, slot: Slot) -> Option<&mut Sleeper<T>> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    fn wakes_at(&self, slot: Slot) -> u64 {
        self.sleeper(slot).map_or(NEVER, |sleeper| sleeper.wakes_at)
    }

    fn time_of_entry(&self, at: usize) -> Option<u64> {
        self.timers.get(at).map(|slot| self.wakes_at(*slot))
    }

    /// Tells the sleeper of an entry where that is.
    fn moved(&mut self, at: usize) {
        if let Some(slot) = self.timers.get(at).copied()
            && let Some(sleeper) = self.sleeper_mut(slot)
        {
            sleeper.timer = Some(at);
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.timers.swap(a, b);
        self.moved(a);
        self.moved(b);
    }

    fn rise(&mut self, mut at: usize) {
        while let Some(parent) = at.checked_sub(1).map(|at| at / 2)
            && let Some(time) = self.time_of_entry(at)
            && Some(time) < self.time_of_entry(parent)
        {
            self.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let earlier_child = [2 * at + 1, 2 * at + 2]
                .into_iter()
                .filter_map(|child| Some((self.time_of_entry(child)?, child)))
                .min();
            match earlier_child {
                Some((time, child)) if Some(time) < self.time_of_entry(at) => {
                    self.swap(at, child);
                    at = child;
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sleepers_wake_in_the_order_of_their_times() {
        let mut sleepers = Sleepers::new();
        for wakes_at in [50, 10, NEVER, 40, 20, 30] {
            sleepers.insert(wakes_at, wakes_at);
        }
        let mut woken = Vec::new();
        while let Some(slot) = sleepers.due(45) {
            woken.push(sleepers.remove(slot).unwrap());
        }
        assert_eq!(woken, [10, 20, 30, 40]);
        assert_eq!((sleepers.len(), sleepers.next_wake()), (2, 50));
    }

    #[test]
    fn who_is_woken_by_others_leaves_no_timer_behind() {
        let mut sleepers = Sleepers::new();
        for round in 0..1000 {
            let slot = sleepers.insert((), 1_000_000 + round);
            assert_eq!(sleepers.remove(slot), Some(()));
        }
        assert_eq!((sleepers.timers.len(), sleepers.slots.len()), (0, 1));
        assert_eq!(sleepers.next_wake(), NEVER);
    }

    #[test]
    fn an_empty_slot_is_nobodys() {
        let mut sleepers = Sleepers::new();
        let slot = sleepers.insert('a', NEVER);
        assert_eq!(sleepers.get(slot), Some(&'a'));
        sleepers.remove(slot);
        assert_eq!(sleepers.get(slot), None);
        assert_eq!(sleepers.remove(slot), None);
        assert_eq!(sleepers.slots().count(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Remove(usize),
        SetTime(usize, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let time = prop_oneof![Just(NEVER), 0u64..100];
        prop_oneof![
            time.clone().prop_map(Step::Insert),
            any::<usize>().prop_map(Step::Remove),
            (any::<usize>(), time).prop_map(|(which, time)| Step::SetTime(which, time)),
        ]
    }

    proptest! {
        #[test]
        fn the_next_wake_is_always_the_earliest(steps in prop::collection::vec(step(), 0..200)) {
            let mut sleepers = Sleepers::new();
            let mut model: BTreeMap<Slot, u64> = BTreeMap::new();
            for step in steps {
                let nth = |which: usize| {
                    model.keys().nth(which % model.len().max(1)).copied()
                };
                match step {
                    Step::Insert(time) => {
                        let slot = sleepers.insert(time, time);
                        prop_assert!(model.insert(slot, time).is_none());
                    }
                    Step::Remove(which) => {
                        if let Some(slot) = nth(which) {
                            prop_assert!(sleepers.remove(slot).is_some());
                            model.remove(&slot);
                        }
                    }
                    Step::SetTime(which, time) => {
                        if let Some(slot) = nth(which) {
                            sleepers.set_wakes_at(slot, time);
                            model.insert(slot, time);
                        }
                    }
                }
                let earliest = model.values().copied().min().unwrap_or(NEVER);
                prop_assert_eq!(sleepers.next_wake(), earliest);
                prop_assert_eq!(sleepers.len(), model.len());
                if let Some(slot) = sleepers.due(50) {
                    prop_assert_eq!(model[&slot], earliest);
                } else {
                    prop_assert!(earliest > 50);
                }
            }
        }
    }
}
