//! image::buildinfo: what the Go linker says about the build: release, main module, dependencies, settings.
//! Format: cmd/link `.go.buildinfo`, inline strings since Go 1.18, pointers to string headers before.

use serde::{Deserialize, Serialize};

use super::elf::Elf;
use crate::base::bytes;

const MARK: &[u8; 14] = b"\xff Go buildinf:";
/// The module info of the largest known programs is far below this.
const MAX_TEXT: u64 = 16 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub path: String,
    pub version: String,
    /// The module that `replace` put in its place: (path, version).
    pub replaced_by: Option<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// As written, such as `go1.26.6-X:nogreenteagc`.
    pub go_version: String,
    /// Package path of the main package.
    pub path: String,
    /// Main module.
    pub main: Dependency,
    pub deps: Vec<Dependency>,
    /// `-buildmode`, `CGO_ENABLED`, `GOARCH`, `vcs.revision`, ...
    pub settings: Vec<(String, String)>,
}

impl BuildInfo {
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(k, _)| k == key).map(|(_, v)| &**v)
    }

    /// Reads the build info of a file: from its section, else by looking for the mark in writable segments.
    pub fn of(elf: &Elf) -> Option<BuildInfo> {
        let by_section = elf
            .section(".go.buildinfo")
            .and_then(|s| elf.section_bytes(s))
            .and_then(|data| BuildInfo::parse(data, |a| elf.initial_bytes(elf.run_time(a))));
        by_section.or_else(|| {
            elf.segments.iter().filter(|s| s.write).chain(elf.segments.iter().filter(|s| !s.write && !s.exec)).find_map(
                |s| {
                    let data = elf.initial_bytes(elf.run_time(s.vaddr))?;
                    data.chunks(16)
                        .enumerate()
                        .filter(|(_, c)| c.starts_with(MARK))
                        .find_map(|(i, _)| BuildInfo::parse(&data[i * 16..], |a| elf.initial_bytes(elf.run_time(a))))
                },
            )
        })
    }

    /// `data` starts at the mark; `at` gives the file's bytes from an ELF address (for releases before 1.18).
    pub fn parse<'a>(data: &'a [u8], at: impl Fn(u64) -> Option<&'a [u8]>) -> Option<BuildInfo> {
        if !data.starts_with(MARK) {
            return None;
        }
        let flags = bytes::u8_at(data, 15)?;
        let (version, modules) = if flags & 2 != 0 {
            let (version, rest) = counted(data.get(32..)?)?;
            let (modules, _) = counted(rest).unwrap_or_default();
            (version, modules)
        } else {
            let string = |header: u64| {
                let h = at(header)?;
                let (ptr, len) = (bytes::u64_at(h, 0)?, bytes::u64_at(h, 8)?);
                at(ptr)?.get(..usize::try_from(len.min(MAX_TEXT)).ok()?)
            };
            (string(bytes::u64_at(data, 16)?)?, string(bytes::u64_at(data, 24)?).unwrap_or_default())
        };
        let version = std::str::from_utf8(version).ok().filter(|v| !v.is_empty() && v.len() < 256)?;
        let mut info = BuildInfo { go_version: version.to_owned(), ..BuildInfo::default() };
        // Sixteen sentinel bytes on either side.
        if let Some(text) = modules.get(16..modules.len().saturating_sub(16)) {
            info.parse_modules(&String::from_utf8_lossy(text));
        }
        Some(info)
    }

    fn parse_modules(&mut self, text: &str) {
        let mut last_is_main = true;
        for line in text.lines() {
            let mut fields = line.split('\t');
            let kind = fields.next().unwrap_or_default();
            let mut field = || fields.next().unwrap_or_default().to_owned();
            match kind {
                "path" => self.path = field(),
                "mod" => {
                    self.main = Dependency { path: field(), version: field(), replaced_by: None };
                    last_is_main = true;
                }
                "dep" => {
                    self.deps.push(Dependency { path: field(), version: field(), replaced_by: None });
                    last_is_main = false;
                }
                "=>" => {
                    let by = Some((field(), field()));
                    match self.deps.last_mut() {
                        Some(dep) if !last_is_main => dep.replaced_by = by,
                        _ => self.main.replaced_by = by,
                    }
                }
                "build" => {
                    if let Some((k, v)) = line.strip_prefix("build\t").and_then(|l| l.split_once('=')) {
                        let unquote = |s: &str| s.trim_matches('"').to_owned();
                        self.settings.push((unquote(k), unquote(v)));
                    }
                }
                _ => {}
            }
        }
    }
}

/// A uvarint length and that many bytes; answers them and what follows.
fn counted(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, n) = bytes::uvarint(data)?;
    if len > MAX_TEXT {
        return None;
    }
    let rest = data.get(n..)?;
    Some((rest.get(..len as usize)?, &rest[len as usize..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(version: &str, modules: &str) -> Vec<u8> {
        let mut data = MARK.to_vec();
        data.extend([8, 2]);
        data.resize(32, 0);
        let wrapped = format!("{}{modules}{}", "s".repeat(16), "e".repeat(16));
        for text in [version, &wrapped] {
            let mut n = text.len();
            while n >= 0x80 {
                data.push(n as u8 | 0x80);
                n >>= 7;
            }
            data.push(n as u8);
            data.extend(text.bytes());
        }
        data
    }

    #[test]
    fn modules_replacements_and_settings() {
        let text = "path\tcmd/x\nmod\texample.com/x\t(devel)\t\ndep\ta.b/c\tv1.2.3\th1:zz=\n=>\ta.b/fork\tv9.0.0\th1:y=\nbuild\t-buildmode=exe\nbuild\tCGO_ENABLED=0\n";
        let info = BuildInfo::parse(&sample("go1.26.8", text), |_| None).expect("valid");
        assert_eq!(info.go_version, "go1.26.8");
        assert_eq!((&*info.path, &*info.main.path, &*info.main.version), ("cmd/x", "example.com/x", "(devel)"));
        assert_eq!(info.deps.len(), 1);
        assert_eq!(info.deps[0].replaced_by, Some(("a.b/fork".into(), "v9.0.0".into())));
        assert_eq!(info.setting("CGO_ENABLED"), Some("0"));
    }

    #[test]
    fn cut_short_anywhere_it_does_not_panic() {
        let data = sample("go1.26.8", "path\tx\nmod\tx\t(devel)\t\n");
        for n in 0..data.len() {
            let _ = BuildInfo::parse(&data[..n], |_| None);
        }
    }
}
