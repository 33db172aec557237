//! The task-state segment in its two formats (SDM vol. 3, Task-State Segment, and 16-Bit Task-State Segment).

use arch::descriptor::SystemType;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Bits16,
    Bits32,
}

/// A TSS is read in this many bytes; the 16-bit format has fewer.
pub(super) const MAX_BYTES: usize = 0x68;

/// The dynamic part of a task's state, and what of the static part a switch loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct TaskState {
    /// 32-bit format only.
    pub(super) cr3: Option<u32>,
    pub(super) eip: u32,
    pub(super) eflags: u32,
    /// In the order of their numbers, EAX to EDI.
    pub(super) gprs: [u32; 8],
    /// In the order of their numbers, ES to GS.
    pub(super) selectors: [u16; 6],
    pub(super) ldt: u16,
    /// The debug trap flag (T).
    pub(super) trap: bool,
}

impl Format {
    /// The format of a TSS descriptor, available or busy.
    pub(super) const fn of(kind: SystemType) -> Option<Self> {
        match kind {
            SystemType::Tss16Available | SystemType::Tss16Busy => Some(Self::Bits16),
            SystemType::TssAvailable | SystemType::TssBusy => Some(Self::Bits32),
            _ => None,
        }
    }

    pub(super) const fn available(self) -> SystemType {
        match self {
            Self::Bits16 => SystemType::Tss16Available,
            Self::Bits32 => SystemType::TssAvailable,
        }
    }

    pub(super) const fn busy(self) -> SystemType {
        match self {
            Self::Bits16 => SystemType::Tss16Busy,
            Self::Bits32 => SystemType::TssBusy,
        }
    }

    /// The smallest limit.
    pub(super) const fn min_limit(self) -> u32 {
        self.bytes() as u32 - 1
    }

    /// Bytes up to the end of what a switch reads.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Bits16 => 0x2c,
            Self::Bits32 => MAX_BYTES,
        }
    }

    /// Offset of the instruction pointer, at which the dynamic part begins.
    const fn dynamic(self) -> usize {
        match self {
            Self::Bits16 => 0xe,
            Self::Bits32 => 0x20,
        }
    }

    /// Bytes of a field of the dynamic part.
    const fn field(self) -> usize {
        match self {
            Self::Bits16 => 2,
            Self::Bits32 => 4,
        }
    }

    /// Segment registers in the dynamic part: the 16-bit format lacks FS and GS.
    const fn segments(self) -> usize {
        match self {
            Self::Bits16 => 4,
            Self::Bits32 => 6,
        }
    }

    const fn ldt(self) -> usize {
        self.dynamic() + (10 + self.segments()) * self.field()
    }

    /// Takes the state out of a TSS. What the 16-bit format does not have is zero; the upper halves of its
    /// registers are ones, as processors leave them.
    pub(super) fn load(self, bytes: &[u8; MAX_BYTES]) -> TaskState {
        let fields = self.dynamic()..;
        let mut dynamic = bytes
            .get(fields)
            .unwrap_or(&[])
            .chunks_exact(self.field())
            .map(|field| {
                field
                    .iter()
                    .rev()
                    .fold(0u32, |value, byte| value << 8 | u32::from(*byte))
            });
        let mut next = || dynamic.next().unwrap_or(0);
        let (eip, eflags) = (next(), next());
        let upper = match self {
            Self::Bits16 => 0xffff_0000,
            Self::Bits32 => 0,
        };
        let gprs = core::array::from_fn(|_| next() | upper);
        let mut selectors = [0; 6];
        for selector in selectors.iter_mut().take(self.segments()) {
            *selector = next() as u16;
        }
        let ldt = next() as u16;
        let (cr3, trap) = match self {
            Self::Bits16 => (None, false),
            Self::Bits32 => (Some(word(bytes, 0x1c)), word(bytes, 0x64) & 1 != 0),
        };
        TaskState {
            cr3,
            eip,
            eflags,
            gprs,
            selectors,
            ldt,
            trap,
        }
    }

    /// Puts the dynamic part of the state into a TSS; nothing else of it changes.
    pub(super) fn store(self, state: &TaskState, bytes: &mut [u8; MAX_BYTES]) {
        let registers = [state.eip, state.eflags].into_iter().chain(state.gprs);
        let fields = bytes.get_mut(self.dynamic()..).unwrap_or(&mut []);
        let mut fields = fields.chunks_exact_mut(self.field());
        for (register, field) in registers.zip(&mut fields) {
            for (byte, value) in field.iter_mut().zip(register.to_le_bytes()) {
                *byte = value;
            }
        }
        for (selector, field) in state.selectors.iter().take(self.segments()).zip(fields) {
            for (byte, value) in field.iter_mut().zip(selector.to_le_bytes()) {
                *byte = value;
            }
        }
    }

    /// The part of a TSS that [`store`](Self::store) changes.
    pub(super) const fn dynamic_part(self) -> core::ops::Range<usize> {
        self.dynamic()..self.ldt()
    }
}

fn word(bytes: &[u8; MAX_BYTES], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_manual_has_them() {
        assert_eq!(Format::Bits32.ldt(), 0x60);
        assert_eq!(Format::Bits16.ldt(), 0x2a);
        assert_eq!(Format::Bits32.dynamic_part(), 0x20..0x60);
        assert_eq!(Format::Bits16.dynamic_part(), 0xe..0x2a);
        let mut bytes = [0; MAX_BYTES];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = i as u8;
        }
        let state = Format::Bits32.load(&bytes);
        assert_eq!(
            (state.cr3, state.eip, state.eflags),
            (Some(0x1f1e_1d1c), 0x2322_2120, 0x2726_2524)
        );
        assert_eq!((state.gprs[0], state.gprs[7]), (0x2b2a_2928, 0x4746_4544));
        assert_eq!(
            (state.selectors[0], state.selectors[5], state.ldt),
            (0x4948, 0x5d5c, 0x6160)
        );
        assert!(!state.trap);
        let state = Format::Bits16.load(&bytes);
        assert_eq!((state.cr3, state.eip, state.eflags), (None, 0x0f0e, 0x1110));
        assert_eq!((state.gprs[0], state.gprs[7]), (0xffff_1312, 0xffff_2120));
        assert_eq!(
            (state.selectors, state.ldt),
            ([0x2322, 0x2524, 0x2726, 0x2928, 0, 0], 0x2b2a)
        );
    }

    #[test]
    fn storing_leaves_what_is_reserved() {
        let state = TaskState {
            eip: 0x1111_1111,
            gprs: [0x2222_2222; 8],
            selectors: [0x3333; 6],
            ..TaskState::default()
        };
        let mut bytes = [0xee; MAX_BYTES];
        Format::Bits32.store(&state, &mut bytes);
        assert_eq!(bytes[0x1c..0x20], [0xee; 4]);
        assert_eq!(bytes[0x20..0x24], [0x11; 4]);
        assert_eq!(
            bytes[0x5c..0x64],
            [0x33, 0x33, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]
        );
        let mut bytes = [0xee; MAX_BYTES];
        Format::Bits16.store(&state, &mut bytes);
        assert_eq!(bytes[0xc..0x12], [0xee, 0xee, 0x11, 0x11, 0, 0]);
        assert_eq!(bytes[0x28..0x2c], [0x33, 0x33, 0xee, 0xee]);
    }
}
