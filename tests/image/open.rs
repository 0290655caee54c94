//! Opening: release, moduledata, functions.

use std::collections::HashMap;

use gosleuth::{
    base::{Addr, Diagnostics},
    image::{FoundBy, Image, ImageOptions},
};

use crate::support::{RELEASES, Running, binary, drop_build_info, strip};

fn open(run: &Running) -> Image {
    let diag = Diagnostics::default();
    let image =
        Image::open(&run.attach(), &ImageOptions::default(), &|_| false, &diag).unwrap_or_else(|e| panic!("{e}"));
    assert!(diag.list().is_empty(), "{:?}", diag.list());
    image
}

const VARIANTS: [&str; 5] = ["dwarf", "stripped", "pie", "pie-stripped", "cgo"];

/// Every release and way of building: the release is told, moduledata is found, and names its own functions.
#[test]
fn every_build_opens() {
    let mut seen = 0;
    for release in RELEASES {
        for variant in VARIANTS {
            let Some(path) = binary(release, variant, "values") else { continue };
            let run = Running::start(&path, &["all"]);
            let image = open(&run);
            let minor: u32 = release[2..].parse().expect("1.N");
            assert_eq!((image.go_version.minor, image.go_version_source), (minor, FoundBy::BuildInfo));
            let stripped = variant.contains("stripped");
            assert_eq!(image.has_symtab, !stripped, "{release} {variant}");
            let m = &image.modules[0];
            let words = |a: Addr, b: Addr| (b.0 - a.0) / 8;
            assert_eq!(m.data_mask.bits.len() as u64, words(m.data, m.edata).div_ceil(8));
            assert_eq!(m.bss_mask.bits.len() as u64, words(m.bss, m.ebss).div_ceil(8));
            let main = image.pclntab.find_name("main.main").expect("in every program");
            assert_eq!(image.pclntab.find(main.entry()).map(|f| f.name()), Some("main.main"));
            assert_eq!(image.build_info.as_ref().map(|b| &*b.path), Some("gosleuth.test/fixtures/values"));
            seen += 1;
        }
    }
    assert!(seen > 0, "no fixture at all");
    println!("{seen} builds opened");
}

/// The same link with and without symbols: what patterns find in the stripped copy is what the symbols say.
#[test]
fn patterns_find_what_symbols_say() {
    for release in RELEASES {
        for variant in ["dwarf", "pie", "cgo"] {
            let Some(path) = binary(release, variant, "values") else { continue };
            let dir = tempfile::tempdir().expect("a directory");
            let with = open(&Running::start(&path, &["all"]));
            let said = with.symbols.as_ref().and_then(|s| s.find("runtime.firstmoduledata")).expect("a symbol");
            assert_eq!(with.modules_found_by, FoundBy::Symtab);
            assert_eq!(with.modules[0].addr, said.addr);
            // Without symbols, and without build info as well.
            for (anonymous, found_by) in [(false, FoundBy::BuildInfo), (true, FoundBy::Pattern)] {
                let mut bare = strip(&path, dir.path());
                if anonymous {
                    bare = drop_build_info(&bare, dir.path());
                }
                let without = open(&Running::start(&bare, &["all"]));
                assert_ne!(without.modules_found_by, FoundBy::Symtab);
                assert_eq!(without.modules[0].addr.0 - without.bias, said.addr.0 - with.bias, "{release} {variant}");
                assert_eq!(without.go_version.minor, with.go_version.minor, "{release} {variant}");
                assert_eq!(without.go_version_source, found_by);
            }
        }
    }
}

/// Name and entry of every function against the symbol table that the linker wrote.
#[test]
fn functions_are_those_of_the_symbol_table() {
    for release in RELEASES {
        for variant in ["dwarf", "pie", "cgo"] {
            let Some(path) = binary(release, variant, "values") else { continue };
            let image = open(&Running::start(&path, &["all"]));
            let symbols: HashMap<u64, Vec<&str>> =
                image.symbols.iter().flat_map(|s| s.iter()).filter(|s| !s.data).fold(HashMap::new(), |mut map, s| {
                    map.entry(s.addr.0).or_insert_with(Vec::new).push(s.name);
                    map
                });
            let (mut same, mut generic) = (0, 0);
            for f in image.pclntab.iter() {
                let name = f.name();
                let Some(names) = symbols.get(&f.entry().0) else {
                    // The linker's own padding and C code have no symbol of their own.
                    assert!(
                        name.starts_with("go:") || name.is_empty() || variant == "cgo",
                        "{release} {variant}: {name}"
                    );
                    continue;
                };
                // Type arguments are left out of pclntab, and old linkers escape some characters in symbols.
                if name.contains("[...]") {
                    let base = name.split('[').next().unwrap_or_default();
                    assert!(names.iter().any(|n| n.starts_with(base)), "{release} {variant}: {name} {names:?}");
                    generic += 1;
                } else {
                    let plain = |n: &str| n.strip_suffix(".abi0").unwrap_or(n).replace('·', ".");
                    assert!(names.iter().any(|n| plain(n) == plain(name)), "{release} {variant}: {name} {names:?}");
                    same += 1;
                }
            }
            assert!(same > 1000, "{release} {variant}: only {same} functions");
            println!("{release} {variant}: {same} names equal, {generic} generic");
        }
    }
}
