//! What several tests share: a VMCS as a map, a processor, and guest states.

pub(crate) mod start;

use std::collections::BTreeMap;

use crate::capability::RawCapabilities;
use crate::fields::{Access, Encoding, Field, FieldWidth, VmcsReader, VmcsWriter};

/// A VMCS whose fields are those that were set.
#[derive(Clone, Default)]
pub(crate) struct Vmcs(pub(crate) BTreeMap<Encoding, u64>);

impl VmcsReader for Vmcs {
    fn read_raw(&self, encoding: Encoding) -> Option<u64> {
        self.0.get(&encoding).copied()
    }
}

impl VmcsWriter for Vmcs {
    fn write_raw(&mut self, encoding: Encoding, value: u64) {
        self.0.insert(encoding, value);
    }
}

/// One entry of such a map; read-only fields can be set too.
pub(crate) fn set<W: FieldWidth, A: Access>(field: Field<W, A>, value: u64) -> (Encoding, u64) {
    (field.encoding(), value)
}

/// A processor about as good as a Skylake server, written down by hand.
pub(crate) fn skylake() -> RawCapabilities {
    RawCapabilities {
        basic: 0x00da_0400_0000_0012,
        pin: 0x0000_00ff_0000_0016,
        primary: 0xfff9_fffe_0401_e172,
        exit: 0x01ff_ffff_0003_6dff,
        entry: 0x0003_ffff_0000_11ff,
        misc: 0x2000_01e5,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x0037_67ff,
        secondary: 0x0253_7fff_0000_0000 | (1 << (32 + 17)) | (1 << (32 + 20)),
        ept_vpid: 0x0000_0f01_0633_4141,
        true_pin: 0x0000_00ff_0000_0016,
        true_primary: 0xfff9_fffe_0400_6172,
        true_exit: 0x01ff_ffff_0003_6dfb,
        true_entry: 0x0003_ffff_0000_11fb,
        vmfunc: 1,
        tertiary: 0,
        secondary_exit: 0,
    }
}
