//! report: the envelope of every answer: schema version, tool, target, hold, timing, diagnostics, the result inside.
//! The field names are a contract (docs/JSON.md): add, never rename.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use crate::{
    base::diag::Diagnostic,
    target::{Arch, Hold, TargetKind},
};

pub const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Tool {
    pub name: &'static str,
    pub version: &'static str,
}

impl Tool {
    pub const OURS: Tool = Tool { name: "gosleuth", version: env!("CARGO_PKG_VERSION") };
}

#[derive(Debug, Serialize)]
pub struct TargetInfo {
    pub kind: TargetKind,
    pub pid: Option<u32>,
    pub exe: Option<PathBuf>,
    /// This and what follows is null of a profile, which does not tell.
    pub go_version: Option<String>,
    pub go_version_source: Option<crate::image::FoundBy>,
    pub arch: Option<Arch>,
    pub has_dwarf: Option<bool>,
    pub has_symtab: Option<bool>,
    pub layout_source: Option<crate::runtime::layout::LayoutSource>,
}

impl TargetInfo {
    /// Of a pprof file, with the program's path as it names it.
    pub fn of_profile(exe: Option<PathBuf>) -> TargetInfo {
        TargetInfo {
            kind: TargetKind::Profile,
            pid: None,
            exe,
            go_version: None,
            go_version_source: None,
            arch: None,
            has_dwarf: None,
            has_symtab: None,
            layout_source: None,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Envelope<R> {
    pub schema_version: u32,
    pub tool: Tool,
    pub command: &'static str,
    pub target: TargetInfo,
    pub hold: Hold,
    pub timing_ms: BTreeMap<&'static str, f64>,
    pub diagnostics: Vec<Diagnostic>,
    pub result: R,
}
