//! [`call`]: a system call of Linux, without a library.

use core::arch::asm;

/// The numbers of calls, as Linux has them for 64-bit programs.
pub mod number {
    /// `read`
    pub const READ: u64 = 0;
    /// `write`
    pub const WRITE: u64 = 1;
    /// `open`
    pub const OPEN: u64 = 2;
    /// `close`
    pub const CLOSE: u64 = 3;
    /// `poll`
    pub const POLL: u64 = 7;
    /// `ioctl`
    pub const IOCTL: u64 = 16;
    /// `dup2`
    pub const DUP2: u64 = 33;
    /// `fork`
    pub const FORK: u64 = 57;
    /// `execve`
    pub const EXECVE: u64 = 59;
    /// `exit`
    pub const EXIT: u64 = 60;
    /// `wait4`
    pub const WAIT4: u64 = 61;
    /// `fcntl`
    pub const FCNTL: u64 = 72;
    /// `setsid`
    pub const SETSID: u64 = 112;
}

/// Calls the kernel; the result is negative where that failed.
///
/// # Safety
/// What the arguments point to is as the call wants it, and is memory that the caller may have read or changed.
#[inline]
pub unsafe fn call(number: u64, arguments: [u64; 4]) -> i64 {
    let result;
    let [a, b, c, d] = arguments;
    // SAFETY: the kernel keeps all registers but these; for memory the caller promises.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result
}
