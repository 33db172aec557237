//! The system calls that are measured or needed. What fails here cannot be measured: it ends the program.

use plinth_programs::system::{self, number};
pub(crate) use plinth_programs::system::{exit, write};

const READ_WRITE: u64 = 3;
const PRIVATE_ANONYMOUS: u64 = 0x22;

#[inline]
fn call<const COUNT: usize>(number: u64, arguments: [u64; COUNT]) -> i64 {
    // SAFETY: the calls of this file change only memory that their callers hand over.
    unsafe { system::call(number, arguments) }
}

fn sound(result: i64) -> u64 {
    assert!(result >= 0);
    result as u64
}

pub(crate) fn getpid() -> u64 {
    sound(call(number::GETPID, []))
}

pub(crate) fn read(file: u64, to: *mut u8, bytes: u64) -> u64 {
    sound(call(number::READ, [file, to as u64, bytes]))
}

pub(crate) fn open(path: &core::ffi::CStr) -> u64 {
    sound(call(number::OPEN, [path.as_ptr() as u64]))
}

/// A new piece of memory that is all zero.
pub(crate) fn map(bytes: u64) -> *mut u8 {
    let no_file = u64::MAX;
    sound(call(
        number::MMAP,
        [0, bytes, READ_WRITE, PRIVATE_ANONYMOUS, no_file, 0],
    )) as *mut u8
}

pub(crate) fn unmap(at: *mut u8, bytes: u64) {
    sound(call(number::MUNMAP, [at as u64, bytes]));
}

/// The two ends of a pipe: to read from, to write to.
pub(crate) fn pipe() -> (u64, u64) {
    let mut ends = [0u32; 2];
    sound(call(number::PIPE, [&raw mut ends as u64]));
    (u64::from(ends[0]), u64::from(ends[1]))
}

/// The child's number in the parent, 0 in the child.
pub(crate) fn fork() -> u64 {
    sound(call(number::FORK, []))
}

pub(crate) fn wait(child: u64) {
    sound(call(number::WAIT4, [child]));
}

/// Becomes a program; comes back only if that fails.
pub(crate) fn exec(path: &core::ffi::CStr, argument: &core::ffi::CStr) {
    let arguments = [path.as_ptr(), argument.as_ptr(), core::ptr::null()];
    let environment = [core::ptr::null::<u8>()];
    let pointers = (arguments.as_ptr() as u64, environment.as_ptr() as u64);
    let _ = call(
        number::EXECVE,
        [path.as_ptr() as u64, pointers.0, pointers.1],
    );
}

pub(crate) fn sleep(nanoseconds: u64) {
    let time = [0, nanoseconds];
    sound(call(number::NANOSLEEP, [&raw const time as u64]));
}

pub(crate) fn power_off() {
    const MAGIC: [u64; 2] = [0xfee1_dead, 672_274_793];
    const POWER_OFF: u64 = 0x4321_fedc;
    // Waits until the console has sent everything.
    const TCSBRK: u64 = 0x5409;
    let _ = call(number::IOCTL, [1, TCSBRK, 1]);
    let _ = call(number::REBOOT, [MAGIC[0], MAGIC[1], POWER_OFF]);
}
