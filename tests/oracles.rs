//! The readers of binaries against crates that others wrote: goblin (ELF), capstone (instructions), addr2line (functions and
//! lines of DWARF). And the text of the demo, as a person has read it.

mod common;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use capstone::{Capstone, arch::BuildsCapstone};
use common::{Fixture, fixture_path};
use gosleuth::{
    base::{Addr, Diagnostics},
    image::{
        Image, ImageOptions,
        disasm::{Reference, Use, references},
        elf::Elf,
    },
    target::{Arch, HoldMode, Target},
};

fn elf_agrees(path: &Path) {
    let ours = Elf::open(path).expect("an ELF file");
    let data = std::fs::read(path).expect("readable");
    let theirs = goblin::elf::Elf::parse(&data).expect("an ELF file");
    assert_eq!(ours.entry, theirs.entry);
    let sections: Vec<_> = theirs
        .section_headers
        .iter()
        .map(|s| (theirs.shdr_strtab.get_at(s.sh_name).unwrap_or_default(), s.sh_addr, s.sh_size, s.sh_offset))
        .collect();
    let mine: Vec<_> = ours.sections.iter().map(|s| (s.name.as_str(), s.addr, s.size, s.offset)).collect();
    assert!(mine.iter().all(|s| sections.contains(s)), "{}: {mine:?} {sections:?}", path.display());
    assert!(mine.len() + 1 >= sections.len(), "{}", path.display());
    let loads: Vec<_> = theirs
        .program_headers
        .iter()
        .filter(|p| p.p_type == goblin::elf::program_header::PT_LOAD)
        .map(|p| (p.p_vaddr, p.p_memsz, p.p_offset, p.p_filesz, p.is_write(), p.is_executable()))
        .collect();
    let mine: Vec<_> = ours.segments.iter().map(|s| (s.vaddr, s.memsz, s.offset, s.filesz, s.write, s.exec)).collect();
    assert_eq!(mine, loads, "{}", path.display());
}

#[test]
fn elf_as_goblin_reads_it() {
    for release in ["1.19", "1.24", "1.27"] {
        for (variant, name) in [("dwarf", "heap"), ("stripped", "values"), ("pie", "values"), ("cgo", "values")] {
            if let Some(path) = fixture_path(release, variant, name) {
                elf_agrees(&path);
            }
        }
    }
}

/// References that capstone sees: (pc, address).
fn by_capstone(cs: &Capstone, arch: Arch, code: &[u8], base: u64) -> BTreeSet<(u64, u64)> {
    use capstone::arch::{ArchOperand, arm64::Arm64OperandType, x86::X86OperandType, x86::X86Reg};
    let mut out = BTreeSet::new();
    // adrp x0, page; add x0, x0, off: only pairs that stand side by side, which nobody can see otherwise.
    let mut page: Option<(u32, u64)> = None;
    for i in cs.disasm_all(code, base).expect("decodes").iter() {
        let detail = cs.insn_detail(i).expect("asked for");
        let ops = detail.arch_detail().operands();
        match arch {
            Arch::Amd64 => {
                for op in &ops {
                    if let ArchOperand::X86Operand(o) = op
                        && let X86OperandType::Mem(m) = o.op_type
                        && u32::from(m.base().0) == X86Reg::X86_REG_RIP
                        && i.mnemonic() != Some("nop")
                        && i.mnemonic() != Some("jmp")
                    {
                        let next = i.address() + i.len() as u64;
                        out.insert((i.address(), next.wrapping_add(m.disp() as u64)));
                    }
                }
            }
            Arch::Arm64 => {
                let op = |n: usize| match ops.get(n) {
                    Some(ArchOperand::Arm64Operand(o)) => Some(o.op_type.clone()),
                    _ => None,
                };
                let was = page.take();
                match (i.mnemonic(), op(0), op(1), op(2)) {
                    (Some("adrp"), Some(Arm64OperandType::Reg(r)), Some(Arm64OperandType::Imm(p)), _) => {
                        page = Some((r.0.into(), p as u64));
                    }
                    (Some("add"), _, Some(Arm64OperandType::Reg(r)), Some(Arm64OperandType::Imm(n)))
                        if was.is_some_and(|w| w.0 == u32::from(r.0)) =>
                    {
                        out.insert((i.address(), was.map_or(0, |w| w.1) + n as u64));
                    }
                    (Some("ldr" | "str" | "ldrb" | "strb" | "ldrh" | "strh"), _, Some(Arm64OperandType::Mem(m)), _)
                        if was.is_some_and(|w| w.0 == u32::from(m.base().0)) =>
                    {
                        out.insert((i.address(), was.map_or(0, |w| w.1).wrapping_add(m.disp() as u64)));
                    }
                    _ => {}
                }
            }
        }
    }
    out
}

/// Every `step`th function of the text; how many references were compared.
fn code_agrees(path: &Path, arch: Arch, step: usize) -> usize {
    let elf = Elf::open(path).expect("an ELF file");
    let data = std::fs::read(path).expect("readable");
    let theirs = goblin::elf::Elf::parse(&data).expect("an ELF file");
    let cs = match arch {
        Arch::Amd64 => Capstone::new().x86().mode(capstone::arch::x86::ArchMode::Mode64).detail(true).build(),
        Arch::Arm64 => Capstone::new().arm64().mode(capstone::arch::arm64::ArchMode::Arm).detail(true).build(),
    }
    .expect("capstone");
    let text = elf.section(".text").expect("text");
    let mut compared = 0;
    let functions = theirs.syms.iter().filter(|s| s.is_function() && s.st_size > 0);
    for f in
        functions.filter(|s| s.st_value >= text.addr && s.st_value + s.st_size <= text.addr + text.size).step_by(step)
    {
        let at = (f.st_value - text.addr + text.offset) as usize;
        let code = &data[at..at + f.st_size as usize];
        let want = by_capstone(&cs, arch, code, f.st_value);
        let mut ours = BTreeSet::new();
        references(arch, code, Addr(f.st_value), |r: Reference| {
            assert!(r.how == Use::Address || r.size <= 16);
            ours.insert((r.pc.0, r.addr.0));
        });
        let missing: Vec<_> = want.difference(&ours).collect();
        let name = theirs.strtab.get_at(f.st_name).unwrap_or_default();
        assert!(missing.is_empty(), "{} {name}: {missing:x?}", path.display());
        compared += want.len();
    }
    compared
}

fn go_of(release: &str) -> Option<PathBuf> {
    let fixtures = common::fixtures_root();
    let go = fixtures.parent()?.join("go").join(release).join("go/bin/go");
    go.exists().then_some(go)
}

#[test]
fn references_as_capstone_reads_them() {
    for release in ["1.19", "1.27"] {
        if let Some(path) = fixture_path(release, "dwarf", "values") {
            let n = code_agrees(&path, Arch::Amd64, 7);
            assert!(n > 1000, "{release}: only {n} references");
        }
    }
    // arm64 is cross-compiled, and only read.
    for release in ["1.21", "1.27"] {
        let Some(go) = go_of(release) else {
            println!("skipped: no toolchain of Go {release} to build for arm64");
            continue;
        };
        let dir = tempfile::tempdir().expect("a directory");
        let exe = dir.path().join("heap");
        let built = Command::new(go)
            .args(["build", "-o"])
            .arg(&exe)
            .arg("./heap")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go-fixtures"))
            .envs([("GOARCH", "arm64"), ("CGO_ENABLED", "0"), ("GOFLAGS", "-buildvcs=false"), ("GOTOOLCHAIN", "local")])
            .output()
            .expect("go runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        elf_agrees(&exe);
        let n = code_agrees(&exe, Arch::Arm64, 3);
        assert!(n > 500, "{release}: only {n} references");
    }
}

#[test]
fn lines_as_dwarf_has_them() {
    for release in ["1.19", "1.22", "1.25", "1.27"] {
        let Some(fixture) = Fixture::start(release, "dwarf", "heap", &[]) else { continue };
        let path = fixture_path(release, "dwarf", "heap").expect("it runs");
        let target = Target::attach(fixture.pid().parse().expect("a number"), HoldMode::None).expect("own child");
        let image = Image::open(&target, &ImageOptions::default(), &|_| false, &Diagnostics::default()).expect("opens");
        let loader = addr2line::Loader::new(&path).expect("DWARF");
        let (mut same, mut other) = (0, Vec::new());
        for f in image.pclntab.tables()[0].funcs().step_by(5) {
            // Calls are what a stack shows: some places within each function.
            for pc in (f.entry().0..f.end().0).step_by(37) {
                let Ok(Some(theirs)) = loader.find_location(pc) else { continue };
                let (Some(file), Some(line)) = (theirs.file, theirs.line) else { continue };
                let Some((our_file, our_line)) = f.file_line(Addr(pc)) else { continue };
                if our_line == line && our_file.rsplit('/').next() == file.rsplit('/').next() {
                    same += 1;
                } else {
                    other.push(format!("{pc:#x} {}: {our_file}:{our_line}, DWARF {file}:{line}", f.name()));
                }
            }
        }
        // The two tables are made apart: they differ at single instructions of prologues and of moved code.
        assert!(
            same > 2000 && other.len() * 100 <= same,
            "{release}: {same} equal, {} not: {:#?}",
            other.len(),
            &other[..other.len().min(5)]
        );
    }
}

#[test]
fn the_demo_reads_well() {
    let out = common::gosleuth(&["demo"]);
    insta::assert_snapshot!("demo", String::from_utf8_lossy(&out.stdout));
}
