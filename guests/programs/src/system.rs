//! [`call`]: a system call of Linux, without a library; and the calls that more than one program needs, with types.

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
    /// `mmap`
    pub const MMAP: u64 = 9;
    /// `munmap`
    pub const MUNMAP: u64 = 11;
    /// `rt_sigaction`
    pub const RT_SIGACTION: u64 = 13;
    /// `rt_sigreturn`
    pub const RT_SIGRETURN: u64 = 15;
    /// `ioctl`
    pub const IOCTL: u64 = 16;
    /// `pipe`
    pub const PIPE: u64 = 22;
    /// `sched_yield`
    pub const SCHED_YIELD: u64 = 24;
    /// `dup2`
    pub const DUP2: u64 = 33;
    /// `nanosleep`
    pub const NANOSLEEP: u64 = 35;
    /// `setitimer`
    pub const SETITIMER: u64 = 38;
    /// `getpid`
    pub const GETPID: u64 = 39;
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
    /// `reboot`
    pub const REBOOT: u64 = 169;
}

/// Calls the kernel with up to six arguments, and zeroes for the others; the result is negative where that failed.
///
/// # Safety
/// What the arguments point to is as the call wants it, and is memory that the caller may have read or changed.
#[inline]
pub unsafe fn call<const COUNT: usize>(number: u64, arguments: [u64; COUNT]) -> i64 {
    const { assert!(COUNT <= 6) };
    let mut all = [0; 6];
    all[..COUNT].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = all;
    let result;
    // SAFETY: the kernel keeps all registers but these; for memory the caller promises.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result
}

/// Writes what is taken at once, and tells how much that was, or less than 0.
#[inline]
pub fn write(file: u64, bytes: &[u8]) -> i64 {
    let arguments = [file, bytes.as_ptr() as u64, bytes.len() as u64];
    // SAFETY: the kernel reads what is lent to us.
    unsafe { call(number::WRITE, arguments) }
}

/// The child's number in the parent, 0 in the child.
#[inline]
pub fn fork() -> Option<u64> {
    // SAFETY: the child has a copy of all memory.
    u64::try_from(unsafe { call(number::FORK, []) }).ok()
}

/// Ends the process.
#[inline]
pub fn exit(status: u64) -> ! {
    loop {
        // SAFETY: touches no memory.
        unsafe { call(number::EXIT, [status]) };
    }
}
