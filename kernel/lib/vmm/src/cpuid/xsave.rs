//! CPUID leaf 0xD: which state components there are, and how large an XSAVE area they make.
//!
//! The sizes follow from the components' own and from XCR0 and IA32_XSS; the host's figures for them are not
//! passed on, as they are about the host's XCR0 (and some emulated processors get them wrong).

use arch::Xcr0;
use arch::cpuid::{CpuidResult, LeafDs1Eax, XsaveComponentEcx};

use super::Live;

/// Bytes of the legacy region and the XSAVE header (SDM vol. 1, XSAVE Area).
const HEADER_END: u32 = 576;
/// No XSAVE area is larger; what a host says beyond that is not believed.
const MAX_BYTES: u32 = 1 << 20;
/// State components with a number below this one are known here: up to AMX tile data.
const COMPONENTS: usize = 19;

/// One state component beyond x87 and SSE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Component {
    bytes: u32,
    /// In the standard format.
    offset: u32,
    /// ECX bit 1: in the compacted format it starts at a multiple of 64.
    aligned: bool,
}

/// The XSAVE-managed state of one vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct XsaveLayout {
    components: [Component; COMPONENTS],
    allowed: Xcr0,
    features: LeafDs1Eax,
}

impl XsaveLayout {
    /// The components out of `wanted` that the host describes, those that only make sense together taken
    /// together or not at all.
    pub(super) fn new(
        host: &impl Fn(u32, u32) -> CpuidResult,
        wanted: Xcr0,
        features: LeafDs1Eax,
    ) -> Self {
        let main = host(0xd, 0);
        let offered = Xcr0::from_bits_retain(u64::from(main.edx) << 32 | u64::from(main.eax));
        let mut allowed = wanted & offered | Xcr0::X87;
        let mut components = [Component::default(); COMPONENTS];
        for (number, component) in components.iter_mut().enumerate().skip(2) {
            let bit = Xcr0::from_bits_retain(1 << number);
            if !allowed.contains(bit) {
                continue;
            }
            let found = host(0xd, number as u32);
            let end = found.ebx.checked_add(found.eax);
            let kind = XsaveComponentEcx::from_bits_truncate(found.ecx);
            let fits = end.is_some_and(|end| end <= MAX_BYTES);
            if found.eax == 0
                || found.ebx < HEADER_END
                || !fits
                || kind.contains(XsaveComponentEcx::SUPERVISOR)
            {
                allowed.remove(bit);
            } else {
                let aligned = kind.contains(XsaveComponentEcx::ALIGNED_64);
                *component = Component {
                    bytes: found.eax,
                    offset: found.ebx,
                    aligned,
                };
            }
        }
        if !allowed.contains(Xcr0::SSE) {
            allowed.remove(Xcr0::AVX);
        }
        for together in [Xcr0::AVX512, Xcr0::MPX, Xcr0::AMX] {
            if !allowed.contains(together) {
                allowed.remove(together);
            }
        }
        if !allowed.contains(Xcr0::AVX) {
            allowed.remove(Xcr0::AVX512);
        }
        Self {
            components,
            allowed,
            features,
        }
    }

    pub(super) const fn allowed(&self) -> Xcr0 {
        self.allowed
    }

    pub(super) const fn features(&self) -> LeafDs1Eax {
        self.features
    }

    /// Leaf 0xD.
    #[cold]
    pub(super) fn leaf(&self, subleaf: u32, live: &impl Live) -> CpuidResult {
        if self.allowed.is_empty() {
            return CpuidResult::ZERO;
        }
        match subleaf {
            0 => CpuidResult {
                eax: self.allowed.bits() as u32,
                ebx: self.standard_bytes(live.xcr0().bits()),
                ecx: self.standard_bytes(self.allowed.bits()),
                edx: (self.allowed.bits() >> 32) as u32,
            },
            1 => CpuidResult {
                eax: self.features.bits(),
                ebx: if self
                    .features
                    .intersects(LeafDs1Eax::XSAVEC | LeafDs1Eax::XSAVES)
                {
                    self.compacted_bytes(live.xcr0().bits() | live.xss())
                } else {
                    0
                },
                ecx: 0,
                edx: 0,
            },
            2..64 if self.allowed.bits() & (1 << subleaf) != 0 => self
                .components
                .get(subleaf as usize)
                .map_or(CpuidResult::ZERO, |component| CpuidResult {
                    eax: component.bytes,
                    ebx: component.offset,
                    ecx: u32::from(component.aligned) << 1,
                    edx: 0,
                }),
            _ => CpuidResult::ZERO,
        }
    }

    /// Whether each component that is allowed here lies at the same place there.
    pub(super) fn is_laid_out_as(&self, other: &Self) -> bool {
        self.enabled(self.allowed.bits())
            .eq(other.enabled(self.allowed.bits()))
    }

    fn enabled(&self, bits: u64) -> impl Iterator<Item = &Component> {
        self.components
            .iter()
            .enumerate()
            .filter(move |(i, _)| bits & (1 << i) != 0)
            .map(|(_, c)| c)
    }

    fn standard_bytes(&self, xcr0: u64) -> u32 {
        self.enabled(xcr0)
            .map(|c| c.offset.wrapping_add(c.bytes))
            .fold(HEADER_END, u32::max)
    }

    fn compacted_bytes(&self, components: u64) -> u32 {
        self.enabled(components).fold(HEADER_END, |end, component| {
            let start = if component.aligned {
                end.next_multiple_of(64)
            } else {
                end
            };
            start.wrapping_add(component.bytes)
        })
    }
}
