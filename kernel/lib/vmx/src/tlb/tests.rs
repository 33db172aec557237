//! The rules against TLBs that keep every translation for ever, and give out the oldest that fits.
//!
//! [`Processor`] caches as the manual allows (SDM vol. 3, Caching Translation Information), [`World`] does what the backend
//! does, with the same types. Before each entry all that the CPU could use is compared with what the tables say now.

use super::*;
use crate::capability::{Capabilities, RawCapabilities};
use crate::ept::{AccessedDirty, Ept, EptFlags};
use crate::large_pages::{Fetched, LargePages};
use crate::private_view::{Filled, Peculiarity, Pieces, PrivateView};
use crate::residence::Residence;
use crate::testing::{Memory, Reserve, skylake};
use machine::A20Gate;
use memory::{GuestPhys, HostPhys, PageSize, Range, TableMemory, Tables, TlbEffect};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;
use vmm::exit::{AccessKind, MemoryAccess};

const CPUS: usize = 3;
const VMS: usize = 2;
const VCPUS: usize = 2;
const RAM_BYTES: u64 = 4 << 20;
const APIC: u64 = 0xfee0_0000;
/// What the guests' linear pages can lead to: both sides of a MiB, in two large pages, and the local APIC.
const PLACES: [u64; 5] = [0x5000, 0x10_5000, 0x20_7000, 0x30_7000, APIC];
/// The linear pages of a guest.
const LINEAR: usize = 3;
const CLOSED: Peculiarity = Peculiarity {
    gate: A20Gate::Closed,
    hidden: None,
};

/// The frames of the machine: all tables are made of the same ones.
#[derive(Clone, Debug, Default)]
struct Frames(Rc<RefCell<Memory>>);

impl TableMemory for Frames {
    fn read_entry(&self, table: HostPhys, index: usize) -> u64 {
        self.0.borrow().read_entry(table, index)
    }

    fn write_entry(&mut self, table: HostPhys, index: usize, entry: u64) {
        self.0.borrow_mut().write_entry(table, index, entry);
    }

    fn allocate_table(&mut self) -> Option<HostPhys> {
        self.0.borrow_mut().allocate_table()
    }

    fn free_table(&mut self, table: HostPhys) {
        self.0.borrow_mut().free_table(table);
    }
}

/// Where a page of 4 KiB leads by a cached mapping.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    root: u64,
    /// For a combined mapping the VPID and the linear page, for a guest-physical one nothing.
    linear: Option<(u16, usize)>,
    gpa: u64,
    hpa: u64,
    size: PageSize,
    flags: EptFlags,
}

/// One CPU.
struct Processor {
    cached: Vec<Mapping>,
    resident: Option<(usize, usize)>,
    /// The tables for a view of its own, unless its vCPU has them.
    view: Option<PrivateView<Reserve<Frames>>>,
}

impl Processor {
    fn carry_out(&mut self, invalidation: Invalidation) {
        let root_of = |pointer: u64| EptPointer::from_u64(pointer).root().as_u64();
        self.cached.retain(|mapping| match invalidation {
            Invalidation::Invept { kind, pointer } => match kind {
                InveptKind::SingleContext => mapping.root != root_of(pointer),
                InveptKind::AllContexts => false,
            },
            Invalidation::Invvpid { kind, vpid, gva } => match (kind, mapping.linear) {
                (_, None) => true,
                (InvvpidKind::IndividualAddress, Some(linear)) => {
                    linear != (vpid, (gva >> 12) as usize)
                }
                (InvvpidKind::SingleContext, Some((tag, _))) => tag != vpid,
                (InvvpidKind::AllContexts, Some((tag, _))) => tag == 0,
            },
        });
    }

    /// A VM entry or exit. Those of a vCPU without VPID drop what is tagged with 0.
    fn cross_border(&mut self) {
        let is_hosts = |mapping: &Mapping| mapping.linear.is_some_and(|(vpid, _)| vpid == 0);
        self.cached.retain(|mapping| !is_hosts(mapping));
    }
}

/// One life of a VM.
struct Vm {
    plain: Tables<Ept>,
    with_apic: Tables<Ept>,
    first_uses: [FirstUse; 2],
    ram: Pieces,
    /// Granules that are known to have been written.
    written: BTreeSet<u64>,
    vcpus: Vec<Vcpu>,
}

struct Vcpu {
    vpid: u16,
    residence: Residence<usize>,
    /// Which place each linear page leads to.
    space: [usize; LINEAR],
    has_apic: bool,
    peculiarity: Peculiarity,
    private: Option<PrivateView<Reserve<Frames>>>,
}

struct World {
    tlb: Tlb,
    large_pages: LargePages,
    frames: Frames,
    cpus: Vec<Processor>,
    vms: Vec<Vm>,
    /// Those that are free; the last one freed is the next one given out.
    vpids: Vec<u16>,
    lives: u64,
}

fn pointer(tables: &Tables<Ept>) -> EptPointer {
    EptPointer::new(tables.root(), AccessedDirty::Tracked)
}

const fn granule(gpa: u64) -> u64 {
    gpa >> 21
}

impl World {
    fn new(tlb: Tlb, large_pages: LargePages) -> Self {
        let frames = Frames::default();
        let view = |_| {
            // One table of the lowest level at a time.
            let reserve = Reserve::new(frames.clone(), 4);
            PrivateView::new(reserve, AccessedDirty::Tracked)
        };
        let processor = |number| Processor {
            cached: vec![],
            resident: None,
            view: view(number),
        };
        let mut world = Self {
            tlb,
            large_pages,
            cpus: (0..CPUS).map(processor).collect(),
            frames,
            vms: vec![],
            vpids: (1..=(VMS * VCPUS) as u16).collect(),
            lives: 0,
        };
        for _ in 0..VMS {
            let vm = world.begin_life();
            world.vms.push(vm);
        }
        world
    }

    /// A VM in memory of which no other life has ever had anything.
    fn begin_life(&mut self) -> Vm {
        self.lives += 1;
        let base = self.lives << 32;
        let mut frames = self.frames.clone();
        let mut plain = Tables::<Ept>::new(&mut frames).expect("endless memory");
        let size = PageSize::Size2M;
        let _ = plain
            .map(
                &mut frames,
                0,
                HostPhys::new(base),
                RAM_BYTES,
                self.large_pages.ram(size),
                size,
            )
            .expect("endless memory");
        let mut with_apic = Tables::<Ept>::new(&mut frames).expect("endless memory");
        let apic = HostPhys::new(base + 0x8000_0000);
        let (flags, small) = (EptFlags::APIC_ACCESS, PageSize::Size4K);
        let _ = with_apic
            .map(&mut frames, APIC, apic, small.bytes(), flags, small)
            .expect("endless memory");
        with_apic.borrow(&mut frames, &plain).expect("apart");
        let ram = Range {
            start: GuestPhys::new(0),
            end: GuestPhys::new(RAM_BYTES),
        };
        let vcpu = |_| Vcpu {
            vpid: self.vpids.pop().expect("one for each vCPU"),
            residence: Residence::NOWHERE,
            space: [0, 2, 4],
            has_apic: true,
            peculiarity: Peculiarity::NONE,
            private: None,
        };
        Vm {
            plain,
            with_apic,
            first_uses: Default::default(),
            ram: Pieces::new(core::iter::once((ram, HostPhys::new(base)))),
            written: BTreeSet::new(),
            vcpus: (0..VCPUS).map(vcpu).collect(),
        }
    }

    /// The VM ends; another one gets what it had.
    fn end(&mut self, vm: usize) {
        for vcpu in 0..VCPUS {
            self.unload(vm, vcpu);
            let vpid = self.vms[vm].vcpus[vcpu].vpid;
            self.vpids.push(vpid);
        }
        let next = {
            // The tables of the old life are free before those of the new one are made.
            let old = self.vms.remove(vm);
            let Vm {
                plain,
                mut with_apic,
                ..
            } = old;
            let mut frames = self.frames.clone();
            with_apic.give_back(&mut frames, &plain);
            with_apic.destroy(&mut frames);
            plain.destroy(&mut frames);
            self.begin_life()
        };
        self.vms.insert(vm, next);
    }

    fn unload(&mut self, vm: usize, vcpu: usize) {
        let vcpu = &mut self.vms[vm].vcpus[vcpu];
        if let Some(cpu) = vcpu.residence.leave() {
            self.cpus[cpu].resident = None;
            if let Some(view) = vcpu.private.take() {
                self.cpus[cpu].view = Some(view);
            }
        }
    }

    /// Brings a vCPU to a CPU, as `load` of the backend does.
    fn load(&mut self, vm: usize, vcpu: usize, cpu: usize) {
        if self.cpus[cpu].resident != Some((vm, vcpu)) {
            self.unload(vm, vcpu);
            if let Some((vm, vcpu)) = self.cpus[cpu].resident {
                self.unload(vm, vcpu);
            }
        }
        let (tlb, processor) = (self.tlb, &mut self.cpus[cpu]);
        processor.resident = Some((vm, vcpu));
        let Vm {
            plain,
            with_apic,
            first_uses,
            vcpus,
            ..
        } = &mut self.vms[vm];
        let roots = [pointer(plain), pointer(with_apic)];
        let vcpu = &mut vcpus[vcpu];
        let arrival = vcpu.residence.arrive(cpu);
        if arrival != Arrival::Stayed {
            let vpid = Vpid::new(vcpu.vpid).expect("never 0");
            let roots = roots.into_iter().zip(first_uses.iter());
            tlb.arrive(cpu, arrival, vpid, roots, |it| processor.carry_out(it));
        }
        if vcpu.private.is_none() && vcpu.peculiarity != Peculiarity::NONE {
            Self::choose_view(tlb, vcpu, processor);
        }
    }

    fn choose_view(tlb: Tlb, vcpu: &mut Vcpu, processor: &mut Processor) {
        let peculiarity = vcpu.peculiarity;
        match vcpu.private.take() {
            Some(view) if peculiarity == Peculiarity::NONE => processor.view = Some(view),
            Some(mut view) => {
                if view.turn_into(peculiarity) == Ok(TlbEffect::Stale) {
                    processor.carry_out(tlb.ept(view.pointer()));
                }
                vcpu.private = Some(view);
            }
            None if peculiarity == Peculiarity::NONE => {}
            None => {
                let mut view = processor.view.take().expect("the CPU has one vCPU");
                view.begin(peculiarity).expect("pages go whole");
                processor.carry_out(tlb.ept(view.pointer()));
                vcpu.private = Some(view);
            }
        }
    }

    /// What a vCPU is entered with.
    fn root(&self, vm: usize, vcpu: usize) -> EptPointer {
        let (vm, vcpu) = (&self.vms[vm], &self.vms[vm].vcpus[vcpu]);
        match &vcpu.private {
            Some(view) => view.pointer(),
            None if vcpu.has_apic => pointer(&vm.with_apic),
            None => pointer(&vm.plain),
        }
    }

    fn tag(&self, vm: usize, vcpu: usize) -> u16 {
        if self.tlb.has_vpid() {
            self.vms[vm].vcpus[vcpu].vpid
        } else {
            0
        }
    }

    /// Nothing that the CPU could use by its cache is wrong.
    fn check_entry(&self, vm: usize, vcpu: usize, cpu: usize) {
        let (root, tag) = (self.root(vm, vcpu).root(), self.tag(vm, vcpu));
        let vcpu = &self.vms[vm].vcpus[vcpu];
        let tables = Tables::<Ept>::from_root(root);
        for cached in &self.cpus[cpu].cached {
            let is_its = cached.linear.is_none_or(|(vpid, _)| vpid == tag);
            if cached.root != root.as_u64() || !is_its {
                continue;
            }
            if let Some((_, page)) = cached.linear {
                let leads_to = PLACES[vcpu.space[page]];
                assert_eq!(cached.gpa, leads_to, "another address space's: {cached:x?}");
            }
            let now = tables.translate(&self.frames, cached.gpa);
            let now = now.unwrap_or_else(|| panic!("no longer mapped: {cached:x?}"));
            assert_eq!(now.address.as_u64(), cached.hpa, "elsewhere: {cached:x?}");
            let rights = |flags: EptFlags| flags & EptFlags::ALL_ACCESSES;
            let gone = rights(cached.flags).difference(rights(now.flags));
            assert!(gone.is_empty(), "allows what is not allowed: {cached:x?}");
            assert!(
                self.large_pages == LargePages::ForAll
                    || cached.size == PageSize::Size4K
                    || !cached.flags.contains(EptFlags::EXECUTE),
                "code in a large page: {cached:x?}"
            );
            if cached.flags.contains(EptFlags::DIRTY) && cached.gpa != APIC {
                let seen = vcpu.peculiarity.seen(GuestPhys::new(cached.gpa));
                let is_known = self.vms[vm].written.contains(&granule(seen.as_u64()));
                assert!(is_known, "writes there go unnoticed: {cached:x?}");
            }
        }
    }

    /// The guest runs, and uses a linear page until it has what it wants. How many exits that takes.
    fn touch(&mut self, at: (usize, usize, usize), page: usize, kind: AccessKind) -> u32 {
        let (vm, vcpu, cpu) = at;
        let gpa = PLACES[self.vms[vm].vcpus[vcpu].space[page]];
        for exits in 0..4 {
            self.check_entry(vm, vcpu, cpu);
            self.cpus[cpu].cross_border();
            let is_done = self.access(at, page, gpa, kind);
            self.cpus[cpu].cross_border();
            if is_done || !self.mend(at, page, gpa, kind) {
                return exits;
            }
        }
        panic!("{kind:?} of {gpa:#x} exits again and again");
    }

    /// One access of the guest; false for an EPT violation.
    fn access(
        &mut self,
        (vm, vcpu, cpu): (usize, usize, usize),
        page: usize,
        gpa: u64,
        kind: AccessKind,
    ) -> bool {
        let (root, tag) = (self.root(vm, vcpu).root(), self.tag(vm, vcpu));
        let right = match kind {
            AccessKind::Read => EptFlags::READ,
            AccessKind::Write => EptFlags::WRITE,
            AccessKind::Execute => EptFlags::EXECUTE,
        };
        let linear = Some((tag, page));
        let fits = |mapping: &&Mapping| {
            let is_physical = mapping.linear.is_none() && mapping.gpa == gpa;
            mapping.root == root.as_u64() && (mapping.linear == linear || is_physical)
        };
        if let Some(&cached) = self.cpus[cpu].cached.iter().find(fits) {
            if !cached.flags.contains(right) {
                return false;
            }
            if kind != AccessKind::Write || cached.flags.contains(EptFlags::DIRTY) {
                return true;
            }
        }
        // By the tables, where a write sets the dirty flag and is logged.
        let mut tables = Tables::<Ept>::from_root(root);
        let Some(found) = tables.translate(&self.frames, gpa) else {
            return false;
        };
        if !found.flags.contains(right) {
            return false;
        }
        let mut flags = EptFlags::ACCESSED;
        flags.set(EptFlags::DIRTY, kind == AccessKind::Write);
        if kind == AccessKind::Write && !found.flags.contains(EptFlags::DIRTY) {
            self.vms[vm].written.insert(granule(gpa));
        }
        let start = gpa & !(found.size.bytes() - 1);
        let set = tables.protect(&mut self.frames, start, found.size.bytes(), |old| {
            old | flags
        });
        assert!(set.is_ok());
        let found = tables.translate(&self.frames, gpa).expect("just there");
        for linear in [None, linear] {
            self.cpus[cpu].cached.push(Mapping {
                root: root.as_u64(),
                linear,
                gpa,
                hpa: found.address.as_u64(),
                size: found.size,
                flags: found.flags,
            });
        }
        true
    }

    /// What the backend does about a violation, which has dropped what had caused it. Whether the access is repeated.
    fn mend(
        &mut self,
        (vm, vcpu, cpu): (usize, usize, usize),
        page: usize,
        gpa: u64,
        kind: AccessKind,
    ) -> bool {
        let (root, tag) = (self.root(vm, vcpu).root(), self.tag(vm, vcpu));
        self.cpus[cpu].cached.retain(|mapping| {
            let is_used = mapping
                .linear
                .map_or(mapping.gpa == gpa, |it| it == (tag, page));
            mapping.root != root.as_u64() || !is_used
        });
        let access = MemoryAccess {
            gpa: GuestPhys::new(gpa),
            gva: None,
            kind,
            during_page_walk: false,
        };
        let Vm {
            plain,
            ram,
            written,
            vcpus,
            ..
        } = &mut self.vms[vm];
        if let Some(view) = &mut vcpus[vcpu].private {
            let filled = view.fill(ram, self.large_pages, &access);
            return match filled.expect("a page takes fewer tables than there are") {
                Filled::NoRam(_) => false,
                Filled::Mapped(seen, effect) => {
                    written.insert(granule(seen.as_u64()));
                    if effect == TlbEffect::Stale {
                        self.cpus[cpu].carry_out(self.tlb.ept(view.pointer()));
                    }
                    true
                }
            };
        }
        if kind != AccessKind::Execute {
            return false;
        }
        let fetched = self
            .large_pages
            .fetched(plain, &mut self.frames, access.gpa);
        match fetched.expect("endless memory") {
            Fetched::Refused => false,
            Fetched::Executable => true,
            Fetched::Split(range) => {
                written.insert(granule(range.start.as_u64()));
                true
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A vCPU has a turn: its guest uses linear pages, something changes, and it uses others.
    Turn(usize, usize, usize, [Vec<Touch>; 2], Change),
    End(usize),
}

type Touch = (usize, AccessKind);

/// What changes for a vCPU that runs.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    /// The guest has another address space from now on: by itself, or by a handler of the hypervisor.
    ByGuest([usize; LINEAR]),
    ByHandler([usize; LINEAR]),
    /// A handler changes one page of it, and drops that alone.
    OnePage(usize, usize),
    /// What it sees of memory is another thing.
    See(Peculiarity),
    /// Its local APIC comes to its usual place, or goes.
    Apic(bool),
}

fn changes() -> impl Strategy<Value = Change> {
    let space = prop::array::uniform3(0..PLACES.len());
    let peculiarity = prop_oneof![
        2 => Just(Peculiarity::NONE),
        2 => Just(CLOSED),
        2 => Just(Peculiarity { gate: A20Gate::Open, hidden: Some(GuestPhys::new(PLACES[2])) }),
    ];
    prop_oneof![
        4 => Just(Change::Nothing),
        1 => space.clone().prop_map(Change::ByGuest),
        2 => space.prop_map(Change::ByHandler),
        2 => (0..LINEAR, 0..PLACES.len()).prop_map(|(page, place)| Change::OnePage(page, place)),
        4 => peculiarity.prop_map(Change::See),
        1 => any::<bool>().prop_map(Change::Apic),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let kind = prop_oneof![
        Just(AccessKind::Read),
        Just(AccessKind::Write),
        Just(AccessKind::Execute)
    ];
    let touches = prop::collection::vec((0..LINEAR, kind), 0..5);
    let touches = (touches.clone(), touches).prop_map(|(before, after)| [before, after]);
    let event = prop_oneof![
        8 => (0..VMS, 0..VCPUS, 0..CPUS, touches, changes())
            .prop_map(|(vm, vcpu, cpu, touches, change)| Event::Turn(vm, vcpu, cpu, touches, change)),
        1 => (0..VMS).prop_map(Event::End),
    ];
    prop::collection::vec(event, 1..50)
}

impl World {
    fn happens(&mut self, event: Event) {
        match event {
            Event::Turn(vm, vcpu, cpu, [before, after], change) => {
                self.load(vm, vcpu, cpu);
                for (page, kind) in before {
                    self.touch((vm, vcpu, cpu), page, kind);
                }
                self.change((vm, vcpu, cpu), change);
                for (page, kind) in after {
                    self.touch((vm, vcpu, cpu), page, kind);
                }
            }
            Event::End(vm) => self.end(vm),
        }
    }

    fn change(&mut self, (vm, vcpu, cpu): (usize, usize, usize), change: Change) {
        let (tlb, tag) = (self.tlb, self.tag(vm, vcpu));
        let (vcpu, processor) = (&mut self.vms[vm].vcpus[vcpu], &mut self.cpus[cpu]);
        let vpid = Vpid::new(vcpu.vpid).expect("never 0");
        let dropped = match change {
            Change::Nothing => None,
            Change::ByGuest(space) => {
                vcpu.space = space;
                let of_vcpu = |mapping: &Mapping| mapping.linear.is_some_and(|it| it.0 == tag);
                processor.cached.retain(|mapping| !of_vcpu(mapping));
                None
            }
            Change::ByHandler(space) => {
                vcpu.space = space;
                tlb.vpid(vpid)
            }
            Change::OnePage(page, place) => {
                vcpu.space[page] = place;
                tlb.address(vpid, GuestVirt::new((page as u64) << 12))
            }
            Change::See(peculiarity) => {
                vcpu.peculiarity = peculiarity;
                Self::choose_view(tlb, vcpu, processor);
                None
            }
            Change::Apic(has_apic) => {
                vcpu.has_apic = has_apic;
                None
            }
        };
        dropped.into_iter().for_each(|it| processor.carry_out(it));
    }
}

fn processors() -> impl Strategy<Value = RawCapabilities> {
    // INVEPT of one context is required; INVVPID of one address, one VPID, all of them; VPID at all.
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(address, one, all, vpid)| {
            let mut raw = skylake();
            for (bit, there) in [(40, address), (41, one), (42, all)] {
                if !there {
                    raw.ept_vpid &= !(1 << bit);
                }
            }
            if !vpid {
                raw.secondary &= !(1 << (32 + 5));
            }
            raw
        },
    )
}

fn tlb(raw: RawCapabilities) -> Tlb {
    Tlb::new(&Features::new(&Capabilities::new(raw)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_guest_is_entered_with_a_translation_that_no_longer_holds(
        raw in processors(),
        data_only in any::<bool>(),
        events in events(),
    ) {
        let large_pages = if data_only { LargePages::DataOnly } else { LargePages::ForAll };
        let mut world = World::new(tlb(raw), large_pages);
        for event in events {
            world.happens(event);
        }
    }
}

/// A turn of a vCPU of VM 0 in which its guest reads its first page.
fn reads(vcpu: usize, cpu: usize, change: Change) -> Event {
    let touches = || vec![(0, AccessKind::Read)];
    Event::Turn(0, vcpu, cpu, [touches(), touches()], change)
}

/// A world in which vCPU 0 of VM 0 has read and written all its pages on CPU 0.
fn used_world() -> World {
    let mut world = World::new(tlb(skylake()), LargePages::DataOnly);
    let all = |kind| (0..LINEAR).map(|page| (page, kind)).collect();
    let touches = [all(AccessKind::Read), all(AccessKind::Write)];
    world.happens(Event::Turn(0, 0, 0, touches, Change::Nothing));
    assert!(!world.cpus[0].cached.is_empty());
    world
}

#[test]
fn a_vcpu_that_came_back_found_the_address_space_that_it_had_left_there() {
    let mut world = used_world();
    world.happens(reads(0, 1, Change::ByGuest([3, 1, 0])));
    world.happens(reads(0, 0, Change::Nothing));
}

#[test]
fn a_new_vm_found_the_memory_of_the_one_that_had_its_vpid_and_its_root() {
    let mut world = used_world();
    let (vpid, root) = (world.tag(0, 0), world.root(0, 0));
    // Its vCPUs get their VPIDs in reverse order.
    world.happens(Event::End(0));
    assert_eq!(world.tag(0, 1), vpid);
    assert_eq!(world.root(0, 1), root, "the same frame again");
    world.happens(reads(1, 0, Change::Nothing));
    world.happens(reads(0, 0, Change::Nothing));
}

#[test]
fn a_vcpu_saw_by_a_cpus_tables_what_the_one_before_it_had_seen() {
    let mut world = used_world();
    for vcpu in 0..VCPUS {
        world.happens(reads(vcpu, 0, Change::See(CLOSED)));
        world.happens(reads(vcpu, 0, Change::See(Peculiarity::NONE)));
        world.happens(Event::End(0));
    }
}

#[test]
fn a_large_page_that_another_cpu_has_cached_costs_that_one_exit_and_is_used_no_more() {
    let mut world = used_world();
    world.happens(Event::Turn(
        0,
        1,
        1,
        [vec![(1, AccessKind::Read)], vec![]],
        Change::Nothing,
    ));
    world.load(0, 0, 0);
    assert_eq!(world.touch((0, 0, 0), 1, AccessKind::Execute), 1);
    let is_large = |mapping: &Mapping| mapping.size == PageSize::Size2M;
    assert!(world.cpus[1].cached.iter().any(is_large));
    // It still reads by it, which is harmless, and writes are known already.
    assert_eq!(world.touch((0, 1, 1), 1, AccessKind::Write), 0);
    assert_eq!(world.touch((0, 1, 1), 1, AccessKind::Execute), 1);
    assert_eq!(world.touch((0, 1, 1), 1, AccessKind::Execute), 0);
}

#[test]
fn the_widest_kind_is_taken_where_the_narrow_one_is_missing() {
    let vpid = Vpid::new(7).unwrap();
    let gva = GuestVirt::new(0x5000);
    let kind = |invalidation: Option<Invalidation>| match invalidation {
        Some(Invalidation::Invvpid { kind, vpid: 7, gva }) => Some((kind, gva)),
        None => None,
        other => panic!("{other:?}"),
    };
    let mut raw = skylake();
    assert_eq!(
        kind(tlb(raw).address(vpid, gva)),
        Some((InvvpidKind::IndividualAddress, 0x5000))
    );
    raw.ept_vpid &= !(1 << 40);
    assert_eq!(
        kind(tlb(raw).address(vpid, gva)),
        Some((InvvpidKind::SingleContext, 0))
    );
    raw.ept_vpid &= !(1 << 41);
    for invalidation in [tlb(raw).address(vpid, gva), tlb(raw).vpid(vpid)] {
        assert_eq!(kind(invalidation), Some((InvvpidKind::AllContexts, 0)));
    }
    raw.ept_vpid &= !(1 << 42);
    assert!(!tlb(raw).has_vpid(), "nothing could be dropped");
    assert_eq!(kind(tlb(raw).vpid(vpid)), None);
}

#[test]
fn a_cpu_that_comes_up_drops_all_that_whoever_ran_before_has_left() {
    let all = |raw| tlb(raw).everything().collect::<Vec<_>>();
    let epts = Invalidation::Invept {
        kind: InveptKind::AllContexts,
        pointer: 0,
    };
    let vpids = Invalidation::Invvpid {
        kind: InvvpidKind::AllContexts,
        vpid: 0,
        gva: 0,
    };
    assert_eq!(all(skylake()), [epts, vpids]);
    let mut raw = skylake();
    raw.ept_vpid &= !(1 << 42);
    assert_eq!(all(raw), [epts]);
}

#[test]
fn a_root_is_dropped_once_on_each_cpu_and_always_where_nobody_keeps_account() {
    let first_use = FirstUse::default();
    for cpu in [0, 63, 64, 255] {
        assert!(first_use.is_owed(cpu));
        assert!(!first_use.is_owed(cpu));
    }
    assert!(first_use.is_owed(256) && first_use.is_owed(256));
}
