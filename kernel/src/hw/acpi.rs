//! What the firmware's ACPI tables say about the machine, read once at boot.
//!
//! [`Platform::read`] gives CPUs and interrupt controllers (MADT), the PM timer, and how to switch off and
//! to reset (FADT, and `\_S5` out of the DSDT). The `acpi` crate understands the tables; its interpreter
//! for AML is not used.

use core::ptr::NonNull;

use acpi::address::{AddressSpace, GenericAddress};
use acpi::sdt::Signature;
use acpi::sdt::fadt::Fadt;
use acpi::{AcpiTables, Handler, PciAddress, RawPhysicalMapping};
use host::Madt;
use host::sleep::s5_sleep_types;
use memory::{HostPhys, Range};
use x86_64::instructions::port::{Port, PortRead, PortWrite};

use super::clock;
use crate::memory::{direct_map, is_memory, map_device};

/// Ports of the mechanism that every PC has for PCI configuration space.
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;
/// Bytes of a table's header.
const HEADER_BYTES: u64 = 36;

/// The ACPI PM timer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PmTimer {
    port: u16,
    mask: u32,
}

impl PmTimer {
    /// The current count.
    pub(crate) fn read(self) -> u32 {
        // SAFETY: reading the timer has no effect.
        unsafe { Port::<u32>::new(self.port).read() & self.mask }
    }

    /// Ticks since it read `before`, if that is less than a turn ago.
    pub(crate) fn ticks_since(self, before: u32) -> u32 {
        self.read().wrapping_sub(before) & self.mask
    }
}

/// How to switch the machine off (ACPI specification, Sleeping States).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoftOff {
    /// The two PM1 control registers and what S5 wants in SLP_TYP of each.
    pub(crate) pm1_control: [Option<(u16, u8)>; 2],
    /// Where to write what to make the firmware hand over the registers, if it has not.
    pub(crate) enable: Option<(u16, u8)>,
}

/// A register and the value that resets the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResetRegister {
    /// The register.
    pub(crate) at: ResetAddress,
    /// The value.
    pub(crate) value: u8,
}

/// Where a reset register is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResetAddress {
    /// A port.
    Port(u16),
    /// A byte in memory.
    Memory(HostPhys),
}

/// What the tables say. Everything may be missing.
#[derive(Debug, Default)]
pub(crate) struct Platform {
    /// CPUs and interrupt controllers.
    pub(crate) madt: Madt,
    /// The PM timer.
    pub(crate) pm_timer: Option<PmTimer>,
    /// How to switch off.
    pub(crate) soft_off: Option<SoftOff>,
    /// How to reset.
    pub(crate) reset: Option<ResetRegister>,
}

impl Platform {
    /// Reads the tables that `rsdp` leads to.
    ///
    /// # Safety
    /// `rsdp` is the address that the boot loader gave, and the direct map is in place.
    pub(crate) unsafe fn read(rsdp: Option<HostPhys>) -> Self {
        let mut platform = Self::default();
        let Some(rsdp) = rsdp else {
            log::warn!("the firmware has no ACPI tables: one CPU, and no power-off");
            return platform;
        };
        // SAFETY: the address is that of the RSDP, as the caller promises.
        match unsafe { AcpiTables::from_rsdp(Access, rsdp.as_u64() as usize) } {
            Ok(tables) => {
                platform.read_madt(&tables);
                platform.read_fadt(&tables);
            }
            Err(error) => log::warn!(
                "the firmware's ACPI tables cannot be read ({error:?}): one CPU, and no power-off"
            ),
        }
        platform
    }

    fn read_madt(&mut self, tables: &AcpiTables<Access>) {
        let found = tables
            .table_headers()
            .find(|(_, header)| header.signature == Signature::MADT);
        let Some((address, _)) = found else {
            log::warn!("the firmware has no MADT: one CPU");
            return;
        };
        self.madt = Madt::read(body(address));
        if let Some(broken) = &self.madt.broken {
            log::warn!(
                "the firmware's MADT is damaged: {broken}; CPUs or interrupts may be missing"
            );
        }
        let Madt {
            apic_ids, io_apics, ..
        } = &self.madt;
        log::debug!("APIC IDs {apic_ids:?}, {io_apics:?}");
    }

    fn read_fadt(&mut self, tables: &AcpiTables<Access>) {
        let Some(fadt) = tables.find_table::<Fadt>() else {
            log::warn!("the firmware has no FADT: no power-off");
            return;
        };
        let flags = fadt.flags;
        self.pm_timer = fadt
            .pm_timer_block()
            .ok()
            .flatten()
            .and_then(|block| io_port(&block))
            .map(|port| PmTimer {
                port,
                mask: if flags.pm_timer_is_32_bit() {
                    u32::MAX
                } else {
                    0x00ff_ffff
                },
            });
        if flags.supports_system_reset_via_fadt()
            && let Ok(register) = fadt.reset_register()
        {
            let at = match register.address_space {
                AddressSpace::SystemIo => io_port(&register).map(ResetAddress::Port),
                AddressSpace::SystemMemory => {
                    Some(ResetAddress::Memory(HostPhys::new(register.address)))
                }
                _ => None,
            };
            self.reset = at.map(|at| ResetRegister {
                at,
                value: fadt.reset_value,
            });
        }
        // Most firmware has it in the DSDT, some in an SSDT.
        let ssdts = tables
            .table_headers()
            .filter(|(_, header)| header.signature == Signature::SSDT)
            .map(|(address, _)| address);
        let sleep_types = fadt
            .dsdt_address()
            .into_iter()
            .chain(ssdts)
            .find_map(|at| s5_sleep_types(body(at)));
        let Some(sleep_types) = sleep_types else {
            log::warn!("no _S5 object can be found or understood: no power-off");
            return;
        };
        let control =
            |block: Option<GenericAddress>, sleep_type| Some((io_port(&block?)?, sleep_type));
        let pm1_control = [
            control(fadt.pm1a_control_block().ok(), sleep_types[0]),
            control(fadt.pm1b_control_block().ok().flatten(), sleep_types[1]),
        ];
        let enable = u16::try_from(fadt.smi_cmd_port)
            .ok()
            .filter(|&port| port != 0 && fadt.acpi_enable != 0);
        self.soft_off = Some(SoftOff {
            pm1_control,
            enable: enable.map(|port| (port, fadt.acpi_enable)),
        });
    }
}

fn io_port(address: &GenericAddress) -> Option<u16> {
    let port = u16::try_from(address.address).ok()?;
    (address.address_space == AddressSpace::SystemIo && port != 0).then_some(port)
}

/// What the table at a physical address holds behind its header.
fn body(table: usize) -> &'static [u8] {
    let start = HostPhys::new(table as u64);
    let Some(header) = reachable(start, HEADER_BYTES) else {
        return &[];
    };
    // SAFETY: a table starts with its signature and, at offset 4, its length; unaligned, as tables may be.
    let bytes = unsafe { header.add(4).cast::<u32>().read_unaligned() };
    let Some(table) = reachable(start, bytes.into()) else {
        return &[];
    };
    // SAFETY: the firmware's tables are mapped, and nobody changes them any more.
    let table = unsafe { core::slice::from_raw_parts(table, bytes as usize) };
    table.get(HEADER_BYTES as usize..).unwrap_or_default()
}

/// A pointer to firmware tables or registers.
fn reachable(start: HostPhys, bytes: u64) -> Option<*mut u8> {
    let range = Range::<HostPhys>::from_len(start, bytes)?;
    // Memory is mapped already, and as memory.
    let address = if is_memory(range) {
        direct_map(start)
    } else {
        map_device(range).ok()?
    };
    Some(address.as_u64() as *mut u8)
}

/// How the `acpi` crate reaches the machine.
#[derive(Clone, Copy)]
struct Access;

impl Access {
    fn read<T: Copy>(address: usize) -> T {
        let Some(at) = reachable(HostPhys::new(address as u64), size_of::<T>() as u64) else {
            panic!("no memory to map the firmware's tables");
        };
        // SAFETY: mapped just now; the crate reads where tables say that there is something.
        unsafe { at.cast::<T>().read_volatile() }
    }

    fn write<T>(address: usize, value: T) {
        let Some(at) = reachable(HostPhys::new(address as u64), size_of::<T>() as u64) else {
            panic!("no memory to map the firmware's registers");
        };
        // SAFETY: mapped just now; the crate writes to registers that tables name.
        unsafe { at.cast::<T>().write_volatile(value) };
    }

    fn port_read<T: PortRead>(port: u16) -> T {
        // SAFETY: the crate reads ports that tables name.
        unsafe { Port::new(port).read() }
    }

    fn port_write<T: PortWrite>(port: u16, value: T) {
        // SAFETY: the crate writes ports that tables name.
        unsafe { Port::new(port).write(value) }
    }

    /// Selects a double word of PCI configuration space; returns the port of the byte in question.
    fn select_pci(address: PciAddress, offset: u16) -> u16 {
        let selected = 1 << 31
            | u32::from(address.bus()) << 16
            | u32::from(address.device()) << 11
            | u32::from(address.function()) << 8
            | u32::from(offset & 0xfc);
        Self::port_write(PCI_ADDRESS, selected);
        PCI_DATA + (offset & 3)
    }
}

macro_rules! accesses {
    ($($integer:ident: $read:ident $write:ident $read_io:ident $write_io:ident $read_pci:ident $write_pci:ident,)*) => {
        $(
            fn $read_io(&self, port: u16) -> $integer {
                Self::port_read(port)
            }

            fn $write_io(&self, port: u16, value: $integer) {
                Self::port_write(port, value);
            }

            fn $read_pci(&self, address: PciAddress, offset: u16) -> $integer {
                Self::port_read(Self::select_pci(address, offset))
            }

            fn $write_pci(&self, address: PciAddress, offset: u16, value: $integer) {
                Self::port_write(Self::select_pci(address, offset), value);
            }

            fn $read(&self, address: usize) -> $integer {
                Self::read(address)
            }

            fn $write(&self, address: usize, value: $integer) {
                Self::write(address, value);
            }
        )*
    };
}

impl Handler for Access {
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> RawPhysicalMapping<T> {
        let at =
            reachable(HostPhys::new(physical_address as u64), size as u64).and_then(NonNull::new);
        let Some(at) = at else {
            panic!("no memory to map the firmware's tables")
        };
        // SAFETY: the direct map is never unmapped, and tables are only read.
        unsafe { RawPhysicalMapping::new(physical_address, at.cast(), size, size) }
    }

    unsafe fn unmap_physical_region<T>(&self, _region: RawPhysicalMapping<T>) {}

    accesses! {
        u8: read_u8 write_u8 read_io_u8 write_io_u8 read_pci_u8 write_pci_u8,
        u16: read_u16 write_u16 read_io_u16 write_io_u16 read_pci_u16 write_pci_u16,
        u32: read_u32 write_u32 read_io_u32 write_io_u32 read_pci_u32 write_pci_u32,
    }

    fn read_u64(&self, address: usize) -> u64 {
        Self::read(address)
    }

    fn write_u64(&self, address: usize, value: u64) {
        Self::write(address, value);
    }

    fn nanos_since_boot(&self) -> u64 {
        clock::now_ns()
    }

    fn stall(&self, microseconds: u64) {
        clock::delay_us(microseconds);
    }

    fn sleep(&self, milliseconds: u64) {
        clock::delay_us(milliseconds.saturating_mul(1000));
    }
}
