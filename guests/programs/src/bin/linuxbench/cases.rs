//! What is measured.

use crate::vdso::ClockGettime;
use crate::{EXIT, Measure, SAMPLES, sha256, system, ticks};
use core::arch::asm;
use core::hint::black_box;

const PAGE_BYTES: u64 = 4096;
const MIB: u64 = 1 << 20;
/// Memory that is touched page by page.
const FAULTED_BYTES: u64 = 4 * MIB;
const COPIED_BYTES: u64 = 16 * MIB;
const HASHED_BYTES: usize = 1 << 20;
/// Rounds of the loop that only computes: long enough for many timer interrupts.
const LOOP_ROUNDS: u64 = 4_000_000;
const CLOCK_MONOTONIC: u32 = 1;
/// Samples of what takes a few periods of the timer: together three seconds and more, since the kernel does some things
/// once a second, of which one more or less would be 0.1 % in a second.
const LONG_SAMPLES: usize = SAMPLES;

/// Ticks that something takes.
fn timed(body: impl FnOnce()) -> u64 {
    let start = ticks();
    body();
    ticks() - start
}

pub(crate) fn all(measure: &mut Measure, clock_gettime: Option<ClockGettime>) {
    measure.long_samples("compute", 5, 1, || timed(compute));
    sha256::assert_is_right();
    let hashed = system::map(HASHED_BYTES as u64);
    // SAFETY: it has so many bytes, which nobody changes.
    let hashed = unsafe { core::slice::from_raw_parts(hashed, HASHED_BYTES) };
    measure.long_samples("sha256-1mib", 3, 1, || {
        timed(|| {
            black_box(sha256::digest(black_box(hashed)));
        })
    });
    measure.samples("getpid", 101, || {
        timed(|| {
            system::getpid();
        })
    });
    if let Some(clock_gettime) = clock_gettime {
        let mut time = [0; 2];
        measure.samples("clock-gettime", 101, || {
            timed(|| {
                clock_gettime(CLOCK_MONOTONIC, &raw mut time);
            })
        });
    }
    processes(measure);
    memory(measure);
    pipes(measure);
    measure.samples("nanosleep-1ms", 9, || timed(|| system::sleep(1_000_000)));
}

/// Arithmetic on registers.
fn compute() {
    // SAFETY: changes only the registers that it names.
    unsafe {
        asm!(
            "2: imul {value}, {value}, 25214903",
            "add {value}, 11",
            "dec {count}",
            "jnz 2b",
            value = inout(reg) 1u64 => _,
            count = inout(reg) LOOP_ROUNDS => _,
            options(nomem, nostack),
        );
    }
}

fn processes(measure: &mut Measure) {
    measure.long_samples("fork-exit-wait", LONG_SAMPLES, 1, || {
        timed(|| {
            let child = system::fork();
            if child == 0 {
                system::exit(0);
            }
            system::wait(child);
        })
    });
    measure.long_samples("fork-exec-wait", LONG_SAMPLES, 1, || {
        timed(|| {
            let child = system::fork();
            if child == 0 {
                system::exec(c"/init", EXIT);
                system::exit(0);
            }
            system::wait(child);
        })
    });
}

fn memory(measure: &mut Measure) {
    let pages = FAULTED_BYTES / PAGE_BYTES;
    measure.long_samples("page-fault", 5, pages, || {
        let at = system::map(FAULTED_BYTES);
        let taken = timed(|| touch(at, FAULTED_BYTES));
        system::unmap(at, FAULTED_BYTES);
        taken
    });
    measure.long_samples("munmap-page", 31, pages, || {
        let at = system::map(FAULTED_BYTES);
        touch(at, FAULTED_BYTES);
        timed(|| system::unmap(at, FAULTED_BYTES))
    });
    let (from, to) = (system::map(COPIED_BYTES), system::map(COPIED_BYTES));
    touch(from, COPIED_BYTES);
    measure.long_samples("memcpy-16mib", 31, 1, || {
        timed(|| {
            // SAFETY: both pieces have this many bytes and do not overlap.
            unsafe {
                asm!(
                    "rep movsq",
                    inout("rdi") to => _,
                    inout("rsi") from => _,
                    inout("rcx") COPIED_BYTES / 8 => _,
                    options(nostack),
                );
            }
        })
    });
    let zero = system::open(c"/dev/zero");
    let read = |bytes| {
        timed(|| {
            system::read(zero, to, bytes);
        })
    };
    measure.samples("read-zero-4kib", 101, || read(PAGE_BYTES));
    measure.long_samples("read-zero-1mib", 15, 1, || read(MIB));
}

/// Writes to each page of a piece of so many bytes.
fn touch(at: *mut u8, bytes: u64) {
    let pages = (bytes / PAGE_BYTES) as usize;
    for page in 0..pages {
        // SAFETY: inside the piece.
        unsafe { at.add(page * PAGE_BYTES as usize).write_volatile(1) };
    }
}

/// A byte there and back between two processes.
fn pipes(measure: &mut Measure) {
    let (there, back) = (system::pipe(), system::pipe());
    let mut byte = 0;
    let child = system::fork();
    if child == 0 {
        loop {
            system::read(there.0, &raw mut byte, 1);
            system::write(back.1, &[byte]);
            if byte != 0 {
                system::exit(0);
            }
        }
    }
    measure.samples("pipe-round-trip", 51, || {
        timed(|| {
            system::write(there.1, &[0]);
            system::read(back.0, &raw mut byte, 1);
        })
    });
    system::write(there.1, &[1]);
    system::read(back.0, &raw mut byte, 1);
    system::wait(child);
}
