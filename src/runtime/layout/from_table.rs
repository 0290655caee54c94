//! Layouts from the embedded table, for binaries without DWARF. scripts/layouts writes the table from the DWARF of
//! programs built by each release.
//!
//! A line: kind, architecture (`*`: both), key, then `minor=value` from which minor release on the value holds; `-` says
//! that the release has no such thing. `minor.patch=value` where it changed inside a minor release. Fields of a line are
//! separated by tabs.
//!
//! | kind  | key | value |
//! |-------|-----|-------|
//! | release | architecture | the patch release that was read, one line of releases |
//! | size  | struct | bytes |
//! | field | struct, blank, member path | offset/width |
//! | const | constant | number |
//! | wait  | number | text |

use std::{collections::HashMap, sync::OnceLock};

use super::{Constant, Field, FieldLoc, Layout, LayoutError, LayoutSource, Struct};
use crate::target::Arch;

const TABLE: &str = include_str!("table.txt");

/// Numbers of wait reasons beyond this are not in any release.
const MAX_WAIT_REASONS: usize = 256;

/// What the table calls an architecture.
pub fn arch_name(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "amd64",
        Arch::Arm64 => "arm64",
    }
}

/// The first of the alternatives of a wanted name: the key of its row.
fn key(name: &'static str) -> &'static str {
    name.split('|').next().unwrap_or(name)
}

/// A release: minor and patch number.
type Release = (u32, u32);

/// Releases and the value from each on, ascending.
type Row = Vec<(Release, &'static str)>;

/// `23` or `23.2`.
fn release(text: &str) -> Option<Release> {
    let (minor, patch) = text.split_once('.').unwrap_or((text, "0"));
    Some((minor.parse().ok()?, patch.parse().ok()?))
}

/// The table, split into rows: built once, on first use (some hundred microseconds).
struct Table {
    rows: HashMap<(&'static str, &'static str, &'static str), Row>,
}

fn table() -> &'static Table {
    static TABLE_ROWS: OnceLock<Table> = OnceLock::new();
    TABLE_ROWS.get_or_init(|| {
        let mut rows = HashMap::new();
        for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
            let mut parts = line.split('\t');
            let (Some(kind), Some(arch), Some(key)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let row = parts
                .filter_map(|cell| {
                    let (from, value) = cell.split_once('=')?;
                    Some((release(from)?, value))
                })
                .collect();
            rows.insert((kind, arch, key), row);
        }
        Table { rows }
    })
}

impl Table {
    /// The value of a key in a release; `None` where the release lacks it or the table does not know the key.
    fn value(
        &self,
        kind: &'static str,
        arch: &'static str,
        key: &'static str,
        release: Release,
    ) -> Option<&'static str> {
        let row = self.rows.get(&(kind, "*", key)).or_else(|| self.rows.get(&(kind, arch, key)))?;
        row.iter().rev().find(|(from, _)| *from <= release).map(|(_, v)| *v).filter(|v| *v != "-")
    }
}

/// Minor releases that the table has for an architecture, ascending.
pub fn releases(arch: Arch) -> Vec<u32> {
    table()
        .rows
        .get(&("release", "*", arch_name(arch)))
        .map(|r| r.iter().map(|((minor, _), _)| *minor).collect())
        .unwrap_or_default()
}

impl Layout {
    /// The layout of a release, of the last patch release where `patch` is not known; an error where the table does not
    /// have the minor release.
    pub fn from_table(minor: u32, patch: Option<u32>, arch: Arch) -> Result<Layout, LayoutError> {
        let arch_name = arch_name(arch);
        if !releases(arch).contains(&minor) {
            return Err(LayoutError::UnknownRelease { minor, arch: arch_name });
        }
        let t = table();
        let release = (minor, patch.unwrap_or(u32::MAX));
        let mut layout = Layout { minor: Some(minor), ..Layout::empty(LayoutSource::Table) };
        for &s in Struct::ALL {
            layout.sizes[s as usize] = t.value("size", arch_name, key(s.name()), release).and_then(|v| v.parse().ok());
        }
        for &f in Field::ALL {
            layout.fields[f as usize] = t.value("field", arch_name, field_key(f), release).and_then(|v| {
                let (offset, width) = v.split_once('/')?;
                Some(FieldLoc { offset: offset.parse().ok()?, width: width.parse().ok()? })
            });
        }
        for &c in Constant::ALL {
            layout.constants[c as usize] =
                t.value("const", arch_name, key(c.name()), release).and_then(|v| v.parse().ok());
        }
        for (&(kind, _, number), row) in &t.rows {
            let (true, Ok(i)) = (kind == "wait", number.parse::<usize>()) else { continue };
            let text = row.iter().rev().find(|(from, _)| *from <= release).map(|(_, v)| *v).filter(|v| *v != "-");
            if let Some(text) = text.filter(|_| i < MAX_WAIT_REASONS) {
                if layout.wait_reasons.len() <= i {
                    layout.wait_reasons.resize(i + 1, String::new());
                }
                layout.wait_reasons[i] = text.to_owned();
            }
        }
        Ok(layout)
    }

    /// The layout as rows of the table (kind, key, value): what is known only.
    pub fn rows(&self) -> Vec<(&'static str, String, String)> {
        let mut out = Vec::new();
        for &s in Struct::ALL {
            out.extend(self.size(s).map(|n| ("size", key(s.name()).to_owned(), n.to_string())));
        }
        for &f in Field::ALL {
            out.extend(self.field(f).map(|l| ("field", field_key(f).to_owned(), format!("{}/{}", l.offset, l.width))));
        }
        for &c in Constant::ALL {
            out.extend(self.constant(c).map(|v| ("const", key(c.name()).to_owned(), v.to_string())));
        }
        for (i, text) in self.wait_reasons.iter().enumerate() {
            out.push(("wait", i.to_string(), text.clone()));
        }
        out
    }
}

/// Key of a member's row.
fn field_key(f: Field) -> &'static str {
    static KEYS: OnceLock<Vec<String>> = OnceLock::new();
    let keys = KEYS
        .get_or_init(|| Field::ALL.iter().map(|f| format!("{} {}", key(f.owner().name()), key(f.path()))).collect());
    &keys[f as usize]
}
