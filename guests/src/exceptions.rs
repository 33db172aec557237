//! Exceptions and interrupts: [`probe`] turns a fault into a value, [`set_handler`] takes a vector over.
//!
//! A vector with a handler goes to the handler. Any other abandons the innermost probe, which returns the
//! [`Fault`]; every case of a report runs inside one, so an exception that nobody expected fails that case
//! and the guest goes on.

use core::arch::global_asm;
use core::fmt;

use crate::descriptors::{KERNEL_CODE, KERNEL_DATA};
use crate::single::Single;
use crate::{cpu, power, println};

global_asm!(include_str!("exceptions.S"));

/// The exceptions that the architecture defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the manuals' own names")]
pub enum Vector {
    DivideError = 0,
    Debug = 1,
    Nmi = 2,
    Breakpoint = 3,
    Overflow = 4,
    BoundRange = 5,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    StackFault = 12,
    GeneralProtection = 13,
    PageFault = 14,
    X87 = 16,
    AlignmentCheck = 17,
    MachineCheck = 18,
    Simd = 19,
    ControlProtection = 21,
}

/// What a handler finds on its stack: the registers at the time of the exception, lowest address first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the registers' own names")]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// An exception or interrupt that a probe was abandoned for.
#[derive(Clone, Copy, Default)]
pub struct Fault {
    /// The registers at the time.
    pub frame: Frame,
    /// CR2 at the time, of meaning for page faults only.
    pub cr2: u64,
}

impl Fault {
    /// The vector.
    pub fn vector(&self) -> u8 {
        self.frame.vector as u8
    }

    /// The error code; 0 for vectors without one.
    pub fn error_code(&self) -> u32 {
        self.frame.error_code as u32
    }

    /// True if it is this exception.
    pub fn is(&self, vector: Vector) -> bool {
        self.vector() == vector as u8
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "vector {} ({:#x}) at {:#x}",
            self.vector(),
            self.error_code(),
            self.frame.rip
        )?;
        if self.is(Vector::PageFault) {
            write!(f, " cr2 {:#x}", self.cr2)?;
        }
        Ok(())
    }
}

/// A function that handles a vector; what it changes in the frame is returned to.
pub type Handler = fn(&mut Frame);

static HANDLERS: Single<[Option<Handler>; 256]> = Single::new([None; 256]);

/// The innermost probe: where to return to, and why.
#[derive(Clone, Copy)]
struct Probe {
    saved_rsp: u64,
    active: bool,
    fault: Option<Fault>,
}

static PROBE: Single<Probe> = Single::new(Probe {
    saved_rsp: 0,
    active: false,
    fault: None,
});

unsafe extern "C" {
    static exception_stubs: u8;
    fn probe_abandoned();
    fn probe_call(saved_rsp: *mut u64, body: extern "C" fn(*mut u8), data: *mut u8) -> u64;
}

/// The address of a vector's stub.
pub fn stub(vector: u8) -> u64 {
    &raw const exception_stubs as u64 + u64::from(vector) * 16
}

/// Gives a vector to a handler, or takes it back with `None`.
pub fn set_handler(vector: u8, handler: Option<Handler>) {
    // SAFETY: the table has 256 entries, and a handler is only read by the dispatcher.
    unsafe { (*HANDLERS.get())[usize::from(vector)] = handler };
}

/// Runs `body` until its end or its first exception. What it had written to memory by then stays.
///
/// The frames between the fault and the probe are dropped without unwinding.
pub fn probe<F: FnMut()>(mut body: F) -> Result<(), Fault> {
    extern "C" fn call<F: FnMut()>(data: *mut u8) {
        // SAFETY: `data` is the closure that `probe` passed to `probe_call`, still alive on its stack.
        unsafe { (*data.cast::<F>())() }
    }
    let state = PROBE.get();
    // SAFETY: one CPU; the dispatcher touches the state only while `body` runs, and then abandons it. A
    // nested probe restores what it found.
    unsafe {
        let outer = *state;
        *state = Probe {
            saved_rsp: 0,
            active: true,
            fault: None,
        };
        let abandoned = probe_call(
            &raw mut (*state).saved_rsp,
            call::<F>,
            (&raw mut body).cast(),
        );
        let fault = (&raw const (*state).fault).read_volatile();
        *state = outer;
        match fault {
            Some(fault) if abandoned != 0 => Err(fault),
            _ => Ok(()),
        }
    }
}

/// Called by every stub.
#[unsafe(no_mangle)]
extern "C" fn exception_dispatch(frame: &mut Frame) {
    // SAFETY: one CPU; handlers are set outside of handlers or by themselves.
    let handler = unsafe { (*HANDLERS.get())[(frame.vector & 0xff) as usize] };
    if let Some(handler) = handler {
        handler(frame);
        return;
    }
    let state = PROBE.get();
    let fault = Fault {
        frame: *frame,
        cr2: cpu::read_cr2(),
    };
    // SAFETY: the interrupted code is abandoned if there is a probe; it will not look at the state again.
    unsafe {
        if !(*state).active {
            println!(
                "FAIL guest: unexpected {fault} rsp {:#x} rax {:#x} rcx {:#x}",
                frame.rsp, frame.rax, frame.rcx
            );
            power::off();
        }
        (*state).active = false;
        (*state).fault = Some(fault);
        frame.rsp = (*state).saved_rsp;
    }
    frame.rip = probe_abandoned as *const () as u64;
    frame.cs = u64::from(KERNEL_CODE);
    frame.ss = u64::from(KERNEL_DATA);
    frame.rflags = 2;
}
