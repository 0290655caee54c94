//! raw: every parser of foreign bytes behind a function from bytes to a count of what it found, for tests that feed it damaged ones
//! (tests/mutate.rs). The product does not use it. Answers are walked as the product walks them: names, tables and lists are read.

use std::{path::Path, sync::Arc};

use crate::{
    analysis::{leaks::Evidence, profiles},
    base::{Addr, Diagnostics},
    graph::{TypeWords, build, typing::Typed},
    image::{
        BuildInfo, Functions, Module, Pclntab,
        dwarf::{Dwarf, Stopped},
        elf::{self, Elf},
        moduledata,
        pclntab::{Place, funcdata},
        symbols::Symbols,
    },
    os::{mmap::MappedFile, procfs},
    profile::{Profile, Series},
    runtime::{
        OpenOptions, Runtime,
        heap::Heap,
        layout::Layout,
        sched::waits,
        stack::maps,
        types::{Plan, Sources, TypeTable},
    },
    snapshot::Snapshot,
    target::{Fault, Memory, Target, fake::FakeMemory},
};

/// Memory of which some pieces were replaced: (address, bytes).
pub struct Patched {
    pub below: Arc<dyn Memory>,
    pub pieces: Vec<(Addr, Vec<u8>)>,
}

impl Patched {
    fn piece(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        self.pieces.iter().find_map(|(start, bytes)| {
            let at = usize::try_from(addr.distance_from(*start)?).ok()?;
            bytes.get(at..at.checked_add(len)?)
        })
    }
}

impl Memory for Patched {
    fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Fault> {
        match self.piece(addr, buf.len()) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => self.below.read(addr, buf),
        }
    }

    fn stored_bytes(&self) -> Option<u64> {
        self.below.stored_bytes()
    }

    fn borrow(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        self.piece(addr, len).or_else(|| self.below.borrow(addr, len))
    }
}

/// The same target with other memory in some places.
pub fn patched(target: &Target, pieces: Vec<(Addr, Vec<u8>)>) -> Target {
    let mut out = Target::fake(target.arch, FakeMemory::new(), target.exe_file.as_deref());
    out.pid = target.pid;
    out.mappings = target.mappings.clone();
    out.threads = target.threads.clone();
    out.auxv = target.auxv.clone();
    out.memory = Arc::new(Patched { below: target.memory.clone(), pieces });
    out
}

fn open(data: Vec<u8>) -> Option<Elf> {
    Elf::parse(Path::new("input"), Arc::new(MappedFile::of(data))).ok()
}

/// Headers, sections, notes, build info, symbols, the link to a debug file.
pub fn elf(data: Vec<u8>) -> usize {
    let Some(elf) = open(data) else { return 0 };
    let mut n = elf.sections.len() + elf.segments.len();
    n += elf.sections.iter().filter(|s| elf.section_bytes(s).is_some()).count();
    for s in &elf.segments {
        for at in [0, 1, s.filesz / 2, s.filesz, s.memsz.wrapping_sub(1)] {
            let addr = elf.run_time(s.vaddr.wrapping_add(at));
            n += usize::from(elf.initial_bytes(addr).is_some()) + usize::from(elf.constant_bytes(addr, 64).is_some());
            n += elf.initial_slice(addr, Some(s.filesz)).map_or(0, |b| b.len().min(1));
        }
    }
    n += usize::from(elf.has_dwarf()) + elf.extent().start.0.count_ones() as usize;
    n += elf::debug_link(&elf).map_or(0, |l| l.0.len());
    n += BuildInfo::of(&elf).map_or(0, |b| b.settings.len());
    if let Some(symbols) = Symbols::read(&elf, elf.bias) {
        let some: Vec<_> = symbols.iter().take(200).map(|s| (s.addr, s.name.to_owned())).collect();
        for (addr, name) in &some {
            n += usize::from(symbols.at(*addr).is_some()) + usize::from(symbols.find(name).is_some());
        }
    }
    n
}

/// The section .go.buildinfo; pointers of old forms lead into the same bytes.
pub fn build_info(data: &[u8]) -> usize {
    let at = |addr: u64| data.get(usize::try_from(addr % (data.len() as u64 + 9)).ok()?..);
    BuildInfo::parse(data, at).map_or(0, |b| 1 + b.settings.len() + b.deps.len())
}

/// An ELF file with sections of DWARF, compressed or not, and the layouts in it.
pub fn dwarf(data: Vec<u8>) -> usize {
    match Dwarf::open(&Arc::new(MappedFile::of(data)), &|_| true) {
        Ok(Some(d)) => {
            let members: usize = d.structs.values().map(|s| s.members.len()).sum();
            let _ = Layout::from_dwarf(&d);
            let stopped = |pc: u64| Stopped { scope: pc, resume: pc.wrapping_add(1) };
            let pcs: Vec<Stopped> =
                d.function_starts().flat_map(|pc| [stopped(pc), stopped(pc.wrapping_add(64))]).take(256).collect();
            let locals = d.locals(&pcs).map_or(0, |f| f.at.iter().map(Vec::len).sum::<usize>() + f.bare.len());
            members + d.constants.len() + d.variables.len() + d.bare.len() + d.captures.len() + locals
        }
        _ => 0,
    }
}

/// A function table and the data of its functions (names, lines, frames, inlining, stack maps, stack objects). Looks at some hundred
/// functions, beginning with number `from`.
pub fn pclntab(bytes: Vec<u8>, gofunc: Vec<u8>, place: &Place, from: usize) -> usize {
    const LOOKED_AT: usize = 120;
    let place = Place { gofunc_bytes: gofunc.into(), ..place.clone() };
    let Ok(tab) = Pclntab::parse(bytes.into(), place) else { return 0 };
    let table = Functions::new(vec![tab]);
    let Some(tab) = table.tables().first() else { return 0 };
    let step = tab.len() / LOOKED_AT + 1;
    let mut n = 0;
    for f in (from % step..tab.len()).step_by(step).filter_map(|i| tab.func(i)) {
        n += f.name().len().min(1) + f.args().count_ones() as usize % 2 + usize::from(f.flags().top_frame());
        let _ = (f.func_id(), f.start_line(), f.deferreturn(), f.end());
        let size = f.end().0.wrapping_sub(f.entry().0);
        for at in [0, 1, size / 2, size.wrapping_sub(1), size] {
            let pc = Addr(f.entry().0.wrapping_add(at));
            n += usize::from(f.pcsp(pc).is_some()) + usize::from(f.file_line(pc).is_some());
            n += f.inline_frames(pc).map(|i| i.function.len().min(1)).sum::<usize>();
            n += usize::from(table.find(pc).is_some());
            for t in 0..4 {
                let index = f.pcdata(t, pc).unwrap_or(-1);
                for map in [funcdata::ARGS_POINTER_MAPS, funcdata::LOCALS_POINTER_MAPS] {
                    let Some(map) = f.funcdata(map).filter(|_| t == 1) else { continue };
                    n += usize::from(maps::bitmap(&table, map, index, 1 << 12).is_ok());
                }
            }
        }
        n += f.funcdata(funcdata::STACK_OBJECTS).and_then(|at| maps::objects(&table, at)).map_or(0, Iterator::count);
    }
    n + usize::from(table.find_name("main.main").is_some())
}

/// The list of modules that begins at `addr`.
pub fn modules(target: &Target, addr: Addr, minor: Option<u32>) -> usize {
    let Ok(first) = moduledata::Raw::read(target, addr, minor) else { return 0 };
    let list = moduledata::read_all(target, first, minor, &Diagnostics::default());
    list.iter().map(|m| 5 + m.data_mask.bits.len().min(1) + moduledata::text_sections(target, m).len()).sum()
}

/// All type descriptors of these modules.
pub fn types(rt: &Runtime, target: &Target, modules: &[Module]) -> usize {
    let diag = Diagnostics::default();
    let sources = Sources { memory: &*target.memory, modules, diag: &diag, ..Sources::of(rt) };
    let mut table = TypeTable::discover(sources);
    table.load(sources, modules.iter().flat_map(|m| (0..64).map(|i| m.types.offset(64 * i))));
    let plan = Plan::new(&table);
    let mut n = table.len();
    for id in table.ids() {
        n += table.name(id).len().min(1) + table.fields(id).len().min(4) + table.signature(id).0.count().min(4);
        for offset in [0, 8, 24, table.size(id).wrapping_sub(8)] {
            let _ = (plan.pointee(&table, id, offset), table.leaf_at(id, offset), table.field_at(id, offset));
        }
    }
    n
}

/// A core file: headers, notes, mappings, memory.
pub fn core(data: Vec<u8>) -> usize {
    let Ok(target) = Target::core_of_bytes(Path::new("input"), data, None) else { return 0 };
    let mut n = target.mappings.len() + target.threads.len() + target.auxv.len();
    for m in &target.mappings {
        for at in [m.start, Addr(m.end.0.wrapping_sub(8)), Addr(m.end.0.wrapping_sub(3))] {
            n += usize::from(target.read_u64(at).is_ok()) + usize::from(target.mapping_at(at).is_some());
        }
        n += m.path.as_ref().map_or(0, |p| p.as_os_str().len().min(1));
    }
    n + target.readable_bytes().min(1) as usize
}

/// Everything that is read from memory: globals are where `rt` has them. Heap, goroutines, stacks, graph, types, waits, evidence.
pub fn memory(rt: &Runtime, target: Target) -> usize {
    let target = Arc::new(target);
    let rt = Runtime { target, diag: Arc::default(), ..rt.clone() };
    let Ok(heap) = Heap::read(&rt) else { return 0 };
    let Ok(built) = build::build(&rt, &heap, &TypeWords::of(&rt)) else { return 1 };
    let typed = Typed::new(&rt, &heap, &built);
    let found = waits::read(&rt, &built.goroutines, &built.stacks);
    let _ = Evidence::gather(&rt, &heap, &built, &typed);
    built.graph.target.len() + built.goroutines.len() + found.len() + heap.spans.len()
}

/// A core with its binary: everything from the search for the tables to the types in the code.
pub fn program(core: &Path, exe: &Path) -> usize {
    let Ok(target) = Target::open_core(core, Some(exe)) else { return 0 };
    let target = Arc::new(target);
    let Ok(rt) = Runtime::open(target.clone(), &OpenOptions::default()) else { return 1 };
    let n = rt.image.code_types().len() + rt.image.modules.len() + rt.image.pclntab.len();
    let Ok(rt) = rt.on(target.clone()) else { return 2 };
    let Ok(heap) = Heap::read(&rt) else { return 3 };
    let Ok(built) = build::build(&rt, &heap, &TypeWords::of(&rt)) else { return 4 };
    let typed = Typed::new(&rt, &heap, &built);
    n + built.graph.target.len() + typed.types.len()
}

/// A snapshot: everything that is in it.
pub fn snapshot(data: Vec<u8>) -> usize {
    let Ok(file) = Snapshot::of_bytes(Path::new("input"), data) else { return 0 };
    let _ = (file.runtime(), file.evidence());
    file.scene(true).map_or(1, |(heap, built, _)| heap.spans.len() + built.graph.target.len() + built.goroutines.len())
}

/// A pprof profile, gzipped or not, compared with itself.
pub fn profile(data: &[u8]) -> usize {
    let Ok(p) = Profile::of_bytes(data) else { return 0 };
    let n = p.len() + p.functions.len() + p.samples().map(|s| s.stack.len() + s.labels.len()).sum::<usize>();
    let again = Profile::of_bytes(&p.encode()).map_or(0, |q| q.len());
    let Ok(other) = Profile::of_bytes(data) else { return n };
    let both = [p, other];
    let Ok(series) = Series::new(&both) else { return n };
    n + again + profiles::compare(&both, &series, &[0.0, 1.0], 0).map_or(0, |g| g.by_site.len())
}

/// Texts of /proc/PID: maps, smaps, smaps_rollup; and the auxiliary vector.
pub fn procfs(data: &[u8]) -> usize {
    let text = String::from_utf8_lossy(data);
    let smaps = procfs::parse_smaps(&text);
    let sum = smaps.iter().fold(0u64, |n, m| n.saturating_add(m.resident).saturating_add(m.swapped));
    procfs::parse_maps(&text).len()
        + smaps.len()
        + procfs::parse_kb_lines(&text).len()
        + procfs::parse_auxv(data).len()
        + sum.min(1) as usize
}
