//! `doctor`: can this target be looked at, and what was found how.

use clap::Args;
use serde::Serialize;

use super::{Failure, Session, TargetArgs, print};
use crate::{
    analysis::liveness::{self, Liveness},
    base::Addr,
    image::{FoundBy, Image},
    output,
    runtime::{globals::GlobalReport, layout::Global},
};

/// Can this target be looked at, and what was found how.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Compare what is reachable with what the collector keeps.
    #[arg(long)]
    check_liveness: bool,
}

#[derive(Serialize)]
struct DoctorResult {
    go_version: String,
    /// Where names of packages are not those of the source (garble): a function of the runtime and the file that it says it is in.
    obfuscated: Option<String>,
    /// Minor release of the layout table's rows; absent where layouts come from DWARF.
    layout_minor: Option<u32>,
    globals: Vec<FoundGlobal>,
    missing_globals: Vec<&'static str>,
    /// Of those, the ones that some answer needs, with what was tried.
    lost: Vec<GlobalReport>,
    liveness: Option<Liveness>,
}

#[derive(Serialize)]
struct FoundGlobal {
    name: &'static str,
    addr: Addr,
    found_by: FoundBy,
}

/// Ways to find a variable, in words.
const HOW: [(FoundBy, &str); 6] = [
    (FoundBy::Told, "by the snapshot"),
    (FoundBy::Dwarf, "by DWARF"),
    (FoundBy::Symtab, "by the symbol table"),
    (FoundBy::Section, "by sections"),
    (FoundBy::Disassembly, "by the code that uses them"),
    (FoundBy::Pattern, "by their content"),
];

pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let (check, args) = (args.check_liveness, &args.target);
    let mut s = Session::open(args)?;
    let liveness = if check {
        s.needs_memory("what the collector keeps")?;
        let heap = s.heap()?;
        let built = s.graph(&heap)?;
        s.let_go()?;
        Some(s.stage("liveness", |_| liveness::check(&heap, &built.graph)))
    } else {
        None
    };
    let (mut globals, mut missing) = (Vec::new(), Vec::new());
    for &g in Global::ALL {
        match s.rt.globals.located(g) {
            Some(l) => globals.push(FoundGlobal { name: g.name(), addr: l.addr, found_by: l.found_by }),
            None => missing.push(g.name()),
        }
    }
    let lost = s.rt.globals.report().into_iter().filter(|r| r.addr.is_none() && !r.costs.is_empty()).collect();
    let result = DoctorResult {
        go_version: s.rt.image.go_version.raw.clone(),
        obfuscated: obfuscated(&s.rt.image),
        layout_minor: s.rt.layout.minor,
        globals,
        missing_globals: missing,
        lost,
        liveness,
    };
    let e = s.envelope("doctor", result);
    print(args, &e, |out, r| {
        writeln!(
            out,
            "{} can be looked at: {}, layouts from {}.",
            e.target.exe.as_deref().unwrap_or("the process".as_ref()).display(),
            r.go_version,
            match r.layout_minor {
                Some(minor) => format!("the table (Go 1.{minor})"),
                None => "DWARF".to_owned(),
            },
        )?;
        if e.target.go_version_source == Some(FoundBy::Pattern) {
            writeln!(out, "  The binary does not say its release: it is told from the functions that the binary has.")?;
        }
        if let Some(seen) = &r.obfuscated {
            let what =
                "names of packages, functions and types are told as they stand in the binary, lines mean nothing";
            writeln!(out, "  Obfuscated ({seen}): {what}.")?;
        }
        let by = |how: FoundBy| r.globals.iter().filter(|g| g.found_by == how).count();
        let how: Vec<String> = HOW
            .iter()
            .map(|&(h, text)| (by(h), text))
            .filter(|(n, _)| *n > 0)
            .map(|(n, text)| format!("{n} {text}"))
            .collect();
        writeln!(out, "Runtime variables located: {} ({}).", r.globals.len(), how.join(", "))?;
        for l in &r.lost {
            writeln!(out, "  {} was not found: {} (tried {}).", l.name, l.costs, l.tried.join("; "))?;
        }
        r.liveness.as_ref().map_or(Ok(()), |l| output::liveness(out, l))
    })
}

/// In a program as the compiler made it, functions of package runtime are in files of a directory runtime, trimmed paths or not.
fn obfuscated(image: &Image) -> Option<String> {
    let main = image.pclntab.find_name("runtime.main")?;
    let (file, _) = main.file_line(main.entry())?;
    let mut parts = file.rsplit('/');
    let (_, directory) = (parts.next(), parts.next());
    (directory != Some("runtime")).then(|| format!("runtime.main is in {file:?}"))
}
