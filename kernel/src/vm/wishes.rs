//! What devices want done beyond their own registers.

use machine::devices::lapic::Kick;
use machine::{A20Gate, Effects, Request};
use vmm::VmError;

use super::{End, Vm};
use crate::backend::Backend;

impl<B: Backend> Vm<B> {
    pub(super) fn apply(&self, effects: &Effects) {
        for message in &effects.messages {
            self.deliver(message, self.routing.resolve(message));
        }
        if let Some(request) = effects.request {
            self.finish(match request {
                Request::AddressLine20(gate) => return self.move_a20(gate),
                Request::FirmwareTransfer => return self.transfer_firmware(),
                Request::PowerOff => End::PowerOff,
                Request::Reset => End::Reset,
                Request::Panic => End::Crash(VmError::GuestPanic),
                Request::Exit(status) => End::Exit(status),
            });
        }
    }

    /// Does a part of what the firmware configuration was asked for.
    #[cold]
    fn transfer_firmware(&self) {
        let mut devices = self.devices.lock();
        devices.board.transfer_firmware(&self.ram);
        self.set_deadline(&mut devices);
    }

    /// The gate of address line 20 moves, for software now and for each vCPU before its next entry.
    #[cold]
    fn move_a20(&self, gate: A20Gate) {
        self.ram.set_a20(gate);
        for vcpu in 0..self.vcpus() {
            if self.mailbox(vcpu).posted().post_a20() == Kick::Needed {
                self.kick(vcpu);
            }
        }
    }
}
