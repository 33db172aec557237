//! [`FakeMemory`] and [`FakeMachine`].

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use arch::{Vector, Width};
use machine::devices::lapic::Ipi;
use machine::devices::routing::Route;
use memory::{GuestMemory, GuestPhys, Unbacked};

use crate::machine::{Machine, Taken};

/// RAM from guest-physical 0 on, in a vector.
#[derive(Clone, Debug)]
pub struct FakeMemory {
    bytes: RefCell<Vec<u8>>,
    /// The address bits that get to devices.
    pub bus_mask: u64,
}

impl FakeMemory {
    /// This many bytes of zeroes.
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes: RefCell::new(vec![0; bytes]),
            bus_mask: u64::MAX,
        }
    }

    fn span(&self, gpa: GuestPhys, len: usize) -> Result<core::ops::Range<usize>, Unbacked> {
        let size = self.bytes.borrow().len() as u64;
        let end = gpa.checked_add(len as u64).ok_or(Unbacked(gpa))?.as_u64();
        if end > size {
            return Err(Unbacked(GuestPhys::new(gpa.as_u64().max(size))));
        }
        Ok(gpa.as_u64() as usize..end as usize)
    }

    /// Stores a 64-bit value; for setting up a test.
    pub fn put_u64(&self, gpa: u64, value: u64) {
        self.write(GuestPhys::new(gpa), &value.to_le_bytes())
            .expect("a test's own address");
    }

    /// Stores a 32-bit value; for setting up a test.
    pub fn put_u32(&self, gpa: u64, value: u32) {
        self.write(GuestPhys::new(gpa), &value.to_le_bytes())
            .expect("a test's own address");
    }

    /// Stores bytes; for setting up a test.
    pub fn put(&self, gpa: u64, bytes: &[u8]) {
        self.write(GuestPhys::new(gpa), bytes)
            .expect("a test's own address");
    }

    /// Loads bytes; for looking at a result.
    pub fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(GuestPhys::new(gpa), &mut bytes)
            .expect("a test's own address");
        bytes
    }

    /// Loads a 32-bit value; for looking at a result.
    pub fn get_u32(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.get(gpa))
    }

    /// Loads a 16-bit value; for looking at a result.
    pub fn get_u16(&self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.get(gpa))
    }

    /// Builds 4-level tables at `root` (7 pages from there) that map linear 0 to 1 GiB onto itself with 2 MiB
    /// pages, and the linear GiB from 0xffff_8000_0000_0000 likewise; all writable and for supervisors.
    pub fn identity_map_long_mode(&self, root: u64) {
        let (pdpt, pd) = (root + 0x1000, root + 0x2000);
        self.put_u64(root, pdpt | 3);
        self.put_u64(root + 256 * 8, pdpt | 3);
        self.put_u64(pdpt, pd | 3);
        for i in 0..512 {
            self.put_u64(pd + i * 8, (i << 21) | 0x83);
        }
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, gpa: GuestPhys, buffer: &mut [u8]) -> Result<(), Unbacked> {
        let span = self.span(gpa, buffer.len())?;
        buffer.copy_from_slice(&self.bytes.borrow()[span]);
        Ok(())
    }

    fn write(&self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), Unbacked> {
        let span = self.span(gpa, bytes.len())?;
        self.bytes.borrow_mut()[span].copy_from_slice(bytes);
        Ok(())
    }

    fn on_bus(&self, gpa: GuestPhys) -> GuestPhys {
        GuestPhys::new(gpa.as_u64() & self.bus_mask)
    }

    fn compare_exchange_u64(
        &self,
        gpa: GuestPhys,
        current: u64,
        new: u64,
    ) -> Result<u64, Unbacked> {
        if !gpa.as_u64().is_multiple_of(8) {
            return Err(Unbacked(gpa));
        }
        let found = self.read_u64(gpa)?;
        if found == current {
            self.write(gpa, &new.to_le_bytes())?;
        }
        Ok(found)
    }

    fn compare_exchange_u32(
        &self,
        gpa: GuestPhys,
        current: u32,
        new: u32,
    ) -> Result<u32, Unbacked> {
        if !gpa.as_u64().is_multiple_of(4) {
            return Err(Unbacked(gpa));
        }
        let found = self.read_u32(gpa)?;
        if found == current {
            self.write(gpa, &new.to_le_bytes())?;
        }
        Ok(found)
    }
}

/// A machine that answers from scripts and writes down what is asked of it.
#[derive(Debug)]
pub struct FakeMachine {
    /// Its RAM.
    pub memory: FakeMemory,
    /// What successive reads of a port return; with an empty script all ones.
    pub port_script: BTreeMap<u16, VecDeque<u32>>,
    /// All port reads, in order.
    pub port_reads: Vec<(u16, Width)>,
    /// All port writes, in order.
    pub port_writes: Vec<(u16, Width, u32)>,
    /// How many more writes to ports are taken that can wait, if not all.
    pub takes_writes: Option<u32>,
    /// What memory-mapped registers read as; all ones where nothing is set.
    pub mmio: BTreeMap<u64, u64>,
    /// All reads of memory-mapped registers, in order.
    pub mmio_reads: Vec<(u64, Width)>,
    /// All writes of memory-mapped registers, in order.
    pub mmio_writes: Vec<(u64, Width, u64)>,
    /// The interprocessor interrupts sent, in order.
    pub ipis: Vec<Ipi>,
    /// The routes published, in order.
    pub routes: Vec<Route>,
    /// The EOIs that reached the I/O APIC, in order.
    pub ends_of_interrupt: Vec<Vector>,
    /// The APIC IDs of the CPUs woken by hypercall, in order.
    pub woken: Vec<u32>,
    /// What the operator was told, in order.
    pub warnings: RefCell<Vec<String>>,
    /// The date at the start.
    pub date_at_start_ns: u64,
    /// What the clock reads.
    pub now_ns: u64,
}

impl FakeMachine {
    /// A machine with this many bytes of RAM at 0.
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            memory: FakeMemory::new(memory_bytes),
            port_script: BTreeMap::new(),
            port_reads: Vec::new(),
            port_writes: Vec::new(),
            takes_writes: None,
            mmio: BTreeMap::new(),
            mmio_reads: Vec::new(),
            mmio_writes: Vec::new(),
            ipis: Vec::new(),
            routes: Vec::new(),
            ends_of_interrupt: Vec::new(),
            woken: Vec::new(),
            warnings: RefCell::default(),
            date_at_start_ns: 0,
            now_ns: 0,
        }
    }

    /// Lets successive reads of a port return these values.
    pub fn script_port(&mut self, port: u16, values: &[u32]) {
        self.port_script.entry(port).or_default().extend(values);
    }
}

impl Machine for FakeMachine {
    type Memory = FakeMemory;

    fn warn(&self, what: core::fmt::Arguments<'_>) {
        self.warnings.borrow_mut().push(what.to_string());
    }

    fn memory(&self) -> &FakeMemory {
        &self.memory
    }

    fn read_port(&mut self, port: u16, width: Width) -> u32 {
        self.port_reads.push((port, width));
        let value = self
            .port_script
            .get_mut(&port)
            .and_then(VecDeque::pop_front);
        width.truncate(u64::from(value.unwrap_or(u32::MAX))) as u32
    }

    fn write_port(&mut self, port: u16, width: Width, value: u32) {
        self.port_writes.push((port, width, value));
    }

    fn offer_port(&mut self, port: u16, width: Width, value: u32) -> Taken {
        if self.takes_writes == Some(0) {
            return Taken::NotYet;
        }
        self.takes_writes = self.takes_writes.map(|left| left - 1);
        self.write_port(port, width, value);
        Taken::Yes
    }

    fn read_mmio(&mut self, gpa: GuestPhys, width: Width) -> u64 {
        self.mmio_reads.push((gpa.as_u64(), width));
        width.truncate(self.mmio.get(&gpa.as_u64()).copied().unwrap_or(u64::MAX))
    }

    fn write_mmio(&mut self, gpa: GuestPhys, width: Width, value: u64) {
        self.mmio_writes.push((gpa.as_u64(), width, value));
        self.mmio.insert(gpa.as_u64(), value);
    }

    fn send(&mut self, ipi: Ipi) {
        self.ipis.push(ipi);
    }

    fn reroute(&mut self, route: Route) {
        self.routes.push(route);
    }

    fn end_of_interrupt(&mut self, vector: Vector) {
        self.ends_of_interrupt.push(vector);
    }

    fn wake(&mut self, apic_id: u32) {
        self.woken.push(apic_id);
    }

    fn date_at_start_ns(&self) -> u64 {
        self.date_at_start_ns
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_memory_ends_where_it_ends() {
        let memory = FakeMemory::new(0x1000);
        assert_eq!(memory.write(GuestPhys::new(0xffc), &[1; 4]), Ok(()));
        let end = Unbacked(GuestPhys::new(0x1000));
        assert_eq!(memory.write(GuestPhys::new(0xffd), &[1; 4]), Err(end));
        assert!(memory.read_u64(GuestPhys::new(u64::MAX)).is_err());
    }

    #[test]
    fn a_scripted_port_returns_its_script_and_then_all_ones() {
        let mut machine = FakeMachine::new(0);
        machine.script_port(0x40, &[0x112, 3]);
        assert_eq!(machine.read_port(0x40, Width::Byte), 0x12);
        assert_eq!(machine.read_port(0x40, Width::Word), 3);
        assert_eq!(machine.read_port(0x40, Width::Word), 0xffff);
    }
}
