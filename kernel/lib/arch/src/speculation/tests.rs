//! Which processor leaks what, and what is done about it.

use super::*;
use alloc::string::ToString;

/// A Skylake server with and without its microcode of 2018 and later.
const SKYLAKE: Facts = Facts {
    signature: 0x0005_0654,
    leaf_7_edx: Leaf7Edx::empty(),
    leaf_7_2_edx: 0,
    transactions: true,
    hypervisor: false,
    capabilities: ArchCapabilities::empty(),
};
const NEW_MICROCODE: Leaf7Edx = Leaf7Edx::SPEC_CTRL
    .union(Leaf7Edx::STIBP)
    .union(Leaf7Edx::SSBD)
    .union(Leaf7Edx::MD_CLEAR);

fn ice_lake() -> Facts {
    Facts {
        signature: 0x0006_06a6,
        leaf_7_edx: NEW_MICROCODE | Leaf7Edx::FLUSH_CMD | Leaf7Edx::ARCH_CAPABILITIES,
        leaf_7_2_edx: 0,
        transactions: true,
        hypervisor: false,
        capabilities: ArchCapabilities::from_bits_retain(0x0000_0000_0000_016b),
    }
}

#[test]
fn an_old_processor_with_old_microcode_is_told_to_be_open() {
    let chosen = Mitigations::choose(&SKYLAKE);
    assert_eq!(chosen.l1_cache, Answer::Nothing);
    assert_eq!(chosen.buffers, Answer::Nothing);
    assert_eq!(chosen.branches, Answer::Nothing);
    assert_eq!(chosen.returns, Answer::Nothing);
    assert_eq!(chosen.other_vms, Answer::Nothing);
    assert_eq!(chosen.host_spec_ctrl().bits(), 0);
    assert!(!chosen.guard_exits());
    assert_eq!(chosen.page_sizes, Answer::Do(PageSizes::SmallCode));
}

#[test]
fn an_old_processor_with_new_microcode_flushes_and_fills() {
    let chosen = Mitigations::choose(&Facts {
        leaf_7_edx: NEW_MICROCODE | Leaf7Edx::FLUSH_CMD,
        ..SKYLAKE
    });
    assert_eq!(chosen.l1_cache, Answer::Do(L1Cache::Flush));
    assert_eq!(chosen.buffers, Answer::Do(Buffers::WithL1Flush));
    assert_eq!(chosen.branches, Answer::Do(Branches::Ibrs));
    assert_eq!(chosen.returns, Answer::Do(Returns::Fill));
    assert_eq!(chosen.history, Answer::NotNeeded);
    assert_eq!(chosen.other_vms, Answer::Do(OtherVms::Barrier));
    assert_eq!(chosen.host_spec_ctrl().bits(), 1);
    assert!(chosen.guard_exits());
}

#[test]
fn a_newer_processor_needs_less_of_it() {
    let chosen = Mitigations::choose(&ice_lake());
    assert_eq!(chosen.l1_cache, Answer::NotNeeded);
    assert_eq!(chosen.buffers, Answer::NotNeeded);
    assert_eq!(chosen.branches, Answer::Do(Branches::EnhancedIbrs));
    assert_eq!(chosen.returns, Answer::Do(Returns::FillOne));
    assert_eq!(chosen.history, Answer::Nothing);
    assert_eq!(chosen.page_sizes, Answer::NotNeeded);
    let with_control = Mitigations::choose(&Facts {
        leaf_7_2_edx: 1 << 4,
        ..ice_lake()
    });
    assert_eq!(with_control.history, Answer::Do(History::Disable));
    assert_eq!(with_control.host_spec_ctrl().bits(), 0x401);
}

#[test]
fn transactions_and_register_files_leak_where_buffers_alone_do_not() {
    let mut facts = ice_lake();
    facts.capabilities.remove(ArchCapabilities::TAA_NO);
    assert_eq!(
        Mitigations::choose(&facts).buffers,
        Answer::Do(Buffers::Verw)
    );
    facts.transactions = false;
    assert_eq!(Mitigations::choose(&facts).buffers, Answer::NotNeeded);
    facts.capabilities.insert(ArchCapabilities::RFDS_CLEAR);
    facts.leaf_7_edx.remove(Leaf7Edx::MD_CLEAR);
    assert_eq!(
        Mitigations::choose(&facts).buffers,
        Answer::Do(Buffers::Verw)
    );
    facts.capabilities.insert(ArchCapabilities::RFDS_NO);
    assert_eq!(Mitigations::choose(&facts).buffers, Answer::NotNeeded);
}

#[test]
fn a_hypervisor_below_that_flushes_says_so() {
    let mut facts = SKYLAKE;
    facts.leaf_7_edx = NEW_MICROCODE | Leaf7Edx::FLUSH_CMD | Leaf7Edx::ARCH_CAPABILITIES;
    facts.capabilities = ArchCapabilities::SKIP_L1DFL_VMENTRY;
    let chosen = Mitigations::choose(&facts);
    assert_eq!(chosen.l1_cache, Answer::NotNeeded);
    assert_eq!(chosen.buffers, Answer::Do(Buffers::Verw));
}

#[test]
fn some_atoms_never_had_the_terminal_fault() {
    let goldmont = Mitigations::choose(&Facts {
        signature: 0x0005_06c9,
        transactions: false,
        ..SKYLAKE
    });
    assert_eq!(goldmont.l1_cache, Answer::NotNeeded);
    assert_eq!(goldmont.buffers, Answer::NotNeeded);
    let silvermont = Mitigations::choose(&Facts {
        signature: 0x0003_0678,
        transactions: false,
        leaf_7_edx: Leaf7Edx::MD_CLEAR,
        ..SKYLAKE
    });
    assert_eq!(silvermont.l1_cache, Answer::NotNeeded);
    assert_eq!(silvermont.buffers, Answer::Do(Buffers::Verw));
}

const ITS_NO: u64 = 0x4000_0000_0000_0000;
const PSCHANGE_MC_NO: u64 = 0x40;

/// What a guest on this processor is told.
fn told(facts: &Facts) -> u64 {
    let chosen = Mitigations::choose(facts);
    facts.guest_capabilities(&chosen).bits()
}

#[test]
fn a_guest_is_told_that_its_processor_does_not_mix_up_targets_only_where_that_is_known() {
    let told = |facts: &Facts| told(facts) & ITS_NO != 0;
    assert!(told(&SKYLAKE));
    let cascade_lake = Facts {
        signature: 0x0005_0657,
        ..SKYLAKE
    };
    assert!(!told(&cascade_lake) && !told(&ice_lake()));
    let haswell = 0x0003_06c3;
    for (signature, hypervisor, expected) in [
        (haswell, false, true),
        (haswell, true, false),
        (0x0008_06eb, false, true),
        (0x0008_06ec, false, false),
        (0x000a_0655, false, false),
        // Another family: not a processor that is known.
        (0x0000_0f43, false, false),
    ] {
        let facts = Facts {
            signature,
            hypervisor,
            ..SKYLAKE
        };
        assert_eq!(told(&facts), expected, "{signature:#x}");
    }
    // What the processor says of itself holds anywhere.
    for facts in [
        Facts {
            capabilities: ArchCapabilities::from_bits_retain(ITS_NO),
            hypervisor: true,
            ..cascade_lake
        },
        Facts {
            leaf_7_2_edx: 1 << 4,
            hypervisor: true,
            ..ice_lake()
        },
    ] {
        assert!(told(&facts));
    }
}

#[test]
fn a_guest_is_told_what_its_processor_says_but_not_to_flush_caches_itself() {
    let mut facts = ice_lake();
    // MISC_PACKAGE_CTLS and ENERGY_FILTERING_CTL among others: guests have no such MSR.
    facts.capabilities = ArchCapabilities::from_bits_retain(0x0000_0000_0000_0c6b);
    assert_eq!(told(&facts), 0x6b);
    assert_eq!(told(&SKYLAKE), ITS_NO | 0x48);
}

#[test]
fn a_guest_that_changed_its_page_sizes_stopped_an_older_processor() {
    let chosen = |signature, capabilities| {
        Mitigations::choose(&Facts {
            signature,
            capabilities: ArchCapabilities::from_bits_retain(capabilities),
            ..SKYLAKE
        })
        .page_sizes
    };
    // Haswell, a Skylake server, Cascade Lake (free of terminal faults), Comet Lake.
    for signature in [0x306c3, 0x50654, 0x50657, 0xa0655] {
        let small = Answer::Do(PageSizes::SmallCode);
        assert_eq!(chosen(signature, 1), small, "{signature:#x}");
        assert_eq!(chosen(signature, PSCHANGE_MC_NO), Answer::NotNeeded);
    }
    // Silvermont, Goldmont Plus, Tremont, Knights Landing.
    for signature in [0x30678, 0x706a1, 0x80665, 0x50671] {
        assert_eq!(chosen(signature, 0), Answer::NotNeeded, "{signature:#x}");
    }
}

#[test]
fn code_in_small_pages_is_what_the_operator_says_and_a_guest_is_told_of_the_cure() {
    let told = |facts: &Facts, chosen| facts.guest_capabilities(&chosen).bits() & PSCHANGE_MC_NO;
    let affected = Mitigations::choose(&SKYLAKE);
    assert_eq!(told(&SKYLAKE, affected), PSCHANGE_MC_NO);
    let open = affected.with_any_code_pages();
    assert_eq!(open.page_sizes, Answer::Nothing);
    assert_eq!(told(&SKYLAKE, open), 0);
    assert!(open.to_string().contains("(iTLB multihit)  open"));
    assert_eq!(open.with_small_code_pages(), affected);
    let immune = Mitigations::choose(&ice_lake());
    assert_eq!(immune.with_any_code_pages(), immune);
    assert_eq!(
        immune.with_small_code_pages().page_sizes,
        Answer::Do(PageSizes::SmallCode)
    );
}

#[test]
fn the_operator_reads_a_line_for_each_leak() {
    let text = Mitigations::choose(&ice_lake()).to_string();
    assert_eq!(text.lines().count(), 7);
    assert!(text.contains("indirect branches                    enhanced IBRS\n"));
    assert!(text.contains("L1 data cache (L1TF)                 not in this processor\n"));
}
