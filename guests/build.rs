//! Gives each guest its linker script: `link/<guest>.ld` where there is one, else `guests/link/pvh.ld`.
//!
//! The guests are the names in `src/bin`, a file or a folder each; a new guest needs no other registration. The
//! conformance guests are built by this as well.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=src/bin");
    println!("cargo:rerun-if-changed=link");
    // A lint run checks the guests for the host too; nothing is linked by our scripts there.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&root);
    let usual = ["link/pvh.ld", "../link/pvh.ld"]
        .map(|script| root.join(script))
        .into_iter()
        .find(|script| script.exists())
        .expect("guests/link/pvh.ld is there");
    println!("cargo:rerun-if-changed={}", usual.display());
    let guests = fs::read_dir(root.join("src/bin")).expect("src/bin is readable");
    for entry in guests {
        let path = entry.expect("src/bin is readable").path();
        if !path.is_dir() && path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let guest = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a guest's name is plain text");
        let own = root.join("link").join(guest).with_extension("ld");
        let script = if own.exists() { &own } else { &usual };
        println!("cargo:rustc-link-arg-bin={guest}=-T{}", script.display());
    }
}
