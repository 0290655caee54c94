//! Two and more looks at one process: what grew. Suspects are matched by pattern, holder and type; addresses may change.

use std::time::Instant;

use super::{Certainty, Suspect};

/// Suspects of one look, and when the process was held for it.
pub struct Look {
    pub at: Instant,
    pub suspects: Vec<Suspect>,
}

/// The last look's suspects with what the earlier ones say of their growth, in bytes per hour (line through the first
/// and the last look). What grew every time is likely a leak; what did not grow is only large.
pub fn compare(mut looks: Vec<Look>) -> Vec<Suspect> {
    let Some(last) = looks.pop() else { return Vec::new() };
    if looks.is_empty() {
        return last.suspects;
    }
    let mut out = last.suspects;
    for s in &mut out {
        let size = |x: &Suspect| x.retained_bytes + x.stack_bytes;
        let mut sizes: Vec<u64> =
            looks.iter().map(|l| l.suspects.iter().find(|x| same(x, s)).map_or(0, size)).collect();
        sizes.push(size(s));
        let seconds = last.at.duration_since(looks[0].at).as_secs_f64();
        let gained = size(s) as f64 - sizes[0] as f64;
        if seconds > 0.0 {
            s.growth_bytes_per_hour = Some(gained / seconds * 3600.0);
        }
        let always = sizes.windows(2).all(|w| w[0] < w[1]);
        // A handful of objects comes and goes in any program.
        let counts = gained >= (1 << 12) as f64 && gained * 1000.0 >= size(s) as f64;
        if always && counts && sizes[0] > 0 {
            s.certainty = s.certainty.max(Certainty::Likely);
            let n = sizes.len() - 1;
            s.evidence.push(if n == 1 {
                "it grew between the looks".into()
            } else {
                format!("it grew from each of {} looks to the next", n + 1)
            });
        } else if gained <= 0.0 && s.certainty < Certainty::Sure {
            s.certainty = Certainty::Possible;
            s.evidence.push("it did not grow between the looks".into());
        }
    }
    out.sort_by_key(|s| std::cmp::Reverse((s.certainty, s.retained_bytes)));
    out
}

fn same(a: &Suspect, b: &Suspect) -> bool {
    a.pattern == b.pattern && a.holder == b.holder && a.type_name == b.type_name
}
