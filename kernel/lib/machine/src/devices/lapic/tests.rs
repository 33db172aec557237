//! What a guest sees of a local APIC, area by area.
