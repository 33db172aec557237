//! Writes cpio archives in the "newc" form: what Linux unpacks as its initial file system.
//!
//! The form is described by Linux's own documentation, "initramfs buffer format": a header of hexadecimal numbers,
//! the name, the contents, each padded to four bytes. Owners are root and times are zero, so that the same contents
//! make the same archive.

/// What kind of thing an entry is, in the upper bits of its mode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Every header begins with this.
const MAGIC: &str = "070701";

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive in the making.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder that all may read. Folders come before what is in them.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER | 0o755, (0, 0), &[]);
    }

    /// Adds a file that all may read.
    pub fn file(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, FILE | 0o644, (0, 0), contents);
    }

    /// Adds a file that all may run.
    pub fn program(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, FILE | 0o755, (0, 0), contents);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) {
        self.entry(name, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device for root.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.header(0, 0, (0, 0), 0, TRAILER);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        self.header(self.entries, mode, device, contents.len(), name);
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn header(&mut self, inode: u32, mode: u32, device: (u32, u32), bytes: usize, name: &str) {
        let length = u32::try_from(bytes).expect("no file of an initramfs has 4 GiB");
        let name_bytes = u32::try_from(name.len() + 1).expect("no name has 4 GiB");
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        let links = 1;
        let (major, minor) = device;
        for field in [
            inode, mode, 0, 0, links, 0, length, 0, 0, major, minor, name_bytes, 0,
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_laid_out_as_the_description_says() {
        let mut archive = Archive::default();
        archive.program("init", b"hello");
        let bytes = archive.finish();
        let expected = concat!(
            "070701",
            "00000001000081ed000000000000000000000001000000000000000500000000000000000000000000000000",
            "0000000500000000",
            "init\0\0",
            "hello\0\0\0",
            "070701",
            "00000000000000000000000000000000000000010000000000000000000000000000000000000000",
            "000000000000000b00000000",
            "TRAILER!!!\0\0\0\0",
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn every_header_begins_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        for name in ["a", "ab", "abc", "abcd"] {
            archive.folder(name);
            archive.symlink(&format!("{name}/l"), name);
        }
        archive.character_device("console", 5, 1);
        let bytes = archive.finish();
        let headers = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| *window == MAGIC.as_bytes());
        let places: Vec<_> = headers.map(|(at, _)| at).collect();
        assert_eq!(places.len(), 10);
        assert!(places.iter().all(|at| at % 4 == 0), "{places:?}");
    }
}
