//! runtime::layout: offsets, sizes and constants of runtime structures, resolved once per target.
//! Sources: DWARF of the binary (`from_dwarf`) or the embedded table (`from_table`); one `Layout` either way.
//! Ask for the member, not for the release. Hot loops index by enum: no names, no hashing.

mod from_dwarf;
mod from_table;
mod wanted;

pub use from_dwarf::wants;
pub use from_table::{arch_name, releases};
pub use wanted::{Constant, Field, Global, Need, Struct};

/// Where a member lies in its struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldLoc {
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// Size of the member in bytes.
    pub width: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayoutSource {
    Dwarf,
    Table,
}

/// Layouts of one Go release as found in one binary.
#[derive(Clone, Debug)]
pub struct Layout {
    pub source: LayoutSource,
    /// The minor release whose rows of the table were used; `None` with DWARF.
    pub minor: Option<u32>,
    pub(crate) fields: Vec<Option<FieldLoc>>,
    pub(crate) sizes: Vec<Option<u32>>,
    pub(crate) constants: Vec<Option<i64>>,
    /// Wait reason texts by number (`runtime.waitReason*`); empty where unknown.
    pub wait_reasons: Vec<String>,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum LayoutError {
    #[error(
        "the layout of {struct_name} has no member {member} (from {source_name}); this Go release may be newer than gosleuth knows: try --assume-go or --layout"
    )]
    MissingField { struct_name: &'static str, member: &'static str, source_name: &'static str },
    #[error("the layout table has no rows for Go 1.{minor} on {arch}")]
    UnknownRelease { minor: u32, arch: &'static str },
}

impl Layout {
    pub fn empty(source: LayoutSource) -> Layout {
        Layout {
            source,
            minor: None,
            fields: vec![None; Field::COUNT],
            sizes: vec![None; Struct::COUNT],
            constants: vec![None; Constant::COUNT],
            wait_reasons: Vec::new(),
        }
    }

    /// Takes structs and constants that this layout lacks as a whole from another one.
    pub(super) fn fill_from(&mut self, other: &Layout) {
        for &f in Field::ALL {
            if self.sizes[f.owner() as usize].is_none() {
                self.fields[f as usize] = other.fields[f as usize];
            }
        }
        for (mine, theirs) in self.sizes.iter_mut().zip(&other.sizes) {
            *mine = mine.or(*theirs);
        }
        for (mine, theirs) in self.constants.iter_mut().zip(&other.constants) {
            *mine = mine.or(*theirs);
        }
    }

    /// The member's place, `None` where this release has no such member.
    pub fn field(&self, field: Field) -> Option<FieldLoc> {
        self.fields[field as usize]
    }

    pub fn has(&self, field: Field) -> bool {
        self.field(field).is_some()
    }

    /// Like `field`, with an error that names the member.
    pub fn need(&self, field: Field) -> Result<FieldLoc, LayoutError> {
        self.field(field).ok_or(LayoutError::MissingField {
            struct_name: field.owner().name(),
            member: field.path(),
            source_name: match self.source {
                LayoutSource::Dwarf => "DWARF",
                LayoutSource::Table => "the table",
            },
        })
    }

    pub fn size(&self, s: Struct) -> Option<u64> {
        self.sizes[s as usize].map(u64::from)
    }

    pub fn constant(&self, c: Constant) -> Option<i64> {
        self.constants[c as usize]
    }
}
