//! The way from a vCPU's handlers to its VM.

use core::fmt;

use arch::{Vector, Width};
use machine::Board;
use machine::devices::lapic::{Ipi, Kick};
use machine::devices::routing::Route;
use memory::GuestPhys;
use vmm::{Machine, Taken};

use super::Vm;
use crate::backend::Backend;
use crate::hw::clock;
use crate::memory::GuestRam;

/// The VM as one of its vCPUs reaches it.
pub(crate) struct VmPort<'a, B: Backend> {
    pub(crate) vm: &'a Vm<B>,
    pub(crate) vcpu: u8,
}

// Out of the way of memory without a device, where drivers look for devices.
impl<B: Backend> Vm<B> {
    #[inline(never)]
    fn read_device(&self, gpa: GuestPhys, width: Width) -> u64 {
        self.with_board(|board, _, _| board.read_mmio(gpa, width))
    }

    #[inline(never)]
    fn write_device(&self, gpa: GuestPhys, width: Width, value: u64) {
        self.with_board(|board, _, effects| board.write_mmio(gpa, width, value, effects));
    }
}

impl<B: Backend> Machine for VmPort<'_, B> {
    type Memory = GuestRam;

    #[inline]
    fn memory(&self) -> &GuestRam {
        self.vm.memory()
    }

    #[inline]
    fn read_port(&mut self, port: u16, width: Width) -> u32 {
        // Before all else: the compiler then passes this reference alone.
        let vm = self.vm;
        if width == Width::Byte {
            if Board::is_vacant_port(port) {
                return 0xff;
            }
            if port == Board::LINE_STATUS_PORT
                && let Some(status) = vm.devices.lock().board.quiet_line_status(|| vm.now_ns())
            {
                return u32::from(status);
            }
        }
        vm.with_board(|board, now_ns, effects| board.read_port(port, width, now_ns, effects))
    }

    #[inline]
    fn write_port(&mut self, port: u16, width: Width, value: u32) {
        self.vm.with_board(|board, now_ns, effects| {
            board.write_port(port, width, value, now_ns, effects);
        });
    }

    #[inline]
    fn offer_port(&mut self, port: u16, width: Width, value: u32) -> Taken {
        // Port 0x80 among them. Letting it through to the host's would give a guest a way to flood a slow bus.
        if width == Width::Byte && Board::is_vacant_port(port) {
            return Taken::Yes;
        }
        self.vm.with_board(|board, now_ns, effects| {
            if !board.takes_byte(port) {
                return Taken::NotYet;
            }
            board.write_port(port, width, value, now_ns, effects);
            Taken::Yes
        })
    }

    #[inline]
    fn read_mmio(&mut self, gpa: GuestPhys, width: Width) -> u64 {
        if Board::is_vacant_memory(gpa) {
            return width.mask();
        }
        self.vm.read_device(gpa, width)
    }

    #[inline]
    fn write_mmio(&mut self, gpa: GuestPhys, width: Width, value: u64) {
        if !Board::is_vacant_memory(gpa) {
            self.vm.write_device(gpa, width, value);
        }
    }

    #[inline]
    fn send(&mut self, ipi: Ipi) {
        let targets = self.vm.routing.resolve_ipi(&ipi, self.vcpu);
        self.vm.deliver(&ipi.message, targets);
    }

    fn wake(&mut self, apic_id: u32) {
        if let Some(vcpu) = self.vm.routing.index_of(apic_id)
            && self.vm.mailbox(vcpu).posted().post_wake() == Kick::Needed
        {
            self.vm.kick(vcpu);
        }
    }

    fn date_at_start_ns(&self) -> u64 {
        clock::date_ns_at(self.vm.origin_tsc())
    }

    fn reroute(&mut self, route: Route) {
        self.vm.routing.publish(self.vcpu, route);
    }

    fn end_of_interrupt(&mut self, vector: Vector) {
        self.vm
            .with_board(|board, _, effects| board.end_of_interrupt(vector, effects));
    }

    #[cold]
    fn warn(&self, what: fmt::Arguments<'_>) {
        log::warn!(target: "vm", "{}: CPU {}: {what}", self.vm.name(), self.vcpu);
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.vm.now_ns()
    }
}
