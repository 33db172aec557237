//! All that a vCPU can reach outside itself: its VM's memory, ports, devices and other CPUs.

use core::fmt;

use arch::Width;
use machine::devices::lapic::Ipi;
use machine::devices::routing::Route;
use memory::{GuestMemory, GuestPhys};

/// Whether a device has taken what was written to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Taken {
    /// It has.
    Yes,
    /// Nothing has happened: the instruction is to be repeated until the device takes it, as if the bus was busy.
    NotYet,
}

/// The machine that a vCPU sits in. The kernel implements it over a VM and its locks; the tests over a board
/// and a vector.
pub trait Machine {
    /// Its RAM.
    type Memory: GuestMemory;

    /// The RAM of the VM.
    fn memory(&self) -> &Self::Memory;

    /// Reads a port; bits above the width are zero. A port with no device reads all ones.
    fn read_port(&mut self, port: u16, width: Width) -> u32;

    /// Writes a port. A port with no device ignores it.
    fn write_port(&mut self, port: u16, width: Width, value: u32);

    /// The same for a guest's instruction, which can wait.
    fn offer_port(&mut self, port: u16, width: Width, value: u32) -> Taken;

    /// Reads memory that is not RAM. Where no device is, all ones.
    fn read_mmio(&mut self, gpa: GuestPhys, width: Width) -> u64;

    /// Writes memory that is not RAM. Where no device is, nothing happens.
    fn write_mmio(&mut self, gpa: GuestPhys, width: Width, value: u64);

    /// Sends an interprocessor interrupt of this vCPU to the local APICs that it is for.
    fn send(&mut self, ipi: Ipi);

    /// Publishes how messages find this vCPU's local APIC from now on.
    fn reroute(&mut self, route: Route);

    /// Tells the I/O APIC of an EOI for a level-triggered vector.
    fn end_of_interrupt(&mut self, vector: arch::Vector);

    /// Wakes the CPU with this APIC ID if it has halted, interrupts off or not. Nothing where there is none.
    fn wake(&mut self, apic_id: u32);

    /// The date when the VM's time was 0, in nanoseconds since 1970-01-01 00:00 UTC.
    fn date_at_start_ns(&self) -> u64;

    /// Tells the operator of something odd that the guest has done. Callers see to it that no guest can fill the log.
    fn warn(&self, what: fmt::Arguments<'_>);

    /// Nanoseconds since the VM was made, which stand still while all of it is paused.
    fn now_ns(&self) -> u64;
}
