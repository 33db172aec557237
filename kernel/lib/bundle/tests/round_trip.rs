//! What the writer makes, the reader reads; what something else made, or changed, it refuses.

use bundle::{
    ApicVirtualization, Bundle, BundleError, CodePages, Compression, Config, FileError, FileIndex,
    HypervisorOptions, LogLevel, Module, VERSION, VmConfig, WhenDone, Writer,
};
use proptest::prelude::*;

/// Text that compresses well.
fn wordy(length: usize) -> Vec<u8> {
    b"one guest, two guests, many guests. "
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

fn sample(compression: Compression) -> (Vec<u8>, Config) {
    let mut writer = Writer::new(compression);
    let kernel = writer.add_file("hello", wordy(10_000));
    let initrd = writer.add_file("initrd", vec![7; 3]);
    let mut vm = VmConfig::new("first", kernel, 16 << 20);
    vm.initrd = Some(initrd);
    vm.cmdline = "console=ttyS0 quiet".into();
    let mut other = VmConfig::new("second", initrd, 1 << 30);
    other.cpus = 4;
    other.modules.push(Module {
        file: kernel,
        cmdline: "module".into(),
    });
    let config = Config {
        hypervisor: HypervisorOptions {
            log_level: LogLevel::Debug,
            when_done: WhenDone::Halt,
            apic: ApicVirtualization::Software,
            code_pages: CodePages::Small,
        },
        vms: vec![vm, other],
    };
    (writer.finish(config.clone()).unwrap(), config)
}

#[test]
fn a_bundle_survives_the_trip_with_and_without_compression() {
    for compression in [Compression::Off, Compression::WhereItPays] {
        let (bytes, config) = sample(compression);
        let bundle = Bundle::parse(&bytes).unwrap();
        assert_eq!(bundle.config(), &config);
        let kernel = bundle.file(FileIndex(0)).unwrap();
        assert_eq!(kernel.name(), "hello");
        assert_eq!(kernel.contents().unwrap(), wordy(10_000));
        assert_eq!(
            bundle.file(FileIndex(1)).unwrap().contents().unwrap(),
            [7; 3].as_slice()
        );
    }
}

#[test]
fn plain_files_start_at_page_boundaries() {
    let (bytes, _) = sample(Compression::Off);
    assert_eq!(&bytes[4096..4096 + 9], b"one guest");
    assert_eq!(&bytes[4 * 4096..], [7; 3]);
}

#[test]
fn compression_makes_a_wordy_bundle_smaller_and_leaves_noise_alone() {
    assert!(sample(Compression::WhereItPays).0.len() < sample(Compression::Off).0.len());
    let noise: Vec<u8> = (0..4096u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b1) >> 13) as u8)
        .collect();
    let mut writer = Writer::new(Compression::WhereItPays);
    let file = writer.add_file("noise", noise.clone());
    let bytes = writer.finish(Config::default()).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert_eq!(bundle.file(file).unwrap().contents().unwrap(), noise);
}

#[test]
fn the_same_contents_are_stored_once() {
    let mut writer = Writer::new(Compression::Off);
    let first = writer.add_file("a", vec![1; 100]);
    let second = writer.add_file("b", vec![1; 100]);
    let third = writer.add_file("c", vec![2; 100]);
    assert_eq!(first, second);
    assert_ne!(first, third);
}

#[test]
fn an_empty_bundle_is_a_bundle() {
    let bytes = Writer::new(Compression::Off)
        .finish(Config::default())
        .unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert!(bundle.config().vms.is_empty());
    assert_eq!(
        bundle.file(FileIndex(0)).unwrap_err(),
        FileError::Missing {
            index: FileIndex(0)
        }
    );
}

#[test]
fn an_empty_file_is_a_file() {
    let mut writer = Writer::new(Compression::WhereItPays);
    let file = writer.add_file("nothing", Vec::new());
    let bytes = writer.finish(Config::default()).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert!(bundle.file(file).unwrap().contents().unwrap().is_empty());
}

#[test]
fn something_else_is_refused_by_its_magic() {
    assert_eq!(
        Bundle::parse(&[0x7f; 4096]).unwrap_err(),
        BundleError::BadMagic
    );
}

#[test]
fn another_version_is_refused_with_both_versions_named() {
    let (mut bytes, _) = sample(Compression::Off);
    bytes[8] = 99;
    let error = Bundle::parse(&bytes).unwrap_err();
    assert_eq!(error, BundleError::WrongVersion { found: 99 });
    assert!(
        error
            .to_string()
            .contains(&format!("version 99, this hypervisor reads {VERSION}"))
    );
}

#[test]
fn a_damaged_file_spoils_only_itself() {
    let (mut bytes, _) = sample(Compression::Off);
    *bytes.last_mut().unwrap() ^= 1;
    let bundle = Bundle::parse(&bytes).unwrap();
    assert!(bundle.file(FileIndex(0)).is_ok());
    assert_eq!(
        bundle.file(FileIndex(1)).unwrap_err(),
        FileError::Damaged {
            name: "initrd".into()
        }
    );
}

#[test]
fn padding_after_the_end_is_ignored() {
    let (mut bytes, config) = sample(Compression::Off);
    bytes.resize(bytes.len() + 5000, 0xff);
    assert_eq!(Bundle::parse(&bytes).unwrap().config(), &config);
}

#[test]
fn every_message_is_one_line_that_says_what_to_do() {
    let errors = [
        BundleError::Truncated {
            expected_bytes: 2,
            actual_bytes: 1,
        },
        BundleError::BadMagic,
        BundleError::WrongVersion { found: 2 },
        BundleError::HeaderDamaged,
        BundleError::DirectoryDamaged,
        BundleError::TooLarge { bytes: u64::MAX },
    ];
    for error in errors {
        let text = error.to_string();
        assert!(!text.contains('\n') && text.contains(": "), "{text}");
    }
}

/// Whether `bytes` still give exactly what the sample holds.
fn is_intact(bytes: &[u8], config: &Config) -> bool {
    let Ok(bundle) = Bundle::parse(bytes) else {
        return false;
    };
    bundle.config() == config
        && [wordy(10_000), vec![7; 3]]
            .iter()
            .enumerate()
            .all(|(index, expected)| {
                bundle
                    .file(FileIndex(index as u32))
                    .and_then(|file| file.contents())
                    .is_ok_and(|contents| contents == *expected)
            })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_cut_is_noticed(keep in 0.0f64..1.0) {
        let (bytes, _) = sample(Compression::Off);
        let keep = (bytes.len() as f64 * keep) as usize;
        let cut_short = matches!(Bundle::parse(&bytes[..keep]), Err(BundleError::Truncated { .. }));
        prop_assert!(cut_short);
    }

    #[test]
    fn a_changed_byte_is_noticed_unless_it_is_padding(at: prop::sample::Index, xor in 1u8.., packed: bool) {
        let compression = if packed { Compression::WhereItPays } else { Compression::Off };
        let (mut bytes, config) = sample(compression);
        let at = at.index(bytes.len());
        let was_padding = bytes[at] == 0 && {
            // Between the directory and the files, and between files, nothing is checked and nothing is read.
            let mut other = bytes.clone();
            other[at] = 0xff;
            is_intact(&other, &config)
        };
        bytes[at] ^= xor;
        prop_assert_eq!(is_intact(&bytes, &config), was_padding);
    }

    #[test]
    fn any_bytes_at_all_are_refused_without_a_panic(mut bytes: Vec<u8>, with_magic: bool) {
        if with_magic && bytes.len() > 12 {
            bytes[..8].copy_from_slice(b"PLINTH\x1aB");
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        }
        prop_assert!(Bundle::parse(&bytes).is_err());
    }

    #[test]
    fn a_directory_of_nonsense_with_right_checksums_never_panics(nonsense: Vec<u8>) {
        look_at_all(&with_directory(&nonsense));
    }

    #[test]
    fn a_directory_with_changed_bytes_and_right_checksums_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (bytes, _) = sample(Compression::WhereItPays);
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let mut directory = bytes[field(24)..][..field(32)].to_vec();
        for (at, byte) in changes {
            let at = at.index(directory.len());
            directory[at] = byte;
        }
        look_at_all(&with_directory(&directory));
    }
}

/// A bundle of nothing but this directory, with a header and checksums that fit.
fn with_directory(directory: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 64];
    header[..8].copy_from_slice(b"PLINTH\x1aB");
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&(64 + directory.len() as u64).to_le_bytes());
    header[24] = 64;
    header[32..40].copy_from_slice(&(directory.len() as u64).to_le_bytes());
    header[40..44].copy_from_slice(&crc32fast::hash(directory).to_le_bytes());
    let crc = crc32fast::hash(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    [&header[..], directory].concat()
}

/// Reads every file that the bundle says it has, if it is one.
fn look_at_all(bytes: &[u8]) {
    if let Ok(bundle) = Bundle::parse(bytes) {
        for index in 0..8 {
            let _ = bundle
                .file(FileIndex(index))
                .map(|file| file.contents().map(|contents| contents.len()));
        }
    }
}

#[test]
fn a_right_directory_behind_a_made_up_header_is_read() {
    let (bytes, config) = sample(Compression::Off);
    let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let directory = &bytes[field(24)..][..field(32)];
    let bytes = with_directory(directory);
    assert_eq!(Bundle::parse(&bytes).unwrap().config(), &config);
}
