//! QEMU: its command line, with nested KVM or with its own emulation.

use super::{Debugger, Disk, Engine, Firmware, Machine, SerialPort, emulator_command, files};
use crate::system::packages::Need;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The two files of UEFI firmware.
#[derive(Clone, Debug)]
pub struct Uefi {
    /// Its code.
    pub code: PathBuf,
    /// Its variables as they come from the package.
    pub variables: PathBuf,
}

impl Uefi {
    fn find() -> Result<Self> {
        let code = Need::Ovmf.find().context("OVMF is not there")?;
        let variables = variables_beside(&code);
        Ok(Self { code, variables })
    }
}

/// Distributions name the file with the variables like that with the code.
fn variables_beside(code: &Path) -> PathBuf {
    let name = code.file_name().unwrap_or_default().to_string_lossy();
    let name = name.replace("_CODE", "_VARS").replace("-code", "-vars");
    code.with_file_name(name)
}

/// Writes the files QEMU needs, and gives the command that runs it in `folder`.
pub(super) fn command(
    machine: &Machine,
    folder: &Path,
    serial_port: u16,
    bundle_address: Option<u64>,
) -> Result<Command> {
    let uefi = match machine.firmware {
        Firmware::Bios | Firmware::Seabios => None,
        Firmware::Uefi => {
            let uefi = Uefi::find()?;
            fs::copy(&uefi.variables, folder.join(files::UEFI_VARIABLES))
                .with_context(|| format!("cannot copy {}", uefi.variables.display()))?;
            Some(uefi)
        }
    };
    let mut command = emulator_command("qemu-system-x86_64");
    command.args(arguments(
        machine,
        uefi.as_ref(),
        serial_port,
        bundle_address,
    ));
    Ok(command)
}

/// The command line.
#[must_use]
pub fn arguments(
    machine: &Machine,
    uefi: Option<&Uefi>,
    serial_port: u16,
    bundle_address: Option<u64>,
) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    add(&[
        "-nodefaults",
        "-machine",
        "pc",
        "-vga",
        "std",
        "-display",
        "none",
    ]);
    if machine.engine == Engine::Kvm {
        // A machine that could move to another host has no invariant TSC, and Linux no clock to trust then.
        add(&["-enable-kvm", "-cpu", "host,migratable=no,+vmx,+invtsc"]);
    } else {
        add(&["-accel", "tcg", "-cpu", "max"]);
    }
    add(&["-m", &format!("{}M", machine.memory_mib)]);
    add(&["-smp", &machine.cpus.to_string()]);
    // A triple fault of the hypervisor ends the run, instead of starting it over.
    add(&["-no-reboot"]);
    add(&[
        "-chardev",
        &format!("socket,id=com1,host=127.0.0.1,port={serial_port},nodelay=on"),
    ]);
    if machine.serial == SerialPort::None {
        add(&["-serial", "none"]);
    }
    add(&[
        "-serial",
        "chardev:com1",
        "-serial",
        &format!("file:{}", files::SECOND_SERIAL),
        "-debugcon",
        &format!("file:{}", files::DEBUG_PORT),
        "-global",
        "isa-debugcon.iobase=0xe9",
        "-D",
        files::LOG,
    ]);
    if let Some(uefi) = uefi {
        add(&[
            "-drive",
            &format!(
                "if=pflash,format=raw,unit=0,readonly=on,file={}",
                uefi.code.display()
            ),
            "-drive",
            &format!("if=pflash,format=raw,unit=1,file={}", files::UEFI_VARIABLES),
        ]);
    }
    add(&[
        "-drive",
        &format!("file={},format=raw,if=ide,index=0", files::DISK),
    ]);
    if let (Disk::WithPointer { .. }, Some(address)) = (&machine.disk, bundle_address) {
        add(&[
            "-device",
            &format!(
                "loader,file={},addr={address:#x},force-raw=on",
                files::BUNDLE
            ),
        ]);
    }
    match machine.debugger {
        Debugger::None => {}
        Debugger::Gdb { port } => add(&["-S", "-gdb", &format!("tcp:127.0.0.1:{port}")]),
        Debugger::Monitor { port } => add(&[
            "-chardev",
            &format!("socket,id=monitor,host=127.0.0.1,port={port}"),
            "-mon",
            "chardev=monitor",
            "-no-shutdown",
        ]),
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::*;

    fn line(machine: &Machine) -> String {
        let uefi = (machine.firmware == Firmware::Uefi).then(|| Uefi {
            code: "/fw/OVMF_CODE_4M.fd".into(),
            variables: "/fw/OVMF_VARS_4M.fd".into(),
        });
        arguments(machine, uefi.as_ref(), 4321, Some(0x1fa0_0000)).join(" ")
    }

    #[test]
    fn kvm_gets_the_hosts_cpu_with_vmx_and_an_invariant_tsc() {
        let line = line(&machine(Engine::Kvm, Firmware::Bios));
        assert!(
            line.contains("-enable-kvm -cpu host,migratable=no,+vmx,+invtsc"),
            "{line}"
        );
        assert!(!line.contains("tcg"), "{line}");
    }

    #[test]
    fn plain_qemu_does_not_touch_kvm() {
        let line = line(&machine(Engine::Qemu, Firmware::Bios));
        assert!(
            line.contains("-accel tcg -cpu max") && !line.contains("kvm"),
            "{line}"
        );
    }

    #[test]
    fn memory_cpus_and_the_serial_port_are_as_asked_for() {
        let line = line(&machine(Engine::Kvm, Firmware::Bios));
        for part in [
            "-m 512M",
            "-smp 2",
            "-no-reboot",
            "-chardev socket,id=com1,host=127.0.0.1,port=4321,nodelay=on -serial chardev:com1",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }

    #[test]
    fn a_bundle_is_loaded_by_qemu_only_where_the_image_has_a_pointer() {
        let mut machine = machine(Engine::Kvm, Firmware::Bios);
        assert!(!line(&machine).contains("loader"));
        machine.disk = Disk::WithPointer {
            image: "i".into(),
            bundle: vec![],
        };
        assert!(line(&machine).contains("-device loader,file=bundle,addr=0x1fa00000,force-raw=on"));
    }

    #[test]
    fn uefi_firmware_is_flash_with_variables_of_its_own() {
        let line = line(&machine(Engine::Qemu, Firmware::Uefi));
        assert!(
            line.contains("unit=0,readonly=on,file=/fw/OVMF_CODE_4M.fd"),
            "{line}"
        );
        assert!(line.contains("unit=1,file=uefi-variables.fd"), "{line}");
    }

    #[test]
    fn gdb_is_waited_for_at_the_first_instruction() {
        let mut machine = machine(Engine::Kvm, Firmware::Bios);
        machine.debugger = Debugger::Gdb { port: 1234 };
        assert!(line(&machine).contains("-S -gdb tcp:127.0.0.1:1234"));
    }

    #[test]
    fn a_machine_with_a_monitor_stays_when_it_is_off() {
        let mut machine = machine(Engine::Qemu, Firmware::Bios);
        machine.debugger = Debugger::Monitor { port: 1234 };
        let line = line(&machine);
        assert!(line.contains("-mon chardev=monitor -no-shutdown"), "{line}");
        assert!(
            line.contains("id=monitor,host=127.0.0.1,port=1234"),
            "{line}"
        );
    }

    #[test]
    fn the_variables_of_each_distribution_are_found_beside_the_code() {
        for (code, variables) in [
            ("/a/OVMF_CODE_4M.fd", "/a/OVMF_VARS_4M.fd"),
            ("/a/OVMF_CODE.4m.fd", "/a/OVMF_VARS.4m.fd"),
            ("/a/ovmf-x86_64-code.bin", "/a/ovmf-x86_64-vars.bin"),
        ] {
            assert_eq!(variables_beside(Path::new(code)), Path::new(variables));
        }
    }
}
