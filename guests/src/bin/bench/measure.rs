//! How one thing is timed: RDTSC, the instruction, RDTSC, many times; the line that tells the result.

use plinth_guests::println;
use plinth_guests::single::Single;

/// Samples of each measurement. The machine is warm after the first; the minimum is the path itself, the median what
/// it usually costs.
pub(crate) const SAMPLES: usize = 51;

static TAKEN: Single<[u64; SAMPLES]> = Single::new([0; SAMPLES]);

/// Takes the samples of a measurement, and prints `BENCH name minimum median`.
pub(crate) fn bench(name: &str, mut sample: impl FnMut() -> u64) {
    // SAFETY: one CPU runs measurements, one after the other.
    let taken = unsafe { &mut *TAKEN.get() };
    for place in taken.iter_mut() {
        *place = sample();
    }
    report(name, taken);
}

/// Prints the line of some samples; nothing if there are none.
pub(crate) fn report(name: &str, samples: &mut [u64]) {
    samples.sort_unstable();
    if let (Some(minimum), Some(median)) = (samples.first(), samples.get(samples.len() / 2)) {
        println!("BENCH {name} {minimum} {median}");
    }
}

/// Ticks from before some instructions to after them, those of the second RDTSC's own preparation included: 4 for
/// nothing at all. RDI and RSI have the two operands; RAX, RCX, RDX and R8 to R11 are free to use.
#[macro_export]
macro_rules! ticks {
    ($rdi:expr, $rsi:expr; $($asm:literal),+) => {{
        let ticks: u64;
        plinth_guests::x86!(
            "rdtsc",
            "shl rdx, 32",
            "lea r8, [rax + rdx]",
            $($asm,)+
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "sub rax, r8",
            in("rdi") $rdi,
            in("rsi") $rsi,
            out("rax") ticks,
            out("rcx") _,
            out("rdx") _,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
        ticks
    }};
}
