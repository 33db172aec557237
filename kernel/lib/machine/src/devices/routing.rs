//! [`RoutingTable`]: which vCPUs of a virtual machine an interrupt message is for.
//!
//! Every vCPU publishes the [`Route`] of its local APIC when that changes; every sender reads the table without
//! a lock. A message that races with a change finds either the old or the new route, as on a real bus.
//!
//! After SDM vol. 3, Determining IPI Destination, and Logical Destination Mode in x2APIC Mode.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::lapic::{ApicMode, Ipi, Shorthand, x2apic_ldr};
use crate::{DeliveryMode, DestinationMode, InterruptMessage};

/// The destination that means every CPU, in x2APIC form and in an [`Ipi`].
const BROADCAST: u32 = u32::MAX;
/// The same in the messages of I/O APICs and devices.
const XAPIC_BROADCAST: u32 = 0xff;

/// How messages find one local APIC, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route(u32);

impl Route {
    const LDR: u32 = 0xff;
    const MODEL_SHIFT: u32 = 8;
    const SOFTWARE_ENABLED: u32 = 1 << 12;
    const ENABLED: u32 = 1 << 13;
    const X2APIC: u32 = 1 << 14;

    /// No message finds it.
    const NONE: Self = Self(0);

    /// `ldr` is the logical ID and `model` the upper four bits of the DFR, which count in xAPIC mode only.
    pub(super) const fn new(mode: ApicMode, software_enabled: bool, ldr: u8, model: u8) -> Self {
        let mode = match mode {
            ApicMode::Disabled => return Self::NONE,
            ApicMode::Xapic => Self::ENABLED,
            ApicMode::X2apic => Self::ENABLED | Self::X2APIC,
        };
        let enabled = if software_enabled {
            Self::SOFTWARE_ENABLED
        } else {
            0
        };
        Self(ldr as u32 | (model as u32 & 0xf) << Self::MODEL_SHIFT | enabled | mode)
    }

    const fn is_enabled(self) -> bool {
        self.0 & Self::ENABLED != 0
    }

    const fn is_x2apic(self) -> bool {
        self.0 & Self::X2APIC != 0
    }

    const fn takes_vectors(self) -> bool {
        self.0 & Self::SOFTWARE_ENABLED != 0
    }

    /// Whether the destination names the local APIC with this ID.
    fn matches(self, id: u32, mode: DestinationMode, destination: u32) -> bool {
        if !self.is_enabled() {
            return false;
        }
        if destination == BROADCAST {
            return true;
        }
        match mode {
            DestinationMode::Physical if self.is_x2apic() => destination == id,
            DestinationMode::Physical => destination == id & 0xff,
            DestinationMode::Logical if self.is_x2apic() => {
                let ldr = x2apic_ldr(id);
                ldr >> 16 == destination >> 16 && ldr & destination & 0xffff != 0
            }
            DestinationMode::Logical => {
                let ldr = self.0 & Self::LDR;
                match (self.0 >> Self::MODEL_SHIFT) & 0xf {
                    0xf => ldr & destination != 0,
                    0 => ldr >> 4 == destination >> 4 && ldr & destination & 0xf != 0,
                    _ => false,
                }
            }
        }
    }
}

/// A set of vCPUs of one virtual machine, by their index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VcpuSet([u64; 4]);

impl VcpuSet {
    /// No vCPU.
    pub const EMPTY: Self = Self([0; 4]);

    /// Adds one.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "two bits are left of the index")]
    pub const fn insert(&mut self, index: u8) {
        self.0[(index >> 6) as usize] |= 1 << (index & 63);
    }

    /// Takes one out.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "two bits are left of the index")]
    pub const fn remove(&mut self, index: u8) {
        self.0[(index >> 6) as usize] &= !(1 << (index & 63));
    }

    /// Whether it is in the set.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "two bits are left of the index")]
    pub const fn contains(&self, index: u8) -> bool {
        self.0[(index >> 6) as usize] & 1 << (index & 63) != 0
    }

    /// How many are in the set.
    pub const fn len(&self) -> usize {
        let [a, b, c, d] = self.0;
        (a.count_ones() + b.count_ones() + c.count_ones() + d.count_ones()) as usize
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    /// Removes and returns the lowest index.
    #[inline]
    pub fn pop(&mut self) -> Option<u8> {
        for (number, word) in (0u8..).zip(&mut self.0) {
            if *word != 0 {
                let bit = word.trailing_zeros() as u8;
                *word &= *word - 1;
                return Some(number << 6 | bit);
            }
        }
        None
    }

    /// Only the member that has `rank` others before it, counting around.
    fn nth_around(mut self, rank: usize) -> Self {
        let mut chosen = Self::EMPTY;
        let Some(mut rank) = rank.checked_rem(self.len()) else {
            return chosen;
        };
        while let Some(index) = self.pop() {
            if rank == 0 {
                chosen.insert(index);
                break;
            }
            rank -= 1;
        }
        chosen
    }
}

impl IntoIterator for VcpuSet {
    type Item = u8;
    type IntoIter = VcpuIndices;

    fn into_iter(self) -> VcpuIndices {
        VcpuIndices(self)
    }
}

/// The members of a [`VcpuSet`], lowest first.
#[derive(Clone, Debug)]
pub struct VcpuIndices(VcpuSet);

impl Iterator for VcpuIndices {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        self.0.pop()
    }
}

/// Whether a vCPU's APIC ID is its index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Numbering {
    Identity,
    Arbitrary,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    /// A [`Route`]; written by the vCPU itself.
    route: AtomicU32,
}

/// The routes of all vCPUs of one virtual machine.
#[derive(Debug)]
pub struct RoutingTable {
    entries: Box<[Entry]>,
    numbering: Numbering,
}

impl RoutingTable {
    /// A table for vCPUs with these APIC IDs, of which none can be found until it has published its route.
    /// `None` for more than 256.
    pub fn new(ids: &[u32]) -> Option<Self> {
        if ids.len() > 256 {
            return None;
        }
        let entry = |&id: &u32| Entry {
            id,
            route: AtomicU32::new(Route::NONE.0),
        };
        let in_order = ids.iter().zip(0u32..).all(|(&id, index)| id == index);
        let numbering = if in_order {
            Numbering::Identity
        } else {
            Numbering::Arbitrary
        };
        Some(Self {
            entries: ids.iter().map(entry).collect(),
            numbering,
        })
    }

    /// The vCPU whose local APIC has this ID, whatever it does.
    pub fn index_of(&self, id: u32) -> Option<u8> {
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        u8::try_from(at).ok()
    }

    /// Makes a vCPU's route known.
    pub fn publish(&self, vcpu: u8, route: Route) {
        if let Some(entry) = self.entries.get(usize::from(vcpu)) {
            entry.route.store(route.0, Relaxed);
        }
    }

    /// Whom a message of an I/O APIC or a device is for; these have 8-bit destinations.
    #[inline]
    pub fn resolve(&self, message: &InterruptMessage) -> VcpuSet {
        let destination = match message.destination {
            XAPIC_BROADCAST => BROADCAST,
            destination => destination,
        };
        self.addressed(message, destination)
    }

    /// Whom an interprocessor interrupt is for.
    #[inline]
    pub fn resolve_ipi(&self, ipi: &Ipi, sender: u8) -> VcpuSet {
        match ipi.shorthand {
            Shorthand::None => self.addressed(&ipi.message, ipi.message.destination),
            Shorthand::All => self.collect(&ipi.message, |_, _| true),
            Shorthand::Others => self.collect(&ipi.message, |index, _| index != sender),
        }
    }

    #[inline]
    fn addressed(&self, message: &InterruptMessage, destination: u32) -> VcpuSet {
        let mode = message.destination_mode;
        if mode == DestinationMode::Physical && self.numbering == Numbering::Identity {
            // The commonest case by far: one CPU, by its ID, which is its index.
            if let (Ok(index), Some(entry)) = (
                u8::try_from(destination),
                self.entries.get(destination as usize),
            ) {
                let mut set = VcpuSet::EMPTY;
                if is_taker(entry, message) {
                    set.insert(index);
                }
                return set;
            }
        }
        self.collect(message, |_, entry| {
            Route(entry.route.load(Relaxed)).matches(entry.id, mode, destination)
        })
    }

    /// Those for whom `is_meant` holds and who take such messages; of these only one where the delivery mode
    /// says so.
    ///
    /// The task priorities of other CPUs are not looked at, nor do chipsets of today: the vector picks the CPU,
    /// so that an interrupt stays where its handler's data is cached.
    fn collect(
        &self,
        message: &InterruptMessage,
        is_meant: impl Fn(u8, &Entry) -> bool,
    ) -> VcpuSet {
        let mut set = VcpuSet::EMPTY;
        for (index, entry) in (0u8..=255).zip(&self.entries) {
            if is_taker(entry, message) && is_meant(index, entry) {
                set.insert(index);
            }
        }
        if message.delivery_mode == DeliveryMode::LowestPriority {
            return set.nth_around(usize::from(message.vector.0));
        }
        set
    }
}

/// Whether a local APIC takes messages of this delivery mode at all (SDM vol. 3, Local APIC State After It Has
/// Been Software Disabled).
#[inline]
fn is_taker(entry: &Entry, message: &InterruptMessage) -> bool {
    let route = Route(entry.route.load(Relaxed));
    match message.delivery_mode {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
            route.is_enabled() && route.takes_vectors()
        }
        DeliveryMode::Smi
        | DeliveryMode::Nmi
        | DeliveryMode::Init
        | DeliveryMode::StartUp
        | DeliveryMode::ExtInt => route.is_enabled(),
    }
}

#[cfg(test)]
mod tests;
