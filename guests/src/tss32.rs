//! [`Tss32`]: the task-state segment of a 32-bit task (SDM vol. 3, Task-State Segment).

/// A TSS as its double words, [`FIELDS`] of them, and what may be behind it. It lies within a page.
#[repr(C, align(128))]
pub struct Tss32(pub [u32; 32]);

/// The double words of a TSS.
pub const FIELDS: usize = 26;
/// The limit of its descriptor.
pub const LIMIT: u64 = 4 * FIELDS as u64 - 1;

impl Tss32 {
    /// One that is all zero.
    pub const ZERO: Self = Self([0; 32]);
}

/// The fields of a TSS, as indexes of its double words.
#[allow(missing_docs, reason = "the manual's names")]
pub mod field {
    pub const LINK: usize = 0;
    pub const ESP0: usize = 1;
    pub const SS0: usize = 2;
    pub const CR3: usize = 7;
    pub const EIP: usize = 8;
    pub const EFLAGS: usize = 9;
    pub const EAX: usize = 10;
    pub const ECX: usize = 11;
    pub const EDX: usize = 12;
    pub const EBX: usize = 13;
    pub const ESP: usize = 14;
    pub const EBP: usize = 15;
    pub const ESI: usize = 16;
    pub const EDI: usize = 17;
    pub const ES: usize = 18;
    pub const CS: usize = 19;
    pub const SS: usize = 20;
    pub const DS: usize = 21;
    pub const FS: usize = 22;
    pub const GS: usize = 23;
    pub const LDTR: usize = 24;
    /// The I/O map's base and the debug trap flag.
    pub const TRAP: usize = 25;
    /// All segment registers.
    pub const SEGMENTS: [usize; 6] = [ES, CS, SS, DS, FS, GS];
}
