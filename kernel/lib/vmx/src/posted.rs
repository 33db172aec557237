//! [`PostedInterruptDescriptor`]: how other CPUs send an interrupt to a guest that runs, without an exit.
//!
//! SDM vol. 3, Posted-Interrupt Processing. A sender sets the vector's bit, and then ON. If that was clear, and SN,
//! too, it sends the notification vector to the CPU where the vCPU runs: that takes the bits over into the virtual
//! local APIC and goes on in the guest. Where the notification arrives outside of the guest it is pending at the next
//! entry, and is processed then; or the hypervisor takes it as an interrupt of its own, and the bits with it.
//!
//! SN is set while the vCPU does not run, or while its local APIC is out of the processor's reach. Who finds it so
//! looks where the vCPU is, as for everything else that is left for it. The owner sets SN, says that the vCPU sleeps,
//! and then looks for ON; a sender sets ON and then looks whether it sleeps. So one of the two sees the other.

use core::sync::atomic::{AtomicU64, Ordering};

use arch::Vector;

/// What the sender of an interrupt has to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use = "the guest does not see the interrupt before its CPU is notified"]
pub enum Notify {
    /// Send the notification vector there.
    Send {
        /// The destination as the local APIC's mode has it.
        destination: u32,
    },
    /// Nothing: somebody before has notified, or is about to.
    Told,
    /// Look where the vCPU is: it cannot be notified.
    Suppressed,
}

/// In the processor's layout. Any CPU posts; the one that runs the vCPU takes the requests, or the processor does when
/// the notification arrives. Not the mailbox of a local APIC in software, which has more to tell than vectors.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PostedInterruptDescriptor {
    /// A bit for each vector that is requested.
    requests: [AtomicU64; 4],
    /// ON and SN in bits 0 and 1, the notification vector in bits 23:16, the APIC ID from bit 32 on.
    control: AtomicU64,
    /// Bits that software may use.
    available: [AtomicU64; 3],
}

const _: () = assert!(size_of::<PostedInterruptDescriptor>() == 64);

impl PostedInterruptDescriptor {
    const OUTSTANDING: u64 = 1 << 0;
    const SUPPRESSED: u64 = 1 << 1;

    /// Nothing requested, notifications suppressed.
    pub fn new() -> Self {
        Self {
            control: AtomicU64::new(Self::SUPPRESSED),
            ..Self::default()
        }
    }

    /// Requests an interrupt. The request is visible before the notification, as the manual wants.
    pub fn post(&self, vector: Vector) -> Notify {
        self.request(vector);
        self.announce()
    }

    fn request(&self, vector: Vector) {
        if let Some(word) = self.requests.get(usize::from(vector.0 / 64)) {
            word.fetch_or(1 << (vector.0 % 64), Ordering::SeqCst);
        }
    }

    fn announce(&self) -> Notify {
        let told = self.control.fetch_or(Self::OUTSTANDING, Ordering::SeqCst);
        if told & Self::OUTSTANDING != 0 {
            Notify::Told
        } else if told & Self::SUPPRESSED != 0 {
            Notify::Suppressed
        } else {
            Notify::Send {
                destination: (told >> 32) as u32,
            }
        }
    }

    /// Says where notifications go from now on: the vCPU runs on the CPU with this APIC ID (in xAPIC mode the
    /// field wants it shifted left by 8). Whatever [`is_pending`](Self::is_pending) then was posted before and
    /// has notified nobody: it is to be taken before the entry.
    pub fn run_on(&self, destination: u32, notification: Vector) {
        let target = u64::from(destination) << 32 | u64::from(notification.0) << 16;
        self.set_target(target);
    }

    /// The vCPU cannot be notified: requests are kept.
    pub fn suspend(&self) {
        self.set_target(Self::SUPPRESSED);
    }

    /// Whether notifications reach the vCPU now.
    pub fn is_open(&self) -> bool {
        self.control.load(Ordering::Relaxed) & Self::SUPPRESSED == 0
    }

    /// Replaces all but ON, which belongs to those who post.
    fn set_target(&self, target: u64) {
        let mut old = self.control.load(Ordering::Relaxed);
        while let Err(current) = self.control.compare_exchange_weak(
            old,
            target | (old & Self::OUTSTANDING),
            Ordering::SeqCst,
            Ordering::Relaxed,
        ) {
            old = current;
        }
    }

    /// Takes all requests: the bits of vectors 0 to 63, and so on.
    pub fn take(&self) -> [u64; 4] {
        // ON first: a request that comes after it is cleared notifies again.
        self.control.fetch_and(!Self::OUTSTANDING, Ordering::SeqCst);
        self.requests
            .each_ref()
            .map(|word| word.swap(0, Ordering::SeqCst))
    }

    /// Whether something was posted since the last [`take`](Self::take).
    pub fn is_pending(&self) -> bool {
        self.control.load(Ordering::SeqCst) & Self::OUTSTANDING != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const NOTIFICATION: Vector = Vector(0xf3);

    #[test]
    fn only_the_first_post_to_a_running_vcpu_notifies() {
        let posted = PostedInterruptDescriptor::new();
        assert_eq!(posted.post(Vector(0x31)), Notify::Suppressed);
        assert_eq!(posted.post(Vector(0x32)), Notify::Told);
        assert!(posted.is_pending() && !posted.is_open());
        assert_eq!(posted.take(), [3 << 0x31, 0, 0, 0]);
        posted.run_on(3, NOTIFICATION);
        assert!(posted.is_open());
        assert_eq!(posted.post(Vector(0x31)), Notify::Send { destination: 3 });
        assert_eq!(posted.post(Vector(0xff)), Notify::Told);
        assert_eq!(posted.take(), [1 << 0x31, 0, 0, 1 << 63]);
        assert_eq!(posted.take(), [0; 4]);
        assert!(!posted.is_pending());
        posted.suspend();
        assert_eq!(posted.post(Vector(0x40)), Notify::Suppressed);
    }

    #[test]
    fn the_descriptor_has_the_manuals_layout() {
        let posted = PostedInterruptDescriptor::new();
        posted.run_on(0x0102_0304, Vector(0xf2));
        let _ = posted.post(Vector(0x31));
        assert_eq!(
            posted.control.load(Ordering::Relaxed),
            0x0102_0304_00f2_0001
        );
        assert_eq!(
            core::mem::offset_of!(PostedInterruptDescriptor, control),
            32
        );
        posted.suspend();
        assert_eq!(
            posted.control.load(Ordering::Relaxed),
            3,
            "what is outstanding stays so"
        );
    }

    /// Where a vCPU is, as the hypervisor has it beside the descriptor.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Whereabouts {
        Running,
        Waiting,
        Asleep,
    }

    /// One vCPU, its owner on CPU 1, and senders on others. Each step is one access to memory that the others see, so
    /// that all that can happen is an order of the steps.
    struct Model {
        posted: PostedInterruptDescriptor,
        whereabouts: Whereabouts,
        in_guest: bool,
        /// A notification, or a kick, waits at CPU 1.
        notification: bool,
        kick: bool,
        /// Somebody has seen to it that the vCPU is woken up.
        is_woken: bool,
        /// What has reached the local APIC.
        taken: [u64; 4],
        /// What each sender has found, once it has announced.
        found: Vec<Option<Notify>>,
    }

    type Step = fn(&mut Model, usize);

    impl Model {
        fn new(senders: usize) -> Self {
            Self {
                posted: PostedInterruptDescriptor::new(),
                whereabouts: Whereabouts::Waiting,
                in_guest: false,
                notification: false,
                kick: false,
                is_woken: false,
                taken: [0; 4],
                found: std::vec![None; senders],
            }
        }

        fn take(&mut self) {
            for (all, new) in self.taken.iter_mut().zip(self.posted.take()) {
                *all |= new;
            }
        }

        /// What the processor does by itself whenever it can.
        fn interrupt(&mut self) {
            if self.in_guest && core::mem::take(&mut self.notification) {
                self.take();
            }
            if self.in_guest && core::mem::take(&mut self.kick) {
                // An exit, and what is done about it.
                self.take();
            }
        }
    }

    const SEND: [Step; 3] = [
        |model, me| model.posted.request(Vector(0x40 + me as u8)),
        |model, me| {
            model.found[me] = Some(model.posted.announce());
            if let Some(Notify::Send { destination }) = model.found[me] {
                assert_eq!(destination, 1);
                model.notification = true;
            }
        },
        |model, me| {
            if model.found[me] == Some(Notify::Suppressed) {
                match model.whereabouts {
                    Whereabouts::Running => model.kick = true,
                    Whereabouts::Waiting => {}
                    Whereabouts::Asleep => model.is_woken = true,
                }
            }
        },
    ];

    const BEGIN_TURN: [Step; 4] = [
        |model, _| model.whereabouts = Whereabouts::Running,
        |model, _| model.posted.run_on(1, NOTIFICATION),
        |model, _| model.take(),
        |model, _| model.in_guest = true,
    ];

    const FALL_ASLEEP: [Step; 4] = [
        |model, _| model.in_guest = false,
        |model, _| model.posted.suspend(),
        |model, _| model.whereabouts = Whereabouts::Asleep,
        |model, _| model.is_woken |= model.posted.is_pending(),
    ];

    /// Runs all orders in which the steps of these can come, each from the start.
    fn in_all_orders(actors: &[Vec<Step>], senders: usize, check: impl Fn(Model)) {
        let mut orders: Vec<Vec<usize>> = std::vec![Vec::new()];
        let steps: usize = actors.iter().map(Vec::len).sum();
        for _ in 0..steps {
            orders = orders
                .into_iter()
                .flat_map(|order| {
                    let done = |actor| order.iter().filter(|other| **other == actor).count();
                    (0..actors.len())
                        .filter(|actor| done(*actor) < actors[*actor].len())
                        .map(|actor| [&order[..], &[actor]].concat())
                        .collect::<Vec<_>>()
                })
                .collect();
        }
        for order in orders {
            let mut model = Model::new(senders);
            let mut next = std::vec![0; actors.len()];
            for actor in order {
                actors[actor][next[actor]](&mut model, actor);
                next[actor] += 1;
                model.interrupt();
            }
            check(model);
        }
    }

    #[test]
    fn a_post_reaches_a_vcpu_that_begins_its_turn() {
        let actors = [SEND.to_vec(), SEND.to_vec(), BEGIN_TURN.to_vec()];
        in_all_orders(&actors, 2, |model| {
            assert_eq!(model.taken, [0, 3, 0, 0]);
        });
    }

    #[test]
    fn a_post_is_taken_or_wakes_a_vcpu_that_runs_and_falls_asleep() {
        let owner = [&BEGIN_TURN[..], &FALL_ASLEEP].concat();
        in_all_orders(&[SEND.to_vec(), owner.clone()], 1, |mut model| {
            let was_taken = model.taken[1] == 1;
            assert!(was_taken || model.is_woken, "it sleeps for ever");
            model.take();
            assert_eq!(model.taken, [0, 1, 0, 0]);
        });
        in_all_orders(&[SEND.to_vec(), SEND.to_vec(), owner], 2, |model| {
            assert!(model.taken[1] == 3 || model.is_woken, "it sleeps for ever");
        });
    }
}
