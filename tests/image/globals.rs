//! Runtime variables found without names, against the linker's own symbols.

use gosleuth::{
    base::Diagnostics,
    image::{FoundBy, Image, ImageOptions},
    runtime::{
        globals::Globals,
        layout::{self, Global, Layout},
    },
};

use crate::support::{RELEASES, Running, binary};

/// Variables that nothing needs to find in a binary without names.
const NOT_SOUGHT: [Global; 5] =
    [Global::Ncpu, Global::Debug, Global::Staticuint64s, Global::ReflectOffs, Global::Finlock];

/// In every release and way of building: whatever is found by code or content lies where the symbol says.
#[test]
fn variables_without_names() {
    let (mut right, mut wrong, mut missed) = (0, Vec::new(), Vec::new());
    for release in RELEASES {
        for (variant, name, args) in [
            ("dwarf", "values", &["all"][..]),
            ("dwarf", "heap", &["small", "1000"]),
            ("dwarf", "goroutines", &["all"]),
            ("pie", "values", &["all"]),
            ("cgo", "values", &["all"]),
        ] {
            let Some(path) = binary(release, variant, name) else { continue };
            let run = Running::start(&path, args);
            let target = run.attach();
            let diag = Diagnostics::default();
            let image =
                Image::open(&target, &ImageOptions::default(), &|n| layout::wants(n), &diag).expect("a Go binary");
            let layout = Layout::from_dwarf(image.dwarf.as_ref().expect("DWARF")).expect("complete");
            let named = Globals::locate(&target, &image, &layout, &diag);
            assert!(diag.list().is_empty(), "{release} {variant} {name}: {:?}", diag.list());
            let found = Globals::locate_by(&target, &image, &layout, &diag, &[]);
            for &g in Global::ALL {
                let what = format!("{release} {variant} {name}: {}", g.name());
                match (named.get(g), found.located(g)) {
                    (Some(said), Some(l)) => {
                        assert!(!matches!(l.found_by, FoundBy::Symtab | FoundBy::Dwarf));
                        if l.addr == said {
                            right += 1;
                        } else {
                            wrong.push(format!("{what} by {:?} at {}, not {said}", l.found_by, l.addr));
                        }
                    }
                    (Some(_), None) if NOT_SOUGHT.contains(&g) => {}
                    (Some(_), None) => missed.push(what),
                    (None, Some(l)) => wrong
                        .push(format!("{what} is not in this binary, but was found at {} by {:?}", l.addr, l.found_by)),
                    (None, None) => {}
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
    println!("{right} variables found where the symbols say");
    assert!(missed.is_empty(), "{} not found: {missed:#?}", missed.len());
}
