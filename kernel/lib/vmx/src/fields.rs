//! Every field of the VMCS, typed by its width and by whether software may write it.
//!
//! `Field<u16, ReadWrite>` is what the constants below are; the kernel's VMREAD and VMWRITE, the dump and the
//! model of the entry checks take them through [`VmcsReader`] and [`VmcsWriter`], so that a value of the wrong
//! width and a write to a read-only field do not compile. Encodings: SDM vol. 3, Field Encoding in VMCS.
//!
//! ```
//! use vmx::fields::{self, VmcsReader, VmcsWriter};
//! fn skip(vmcs: &mut (impl VmcsReader + VmcsWriter)) {
//!     let rip: u64 = vmcs.read(fields::GUEST_RIP);
//!     vmcs.write(fields::GUEST_RIP, rip + 2);
//! }
//! ```
//!
//! ```compile_fail
//! use vmx::fields::{self, VmcsReader, VmcsWriter};
//! fn skip(vmcs: &mut (impl VmcsReader + VmcsWriter)) {
//!     let reason: u32 = vmcs.read(fields::EXIT_REASON);
//!     vmcs.write(fields::EXIT_REASON, reason + 2);
//! }
//! ```

use core::fmt;
use core::marker::PhantomData;

use arch::SegmentName;

/// The value type of a field: u16, u32 or u64 (64-bit and natural-width fields alike).
pub trait FieldWidth: Copy + Eq + fmt::Debug + fmt::LowerHex + sealed::Sealed {
    /// The value out of the 64 bits that VMREAD gives.
    fn from_u64(raw: u64) -> Self;
    /// The 64 bits that VMWRITE takes.
    fn into_u64(self) -> u64;
    /// The manual's width codes (bits 14:13 of the encoding) that this type serves.
    const WIDTH_CODES: [u32; 2];
}

/// Whether software may write a field.
pub trait Access: Copy + sealed::Sealed {
    /// Whether the field belongs to the VM-exit information fields.
    const READ_ONLY: bool;
}

/// A field that VMWRITE accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadWrite;

/// A VM-exit information field, which only the processor writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOnly;

mod sealed {
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
    impl Sealed for super::ReadWrite {}
    impl Sealed for super::ReadOnly {}
}

impl Access for ReadWrite {
    const READ_ONLY: bool = false;
}

impl Access for ReadOnly {
    const READ_ONLY: bool = true;
}

macro_rules! width {
    ($width:ty, $codes:expr) => {
        impl FieldWidth for $width {
            const WIDTH_CODES: [u32; 2] = $codes;

            #[inline]
            fn from_u64(raw: u64) -> Self {
                raw as $width
            }

            #[inline]
            fn into_u64(self) -> u64 {
                self.into()
            }
        }
    };
}

width!(u16, [0, 0]);
width!(u64, [1, 3]);
width!(u32, [2, 2]);

/// The number by which VMREAD and VMWRITE know a field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Encoding(u32);

impl Encoding {
    /// The bare number.
    #[inline]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The name of the field in this module.
    pub const fn name(self) -> &'static str {
        name(self.0)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:#06x})", self.name(), self.0)
    }
}

/// A VMCS field of width `W` that can be read, and with `A` = [`ReadWrite`] also written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<W, A> {
    encoding: Encoding,
    kind: PhantomData<(W, A)>,
}

impl<W: FieldWidth, A: Access> Field<W, A> {
    const fn new(encoding: u32) -> Self {
        let width = (encoding >> 13) & 3;
        assert!(
            width == W::WIDTH_CODES[0] || width == W::WIDTH_CODES[1],
            "another width"
        );
        assert!(
            ((encoding >> 10) & 3 == 1) == A::READ_ONLY,
            "another access"
        );
        assert!(encoding & 1 == 0, "the upper half of a 64-bit field");
        Self {
            encoding: Encoding(encoding),
            kind: PhantomData,
        }
    }

    /// Its number for VMREAD and VMWRITE.
    #[inline]
    pub const fn encoding(self) -> Encoding {
        self.encoding
    }
}

impl<W: FieldWidth, A: Access> fmt::Debug for Field<W, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encoding.fmt(f)
    }
}

/// Something that the fields of one VMCS can be read from: the current VMCS, or a map in a test.
pub trait VmcsReader {
    /// The value of a field, or `None` where this processor has no such field.
    fn read_raw(&self, encoding: Encoding) -> Option<u64>;

    /// The value of a field; zero where this processor has no such field, which is how a feature that it
    /// lacks reads.
    #[inline]
    fn read<W: FieldWidth, A: Access>(&self, field: Field<W, A>) -> W {
        W::from_u64(self.read_raw(field.encoding()).unwrap_or(0))
    }
}

/// Something that the fields of one VMCS can be written to.
pub trait VmcsWriter {
    /// Writes a field that VMWRITE accepts.
    fn write_raw(&mut self, encoding: Encoding, value: u64);

    /// Writes a field.
    #[inline]
    fn write<W: FieldWidth>(&mut self, field: Field<W, ReadWrite>, value: W) {
        self.write_raw(field.encoding(), value.into_u64());
    }
}

/// The four fields of one guest segment register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentFields {
    /// The selector.
    pub selector: Field<u16, ReadWrite>,
    /// The base.
    pub base: Field<u64, ReadWrite>,
    /// The limit, in bytes.
    pub limit: Field<u32, ReadWrite>,
    /// The access rights.
    pub access_rights: Field<u32, ReadWrite>,
}

impl SegmentFields {
    /// The fields of this guest segment register; their encodings run in the order of the registers' numbers.
    #[inline]
    pub const fn guest(name: SegmentName) -> Self {
        let step = name as u32 * 2;
        Self {
            selector: Field::new(GUEST_ES_SELECTOR.encoding.0 + step),
            base: Field::new(GUEST_ES_BASE.encoding.0 + step),
            limit: Field::new(GUEST_ES_LIMIT.encoding.0 + step),
            access_rights: Field::new(GUEST_ES_ACCESS_RIGHTS.encoding.0 + step),
        }
    }
}

macro_rules! fields {
    ($($width:ty, $access:ty { $($name:ident = $encoding:literal, $doc:literal;)* })*) => {
        $($(
            #[doc = $doc]
            pub const $name: Field<$width, $access> = Field::new($encoding);
        )*)*

        /// All fields, group by group, as the dump lists them.
        pub const ALL: &[Encoding] = &[$($($name.encoding,)*)*];

        const fn name(encoding: u32) -> &'static str {
            match encoding {
                $($($encoding => stringify!($name),)*)*
                _ => "unknown field",
            }
        }
    };
}

fields! {
    // 16-bit control fields.
    u16, ReadWrite {
        VPID = 0x0000, "Virtual-processor identifier.";
        POSTED_INTERRUPT_NOTIFICATION_VECTOR = 0x0002, "Posted-interrupt notification vector.";
        EPTP_INDEX = 0x0004, "EPTP index, for #VE and VM functions.";
        HLAT_PREFIX_SIZE = 0x0006, "HLAT prefix size.";
        LAST_PID_POINTER_INDEX = 0x0008, "Last PID-pointer index, for IPI virtualization.";
    }
    // 16-bit guest state.
    u16, ReadWrite {
        GUEST_ES_SELECTOR = 0x0800, "Guest ES selector.";
        GUEST_CS_SELECTOR = 0x0802, "Guest CS selector.";
        GUEST_SS_SELECTOR = 0x0804, "Guest SS selector.";
        GUEST_DS_SELECTOR = 0x0806, "Guest DS selector.";
        GUEST_FS_SELECTOR = 0x0808, "Guest FS selector.";
        GUEST_GS_SELECTOR = 0x080a, "Guest GS selector.";
        GUEST_LDTR_SELECTOR = 0x080c, "Guest LDTR selector.";
        GUEST_TR_SELECTOR = 0x080e, "Guest TR selector.";
        GUEST_INTERRUPT_STATUS = 0x0810, "Guest interrupt status: RVI in the low byte, SVI in the high byte.";
        PML_INDEX = 0x0812, "Page-modification-logging index.";
        GUEST_UINV = 0x0814, "Guest user-interrupt notification vector.";
    }
    // 16-bit host state.
    u16, ReadWrite {
        HOST_ES_SELECTOR = 0x0c00, "Host ES selector.";
        HOST_CS_SELECTOR = 0x0c02, "Host CS selector.";
        HOST_SS_SELECTOR = 0x0c04, "Host SS selector.";
        HOST_DS_SELECTOR = 0x0c06, "Host DS selector.";
        HOST_FS_SELECTOR = 0x0c08, "Host FS selector.";
        HOST_GS_SELECTOR = 0x0c0a, "Host GS selector.";
        HOST_TR_SELECTOR = 0x0c0c, "Host TR selector.";
    }
    // 64-bit control fields.
    u64, ReadWrite {
        IO_BITMAP_A = 0x2000, "Address of I/O bitmap A (ports 0 to 0x7fff).";
        IO_BITMAP_B = 0x2002, "Address of I/O bitmap B (ports 0x8000 to 0xffff).";
        MSR_BITMAPS = 0x2004, "Address of the MSR bitmaps.";
        EXIT_MSR_STORE_ADDRESS = 0x2006, "VM-exit MSR-store address.";
        EXIT_MSR_LOAD_ADDRESS = 0x2008, "VM-exit MSR-load address.";
        ENTRY_MSR_LOAD_ADDRESS = 0x200a, "VM-entry MSR-load address.";
        EXECUTIVE_VMCS_POINTER = 0x200c, "Executive-VMCS pointer.";
        PML_ADDRESS = 0x200e, "Page-modification-log address.";
        TSC_OFFSET = 0x2010, "TSC offset.";
        VIRTUAL_APIC_ADDRESS = 0x2012, "Virtual-APIC address.";
        APIC_ACCESS_ADDRESS = 0x2014, "APIC-access address.";
        POSTED_INTERRUPT_DESCRIPTOR = 0x2016, "Posted-interrupt descriptor address.";
        VM_FUNCTION_CONTROLS = 0x2018, "VM-function controls.";
        EPT_POINTER = 0x201a, "EPT pointer.";
        EOI_EXIT_BITMAP_0 = 0x201c, "EOI-exit bitmap, vectors 0 to 63.";
        EOI_EXIT_BITMAP_1 = 0x201e, "EOI-exit bitmap, vectors 64 to 127.";
        EOI_EXIT_BITMAP_2 = 0x2020, "EOI-exit bitmap, vectors 128 to 191.";
        EOI_EXIT_BITMAP_3 = 0x2022, "EOI-exit bitmap, vectors 192 to 255.";
        EPTP_LIST_ADDRESS = 0x2024, "EPTP-list address.";
        VMREAD_BITMAP = 0x2026, "VMREAD-bitmap address.";
        VMWRITE_BITMAP = 0x2028, "VMWRITE-bitmap address.";
        VE_INFORMATION_ADDRESS = 0x202a, "Virtualization-exception information address.";
        XSS_EXITING_BITMAP = 0x202c, "XSS-exiting bitmap.";
        ENCLS_EXITING_BITMAP = 0x202e, "ENCLS-exiting bitmap.";
        SPP_TABLE_POINTER = 0x2030, "Sub-page-permission-table pointer.";
        TSC_MULTIPLIER = 0x2032, "TSC multiplier: a fixed-point number with 48 fraction bits.";
        TERTIARY_CONTROLS = 0x2034, "Tertiary processor-based VM-execution controls.";
        ENCLV_EXITING_BITMAP = 0x2036, "ENCLV-exiting bitmap.";
        LOW_PASID_DIRECTORY = 0x2038, "Low PASID directory address.";
        HIGH_PASID_DIRECTORY = 0x203a, "High PASID directory address.";
        SHARED_EPT_POINTER = 0x203c, "Shared EPT pointer.";
        PCONFIG_EXITING_BITMAP = 0x203e, "PCONFIG-exiting bitmap.";
        HLAT_POINTER = 0x2040, "Hypervisor-managed linear-address-translation pointer.";
        PID_POINTER_TABLE = 0x2042, "PID-pointer table address.";
        SECONDARY_EXIT_CONTROLS = 0x2044, "Secondary VM-exit controls.";
        SPEC_CTRL_MASK = 0x204a, "IA32_SPEC_CTRL mask.";
        SPEC_CTRL_SHADOW = 0x204c, "IA32_SPEC_CTRL shadow.";
        INJECTED_EVENT_DATA = 0x2052, "Injected-event data, for FRED event delivery.";
    }
    // 64-bit VM-exit information.
    u64, ReadOnly {
        GUEST_PHYSICAL_ADDRESS = 0x2400, "Guest-physical address of an EPT violation or misconfiguration.";
        ORIGINAL_EVENT_DATA = 0x2404, "Original-event data, for FRED event delivery.";
    }
    // 64-bit guest state.
    u64, ReadWrite {
        VMCS_LINK_POINTER = 0x2800, "VMCS link pointer; all ones without VMCS shadowing.";
        GUEST_DEBUGCTL = 0x2802, "Guest IA32_DEBUGCTL.";
        GUEST_PAT = 0x2804, "Guest IA32_PAT.";
        GUEST_EFER = 0x2806, "Guest IA32_EFER.";
        GUEST_PERF_GLOBAL_CTRL = 0x2808, "Guest IA32_PERF_GLOBAL_CTRL.";
        GUEST_PDPTE0 = 0x280a, "Guest PDPTE0, for PAE paging under EPT.";
        GUEST_PDPTE1 = 0x280c, "Guest PDPTE1.";
        GUEST_PDPTE2 = 0x280e, "Guest PDPTE2.";
        GUEST_PDPTE3 = 0x2810, "Guest PDPTE3.";
        GUEST_BNDCFGS = 0x2812, "Guest IA32_BNDCFGS.";
        GUEST_RTIT_CTL = 0x2814, "Guest IA32_RTIT_CTL.";
        GUEST_LBR_CTL = 0x2816, "Guest IA32_LBR_CTL.";
        GUEST_PKRS = 0x2818, "Guest IA32_PKRS.";
        GUEST_FRED_CONFIG = 0x281a, "Guest IA32_FRED_CONFIG.";
        GUEST_FRED_RSP1 = 0x281c, "Guest IA32_FRED_RSP1.";
        GUEST_FRED_RSP2 = 0x281e, "Guest IA32_FRED_RSP2.";
        GUEST_FRED_RSP3 = 0x2820, "Guest IA32_FRED_RSP3.";
        GUEST_FRED_STKLVLS = 0x2822, "Guest IA32_FRED_STKLVLS.";
        GUEST_FRED_SSP1 = 0x2824, "Guest IA32_FRED_SSP1.";
        GUEST_FRED_SSP2 = 0x2826, "Guest IA32_FRED_SSP2.";
        GUEST_FRED_SSP3 = 0x2828, "Guest IA32_FRED_SSP3.";
    }
    // 64-bit host state.
    u64, ReadWrite {
        HOST_PAT = 0x2c00, "Host IA32_PAT.";
        HOST_EFER = 0x2c02, "Host IA32_EFER.";
        HOST_PERF_GLOBAL_CTRL = 0x2c04, "Host IA32_PERF_GLOBAL_CTRL.";
        HOST_PKRS = 0x2c06, "Host IA32_PKRS.";
        HOST_FRED_CONFIG = 0x2c08, "Host IA32_FRED_CONFIG.";
        HOST_FRED_RSP1 = 0x2c0a, "Host IA32_FRED_RSP1.";
        HOST_FRED_RSP2 = 0x2c0c, "Host IA32_FRED_RSP2.";
        HOST_FRED_RSP3 = 0x2c0e, "Host IA32_FRED_RSP3.";
        HOST_FRED_STKLVLS = 0x2c10, "Host IA32_FRED_STKLVLS.";
        HOST_FRED_SSP1 = 0x2c12, "Host IA32_FRED_SSP1.";
        HOST_FRED_SSP2 = 0x2c14, "Host IA32_FRED_SSP2.";
        HOST_FRED_SSP3 = 0x2c16, "Host IA32_FRED_SSP3.";
    }
    // 32-bit control fields.
    u32, ReadWrite {
        PIN_BASED_CONTROLS = 0x4000, "Pin-based VM-execution controls.";
        PRIMARY_CONTROLS = 0x4002, "Primary processor-based VM-execution controls.";
        EXCEPTION_BITMAP = 0x4004, "Exception bitmap: a set bit makes that vector exit.";
        PAGE_FAULT_ERROR_CODE_MASK = 0x4006, "Page-fault error-code mask.";
        PAGE_FAULT_ERROR_CODE_MATCH = 0x4008, "Page-fault error-code match.";
        CR3_TARGET_COUNT = 0x400a, "CR3-target count.";
        EXIT_CONTROLS = 0x400c, "Primary VM-exit controls.";
        EXIT_MSR_STORE_COUNT = 0x400e, "VM-exit MSR-store count.";
        EXIT_MSR_LOAD_COUNT = 0x4010, "VM-exit MSR-load count.";
        ENTRY_CONTROLS = 0x4012, "VM-entry controls.";
        ENTRY_MSR_LOAD_COUNT = 0x4014, "VM-entry MSR-load count.";
        ENTRY_INTERRUPTION_INFO = 0x4016, "VM-entry interruption-information field.";
        ENTRY_EXCEPTION_ERROR_CODE = 0x4018, "VM-entry exception error code.";
        ENTRY_INSTRUCTION_LENGTH = 0x401a, "VM-entry instruction length.";
        TPR_THRESHOLD = 0x401c, "TPR threshold.";
        SECONDARY_CONTROLS = 0x401e, "Secondary processor-based VM-execution controls.";
        PLE_GAP = 0x4020, "PAUSE-loop exiting: most ticks between two PAUSEs of one loop.";
        PLE_WINDOW = 0x4022, "PAUSE-loop exiting: most ticks in a loop before it exits.";
        INSTRUCTION_TIMEOUT = 0x4024, "Instruction-timeout control: the window of notification VM exits.";
    }
    // 32-bit VM-exit information.
    u32, ReadOnly {
        VM_INSTRUCTION_ERROR = 0x4400, "VM-instruction error.";
        EXIT_REASON = 0x4402, "Exit reason.";
        EXIT_INTERRUPTION_INFO = 0x4404, "VM-exit interruption information.";
        EXIT_INTERRUPTION_ERROR_CODE = 0x4406, "VM-exit interruption error code.";
        IDT_VECTORING_INFO = 0x4408, "IDT-vectoring information field.";
        IDT_VECTORING_ERROR_CODE = 0x440a, "IDT-vectoring error code.";
        EXIT_INSTRUCTION_LENGTH = 0x440c, "VM-exit instruction length.";
        EXIT_INSTRUCTION_INFO = 0x440e, "VM-exit instruction information.";
    }
    // 32-bit guest state.
    u32, ReadWrite {
        GUEST_ES_LIMIT = 0x4800, "Guest ES limit.";
        GUEST_CS_LIMIT = 0x4802, "Guest CS limit.";
        GUEST_SS_LIMIT = 0x4804, "Guest SS limit.";
        GUEST_DS_LIMIT = 0x4806, "Guest DS limit.";
        GUEST_FS_LIMIT = 0x4808, "Guest FS limit.";
        GUEST_GS_LIMIT = 0x480a, "Guest GS limit.";
        GUEST_LDTR_LIMIT = 0x480c, "Guest LDTR limit.";
        GUEST_TR_LIMIT = 0x480e, "Guest TR limit.";
        GUEST_GDTR_LIMIT = 0x4810, "Guest GDTR limit.";
        GUEST_IDTR_LIMIT = 0x4812, "Guest IDTR limit.";
        GUEST_ES_ACCESS_RIGHTS = 0x4814, "Guest ES access rights.";
        GUEST_CS_ACCESS_RIGHTS = 0x4816, "Guest CS access rights.";
        GUEST_SS_ACCESS_RIGHTS = 0x4818, "Guest SS access rights.";
        GUEST_DS_ACCESS_RIGHTS = 0x481a, "Guest DS access rights.";
        GUEST_FS_ACCESS_RIGHTS = 0x481c, "Guest FS access rights.";
        GUEST_GS_ACCESS_RIGHTS = 0x481e, "Guest GS access rights.";
        GUEST_LDTR_ACCESS_RIGHTS = 0x4820, "Guest LDTR access rights.";
        GUEST_TR_ACCESS_RIGHTS = 0x4822, "Guest TR access rights.";
        GUEST_INTERRUPTIBILITY = 0x4824, "Guest interruptibility state.";
        GUEST_ACTIVITY = 0x4826, "Guest activity state.";
        GUEST_SMBASE = 0x4828, "Guest SMBASE.";
        GUEST_SYSENTER_CS = 0x482a, "Guest IA32_SYSENTER_CS.";
        PREEMPTION_TIMER_VALUE = 0x482e, "VMX-preemption timer value.";
    }
    // 32-bit host state.
    u32, ReadWrite {
        HOST_SYSENTER_CS = 0x4c00, "Host IA32_SYSENTER_CS.";
    }
    // Natural-width control fields.
    u64, ReadWrite {
        CR0_GUEST_HOST_MASK = 0x6000, "CR0 guest/host mask: a set bit belongs to the host.";
        CR4_GUEST_HOST_MASK = 0x6002, "CR4 guest/host mask: a set bit belongs to the host.";
        CR0_READ_SHADOW = 0x6004, "CR0 read shadow.";
        CR4_READ_SHADOW = 0x6006, "CR4 read shadow.";
        CR3_TARGET_VALUE_0 = 0x6008, "CR3-target value 0.";
        CR3_TARGET_VALUE_1 = 0x600a, "CR3-target value 1.";
        CR3_TARGET_VALUE_2 = 0x600c, "CR3-target value 2.";
        CR3_TARGET_VALUE_3 = 0x600e, "CR3-target value 3.";
    }
    // Natural-width VM-exit information.
    u64, ReadOnly {
        EXIT_QUALIFICATION = 0x6400, "Exit qualification.";
        IO_RCX = 0x6402, "RCX at the start of an I/O instruction that an SMI followed.";
        IO_RSI = 0x6404, "RSI at the start of an I/O instruction that an SMI followed.";
        IO_RDI = 0x6406, "RDI at the start of an I/O instruction that an SMI followed.";
        IO_RIP = 0x6408, "RIP of an I/O instruction that an SMI followed.";
        GUEST_LINEAR_ADDRESS = 0x640a, "Guest-linear address.";
    }
    // Natural-width guest state.
    u64, ReadWrite {
        GUEST_CR0 = 0x6800, "Guest CR0.";
        GUEST_CR3 = 0x6802, "Guest CR3.";
        GUEST_CR4 = 0x6804, "Guest CR4.";
        GUEST_ES_BASE = 0x6806, "Guest ES base.";
        GUEST_CS_BASE = 0x6808, "Guest CS base.";
        GUEST_SS_BASE = 0x680a, "Guest SS base.";
        GUEST_DS_BASE = 0x680c, "Guest DS base.";
        GUEST_FS_BASE = 0x680e, "Guest FS base.";
        GUEST_GS_BASE = 0x6810, "Guest GS base.";
        GUEST_LDTR_BASE = 0x6812, "Guest LDTR base.";
        GUEST_TR_BASE = 0x6814, "Guest TR base.";
        GUEST_GDTR_BASE = 0x6816, "Guest GDTR base.";
        GUEST_IDTR_BASE = 0x6818, "Guest IDTR base.";
        GUEST_DR7 = 0x681a, "Guest DR7.";
        GUEST_RSP = 0x681c, "Guest RSP.";
        GUEST_RIP = 0x681e, "Guest RIP.";
        GUEST_RFLAGS = 0x6820, "Guest RFLAGS.";
        GUEST_PENDING_DEBUG_EXCEPTIONS = 0x6822, "Guest pending debug exceptions.";
        GUEST_SYSENTER_ESP = 0x6824, "Guest IA32_SYSENTER_ESP.";
        GUEST_SYSENTER_EIP = 0x6826, "Guest IA32_SYSENTER_EIP.";
        GUEST_S_CET = 0x6828, "Guest IA32_S_CET.";
        GUEST_SSP = 0x682a, "Guest SSP.";
        GUEST_INTERRUPT_SSP_TABLE = 0x682c, "Guest IA32_INTERRUPT_SSP_TABLE_ADDR.";
    }
    // Natural-width host state.
    u64, ReadWrite {
        HOST_CR0 = 0x6c00, "Host CR0.";
        HOST_CR3 = 0x6c02, "Host CR3.";
        HOST_CR4 = 0x6c04, "Host CR4.";
        HOST_FS_BASE = 0x6c06, "Host FS base.";
        HOST_GS_BASE = 0x6c08, "Host GS base.";
        HOST_TR_BASE = 0x6c0a, "Host TR base.";
        HOST_GDTR_BASE = 0x6c0c, "Host GDTR base.";
        HOST_IDTR_BASE = 0x6c0e, "Host IDTR base.";
        HOST_SYSENTER_ESP = 0x6c10, "Host IA32_SYSENTER_ESP.";
        HOST_SYSENTER_EIP = 0x6c12, "Host IA32_SYSENTER_EIP.";
        HOST_RSP = 0x6c14, "Host RSP.";
        HOST_RIP = 0x6c16, "Host RIP.";
        HOST_S_CET = 0x6c18, "Host IA32_S_CET.";
        HOST_SSP = 0x6c1a, "Host SSP.";
        HOST_INTERRUPT_SSP_TABLE = 0x6c1c, "Host IA32_INTERRUPT_SSP_TABLE_ADDR.";
    }
}

#[cfg(test)]
mod tests;
