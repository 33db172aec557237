//! Bochs: its configuration file and command line.
//!
//! The choices come from trying: only the Cirrus card's VGA BIOS lists its modes in an order the boot loader
//! copes with; the SDL display with its dummy driver is the one that needs no window; the exit status means
//! nothing, so runs are judged by what the serial port said.

use super::{CpuModel, Debugger, Disk, Firmware, Machine, Msrs, Pace, emulator_command, files};
use crate::system::first_existing;
use crate::system::packages::Need;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFIGURATION: &str = "bochsrc";
const DEBUGGER_SCRIPT: &str = "debugger.rc";
const MSRS: &str = "msrs.def";

/// Registers that Bochs lacks: address, type, and in two halves each what they hold after a reset, which bits are
/// reserved, and which keep their value whatever is written. IA32_MISC_ENABLE has fast strings on and neither branch
/// trace nor event sampling (SDM vol. 4, Architectural MSRs); IA32_PLATFORM_ID and IA32_BIOS_SIGN_ID are zero.
const MORE_MSRS: &str = "\
    0x017 0 00000000 00000000 00000000 00000000 ffffffff ffffffff\n\
    0x08b 0 00000000 00000000 00000000 00000000 ffffffff ffffffff\n\
    0x1a0 0 00000000 00001801 00000000 00000000 ffffffff fffffffe\n";

/// Where SeaBIOS is, which QEMU's packages bring with them.
const SEABIOS: [&str; 2] = ["/usr/share/seabios/bios.bin", "/usr/share/qemu/bios.bin"];

/// The firmware files of a machine.
#[derive(Clone, Debug)]
pub struct Roms {
    /// The BIOS.
    pub bios: PathBuf,
    /// The BIOS of the Cirrus VGA card.
    pub vga: PathBuf,
}

/// Writes the files Bochs reads, and gives the command that runs it in `folder`.
pub(super) fn command(
    machine: &Machine,
    folder: &Path,
    serial_port: u16,
    bundle_address: Option<u64>,
) -> Result<Command> {
    let roms = Roms {
        bios: match machine.firmware {
            Firmware::Seabios => first_existing(&SEABIOS).context("SeaBIOS is not there")?,
            Firmware::Bios | Firmware::Uefi => Need::BochsBios
                .find()
                .context("the Bochs BIOS is not there")?,
        },
        vga: Need::CirrusVgaBios
            .find()
            .context("the Cirrus VGA BIOS is not there")?,
    };
    fs::write(
        folder.join(CONFIGURATION),
        configuration(machine, &roms, serial_port, bundle_address),
    )?;
    fs::write(folder.join(MSRS), MORE_MSRS)?;
    let mut script = match (&machine.disk, bundle_address) {
        (Disk::WithPointer { bundle, .. }, Some(address)) => touches(address, bundle.len() as u64),
        _ => String::new(),
    };
    script.push_str(debugger_script(machine.debugger));
    fs::write(folder.join(DEBUGGER_SCRIPT), script)?;
    let mut command = emulator_command("bochs");
    command
        .args(["-q", "-unlock", "-f", CONFIGURATION, "-rc", DEBUGGER_SCRIPT])
        .env("SDL_VIDEODRIVER", "dummy");
    Ok(command)
}

/// Bochs hands out the memory behind the machine's in blocks of this size, at the first touch of each.
const BLOCK_BYTES: u64 = 128 << 10;

/// Debugger commands that put a loaded bundle into its place.
///
/// `optramimage1` reads the whole file to where the machine's first block of it lies, and so also over what comes
/// behind that block on the host, which belongs to no block of the machine yet. Touching the blocks that follow, in
/// their order and before anything else does, makes exactly that theirs.
fn touches(address: u64, bytes: u64) -> String {
    let mut text = String::new();
    let mut at = address + BLOCK_BYTES;
    while at < address + bytes {
        let _ = writeln!(text, "xp /1bx {at:#x}");
        at += BLOCK_BYTES;
    }
    text
}

/// What Bochs's debugger does first. For gdb it does nothing, and waits to be told.
fn debugger_script(debugger: Debugger) -> &'static str {
    match debugger {
        Debugger::None | Debugger::Monitor { .. } => RUN_SCRIPT,
        Debugger::Gdb { .. } => "",
    }
}

/// Runs the machine. Where it is stopped (by an interrupt signal), the registers of the current CPU follow.
const RUN_SCRIPT: &str = "c\nr\ncreg\nsreg\nq\n";

/// Whether a machine with this log has switched itself off.
pub(super) fn is_off(log: &str) -> bool {
    log.contains("ACPI control: soft power off")
}

/// The registers in what Bochs's debugger has printed, without its prompts.
pub(super) fn register_dump(output: &str) -> String {
    let mut text = String::new();
    for line in output.lines() {
        let line = line.trim_end();
        let line = line.rsplit_once("> ").map_or(line, |(_, rest)| rest);
        if line.contains(':') || line.contains('=') {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// Instructions for each second of the machine's time.
fn instructions_per_second(pace: Pace) -> u32 {
    match pace {
        // Few instructions pass in delays that a guest counts in time.
        Pace::Free => 10_000_000,
        Pace::Measured => 20_000_000,
        // Bochs manages about a hundred million; with less than that, time would be held back for no reason.
        Pace::RealTime => 80_000_000,
    }
}

/// The configuration file.
#[must_use]
pub fn configuration(
    machine: &Machine,
    roms: &Roms,
    serial_port: u16,
    bundle_address: Option<u64>,
) -> String {
    let model = match machine.cpu_model {
        CpuModel::Haswell => "corei7_haswell_4770",
        CpuModel::Skylake => "corei7_skylake_x",
        CpuModel::Tigerlake => "tigerlake",
    };
    let msrs = match machine.msrs {
        Msrs::Emulators => String::new(),
        Msrs::Everywhere => format!(", msrs={MSRS}"),
    };
    let clock = match machine.pace {
        Pace::Free | Pace::Measured => "none",
        Pace::RealTime => "slowdown",
    };
    let mut text = format!(
        "config_interface: textconfig\n\
         display_library: sdl2\n\
         plugin_ctrl: e1000=0, sb16=0, es1370=0, voodoo=0\n\
         megs: {memory}\n\
         cpu: model={model}, count={cpus}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=0{msrs}\n\
         romimage: file={bios}, options=fastboot\n\
         vgaromimage: file={vga}\n\
         vga: extension=cirrus, update_freq=1\n\
         pci: enabled=1, chipset=i440fx, slot1=cirrus\n\
         clock: sync={clock}, time0=946684800, rtc_sync=0\n\
         boot: disk\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, path={disk}, mode=flat\n\
         com1: enabled=1, mode=socket-client, dev=localhost:{serial_port}\n\
         com2: enabled=1, mode=file, dev={second}\n\
         port_e9_hack: enabled=1\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         log: {log}\n\
         panic: action=fatal\n\
         error: action=report\n",
        memory = machine.memory_mib,
        cpus = machine.cpus,
        ips = instructions_per_second(machine.pace),
        bios = roms.bios.display(),
        vga = roms.vga.display(),
        disk = files::DISK,
        second = files::SECOND_SERIAL,
        log = files::LOG,
    );
    if let (Disk::WithPointer { .. }, Some(address)) = (&machine.disk, bundle_address) {
        let _ = writeln!(
            text,
            "optramimage1: file={}, address={address:#x}",
            files::BUNDLE
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Engine;
    use super::super::machine::tests::machine;
    use super::*;

    fn configured(machine: &Machine) -> String {
        let roms = Roms {
            bios: "/roms/bios".into(),
            vga: "/roms/vga".into(),
        };
        configuration(machine, &roms, 4321, Some(0x1fa0_0000))
    }

    #[test]
    fn the_configuration_names_memory_cpus_roms_and_the_serial_port() {
        let text = configured(&machine(Engine::Bochs, Firmware::Bios));
        for line in [
            "megs: 512",
            "cpu: model=corei7_skylake_x, count=2, ips=10000000, reset_on_triple_fault=0, ignore_bad_msrs=0",
            "romimage: file=/roms/bios, options=fastboot",
            "vgaromimage: file=/roms/vga",
            "com1: enabled=1, mode=socket-client, dev=localhost:4321",
            "clock: sync=none, time0=946684800, rtc_sync=0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_bundle_is_loaded_by_bochs_only_where_the_image_has_a_pointer() {
        let mut machine = machine(Engine::Bochs, Firmware::Bios);
        assert!(!configured(&machine).contains("optramimage1"));
        machine.disk = Disk::WithPointer {
            image: "i".into(),
            bundle: vec![],
        };
        assert!(configured(&machine).contains("optramimage1: file=bundle, address=0x1fa00000\n"));
    }

    #[test]
    fn somebody_who_types_gets_real_time() {
        let mut machine = machine(Engine::Bochs, Firmware::Bios);
        machine.pace = Pace::RealTime;
        let text = configured(&machine);
        assert!(text.contains("sync=slowdown") && text.contains("ips=80000000"));
    }

    #[test]
    fn every_block_of_a_bundle_but_the_first_is_touched_in_order() {
        assert_eq!(touches(0x100_0000, 128 << 10), "");
        assert_eq!(
            touches(0x100_0000, (256 << 10) + 1),
            "xp /1bx 0x1020000\nxp /1bx 0x1040000\n"
        );
    }

    #[test]
    fn the_debugger_runs_the_machine_and_quits_unless_gdb_wants_it() {
        let script = debugger_script(Debugger::None);
        assert!(script.starts_with("c\n") && script.ends_with("\nq\n"));
        assert_eq!(debugger_script(Debugger::Gdb { port: 1 }), "");
    }
}
