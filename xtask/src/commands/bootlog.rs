//! `cargo xtask bootlog`: what Linux warns of under Plinth and not on the bare machine.

use crate::bench::exits::Host;
use crate::bootlog::compare;
use crate::build::Artifacts;
use crate::conformance::engine;
use crate::emulator::CpuModel;
use crate::linux::KernelPackage;
use crate::paths::Paths;
use crate::system::packages::{Need, ensure};
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

/// Which kernels.
#[derive(Args, Clone, Debug)]
pub struct BootLogOptions {
    /// Packages of Debian's with a kernel: NAME or SUITE/NAME [default: linux-image-cloud-amd64]
    packages: Vec<KernelPackage>,
    /// The processor that Bochs emulates
    #[arg(long, value_enum, default_value_t)]
    cpu_model: CpuModel,
}

/// Compares them, and prints what is different.
pub fn bootlog(paths: &Paths, options: &BootLogOptions) -> Result<ExitCode> {
    ensure(paths, &Need::FOR_BOCHS)?;
    let artifacts = Artifacts::build(paths)?;
    let host = Host {
        engine: engine(),
        cpu_model: options.cpu_model,
    };
    let usual = [KernelPackage::default()];
    let packages = if options.packages.is_empty() {
        &usual[..]
    } else {
        &options.packages
    };
    let mut status = ExitCode::SUCCESS;
    for package in packages {
        let [bare, guest] = compare(paths, &artifacts, package, host)?;
        println!(
            "{}: {} kinds of warnings under Plinth, {} on the bare machine",
            guest.kernel,
            guest.count(),
            bare.count()
        );
        for (warning, explained) in guest.beyond(&bare) {
            match explained {
                Some(explained) => {
                    println!("  explained: {warning}\n             {}", explained.why)
                }
                None => {
                    println!("  only under Plinth: {warning}");
                    status = ExitCode::FAILURE;
                }
            }
        }
    }
    Ok(status)
}
