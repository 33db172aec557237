//! What several boot protocols put beside the kernel: strings and modules.

use alloc::vec::Vec;

use memory::{GuestMemory, GuestPhys, Range};

use super::space::{BELOW_4G, From, Space};
use super::{LoadError, Request};

/// The longest string that is taken, with its zero byte, where a boot protocol names no limit.
const STRING_LIMIT: u64 = 4096;
const PAGE: u64 = 0x1000;

/// Writes a zero-terminated string and returns its address, 0 for an empty one.
pub(super) fn place_text(
    text: &str,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<u64, LoadError> {
    let bytes = text.len() as u64;
    if bytes >= STRING_LIMIT {
        return Err(LoadError::CommandLineTooLong {
            bytes,
            limit: STRING_LIMIT - 1,
        });
    }
    if bytes == 0 {
        return Ok(0);
    }
    let range = space.place("the command line", bytes + 1, 1, BELOW_4G, From::Bottom)?;
    memory.write(range.start, text.as_bytes())?;
    memory.write(range.start.wrapping_add(bytes), &[0])?;
    Ok(range.start.as_u64())
}

/// Writes all modules, the initial RAM disk as the first of them; where they are, and their command lines.
pub(super) fn place_modules<'a>(
    request: &Request<'a>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<Vec<(Range<GuestPhys>, &'a str)>, LoadError> {
    let mut placed = Vec::new();
    if let Some(initrd) = request.initrd {
        let range = place_module(initrd, memory, space)?;
        space.placement.initrd = Some(range.start);
        placed.push((range, ""));
    }
    for module in request.modules {
        placed.push((place_module(module.bytes, memory, space)?, module.cmdline));
    }
    Ok(placed)
}

/// Writes a module to whole pages as high as there is room, out of the kernel's way.
fn place_module(
    bytes: &[u8],
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<Range<GuestPhys>, LoadError> {
    let range = space.place("a module", bytes.len() as u64, PAGE, BELOW_4G, From::Top)?;
    memory.write(range.start, bytes)?;
    let end = range.start.wrapping_add(bytes.len() as u64);
    Ok(Range {
        start: range.start,
        end,
    })
}
