//! Ends of interrupts without an exit, where no hardware virtualises the local APIC.
//!
//! The guest has a flag in its memory. Set, it means: whoever ends the interrupt in service need only clear it. It is
//! set when a vCPU is entered and nothing depends on the moment of that end: the interrupt is edge-triggered, and
//! no other one is requested. A vCPU that exits, for whatever reason, may have cleared it; so before its local APIC
//! is looked at ([`EndOfInterrupt::collect`]) the end is made up for, and where another interrupt has come meanwhile
//! the flag is taken back. Only the vCPU itself writes the flag, and it does not run then.

use machine::devices::lapic::Lapic;
use memory::{GuestMemory, GuestPhys};

/// The flag is bit 0 of a 32-bit word.
pub(super) const FLAG_BYTES: usize = 4;
const MAY_SKIP: u32 = 1;

/// The flag of one vCPU.
#[derive(Debug, Default)]
pub struct EndOfInterrupt {
    flag: Option<GuestPhys>,
    state: State,
}

/// What the flag said when the vCPU was entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// Nothing: ends are told to the local APIC.
    #[default]
    Clear,
    /// Set, for the interrupt with the highest priority in service.
    Offered,
}

impl EndOfInterrupt {
    pub(super) const fn flag(&self) -> Option<GuestPhys> {
        self.flag
    }

    /// The guest keeps its flag there from now on, or keeps none.
    pub(super) fn announce(
        &mut self,
        flag: Option<GuestPhys>,
        memory: &impl GuestMemory,
        lapic: &mut Lapic,
    ) {
        self.collect(memory, lapic);
        self.withdraw(memory);
        self.flag = flag;
    }

    /// Before the local APIC is looked at: does what the guest has left undone, and takes the flag back if it has not
    /// and another interrupt waits for it.
    #[inline]
    pub fn collect(&mut self, memory: &impl GuestMemory, lapic: &mut Lapic) {
        if self.state == State::Offered {
            self.collect_offered(memory, lapic);
        }
    }

    fn collect_offered(&mut self, memory: &impl GuestMemory, lapic: &mut Lapic) {
        if self.word(memory) & MAY_SKIP == 0 {
            self.state = State::Clear;
            // Only edge-triggered interrupts are offered: nobody else has to be told.
            let _ = lapic.end_of_interrupt();
        } else if !lapic.may_end_silently() {
            self.withdraw(memory);
        }
    }

    /// Before an entry, when what the vCPU takes there has been decided.
    #[inline]
    pub fn offer(&mut self, memory: &impl GuestMemory, lapic: &Lapic) {
        if let Some(flag) = self.flag
            && self.state == State::Clear
            && lapic.may_end_silently()
        {
            let word = self.word(memory) | MAY_SKIP;
            if memory.write(flag, &word.to_le_bytes()).is_ok() {
                self.state = State::Offered;
            }
        }
    }

    fn withdraw(&mut self, memory: &impl GuestMemory) {
        if self.state == State::Offered
            && let Some(flag) = self.flag
        {
            let word = self.word(memory) & !MAY_SKIP;
            let _ = memory.write(flag, &word.to_le_bytes());
            self.state = State::Clear;
        }
    }

    fn word(&self, memory: &impl GuestMemory) -> u32 {
        self.flag
            .and_then(|flag| memory.read_u32(flag).ok())
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use arch::Vector;
    use machine::TriggerMode;

    use super::*;
    use crate::testing::{FakeMemory, vcpu};

    const FLAG: u64 = 0x80;

    /// A local APIC that takes interrupts, and a guest with a flag.
    fn machine() -> (FakeMemory, Lapic, EndOfInterrupt) {
        let memory = FakeMemory::new(0x1000);
        let mut lapic = vcpu().lapic;
        lapic.set_virtual_wire();
        let mut eoi = EndOfInterrupt::default();
        eoi.announce(Some(GuestPhys::new(FLAG)), &memory, &mut lapic);
        (memory, lapic, eoi)
    }

    fn take(lapic: &mut Lapic, vector: u8, trigger_mode: TriggerMode) {
        lapic.accept(Vector(vector), trigger_mode);
        assert_eq!(lapic.acknowledge(), Some(Vector(vector)));
    }

    /// What the guest does at the end of a handler.
    fn guest_ends(memory: &FakeMemory, lapic: &mut Lapic) {
        let flag = memory.get_u32(FLAG);
        memory.put_u32(FLAG, flag & !1);
        if flag & 1 == 0 {
            let _ = lapic.end_of_interrupt();
        }
    }

    #[test]
    fn an_edge_interrupt_ends_by_the_flag() {
        let (memory, mut lapic, mut eoi) = machine();
        memory.put_u32(FLAG, 0xabcd_0000);
        take(&mut lapic, 0x40, TriggerMode::Edge);
        eoi.offer(&memory, &lapic);
        assert_eq!(memory.get_u32(FLAG), 0xabcd_0001, "other bits stay");
        assert_eq!(lapic.processor_priority(), 0x40);
        // An exit before the end changes nothing.
        eoi.collect(&memory, &mut lapic);
        eoi.offer(&memory, &lapic);
        assert_eq!(lapic.processor_priority(), 0x40);
        guest_ends(&memory, &mut lapic);
        eoi.collect(&memory, &mut lapic);
        assert_eq!(lapic.processor_priority(), 0);
        // And it is ended once only.
        eoi.offer(&memory, &lapic);
        eoi.collect(&memory, &mut lapic);
        assert_eq!(memory.get_u32(FLAG) & 1, 0);
    }

    #[test]
    fn the_io_apic_is_told_of_the_end_of_a_level_triggered_interrupt() {
        let (memory, mut lapic, mut eoi) = machine();
        take(&mut lapic, 0x40, TriggerMode::Level);
        eoi.offer(&memory, &lapic);
        assert_eq!(memory.get_u32(FLAG), 0);
    }

    #[test]
    fn an_interrupt_that_waits_for_the_end_is_not_late() {
        let (memory, mut lapic, mut eoi) = machine();
        take(&mut lapic, 0x80, TriggerMode::Edge);
        eoi.offer(&memory, &lapic);
        // One of lower priority arrives: the flag is taken back, so that the end exits.
        lapic.accept(Vector(0x40), TriggerMode::Edge);
        eoi.collect(&memory, &mut lapic);
        assert_eq!(memory.get_u32(FLAG), 0);
        eoi.offer(&memory, &lapic);
        assert_eq!(memory.get_u32(FLAG), 0);
        guest_ends(&memory, &mut lapic);
        assert_eq!(lapic.pending_vector(), Some(Vector(0x40)));
    }

    #[test]
    fn an_end_that_was_skipped_counts_before_the_next_interrupt() {
        let (memory, mut lapic, mut eoi) = machine();
        take(&mut lapic, 0x80, TriggerMode::Edge);
        eoi.offer(&memory, &lapic);
        guest_ends(&memory, &mut lapic);
        lapic.accept(Vector(0x40), TriggerMode::Edge);
        eoi.collect(&memory, &mut lapic);
        assert_eq!(lapic.pending_vector(), Some(Vector(0x40)));
    }

    #[test]
    fn of_nested_interrupts_only_the_inner_one_may_be_skipped() {
        let (memory, mut lapic, mut eoi) = machine();
        take(&mut lapic, 0x40, TriggerMode::Edge);
        take(&mut lapic, 0x80, TriggerMode::Edge);
        eoi.offer(&memory, &lapic);
        guest_ends(&memory, &mut lapic);
        // The outer one's end is an exit, and the inner one's is made up for first.
        eoi.collect(&memory, &mut lapic);
        assert_eq!(lapic.processor_priority(), 0x40);
        guest_ends(&memory, &mut lapic);
        assert_eq!(lapic.processor_priority(), 0);
    }

    #[test]
    fn a_guest_that_takes_its_flag_away_ends_interrupts_as_before() {
        let (memory, mut lapic, mut eoi) = machine();
        take(&mut lapic, 0x40, TriggerMode::Edge);
        eoi.offer(&memory, &lapic);
        eoi.announce(None, &memory, &mut lapic);
        assert_eq!(memory.get_u32(FLAG), 0);
        assert_eq!(lapic.processor_priority(), 0x40);
        eoi.offer(&memory, &lapic);
        assert_eq!(memory.get_u32(FLAG), 0);
    }
}
