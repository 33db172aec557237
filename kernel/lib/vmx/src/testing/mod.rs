//! What several tests share: a VMCS as a map, a processor, and guest states.

pub(crate) mod start;

use std::collections::BTreeMap;
use std::vec::Vec;

use memory::{HostPhys, TableMemory};

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

/// Tables at 0x1000, 0x2000 and so on; those that were given back are used again.
#[derive(Clone, Default, Debug)]
pub(crate) struct Memory {
    tables: Vec<[u64; 512]>,
    free: Vec<HostPhys>,
}

impl Memory {
    fn slot(table: HostPhys) -> usize {
        (table.as_u64() >> 12) as usize - 1
    }

    /// The entries of the table that came as the n-th, counted from one.
    pub(crate) fn entries(&mut self, nth: usize) -> &mut [u64; 512] {
        &mut self.tables[nth - 1]
    }

    /// Tables that somebody has.
    pub(crate) fn used(&self) -> usize {
        self.tables.len() - self.free.len()
    }
}

impl TableMemory for Memory {
    fn read_entry(&self, table: HostPhys, index: usize) -> u64 {
        self.tables[Self::slot(table)][index]
    }

    fn write_entry(&mut self, table: HostPhys, index: usize, entry: u64) {
        self.tables[Self::slot(table)][index] = entry;
    }

    fn allocate_table(&mut self) -> Option<HostPhys> {
        if let Some(table) = self.free.pop() {
            self.tables[Self::slot(table)] = [0; 512];
            return Some(table);
        }
        self.tables.push([0; 512]);
        Some(HostPhys::new((self.tables.len() as u64) << 12))
    }

    fn free_table(&mut self, table: HostPhys) {
        assert!(!self.free.contains(&table), "freed once");
        self.free.push(table);
    }
}

impl TableMemory for &mut Memory {
    fn read_entry(&self, table: HostPhys, index: usize) -> u64 {
        (**self).read_entry(table, index)
    }

    fn write_entry(&mut self, table: HostPhys, index: usize, entry: u64) {
        (**self).write_entry(table, index, entry);
    }

    fn allocate_table(&mut self) -> Option<HostPhys> {
        (**self).allocate_table()
    }

    fn free_table(&mut self, table: HostPhys) {
        (**self).free_table(table);
    }
}

/// Memory with so many tables and no more.
#[derive(Debug)]
pub(crate) struct Reserve<M> {
    memory: M,
    left: u64,
}

impl<M> Reserve<M> {
    pub(crate) fn new(memory: M, left: u64) -> Self {
        Self { memory, left }
    }

    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

impl<M: TableMemory> TableMemory for Reserve<M> {
    fn read_entry(&self, table: HostPhys, index: usize) -> u64 {
        self.memory.read_entry(table, index)
    }

    fn write_entry(&mut self, table: HostPhys, index: usize, entry: u64) {
        self.memory.write_entry(table, index, entry);
    }

    fn allocate_table(&mut self) -> Option<HostPhys> {
        self.left = self.left.checked_sub(1)?;
        self.memory.allocate_table()
    }

    fn free_table(&mut self, table: HostPhys) {
        self.left += 1;
        self.memory.free_table(table);
    }
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
