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

#[derive(Debug, Serialize)]
pub struct TargetInfo {
    pub kind: TargetKind,
    pub pid: Option<u32>,
    pub exe: Option<PathBuf>,
    pub go_version: String,
    pub go_version_source: crate::image::FoundBy,
    pub arch: Arch,
    pub has_dwarf: bool,
    pub has_symtab: bool,
    pub layout_source: crate::runtime::layout::LayoutSource,
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
