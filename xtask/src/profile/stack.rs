//! Follows the calls that led to a sample, by the frame information in the hypervisor's program.

use super::Sample;
use addr2line::gimli::{
    BaseAddresses, CfaRule, DebugFrame, EndianSlice, LittleEndian, Register, UnwindContext,
    UnwindSection, X86_64,
};
use anyhow::{Context, Result};
use object::{Object, ObjectSection};
use std::fs;
use std::ops::Range;
use std::path::Path;

/// Calls deeper than this are not followed.
const DEEPEST: usize = 64;

/// The program's code and its frame information.
pub struct Unwinder {
    entry: u64,
    code: Range<u64>,
    frames: Vec<u8>,
}

impl Unwinder {
    /// Reads a program that was built with line tables.
    pub fn of(program: &Path) -> Result<Self> {
        let bytes =
            fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        let file = object::File::parse(&*bytes)?;
        let section = |name: &str| {
            let section = file.section_by_name(name);
            section.with_context(|| format!("{} has no {name}", program.display()))
        };
        let text = section(".text")?;
        Ok(Self {
            entry: file.entry(),
            code: text.address()..text.address() + text.size(),
            frames: section(".debug_frame")?.data()?.to_vec(),
        })
    }

    /// Its first instruction.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Whether an address is in the program's code.
    #[must_use]
    pub fn is_code(&self, address: u64) -> bool {
        self.code.contains(&address)
    }

    /// The place of the sample, and the return addresses from there on. Where a function has no frame information, as
    /// assembly has none, or its frame does not hang on the stack pointer, they end.
    #[must_use]
    pub fn calls(&self, sample: &Sample) -> Vec<u64> {
        let mut calls = vec![sample.rip];
        let mut rsp = sample.rsp;
        while let Some(&address) = calls.last()
            && calls.len() < DEEPEST
        {
            let Some(frame) = self.frame_end(address, rsp) else {
                break;
            };
            let Some(word) = frame.checked_sub(8 + sample.rsp).map(|bytes| bytes / 8) else {
                break;
            };
            match usize::try_from(word)
                .ok()
                .and_then(|word| sample.stack.get(word))
            {
                Some(caller) if self.is_code(*caller) => calls.push(*caller),
                _ => break,
            }
            rsp = frame;
        }
        calls
    }

    /// What the stack pointer was before the call of the function at `address` (its canonical frame address).
    fn frame_end(&self, address: u64, rsp: u64) -> Option<u64> {
        const RSP: Register = X86_64::RSP;
        let section: DebugFrame<EndianSlice<'_, LittleEndian>> =
            DebugFrame::new(&self.frames, LittleEndian);
        let mut context = UnwindContext::new();
        let row = section
            .unwind_info_for_address(
                &BaseAddresses::default(),
                &mut context,
                address,
                DebugFrame::cie_from_offset,
            )
            .ok()?;
        match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } if *register == RSP => {
                rsp.checked_add_signed(*offset)
            }
            _ => None,
        }
    }
}
