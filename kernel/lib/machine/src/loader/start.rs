//! [`InitialState`]: the register file with which a kernel is entered.

use arch::{AccessRights, Cr0, Cr4, DescriptorTable, Efer, Gprs, Rflags, Segment, SegmentName};
use memory::{GuestMemory, GuestPhys, Unbacked};

/// The registers of the boot CPU at a kernel's first instruction; what is not here is as after a reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitialState {
    /// General-purpose registers.
    pub gprs: Gprs,
    /// RIP, relative to the base of CS.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: Rflags,
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// IA32_EFER.
    pub efer: Efer,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    segments: [Segment; 8],
}

/// Selectors of the descriptor table that loaders write, where the Linux boot protocol wants them.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
/// Descriptors in that table: two unused, code, data, and a TSS of two slots.
const DESCRIPTORS: usize = 6;
/// Bytes of the table.
pub(super) const GDT_BYTES: u64 = DESCRIPTORS as u64 * 8;

const CODE_RIGHTS: AccessRights = AccessRights::from_bits_retain(0x9b);
const DATA_RIGHTS: AccessRights = AccessRights::from_bits_retain(0x93);
const BUSY_TSS: AccessRights = AccessRights::from_bits_retain(0x8b);
const TSS_LIMIT: u32 = 0x67;

impl InitialState {
    /// A segment register.
    pub fn segment(&self, name: SegmentName) -> Segment {
        let [es, cs, ss, ds, fs, gs, ldtr, tr] = self.segments;
        match name {
            SegmentName::Es => es,
            SegmentName::Cs => cs,
            SegmentName::Ss => ss,
            SegmentName::Ds => ds,
            SegmentName::Fs => fs,
            SegmentName::Gs => gs,
            SegmentName::Ldtr => ldtr,
            SegmentName::Tr => tr,
        }
    }

    /// Real mode at `code:offset`, with the interrupt table at 0 and all other segments at `data`.
    pub(super) fn real(code: u16, offset: u16, data: u16, gprs: Gprs) -> Self {
        let at = |selector: u16, access| Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            access,
        };
        let data = at(data, DATA_RIGHTS);
        let ldtr = at(0, AccessRights::from_bits_retain(0x82));
        let tr = at(0, BUSY_TSS);
        Self {
            gprs,
            rip: u64::from(offset),
            rflags: Rflags::ONE,
            cr0: Cr0::ET,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            gdtr: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
            idtr: DescriptorTable {
                base: 0,
                limit: 0x3ff,
            },
            segments: [
                data,
                at(code, CODE_RIGHTS),
                data,
                data,
                data,
                data,
                ldtr,
                tr,
            ],
        }
    }

    /// 32-bit protected mode without paging, all segments flat.
    pub(super) fn protected(eip: u32, gdt: GuestPhys, gprs: Gprs) -> Self {
        let flat = AccessRights::DEFAULT_BIG | AccessRights::GRANULARITY;
        Self {
            gprs,
            rip: u64::from(eip),
            rflags: Rflags::ONE,
            cr0: Cr0::PE | Cr0::ET,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            gdtr: gdtr(gdt),
            idtr: DescriptorTable::default(),
            segments: flat_segments(CODE_RIGHTS | flat),
        }
    }

    /// 64-bit mode with the page tables at `cr3`.
    pub(super) fn long(rip: u64, cr3: GuestPhys, gdt: GuestPhys, gprs: Gprs) -> Self {
        let rights = CODE_RIGHTS | AccessRights::LONG | AccessRights::GRANULARITY;
        Self {
            gprs,
            rip,
            rflags: Rflags::ONE,
            cr0: Cr0::PE | Cr0::ET | Cr0::NE | Cr0::PG,
            cr3: cr3.as_u64(),
            cr4: Cr4::PAE,
            efer: Efer::LME | Efer::LMA,
            gdtr: gdtr(gdt),
            idtr: DescriptorTable::default(),
            segments: flat_segments(rights),
        }
    }

    /// Writes the descriptor table that the segments come from.
    pub(super) fn write_gdt(
        &self,
        memory: &impl GuestMemory,
        gdt: GuestPhys,
    ) -> Result<(), Unbacked> {
        let [_, cs, _, ds, _, _, _, tr] = self.segments;
        let table = [0, 0, descriptor(&cs), descriptor(&ds), descriptor(&tr), 0];
        let mut bytes = [0; GDT_BYTES as usize];
        for (slot, descriptor) in bytes.chunks_exact_mut(8).zip(table) {
            slot.copy_from_slice(&u64::to_le_bytes(descriptor));
        }
        memory.write(gdt, &bytes)
    }
}

const fn gdtr(gdt: GuestPhys) -> DescriptorTable {
    DescriptorTable {
        base: gdt.as_u64(),
        limit: GDT_BYTES as u16 - 1,
    }
}

fn flat_segments(code_rights: AccessRights) -> [Segment; 8] {
    let data_rights = DATA_RIGHTS | AccessRights::DEFAULT_BIG | AccessRights::GRANULARITY;
    let flat = |selector, access| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        access,
    };
    let data = flat(DATA, data_rights);
    let task = Segment {
        selector: TASK,
        base: 0,
        limit: TSS_LIMIT,
        access: BUSY_TSS,
    };
    [
        data,
        flat(CODE, code_rights),
        data,
        data,
        data,
        data,
        Segment::UNUSABLE,
        task,
    ]
}

/// The descriptor of a segment with base 0 (SDM vol. 3, Segment Descriptors).
const fn descriptor(segment: &Segment) -> u64 {
    let rights = segment.access.bits() as u64;
    let scaled = segment.access.contains(AccessRights::GRANULARITY);
    let limit = if scaled {
        segment.limit >> 12
    } else {
        segment.limit
    } as u64;
    (limit & 0xffff)
        | (rights & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (rights >> 12 & 0xf) << 52
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeMemory;
    use super::*;

    #[test]
    fn the_descriptor_table_is_that_of_the_linux_boot_protocol() {
        let memory = FakeMemory::new(0x1000);
        let at = GuestPhys::new(0x500);
        let long = InitialState::long(0, GuestPhys::new(0), at, Gprs::new());
        long.write_gdt(&memory, at).unwrap();
        assert_eq!(
            memory.read_u64(GuestPhys::new(0x510)),
            Ok(0x00af_9b00_0000_ffff)
        );
        assert_eq!(
            memory.read_u64(GuestPhys::new(0x518)),
            Ok(0x00cf_9300_0000_ffff)
        );
        assert_eq!(
            memory.read_u64(GuestPhys::new(0x520)),
            Ok(0x0000_8b00_0000_0067)
        );
        let protected = InitialState::protected(0, at, Gprs::new());
        protected.write_gdt(&memory, at).unwrap();
        assert_eq!(
            memory.read_u64(GuestPhys::new(0x510)),
            Ok(0x00cf_9b00_0000_ffff)
        );
        assert_eq!(
            protected.gdtr,
            DescriptorTable {
                base: 0x500,
                limit: 47
            }
        );
    }

    #[test]
    fn a_real_mode_segment_starts_at_sixteen_times_its_selector() {
        let state = InitialState::real(0x1234, 0x5, 0, Gprs::new());
        assert_eq!(state.segment(SegmentName::Cs).base, 0x12340);
        assert_eq!(state.segment(SegmentName::Ds).base, 0);
        assert_eq!(state.idtr.limit, 0x3ff);
    }
}
