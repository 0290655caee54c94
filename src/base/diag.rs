//! Soft failures: things that went wrong but did not stop the answer. They travel with the report.

use std::{collections::BTreeMap, fmt::Display, sync::Mutex};

use serde::Serialize;

/// One kind of soft failure: how often, and the first example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub kind: &'static str,
    pub count: u64,
    pub example: String,
}

/// Collects soft failures; may be shared between threads. The number of kinds is bounded by the code (kinds are
/// static words), so a hostile target cannot make this grow.
#[derive(Debug, Default)]
pub struct Diagnostics {
    kinds: Mutex<BTreeMap<&'static str, (u64, String)>>,
}

impl Diagnostics {
    /// Counts one failure; `example` is rendered only for the first of its kind.
    pub fn note(&self, kind: &'static str, example: impl Display) {
        self.note_many(kind, 1, example);
    }

    pub fn note_many(&self, kind: &'static str, count: u64, example: impl Display) {
        if count == 0 {
            return;
        }
        let mut kinds = self.kinds.lock().unwrap_or_else(|e| e.into_inner());
        kinds.entry(kind).and_modify(|(n, _)| *n += count).or_insert_with(|| {
            let example = example.to_string();
            tracing::debug!(kind, example, "diagnostic");
            (count, example)
        });
    }

    pub fn list(&self) -> Vec<Diagnostic> {
        let kinds = self.kinds.lock().unwrap_or_else(|e| e.into_inner());
        kinds
            .iter()
            .map(|(&kind, (count, example))| Diagnostic { kind, count: *count, example: example.clone() })
            .collect()
    }

    pub fn count(&self, kind: &str) -> u64 {
        let kinds = self.kinds.lock().unwrap_or_else(|e| e.into_inner());
        kinds.get(kind).map_or(0, |(n, _)| *n)
    }
}
