//! Hands the linker the script that lays out the hypervisor's image.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    // A lint run checks the crate for the host, too; nothing is linked by our script there.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rustc-link-arg-bins=-T{root}/link.ld");
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
}
