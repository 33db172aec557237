//! The tables for vCPUs that see their VM's memory otherwise than the others do ([`PrivateView`]): one set on each CPU.
//!
//! Only a vCPU that is on a CPU needs its view, so the tables for it are the CPU's, made of a few frames that were put
//! aside before any guest ran. A vCPU that leaves the CPU leaves them there, and begins anew where it goes on.

use memory::TlbEffect;
use memory::table::TableError;
use spin::Mutex;
use vmx::ept::AccessedDirty;
use vmx::{Peculiarity, Tlb};

use super::OutOfFrames;
use super::pool::TablePool;
use super::tlb::flush_ept;
use crate::cpu::PcpuId;
use crate::cpu::smp::MAX_CPUS;

/// Frames for the tables of one view: enough for 60 pieces of 2 MiB and what leads there.
const FRAMES: u64 = 64;

/// A view, and its tables.
pub(super) type PrivateView = vmx::PrivateView<TablePool>;

/// Those that no vCPU uses now, by CPU. Each CPU touches its own only.
static UNUSED: [Mutex<Option<PrivateView>>; MAX_CPUS] = [const { Mutex::new(None) }; MAX_CPUS];

/// Puts aside what the vCPUs on this CPU will need for views of their own.
pub(super) fn provide(here: PcpuId, flags: AccessedDirty) -> Result<(), OutOfFrames> {
    let view = PrivateView::new(TablePool::new(FRAMES)?, flags).ok_or(OutOfFrames)?;
    *UNUSED[here.index()].lock() = Some(view);
    Ok(())
}

/// This CPU's, which from now on shows what its vCPU is to see.
pub(super) fn take(here: PcpuId, peculiarity: Peculiarity, tlb: Tlb) -> PrivateView {
    let Some(mut view) = UNUSED[here.index()].lock().take() else {
        unreachable!("a CPU has tables for the one vCPU that it has");
    };
    if let Err(error) = view.begin(peculiarity) {
        impossible(error);
    }
    flush_ept(tlb, view.pointer());
    view
}

/// The vCPU is to see something else from now on, if it does.
pub(super) fn turn_into(view: &mut PrivateView, peculiarity: Peculiarity, tlb: Tlb) {
    match view.turn_into(peculiarity) {
        Ok(TlbEffect::None) => {}
        Ok(TlbEffect::Stale) => flush_ept(tlb, view.pointer()),
        Err(error) => impossible(error),
    }
}

/// The vCPU needs it no more, or leaves this CPU.
pub(super) fn give_back(view: PrivateView, here: PcpuId) {
    *UNUSED[here.index()].lock() = Some(view);
}

/// Views map whole pages, and have tables for one in any case.
pub(super) fn impossible(error: TableError) -> ! {
    panic!("mapping guest memory: {error}")
}
