//! x
fn main() { let a: Vec<String> = std::env::args().collect();
 let mut b = bootloader::DiskImageBuilder::new(a[1].clone().into());
 if a.len()>4 { b.set_ramdisk(a[4].clone().into()); }
 b.create_bios_image(std::path::Path::new(&a[2])).unwrap(); b.create_uefi_image(std::path::Path::new(&a[3])).unwrap(); }
