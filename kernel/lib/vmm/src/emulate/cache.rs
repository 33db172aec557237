//! Instructions that were decoded before, one cache per vCPU.
//!
//! Drivers reach their devices from few places, again and again. An entry remembers everything that led to
//! its instruction: the registers that decide the walk, each paging-structure entry on the way with its
//! value, and the bytes. It counts only while all of that reads the same as then, so that nothing has to be
//! told when the guest changes a mapping, its code or its mode.

use arch::decode::{self, Instruction, InstructionBytes};
use arch::{AccessKind, AccessRights, Cr4, Efer, SegmentName, Width};
use memory::{GuestMemory, GuestPhys, PageSize};

use crate::cpu::Cpu;
use crate::linear::Linear;
use crate::state::VcpuState;

/// Instructions that are remembered.
const ENTRIES: usize = 8;

/// Levels of 4-level paging.
const LEVELS: usize = 4;

/// Cached instructions, by the low bits of RIP.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    entries: [Option<Entry>; ENTRIES],
}

/// A value of guest memory that the instruction was found by.
#[derive(Clone, Copy, Debug)]
struct Read {
    at: GuestPhys,
    value: u64,
}

/// The registers that decide what RIP means in 64-bit mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    rip: u64,
    cr3: u64,
    cr4: Cr4,
    efer: Efer,
    cpl: u8,
}

/// All reads of guest memory on the way to an instruction.
#[derive(Clone, Copy, Debug)]
struct Trail {
    /// The walk, and two words of code.
    reads: [Read; LEVELS + 2],
    count: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    trail: Trail,
    instruction: Instruction,
}

impl Key {
    /// The registers as they are now, or `None` outside 64-bit mode.
    #[inline]
    fn new<C: Cpu>(cpu: &C) -> Option<Self> {
        let efer = cpu.efer();
        let rip = cpu.rip();
        // Only 64-bit code gets above 4 GiB; for the rest CS has to be asked.
        if !efer.contains(Efer::LMA)
            || rip >> 32 == 0
                && !cpu
                    .access_rights(SegmentName::Cs)
                    .contains(AccessRights::LONG)
        {
            return None;
        }
        Some(Self {
            rip,
            cr3: cpu.cr3(),
            cr4: cpu.cr4(),
            efer,
            cpl: cpu.cpl(),
        })
    }

    const fn slot(&self) -> usize {
        (self.rip ^ self.rip >> 3 ^ self.rip >> 7) as usize % ENTRIES
    }
}

impl Trail {
    const fn new() -> Self {
        Self {
            reads: [Read {
                at: GuestPhys::new(0),
                value: 0,
            }; LEVELS + 2],
            count: 0,
        }
    }

    /// Remembers a read.
    #[inline]
    fn note(&mut self, at: GuestPhys, value: u64) {
        if let Some(slot) = self.reads.get_mut(self.count) {
            *slot = Read { at, value };
            self.count += 1;
        }
    }

    /// The sixteen bytes of code that the two last reads gave, from this many bytes on.
    #[inline]
    fn code(&self, skipped: u64) -> Option<InstructionBytes> {
        let low = self.reads.get(self.count.checked_sub(2)?)?.value;
        let high = self.reads.get(self.count.checked_sub(1)?)?.value;
        let word = (u128::from(high) << 64 | u128::from(low)) >> (8 * (skipped & 7));
        Some(word.to_le_bytes())
    }

    /// Whether everything reads as it did.
    #[inline(always)]
    fn still_holds<G: GuestMemory>(&self, memory: &G) -> bool {
        for read in self.reads.get(..self.count).unwrap_or(&[]) {
            match memory.read_u64(read.at) {
                Ok(value) if value == read.value => {}
                _ => return false,
            }
        }
        true
    }
}

impl Cache {
    pub(super) const fn new() -> Self {
        Self {
            entries: [const { None }; ENTRIES],
        }
    }

    /// The instruction that these registers lead to, where it is known.
    #[inline]
    fn find<G: GuestMemory>(&self, memory: &G, key: &Key) -> Option<&Instruction> {
        let entry = self.entries.get(key.slot())?.as_ref()?;
        (entry.key == *key && entry.trail.still_holds(memory)).then_some(&entry.instruction)
    }

    /// Remembers an instruction.
    fn insert(&mut self, key: Key, trail: Trail, instruction: Instruction) {
        if let Some(slot) = self.entries.get_mut(key.slot()) {
            *slot = Some(Entry {
                key,
                trail,
                instruction,
            });
        }
    }
}

/// The instruction at RIP, where the cache knows it.
#[inline]
pub(super) fn known<'a, C: Cpu, G: GuestMemory>(
    cpu: &C,
    vcpu: &'a VcpuState,
    memory: &G,
) -> Option<&'a Instruction> {
    vcpu.emulator.cache.find(memory, &Key::new(cpu)?)
}

/// Fetches the instruction at RIP for the cache. `None` outside 64-bit mode, and where anything has to be decided
/// that an exact fetch has to decide: a fault, a mark to set, a second page.
pub(super) fn fetch<C: Cpu, G: GuestMemory>(
    cpu: &C,
    vcpu: &mut VcpuState,
    memory: &G,
) -> Option<Instruction> {
    let key = Key::new(cpu)?;
    let linear = Linear::new(cpu, &vcpu.cpuid);
    let mut trail = Trail::new();
    let gpa = linear.translate_simply(memory, key.rip, AccessKind::Execute, |at, entry| {
        trail.note(at, entry);
    })?;
    let aligned = GuestPhys::new(gpa.as_u64() & !7);
    if aligned.page_offset(PageSize::Size4K) > PageSize::Size4K.bytes() - 16 {
        return None;
    }
    for at in [aligned, aligned.wrapping_add(8)] {
        trail.note(at, memory.read_u64(at).ok()?);
    }
    let skipped = gpa.as_u64() & 7;
    let bytes = trail.code(skipped)?;
    let available = 16 - skipped as usize;
    let instruction = decode::decode(&bytes, available, key.rip, Width::Qword).ok()?;
    vcpu.emulator.cache.insert(key, trail, instruction);
    Some(instruction)
}

#[cfg(test)]
mod tests {
    use arch::Gpr;

    use super::*;
    use crate::testing::{FakeCpu, FakeMachine, vcpu};

    const ROOT: u64 = 0x10_0000;
    const RIP: u64 = 0x1003;

    fn machine() -> FakeMachine {
        let machine = FakeMachine::new(0x40_0000);
        machine.memory.identity_map_long_mode(ROOT);
        // The walk sets the accessed flags once; a real guest's are set.
        for entry in [ROOT, ROOT + 0x1000, ROOT + 0x2000] {
            let value = u64::from_le_bytes(machine.memory.get(entry));
            machine.memory.put_u64(entry, value | 0x20);
        }
        machine.memory.put(RIP, &[0x8b, 0x07, 0x90, 0x90]);
        machine
    }

    fn cpu() -> FakeCpu {
        let mut cpu = FakeCpu::long_mode(ROOT);
        cpu.rip = RIP;
        cpu
    }

    /// The cache's answer for a CPU that has been there before.
    fn second(cpu: &FakeCpu, machine: &FakeMachine, state: &VcpuState) -> Option<Instruction> {
        known(cpu, state, &machine.memory).copied()
    }

    #[test]
    fn an_instruction_is_known_the_second_time() {
        let (cpu, machine, mut state) = (cpu(), machine(), vcpu());
        assert_eq!(second(&cpu, &machine, &state), None);
        let first = fetch(&cpu, &mut state, &machine.memory);
        assert!(first.is_some());
        assert_eq!(second(&cpu, &machine, &state), first);
        // General registers do not count.
        assert_eq!(second(&cpu.with(Gpr::Rdi, 5), &machine, &state), first);
    }

    #[test]
    fn changed_code_tables_or_registers_make_it_unknown() {
        let mut state = vcpu();
        let known = machine();
        assert!(fetch(&cpu(), &mut state, &known.memory).is_some());

        let patched = machine();
        patched.memory.put(RIP + 1, &[0x0f]);
        assert_eq!(second(&cpu(), &patched, &state), None);

        for table in [ROOT, ROOT + 0x1000, ROOT + 0x2000] {
            let changed = machine();
            let value = u64::from_le_bytes(changed.memory.get(table));
            changed.memory.put_u64(table, value | 1 << 63);
            assert_eq!(second(&cpu(), &changed, &state), None);
        }

        let mut ring_3 = cpu().in_ring_3();
        ring_3.rip = RIP;
        assert_eq!(second(&ring_3, &known, &state), None);
        let mut other = cpu();
        other.cr3 = 0x20_0000;
        assert_eq!(second(&other, &known, &state), None);
        let mut smep = cpu();
        smep.cr4 |= Cr4::SMEP;
        assert_eq!(second(&smep, &known, &state), None);
        let mut compatibility = cpu();
        compatibility.segments[SegmentName::Cs as usize].access -= AccessRights::LONG;
        assert_eq!(second(&compatibility, &known, &state), None);
        assert!(second(&cpu(), &known, &state).is_some());
    }

    #[test]
    fn nothing_is_remembered_that_was_not_seen_whole() {
        let mut state = vcpu();
        let device = machine();
        // In the last 15 bytes of a page an instruction may go on in the next one.
        let mut late = cpu();
        late.rip = 0x1ff9;
        device.memory.put(0x1ff9, &[0x8b, 0x07]);
        assert_eq!(fetch(&late, &mut state, &device.memory), None);
        // Code that is not accessed yet: the exact walk marks it.
        device.memory.put_u64(ROOT + 0x2000, 0x83);
        assert_eq!(fetch(&cpu(), &mut state, &device.memory), None);
    }
}
