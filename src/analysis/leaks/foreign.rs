//! Memory that Go's heap does not explain: what C code or mmap holds.

use super::{Certainty, Pattern, Suspect, Thresholds};
use crate::{
    analysis::ledger::{Ledger, Owner},
    base::units,
};

/// Smallest share of the resident memory, in parts per thousand.
const SHARE: u64 = 250;
/// Anonymous mappings below this are buffers that any C library makes.
const SMALL: u64 = 1 << 20;

/// What C and mmap hold, if that is a good part of the process. One look cannot tell whether it grows.
pub fn suspect(ledger: &Ledger, limits: Thresholds) -> Option<Suspect> {
    let resident = ledger.resident_bytes?;
    let of = |owner| ledger.rows.iter().filter(|r| r.owner == owner).map(|r| r.bytes).sum::<u64>();
    let (malloc, mapped) = (of(Owner::CHeap), of(Owner::OtherAnonymous));
    let bytes = malloc + if mapped >= SMALL { mapped } else { 0 };
    if bytes < limits.bytes.max(resident / 1000 * SHARE) {
        return None;
    }
    let (holder, evidence) = match malloc {
        0 => ("mapped memory", format!("{} in anonymous mappings that are not the Go runtime's", units::bytes(mapped))),
        _ => {
            ("c", format!("{} in the heap of malloc, {} in other mappings", units::bytes(malloc), units::bytes(mapped)))
        }
    };
    Some(Suspect {
        pattern: Pattern::CgoMemory,
        holder: holder.into(),
        type_name: String::new(),
        objects: 0,
        retained_bytes: bytes,
        share_permille: 0,
        stack_bytes: 0,
        growth_bytes_per_hour: None,
        growth_interval: None,
        growth_is_certain: None,
        stand: None,
        certainty: Certainty::Possible,
        evidence: vec![
            format!("{} of {} resident memory is not Go's", units::bytes(bytes), units::bytes(resident)),
            evidence,
        ],
        path: Vec::new(),
        allocated_at: None,
        advice: Pattern::CgoMemory.advice().to_owned(),
    })
}
