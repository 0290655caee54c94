//! The layout table against the DWARF of programs of every release.

mod common;

use std::sync::Arc;

use common::RELEASES;
use gosleuth::{
    base::GoVersion,
    image::{buildinfo::BuildInfo, dwarf::Dwarf, elf::Elf},
    os::mmap::MappedFile,
    runtime::layout::{self, Constant, Field, Layout, Struct},
    target::Arch,
};

/// Everything that DWARF says of a wanted struct, member, constant or wait reason, the table says too; and the table
/// invents no member of a struct that the program has.
#[test]
fn table_agrees_with_dwarf() {
    let root = common::fixtures_root();
    for release in RELEASES {
        let minor = release[2..].parse().expect("1.N");
        for (variant, name) in [
            ("dwarf", "values"),
            ("dwarf", "goroutines"),
            ("dwarf", "locks"),
            ("dwarf", "heap"),
            ("dwarf", "busy"),
            ("dwarf", "leaks"),
            ("pie", "values"),
            ("noopt", "values"),
            ("cgo", "cgoleak"),
        ] {
            let path = root.join(release).join(variant).join(name);
            let Ok(file) = MappedFile::open(&path) else {
                println!("skipped: {} is not built (scripts/fixtures)", path.display());
                continue;
            };
            // Members moved between patch releases, too: the row is that of the one that built the fixture.
            let elf = Elf::open(&path).unwrap_or_else(|e| panic!("{e}"));
            let built_by = BuildInfo::of(&elf).and_then(|b| GoVersion::parse(&b.go_version)).expect("build info");
            assert_eq!(built_by.minor, minor);
            let table = Layout::from_table(minor, built_by.known_patch(), Arch::Amd64).expect("in the table");
            let dwarf = Dwarf::open(&Arc::new(file), &layout::wants).expect("readable").expect("has DWARF");
            let dwarf = Layout::from_dwarf(&dwarf).expect("complete");
            let mut compared = 0;
            let what = format!("Go {release} {variant} {name}");
            for &s in Struct::ALL {
                if let Some(size) = dwarf.size(s) {
                    assert_eq!(table.size(s), Some(size), "{what}: size of {}", s.name());
                    compared += 1;
                }
            }
            for &f in Field::ALL {
                if dwarf.size(f.owner()).is_some() {
                    assert_eq!(table.field(f), dwarf.field(f), "{what}: {} {}", f.owner().name(), f.path());
                    compared += 1;
                }
            }
            for &c in Constant::ALL {
                if let Some(value) = dwarf.constant(c) {
                    assert_eq!(table.constant(c), Some(value), "{what}: {}", c.name());
                    compared += 1;
                }
            }
            for (i, text) in dwarf.wait_reasons.iter().enumerate().filter(|(_, t)| !t.is_empty()) {
                assert_eq!(table.wait_reasons.get(i), Some(text), "{what}: wait reason {i}");
                compared += 1;
            }
            println!("{what}: {compared} facts agree");
            assert!(compared > 400, "{what}: only {compared} facts");
        }
    }
}

/// arm64 has rows of its own, and members that lie behind padding to a cache line differ from amd64's.
#[test]
fn arm64_has_its_own_rows() {
    for release in RELEASES {
        let minor = release[2..].parse().expect("1.N");
        let (a, b) = (Layout::from_table(minor, None, Arch::Amd64), Layout::from_table(minor, None, Arch::Arm64));
        let (a, b) = (a.expect("in the table"), b.expect("in the table"));
        assert_eq!(a.field(Field::MspanAllocBits), b.field(Field::MspanAllocBits));
        // Go 1.21 took arm64's cache line to be 128 bytes (internal/cpu.CacheLinePadSize).
        assert_eq!(a.size(Struct::Mheap) != b.size(Struct::Mheap), minor >= 21, "Go {release}");
    }
}

/// The first patch releases of 1.23 and 1.24 have other layouts than the last (their DWARF: scripts/layouts); a release without a patch
/// number is taken for the last.
#[test]
fn patch_releases_have_rows_of_their_own() {
    let of = |minor, patch| Layout::from_table(minor, patch, Arch::Amd64).expect("in the table");
    let m = |minor, patch| of(minor, patch).size(Struct::M);
    assert_eq!((m(23, Some(0)), m(23, Some(11)), m(23, Some(12))), (Some(1760), Some(1760), Some(1784)));
    assert_eq!((m(24, Some(5)), m(24, Some(6)), m(24, None)), (Some(1808), Some(1832), Some(1832)));
    assert_eq!(m(23, None), m(23, Some(99)));
    let timer = |patch| of(23, Some(patch)).size(Struct::Timer);
    assert_eq!((timer(0), timer(2), timer(3)), (Some(80), Some(80), Some(88)));
}

#[test]
fn unknown_releases_are_refused() {
    for minor in [0, 18, 28, 1000] {
        assert!(Layout::from_table(minor, None, Arch::Amd64).is_err());
    }
}

/// A release that the table does not have is read with the nearest layouts, and the answer says so; a wrong one is refused
/// with what was tried.
#[test]
fn another_release_is_never_silent() {
    let Some(f) = common::Fixture::start("1.27", "stripped", "values", &["all"]) else { return };
    let Some(a) = common::answer(&["doctor", &f.pid(), "--check-liveness", "--assume-go", "1.30"]) else { return };
    let notes: Vec<&str> =
        a["diagnostics"].as_array().expect("a list").iter().filter_map(|d| d["kind"].as_str()).collect();
    assert!(notes.contains(&"layouts of another Go release are used"), "{notes:?}");
    assert_eq!((&a["result"]["layout_minor"], &a["result"]["liveness"]["only_reachable"]), (&27.into(), &0.into()));
    let out = common::gosleuth(&["doctor", &f.pid(), "--assume-go", "1.20"]);
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2));
    assert!(err.contains("runtime.mheap_ was not found") && err.contains("tried"), "{err}");
    let out = common::gosleuth(&["doctor", &f.pid(), "--layout", "dwarf"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("has no DWARF"));
}
