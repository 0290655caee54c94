//! What /proc says about a process.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{base::Addr, target::Mapping};

fn path(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// A file as text. Names in it may be any bytes: what is no UTF-8 is replaced.
fn text(file: impl AsRef<Path>) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(file)?).into_owned())
}

/// Thread ids, unsorted. Empty when the process has just gone.
pub fn threads(pid: u32) -> io::Result<Vec<u32>> {
    Ok(fs::read_dir(path(pid, "task"))?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// State letter of a thread (R, S, D, T, t, Z, X).
pub fn thread_state(pid: u32, tid: u32) -> Option<char> {
    let stat = text(path(pid, &format!("task/{tid}/stat"))).ok()?;
    // The command name stands in parentheses and may itself contain some.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// A field of /proc/PID/status, such as `TracerPid`.
pub fn status_field(pid: u32, field: &str) -> Option<String> {
    let status = text(path(pid, "status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':').map(|v| v.trim().to_owned()))
}

/// The most memory that this process has had resident at once, in bytes.
pub fn peak_resident() -> Option<u64> {
    let line = status_field(std::process::id(), "VmHWM")?;
    Some(line.trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

pub fn exists(pid: u32) -> bool {
    path(pid, "").exists()
}

/// Command name of a process.
pub fn comm(pid: u32) -> Option<String> {
    text(path(pid, "comm")).ok().map(|s| s.trim().to_owned())
}

/// The executable's path as the process sees it.
pub fn exe(pid: u32) -> io::Result<PathBuf> {
    fs::read_link(path(pid, "exe"))
}

/// A path that opens the executable even from another mount namespace or after it was deleted.
pub fn exe_file(pid: u32) -> PathBuf {
    path(pid, "exe")
}

pub fn mem_file(pid: u32) -> io::Result<fs::File> {
    fs::File::open(path(pid, "mem"))
}

pub fn pagemap_file(pid: u32) -> io::Result<fs::File> {
    fs::File::open(path(pid, "pagemap"))
}

/// Auxiliary vector: (AT_*, value) up to AT_NULL.
pub fn auxv(pid: u32) -> io::Result<Vec<(u64, u64)>> {
    Ok(parse_auxv(&fs::read(path(pid, "auxv"))?))
}

pub fn parse_auxv(bytes: &[u8]) -> Vec<(u64, u64)> {
    let word = |c: &[u8]| u64::from_le_bytes(c.try_into().unwrap_or_default());
    bytes.chunks_exact(16).map(|c| (word(&c[..8]), word(&c[8..]))).take_while(|&(key, _)| key != 0).collect()
}

pub fn maps(pid: u32) -> io::Result<Vec<Mapping>> {
    Ok(parse_maps(&text(path(pid, "maps"))?))
}

pub fn parse_maps(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(parse_map_line).collect()
}

fn parse_map_line(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let perms = fields.next()?.as_bytes();
    let offset = fields.next()?;
    let (_dev, _inode) = (fields.next()?, fields.next()?);
    let name = fields.next().unwrap_or("").trim_start();
    Some(Mapping {
        start: Addr(u64::from_str_radix(start, 16).ok()?),
        end: Addr(u64::from_str_radix(end, 16).ok()?),
        readable: perms.first() == Some(&b'r'),
        writable: perms.get(1) == Some(&b'w'),
        executable: perms.get(2) == Some(&b'x'),
        file_offset: u64::from_str_radix(offset, 16).ok()?,
        path: (!name.is_empty()).then(|| PathBuf::from(name)),
    })
}

/// Resident set and its parts from smaps_rollup, in bytes: (name, bytes) as the kernel names them.
pub fn smaps_rollup(pid: u32) -> io::Result<Vec<(String, u64)>> {
    Ok(parse_kb_lines(&text(path(pid, "smaps_rollup"))?))
}

pub fn parse_kb_lines(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|l| {
            let (name, rest) = l.split_once(':')?;
            let kb: u64 = rest.trim().strip_suffix(" kB")?.trim().parse().ok()?;
            Some((name.to_owned(), kb.saturating_mul(1024)))
        })
        .collect()
}

/// One mapping with what smaps says of it, in bytes.
#[derive(Clone, Debug)]
pub struct MappedMemory {
    pub map: Mapping,
    pub resident: u64,
    pub swapped: u64,
}

/// /proc/PID/smaps: resident and swapped bytes of each mapping. Cost: the kernel walks the page tables.
pub fn smaps(pid: u32) -> io::Result<Vec<MappedMemory>> {
    Ok(parse_smaps(&text(path(pid, "smaps"))?))
}

pub fn parse_smaps(text: &str) -> Vec<MappedMemory> {
    let kb = |s: &str| s.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0).saturating_mul(1024);
    let mut out: Vec<MappedMemory> = Vec::new();
    for line in text.lines() {
        // Lines of figures begin with a capital letter, those of mappings with a hexadecimal digit.
        if line.starts_with(|c: char| c.is_ascii_digit() || c.is_ascii_lowercase()) {
            out.extend(parse_map_line(line).map(|map| MappedMemory { map, resident: 0, swapped: 0 }));
        } else if let Some(last) = out.last_mut() {
            if let Some(rest) = line.strip_prefix("Rss:") {
                last.resident = kb(rest);
            } else if let Some(rest) = line.strip_prefix("Swap:") {
                last.swapped = kb(rest);
            }
        }
    }
    out
}

/// Seconds since the process started, by the kernel's clock.
pub fn age_seconds(pid: u32) -> Option<f64> {
    let stat = text(path(pid, "stat")).ok()?;
    let start: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let up: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    // USER_HZ is 100 on every Linux that Go supports.
    Some((up - start / 100.0).max(0.0))
}

/// yama's ptrace_scope (0 to 3), `None` where yama is not built in.
pub fn yama_scope() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}

/// Does this process have CAP_SYS_PTRACE?
pub fn may_ptrace_any() -> bool {
    const CAP_SYS_PTRACE: u32 = 19;
    fs::read_to_string(Path::new("/proc/self/status"))
        .ok()
        .and_then(|s| s.lines().find_map(|l| l.strip_prefix("CapEff:").map(|v| v.trim().to_owned())))
        .and_then(|v| u64::from_str_radix(&v, 16).ok())
        .is_some_and(|caps| caps >> CAP_SYS_PTRACE & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_lines() {
        let m = parse_map_line("00400000-0055c000 r-xp 00001000 08:01 123   /usr/bin/a b").expect("a line");
        assert_eq!((m.start.0, m.end.0, m.file_offset), (0x400000, 0x55c000, 0x1000));
        assert!(m.readable && !m.writable && m.executable);
        assert_eq!(m.path, Some(PathBuf::from("/usr/bin/a b")));
        assert!(parse_map_line("Rss:      12 kB").is_none());
    }

    #[test]
    fn smaps_figures() {
        let text = "c000000000-c000400000 rw-p 00000000 00:00 0 \nSize: 4096 kB\nRss:                  12 kB\nSwap:  4 kB\n\
                    VmFlags: rd wr\nd000000000-d000001000 r--p 00000000 00:00 0    [anon: Go: heap]\nRss:   0 kB\n";
        let maps = parse_smaps(text);
        assert_eq!(maps.len(), 2);
        assert_eq!((maps[0].resident, maps[0].swapped, maps[1].resident), (12 << 10, 4 << 10, 0));
        assert_eq!(maps[1].map.path, Some(PathBuf::from("[anon: Go: heap]")));
    }
}
