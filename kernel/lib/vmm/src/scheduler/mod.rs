//! Which vCPU runs on a CPU, and for how long. Policy only: it knows no queue's lock, no timer and no vCPU's insides.
//!
//! The algorithm is borrowed virtual time (Kenneth J. Duda and David R. Cheriton, "Borrowed-Virtual-Time (BVT)
//! scheduling: supporting latency-sensitive threads in a general-purpose scheduler", SOSP 1999). Every vCPU has
//! a virtual time, which passes the slower the greater its weight, and the one that is furthest behind runs. A
//! vCPU that wakes up *borrows*: for a while it counts as if its time were earlier, and so runs at once; what it
//! uses is charged all the same, so nobody's share changes. That answers both of a hypervisor's questions,
//! exact shares and prompt wake-ups, with one number per vCPU and one heap per CPU. EEVDF bounds the error more
//! tightly, but needs a tree ordered by two keys and a guess at how long a guest will run; credit schedulers
//! correct shares only from period to period.
//!
//! - [`RunQueue`] has the vCPUs that are ready on one CPU. Choosing costs the logarithm of their number.
//! - An [`Account`] makes the vCPUs of a VM have its weight together, however many of them are awake.
//! - [`Sleepers`] has those that wait for something, and the times at which they wake up by themselves.
//! - [`Cap`] limits what all vCPUs of a VM use together, even where nobody else wants the CPU.
//! - A vCPU that spins [gives way](RunQueue::give_way) to one of its own VM that can do something.
//! - [`balance`] says when a CPU takes a vCPU from another's queue, [`plan`] which CPUs a vCPU may use at all, and
//!   [`placement`] which of them it goes to.
//!
//! All CPUs share one virtual time: a vCPU that moves keeps its own, within bounds. A queue with too many vCPUs
//! falls behind, a CPU with less to do sees that and takes one of them, so that shares hold across CPUs. A turn ends
//! when that may be due. On several CPUs a weight may be worth more than one of them (Abhishek Chandra, Micah Adler,
//! Pawan Goyal and Prashant Shenoy, "Surplus Fair Scheduling", OSDI 2000, call it infeasible). Whoever has such a one
//! is never far behind those that wait elsewhere, and what one runs while nobody waits anywhere is charged to nobody:
//! else hours alone would be held against it, or for it, once others come.

mod account;
pub mod balance;
mod cap;
mod cpus;
mod elsewhere;
mod heap;
pub mod placement;
pub mod plan;
mod queue;
mod share;
#[cfg(test)]
mod simulator;
mod sleepers;
mod spinning;
mod summary;
#[cfg(test)]
mod tests;
mod time;
mod turn;
mod waiting;

pub use account::Account;
pub use cap::{Cap, Grant};
pub use cpus::{CpuSet, MAX_CPUS, SharedCpuSet};
pub use elsewhere::Elsewhere;
pub use queue::{Arrival, RunQueue, Use};
pub use share::Share;
pub use sleepers::{NEVER, Sleepers, Slot};
pub use summary::{Occupied, Published, Summary};
pub use time::{VirtualTime, Weight};
pub use turn::{Preemption, Slice, Turn};

/// In how much time everybody that is ready gets a turn, as long as that leaves turns worth taking.
const ROUND_NS: u64 = 10_000_000;
/// No turn is shorter, unless the vCPU itself ends it or one that wakes up does: a switch has its price.
const MIN_SLICE_NS: u64 = 200_000;
/// How long one that is alone on a shared CPU runs before it is looked whether another CPU has too much to do.
const BALANCE_NS: u64 = 5_000_000;
/// The same where there is no other CPU: whoever comes ends the turn anyway.
const ALONE_NS: u64 = 250_000_000;
/// Where somebody waits elsewhere for whom the balance may have to be looked at sooner, a turn lasts so long at least.
const LOOK_AGAIN_NS: u64 = 1_000_000;
/// How far a vCPU that comes from another CPU may be behind the others, in rounds of its new queue.
const CATCH_UP_ROUNDS: u64 = 3;
/// How far one may be ahead, in the same measure; more than borrowing makes up for, lest somebody who sleeps and
/// wakes all the time be forgiven what he ran.
const AHEAD_ROUNDS: u64 = 2 * BORROW_ROUNDS;
/// How long a vCPU that has woken up may run on borrowed time.
const BORROW_LIMIT_NS: u64 = 1_000_000;
/// By how much borrowing advances a vCPU, in rounds: past any that catches up.
const BORROW_ROUNDS: u64 = CATCH_UP_ROUNDS + 1;
