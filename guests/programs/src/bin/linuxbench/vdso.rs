//! Finds `clock_gettime` in the code that the kernel maps into every program (the vDSO), by its ELF symbol table.

use core::ffi::CStr;

/// `clock_gettime(clock, struct timespec *)`.
pub(crate) type ClockGettime = extern "C" fn(u32, *mut [u64; 2]) -> i32;

const NAME: &CStr = c"__vdso_clock_gettime";
const AT_SYSINFO_EHDR: u64 = 33;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const SYMBOL_BYTES: u64 = 24;

/// Reads a value of the vDSO or of the stack.
fn at<T: Copy>(address: u64) -> T {
    // SAFETY: the callers follow the ELF structures that the kernel has mapped, which are whole.
    unsafe { (address as *const T).read_unaligned() }
}

/// The function, if this kernel has it.
pub(crate) fn clock_gettime(stack: *const u64) -> Option<ClockGettime> {
    let base = image(stack as u64)?;
    let (mut load_offset, mut dynamic) = (0, 0);
    let headers = base + at::<u64>(base + 32);
    for index in 0..u64::from(at::<u16>(base + 56)) {
        let header = headers + index * u64::from(at::<u16>(base + 54));
        match at::<u32>(header) {
            PT_LOAD => load_offset = base + at::<u64>(header + 8) - at::<u64>(header + 16),
            PT_DYNAMIC => dynamic = base + at::<u64>(header + 8),
            _ => {}
        }
    }
    let entry = |wanted: u64| {
        let mut place = dynamic;
        while dynamic != 0 && at::<u64>(place) != 0 {
            if at::<u64>(place) == wanted {
                return Some(at::<u64>(place + 8) + load_offset);
            }
            place += 16;
        }
        None
    };
    let (symbols, strings, hash) = (entry(DT_SYMTAB)?, entry(DT_STRTAB)?, entry(DT_HASH)?);
    // The hash table's second word is the number of symbols.
    let count = u64::from(at::<u32>(hash + 4));
    let symbol = (0..count)
        .map(|index| symbols + index * SYMBOL_BYTES)
        .find(|symbol| {
            let name = strings + u64::from(at::<u32>(*symbol));
            // SAFETY: names in the string table end with zero.
            unsafe { CStr::from_ptr(name as *const _) == NAME }
        })?;
    let function = load_offset + at::<u64>(symbol + 8);
    // SAFETY: the symbol of this name is a function of this type.
    Some(unsafe { core::mem::transmute::<u64, ClockGettime>(function) })
}

/// Where the vDSO is, by the auxiliary vector behind arguments and environment.
fn image(stack: u64) -> Option<u64> {
    let mut place = stack + 8 * (at::<u64>(stack) + 2);
    while at::<u64>(place) != 0 {
        place += 8;
    }
    place += 8;
    while at::<u64>(place) != 0 {
        if at::<u64>(place) == AT_SYSINFO_EHDR {
            return Some(at(place + 8));
        }
        place += 16;
    }
    None
}
