//! Writes the ACPI tables of a guest with this many CPUs into a folder, one file each, for `iasl` to look at:
//! `cargo run -p plinth-machine --example acpi_tables FOLDER CPUS`, then `iasl -d FOLDER/*.dat` and `iasl FOLDER/*.dsl`.

use std::path::PathBuf;

use machine::Display;
use machine::acpi::Acpi;
use machine::layout::MachineLayout;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("which folder?")?);
    let cpus = arguments.next().ok_or("how many CPUs?")?.parse()?;
    std::fs::create_dir_all(&folder)?;
    for (address, table) in Acpi::default()
        .build(&MachineLayout::new(1 << 30, cpus), Display::Vga)?
        .blocks
    {
        let name = table.get(..4).ok_or("a table without a signature")?;
        let name = format!("{}.dat", String::from_utf8_lossy(name));
        println!("{name} at {address}, {} bytes", table.len());
        std::fs::write(folder.join(name), table)?;
    }
    Ok(())
}
