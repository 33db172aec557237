//! What several boot protocols put beside the kernel: strings and modules.

use memory::{GuestMemory, GuestPhys, Range};

use super::LoadError;
use super::space::{BELOW_4G, From, Space};

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

/// Writes a module to whole pages as high as there is room, out of the kernel's way.
pub(super) fn place_module(
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
