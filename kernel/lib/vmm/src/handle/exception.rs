//! Guest exceptions that were made to exit, on their way back into the guest.

use arch::Exception;
use memory::GuestVirt;

use super::{Next, exception_event};
use crate::cpu::Cpu;
use crate::exit::ExceptionInfo;
use crate::fault::{Event, GuestFault, VmError};

/// Delivers the exception as if it had never exited: #PF sets CR2 and #DB sets DR6, which the hardware has
/// not done yet (SDM vol. 3, Architectural State Before a VM Exit).
pub(super) fn reflect<C: Cpu>(cpu: &C, info: ExceptionInfo) -> Result<Next, GuestFault> {
    match info.exception {
        Exception::PageFault => Err(GuestFault::PageFault {
            address: GuestVirt::new(info.detail),
            error_code: info.error_code.unwrap_or(0),
        }),
        // No condition was met: it comes from the instruction INT1, and its handler returns behind that.
        Exception::Debug if info.detail == 0 => {
            let length = cpu.instruction_length();
            Ok(Next::Inject(Event::PrivilegedSoftwareException { length }))
        }
        Exception::Debug => Err(GuestFault::Debug { dr6: info.detail }),
        Exception::MachineCheck => Ok(Next::Stop(VmError::MachineCheck)),
        exception => {
            let length = cpu.instruction_length();
            Ok(Next::Inject(exception_event(
                exception,
                info.error_code,
                length,
            )))
        }
    }
}
