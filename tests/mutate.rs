//! Every parser of foreign bytes on damaged copies of small real inputs (testdata/parsers, made by scripts/parser-corpus): bits and
//! bytes, lengths without sense, cuts, splices. Seeds are fixed. No input may make a parser panic, run long, or take memory out
//! of proportion; every one that did is in testdata/parsers/found and is tried first.
//!
//! Each parser runs in a child of its own, so that an abort, an overflowing stack or a hang is told with the number of its case.
//! `MUTATE_PARSER=dwarf MUTATE_CASE=17 MUTATE_SAVE=FILE cargo test --test mutate child -- --ignored` writes that case's input.
//! `MUTATE_TIMES=10` runs ten times as many.

use std::{
    fs,
    io::{Read, Write},
    ops::Range,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use gosleuth::{
    base::Addr,
    image::{elf::Elf, pclntab::Place},
    raw,
    runtime::{
        OpenOptions, Runtime,
        types::{Sources, TypeTable},
    },
    snapshot,
    target::Target,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// One case may take this long on a busy machine in a debug build, and this much memory beside a multiple of its input.
const IN_TIME: Duration = Duration::from_secs(5);
const SPARE: usize = 160 << 20;
const RELEASES: [(&str, u32); 2] = [("1.21", 21), ("1.27", 27)];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/parsers")
}

fn unpacked(name: &str) -> Vec<u8> {
    let packed = fs::read(data().join(format!("{name}.zst"))).expect("part of the corpus");
    zstd::decode_all(&packed[..]).expect("packed by zstd")
}

struct Random(u64);

impl Random {
    fn of(parser: &str, case: u64) -> Random {
        let seed =
            parser.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut r = Random((seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        (0..4).for_each(|_| _ = r.next());
        r
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }
}

/// Changes `bytes` in one to four places; `likely` are where it matters most.
fn damage(r: &mut Random, bytes: &mut Vec<u8>, likely: &[Range<usize>]) {
    let len = bytes.len() as u64;
    for _ in 0..=r.below(4) {
        let n = bytes.len();
        if n == 0 {
            return;
        }
        let range = match likely {
            [] => 0..n,
            _ if r.below(6) == 0 => 0..n,
            some => some[r.below(some.len())].clone(),
        };
        let at = (range.start + r.below(range.len())).min(n - 1);
        match r.below(14) {
            0..=2 => bytes[at] ^= 1 << r.below(8),
            3 | 4 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, r.next() as u8][r.below(6)],
            5..=9 => {
                let width = [8, 8, 4, 4, 2][r.below(5)];
                let at = at / width * width;
                let old =
                    bytes.get(at..at + width).map_or(0, |b| b.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b)));
                let value = [
                    0,
                    1,
                    1 << 31,
                    (1 << 31) - 1,
                    (1 << 32) - 1,
                    1 << 60,
                    (1 << 63) - 1,
                    u64::MAX,
                    u64::MAX - 7,
                    len,
                    len - 1,
                    old.wrapping_add(1),
                    old.wrapping_sub(1),
                    old.wrapping_add(8),
                    old << 1,
                    old.wrapping_neg(),
                ][r.below(16)];
                for (b, v) in bytes.iter_mut().skip(at).zip(value.to_le_bytes()).take(width) {
                    *b = v;
                }
            }
            // A varint without end.
            10 => bytes.iter_mut().skip(at).take(1 + r.below(12)).for_each(|b| *b = 0xff),
            // A piece of itself somewhere else, at an aligned place: pointers and lengths of another thing.
            11 | 12 => {
                let count = 8 << r.below(6);
                let (from, to) = (r.below(n) & !7, at & !7);
                let piece: Vec<u8> = bytes.iter().skip(from).take(count).copied().collect();
                for (b, v) in bytes.iter_mut().skip(to).zip(piece) {
                    *b = v;
                }
            }
            _ => match r.below(4) {
                0 => bytes.truncate(at),
                1 => _ = bytes.drain(at..(at + 1 + r.below(16)).min(n)),
                2 => {
                    let piece: Vec<u8> = (0..1 + r.below(16)).map(|_| r.next() as u8).collect();
                    bytes.splice(at..at, piece);
                }
                _ => bytes.truncate(n - r.below(64).min(n)),
            },
        }
    }
}

struct Input {
    bytes: Vec<u8>,
    likely: Vec<Range<usize>>,
}

/// Which input, its bytes, the number of the case: how much was found.
type Run = Box<dyn Fn(usize, Vec<u8>, u64) -> usize>;

struct Parser {
    inputs: Vec<Input>,
    cases: u64,
    run: Run,
}

/// Core, its binary and what is where, of one release.
struct Tiny {
    dir: tempfile::TempDir,
    rt: Runtime,
}

impl Tiny {
    fn new(release: &str) -> Tiny {
        let dir = tempfile::tempdir().expect("a directory");
        let (core, exe) = (dir.path().join("core"), dir.path().join("tiny"));
        fs::write(&core, unpacked(&format!("tiny-{release}.core"))).expect("written");
        fs::write(&exe, unpacked(&format!("tiny-{release}"))).expect("written");
        let target = Arc::new(Target::open_core(&core, Some(&exe)).expect("a core"));
        let rt = Runtime::open(target.clone(), &OpenOptions::default()).and_then(|rt| rt.on(target));
        Tiny { dir, rt: rt.unwrap_or_else(|e| panic!("{e}")) }
    }

    /// The bytes in these places, one after the other.
    fn windows(&self, places: &[(Addr, u64)]) -> Vec<u8> {
        places.iter().flat_map(|&(at, len)| self.rt.target.read_vec(at, len, 1 << 30).expect("in the core")).collect()
    }

    /// A target with `bytes` in these places.
    fn with(&self, places: &[(Addr, u64)], bytes: &[u8]) -> Target {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        for &(at, len) in places {
            let (piece, left) = rest.split_at(rest.len().min(len as usize));
            pieces.push((at, piece.to_vec()));
            rest = left;
        }
        raw::patched(&self.rt.target, pieces)
    }
}

/// Aligned places of words that are not zero, in runs.
fn filled(bytes: &[u8]) -> Vec<Range<usize>> {
    let used = bytes.chunks(64).enumerate().filter(|(_, c)| c.iter().any(|&b| b != 0));
    used.map(|(i, _)| 64 * i..(64 * i + 64).min(bytes.len())).collect()
}

fn everywhere(bytes: Vec<u8>) -> Input {
    Input { bytes, likely: Vec::new() }
}

/// The parser of that name.
fn parser(name: &str) -> Parser {
    let both = |what: fn(&str) -> Input| -> Vec<Input> { RELEASES.iter().map(|(r, _)| what(r)).collect() };
    let tiny = || -> Vec<Tiny> { RELEASES.iter().map(|(r, _)| Tiny::new(r)).collect() };
    match name {
        "elf" => {
            let headers = |bytes: Vec<u8>| {
                let table = u64::from_le_bytes(bytes[40..48].try_into().expect("eight")) as usize;
                let notes = bytes.windows(4).position(|w| w == b"Go\0\0").unwrap_or(64);
                let mut likely = vec![0..64, 64..600, table..bytes.len().min(table + 64 * 40), notes - 12..notes + 100];
                if let Ok(elf) = Elf::parse(Path::new("x"), Arc::new(gosleuth::os::mmap::MappedFile::of(bytes.clone())))
                {
                    let named = elf.sections.iter().filter(|s| [".symtab", ".strtab", ".shstrtab"].contains(&&*s.name));
                    likely.extend(named.map(|s| s.offset as usize..(s.offset + s.size) as usize));
                }
                Input { bytes, likely }
            };
            let names = RELEASES.iter().flat_map(|(r, _)| [format!("tiny-{r}"), format!("dwarf-{r}")]);
            let inputs = names.map(|n| headers(unpacked(&n))).collect();
            Parser { inputs, cases: 60_000, run: Box::new(|_, bytes, _| raw::elf(bytes)) }
        }
        "buildinfo" => {
            let inputs = both(|r| {
                let bytes = unpacked(&format!("tiny-{r}"));
                let at = bytes.windows(14).position(|w| w == b"\xff Go buildinf:").expect("build info");
                everywhere(bytes[at..at + 3000].to_vec())
            });
            Parser { inputs, cases: 50_000, run: Box::new(|_, bytes, _| raw::build_info(&bytes)) }
        }
        "dwarf" => {
            let inputs = both(|r| everywhere(unpacked(&format!("dwarf-{r}"))));
            Parser { inputs, cases: 10_000, run: Box::new(|_, bytes, _| raw::dwarf(bytes)) }
        }
        "packed" => {
            // Compressed sections: their headers above all.
            let inputs = both(|r| {
                let bytes = unpacked(&format!("dwarf-{r}.packed"));
                let heads = bytes.windows(8).enumerate().filter(|(_, w)| w[..4] == [1, 0, 0, 0] && w[4..] == [0; 4]);
                let likely = heads.map(|(i, _)| i..i + 30).collect();
                Input { bytes, likely }
            });
            Parser { inputs, cases: 8000, run: Box::new(|_, bytes, _| raw::dwarf(bytes)) }
        }
        "pclntab" => {
            const MOST: usize = 600 << 10;
            let mut inputs = Vec::new();
            let mut places: Vec<(usize, Place)> = Vec::new();
            for t in tiny() {
                let tab = &t.rt.image.pclntab.tables()[0];
                let place = tab.place().clone();
                let table = t.rt.image.elf.initial_bytes(place.addr).expect("in the file");
                let table = &table[..table.len().min(MOST)];
                let gofunc = &place.gofunc_bytes[..place.gofunc_bytes.len().min(MOST / 4)];
                let (len, n) = (table.len(), 8 * tab.len());
                let funcs = tab.header().tables[4] as usize;
                let bytes = [table, gofunc].concat();
                let likely = vec![
                    0..72,
                    0..72,
                    funcs..funcs + n,
                    (funcs + n).min(len)..(funcs + 6 * n).min(len),
                    (tab.header().tables[3] as usize).min(len)..funcs.min(len),
                    len..bytes.len(),
                    len..bytes.len(),
                ];
                places.push((len, Place { gofunc_bytes: Default::default(), ..place }));
                inputs.push(Input { bytes, likely });
            }
            let run = move |which: usize, mut bytes: Vec<u8>, case: u64| {
                let (len, place) = &places[which];
                let gofunc = bytes.split_off((*len).min(bytes.len()));
                raw::pclntab(bytes, gofunc, place, case as usize)
            };
            Parser { inputs, cases: 12_000, run: Box::new(run) }
        }
        "moduledata" => {
            let list = tiny();
            let places: Vec<[(Addr, u64); 1]> = list.iter().map(|t| [(t.rt.image.modules[0].addr, 592)]).collect();
            let inputs = list.iter().zip(&places).map(|(t, p)| everywhere(t.windows(p))).collect();
            let run = move |which: usize, bytes: Vec<u8>, case: u64| {
                let minor = [None, Some(RELEASES[which].1), Some(19), Some(24)][case as usize % 4];
                raw::modules(&list[which].with(&places[which], &bytes), places[which][0].0, minor)
            };
            Parser { inputs, cases: 20_000, run: Box::new(run) }
        }
        "types" => {
            let list = tiny();
            let mut places = Vec::new();
            let mut inputs = Vec::new();
            for t in &list {
                let m = &t.rt.image.modules[0];
                let place = [(m.types, m.etypes.0 - m.types.0)];
                let table = TypeTable::discover(Sources::of(&t.rt));
                let at = |a: Addr| a.distance_from(m.types).map(|d| d as usize..d as usize + 200);
                inputs.push(Input {
                    bytes: t.windows(&place),
                    likely: table.ids().filter_map(|i| at(table.addr(i))).collect(),
                });
                places.push(place);
            }
            let run = move |which: usize, bytes: Vec<u8>, _| {
                let t = &list[which];
                raw::types(&t.rt, &t.with(&places[which], &bytes), &t.rt.image.modules)
            };
            Parser { inputs, cases: 5000, run: Box::new(run) }
        }
        "core" => {
            let inputs = both(|r| {
                // The file is sparse and tens of megabytes long; what counts is at its beginning.
                let mut bytes = unpacked(&format!("tiny-{r}.core"));
                bytes.truncate(200 << 10);
                Input { likely: vec![0..64, 64..1200, 64..6000], bytes }
            });
            Parser { inputs, cases: 40_000, run: Box::new(|_, bytes, _| raw::core(bytes)) }
        }
        "memory" => {
            let list = tiny();
            let mut places = Vec::new();
            let mut inputs = Vec::new();
            for t in &list {
                let saved = |m: &&gosleuth::target::Mapping| m.writable;
                let place: Vec<(Addr, u64)> = (t.rt.target.mappings.iter().filter(saved))
                    .map(|m| (m.start, m.end.0 - m.start.0))
                    .filter(|&(at, len)| len <= 8 << 20 && t.rt.target.read_vec(at, len, 1 << 30).is_ok())
                    .collect();
                let bytes = t.windows(&place);
                inputs.push(Input { likely: filled(&bytes), bytes });
                places.push(place);
            }
            let run = move |which: usize, bytes: Vec<u8>, _| {
                let t = &list[which];
                raw::memory(&t.rt, t.with(&places[which], &bytes))
            };
            Parser { inputs, cases: 3000, run: Box::new(run) }
        }
        "program" => {
            let list = tiny();
            let inputs = both(|r| {
                let bytes = unpacked(&format!("tiny-{r}"));
                Input { likely: std::iter::once(0..800).collect(), bytes }
            });
            let run = move |which: usize, bytes: Vec<u8>, _| {
                let (core, exe) = (list[which].dir.path().join("core"), list[which].dir.path().join("damaged"));
                fs::write(&exe, bytes).expect("written");
                raw::program(&core, &exe)
            };
            Parser { inputs, cases: 400, run: Box::new(run) }
        }
        "snapshot" => {
            let inputs = both(|r| everywhere(unpacked(&format!("tiny-{r}.snap"))));
            Parser { inputs, cases: 20_000, run: Box::new(|_, bytes, _| raw::snapshot(bytes)) }
        }
        "blocks" => {
            // What blocks say, under right hashes.
            let dir = tempfile::tempdir().expect("a directory");
            let mut files = Vec::new();
            let mut inputs = Vec::new();
            for (release, _) in RELEASES {
                let path = dir.path().join(release);
                fs::write(&path, unpacked(&format!("tiny-{release}.snap"))).expect("written");
                let blocks = snapshot::all_blocks(&path).expect("a snapshot");
                let bytes: Vec<u8> = blocks.iter().flat_map(|b| b.2.clone()).collect();
                let mut at = 0;
                let likely = (blocks.iter())
                    .map(|b| {
                        at += b.2.len();
                        at - b.2.len()..at
                    })
                    .collect();
                inputs.push(Input { bytes, likely });
                files.push(blocks);
            }
            let run = move |which: usize, bytes: Vec<u8>, case: u64| {
                let path = dir.path().join("damaged");
                let mut w = snapshot::Writer::create(&path, true).expect("a file");
                let mut rest = &bytes[..];
                for (i, (section, items, old)) in files[which].iter().enumerate() {
                    let (block, left) = rest.split_at(rest.len().min(old.len()));
                    rest = left;
                    let other = [items + 1, items.saturating_sub(1), 1 << 31, 1 << 60, u64::MAX][case as usize / 7 % 5];
                    let items =
                        if case.is_multiple_of(7) && i == case as usize % files[which].len() { other } else { *items };
                    w.put(*section, snapshot::pack(0, items, block).expect("packs")).expect("writes");
                }
                w.finish_unsynced().expect("finishes");
                raw::snapshot(fs::read(&path).expect("written"))
            };
            Parser { inputs, cases: 6000, run: Box::new(run) }
        }
        "profile" | "packedprofile" => {
            // The files are gzipped; what they say is damaged unpacked, and once as they are.
            let names =
                ["heap-1.19", "heap-1.27", "goroutine-1.27", "goroutine-own"].map(|n| unpacked(&format!("{n}.pb")));
            let pack = |bytes: Vec<u8>| {
                let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                packer.write_all(&bytes).and_then(|()| packer.finish()).expect("packs")
            };
            let inputs = match name {
                "profile" => names.into_iter().map(everywhere).collect(),
                _ => names.into_iter().map(|n| everywhere(pack(n))).collect(),
            };
            let cases = if name == "profile" { 20_000 } else { 4000 };
            Parser { inputs, cases, run: Box::new(|_, bytes, _| raw::profile(&bytes)) }
        }
        "procfs" => {
            let text = "00400000-00495000 r-xp 00000000 08:01 1234   /usr/bin/a b\nSize:                596 kB\nRss:                 500 kB\n\
                        Swap:                  4 kB\nVmFlags: rd ex mr mw me\nc000000000-c000400000 rw-p 00000000 00:00 0    [anon: Go: heap]\n\
                        Size:               4096 kB\nRss:                2048 kB\nSwap:                  0 kB\n7ffc0000-7ffc1000 rw-p 00000000 00:00 0 \
                        [stack]\nRss:  18446744073709551615 kB\n";
            let auxv: Vec<u8> =
                [3u64, 0x400040, 9, 0x45f000, 31, 0x7ffc_0000, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
            let inputs = vec![everywhere(text.as_bytes().to_vec()), everywhere(auxv)];
            Parser { inputs, cases: 50_000, run: Box::new(|_, bytes, _| raw::procfs(&bytes)) }
        }
        other => panic!("no parser {other}"),
    }
}

/// Inputs that did harm once: (file, which input they were made of, bytes).
fn found(name: &str) -> Vec<(String, usize, Vec<u8>)> {
    let Ok(list) = fs::read_dir(data().join("found")) else { return Vec::new() };
    let mut out: Vec<_> = list
        .filter_map(|e| {
            // PARSER-WHICH-WHAT.zst
            let file = e.ok()?.file_name().into_string().ok()?;
            let (which, _) = file.strip_prefix(name)?.strip_prefix('-')?.split_once('-')?;
            let which = which.parse().ok()?;
            Some((file.clone(), which, unpacked(&format!("found/{}", file.strip_suffix(".zst")?))))
        })
        .collect();
    out.sort();
    out
}

/// Not a test by itself: the child in which one parser runs.
#[test]
#[ignore = "started by the others"]
fn child() {
    let Ok(name) = std::env::var("MUTATE_PARSER") else { return };
    let number = |key: &str| std::env::var(key).ok().and_then(|v| v.parse::<u64>().ok());
    let p = parser(&name);
    for (which, input) in p.inputs.iter().enumerate() {
        let n = (p.run)(which, input.bytes.clone(), 0);
        assert!(n > 0, "{name}: nothing found in the whole input {which}: {n}");
    }
    let case_of = |case: u64| {
        let which = case as usize % p.inputs.len();
        let input = &p.inputs[which];
        let mut bytes = input.bytes.clone();
        damage(&mut Random::of(&name, case), &mut bytes, &input.likely);
        (which, bytes)
    };
    if let (Some(case), Some(to)) = (number("MUTATE_CASE"), std::env::var_os("MUTATE_SAVE")) {
        let (which, bytes) = case_of(case);
        println!("input {which}");
        return fs::write(to, bytes).expect("written");
    }
    let at = std::env::var_os("MUTATE_AT").map(|p| fs::File::create(p).expect("a file"));
    let (mut bad, mut slowest, mut largest, mut useful) = (0, (Duration::ZERO, 0), (0, 0), 0u64);
    let mut run = |label: String, case: u64, which: usize, bytes: Vec<u8>| {
        if let Some(f) = &at {
            f.write_all_at(format!("{label:<60}").as_bytes(), 0).expect("written");
        }
        let allowed = SPARE + 20 * bytes.len();
        let (before, begin) = (ALLOCATED.current_usage(), Instant::now());
        ALLOCATED.reset_peak_usage();
        let done = catch_unwind(AssertUnwindSafe(|| (p.run)(which, bytes, case)));
        let (took, took_bytes) = (begin.elapsed(), ALLOCATED.peak_usage().saturating_sub(before));
        slowest = slowest.max((took, case));
        largest = largest.max((took_bytes, case));
        useful += u64::from(done.as_ref().is_ok_and(|&n| n > 4));
        let why = match done {
            Err(_) => "it panics".to_owned(),
            Ok(_) if took > IN_TIME => format!("it takes {took:?}"),
            Ok(_) if took_bytes > allowed => format!("it takes {} MiB", took_bytes >> 20),
            Ok(_) => return,
        };
        println!("BAD {name} {label}, input {which}: {why}");
        bad += 1;
    };
    for (file, which, bytes) in found(&name) {
        run(file, 0, which, bytes);
    }
    let cases = match number("MUTATE_CASE") {
        Some(one) => one..one + 1,
        None => 1..p.cases * number("MUTATE_TIMES").unwrap_or(1) + 1,
    };
    let all = cases.end - cases.start;
    let begin = Instant::now();
    for case in cases {
        let (which, bytes) = case_of(case);
        run(format!("case {case}"), case, which, bytes);
    }
    println!(
        "DONE {name}: {all} cases in {:.1} s, {useful} still read, slowest {:.0} ms (case {}), largest {} MiB (case {})",
        begin.elapsed().as_secs_f64(),
        slowest.0.as_secs_f64() * 1e3,
        slowest.1,
        largest.0 >> 20,
        largest.1
    );
    assert_eq!(bad, 0, "{name}: {bad} inputs do harm");
}

/// Runs one parser in a child and tells what became of it.
fn survives(name: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let (at, out) = (dir.path().join("at"), dir.path().join("out"));
    let file = fs::File::create(&out).expect("a file");
    let times: u64 = std::env::var("MUTATE_TIMES").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    // 12 GiB of address space: an allocation without bound fails, and with it the child.
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -c 0; ulimit -v 12000000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("ourselves"))
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env("MUTATE_PARSER", name)
        .env("MUTATE_AT", &at)
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .spawn()
        .expect("the child starts");
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().expect("our child") {
            Some(status) => break Some(status),
            None if begin.elapsed() > Duration::from_secs(100 * times) => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let mut said = String::new();
    fs::File::open(&out).and_then(|mut f| f.read_to_string(&mut said)).expect("what it said");
    said.lines().filter(|l| l.starts_with("DONE") || l.starts_with("BAD")).for_each(|l| println!("{l}"));
    let at = fs::read_to_string(&at).unwrap_or_default();
    let tail: Vec<&str> = said.lines().rev().take(40).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
    match status {
        Some(s) if s.success() => {}
        Some(s) => panic!("{name}: {s} at {}\n{tail}", at.trim()),
        None => panic!("{name}: hangs at {}\n{tail}", at.trim()),
    }
}

macro_rules! parsers {
    ($($name:ident)*) => { $(#[test] fn $name() { survives(stringify!($name)); })* };
}

parsers! { elf buildinfo dwarf packed pclntab moduledata types core memory program snapshot blocks profile packedprofile procfs }

/// Many units, and many references from one to another: found by their places, not by a walk over all.
#[test]
fn many_units() {
    const N: u32 = 60_000;
    let abbreviations = [
        // A unit with its language; a variable with name, place and type; a type with its name.
        &[1, 0x11, 1, 0x13, 0x0b, 0, 0][..],
        &[2, 0x34, 0, 0x03, 0x08, 0x02, 0x18, 0x49, 0x10, 0, 0],
        &[3, 0x24, 0, 0x03, 0x08, 0, 0, 0],
    ]
    .concat();
    let unit = |content: &[u8]| {
        let mut u = (content.len() as u32 + 7).to_le_bytes().to_vec();
        u.extend([4, 0, 0, 0, 0, 0, 8]);
        u.extend(content);
        u
    };
    let (small, first) = (unit(&[1, 0x16, 3, b't', 0, 0]), 11 + 2 + 17 * N + 1);
    let mut variables = vec![1, 0x16];
    for i in 0..N {
        variables.extend([2, b'v', 0, 9, 3]);
        variables.extend((0x50_0000 + 8 * u64::from(i)).to_le_bytes());
        variables.extend((first + small.len() as u32 * (N - 1 - i) + 13).to_le_bytes());
    }
    variables.push(0);
    let mut info = unit(&variables);
    (0..N).for_each(|_| info.extend(&small));
    let names = b"\0.debug_abbrev\0.debug_info\0.shstrtab\0";
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    let mut headers = vec![0; 64];
    let mut body: Vec<u8> = Vec::new();
    for (name, kind, content) in [(1u32, 1u32, &abbreviations[..]), (15, 1, &info), (27, 3, names)] {
        headers.extend([name, kind].iter().flat_map(|w| w.to_le_bytes()));
        let words = [0, 0, 64 + body.len() as u64, content.len() as u64, 0, 1, 0];
        headers.extend(words.iter().flat_map(|w: &u64| w.to_le_bytes()));
        body.extend(content);
    }
    file.extend([0, 0, 64 + body.len() as u64].iter().flat_map(|w: &u64| w.to_le_bytes()));
    file.extend(
        [0, 64, 56, 0, 64, 4, 3]
            .iter()
            .zip([4, 2, 2, 2, 2, 2, 2])
            .flat_map(|(w, n): (&u32, usize)| w.to_le_bytes()[..n].to_vec()),
    );
    file.extend(body);
    file.extend(headers);
    let begin = Instant::now();
    let n = raw::dwarf(file);
    println!("{n} found in {:?}", begin.elapsed());
    assert_eq!(n, N as usize);
    assert!(begin.elapsed() < IN_TIME, "{:?}", begin.elapsed());
}
