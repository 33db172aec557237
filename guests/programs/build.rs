//! Links the programs as plain static executables.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A lint run checks them for the host, too; nothing is linked there.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=--image-base=0x400000");
        println!("cargo:rustc-link-arg-bins=--entry=program_entry");
    }
}
