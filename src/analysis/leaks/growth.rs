//! Two and more looks at one process: what grew. Suspects are matched by pattern, holder and type; addresses may change.

use std::time::Instant;

use super::{Certainty, Suspect, Thresholds};
use crate::{analysis::trend, base::units};

/// Suspects of one look, and when the process was held for it.
pub struct Look {
    pub at: Instant,
    pub suspects: Vec<Suspect>,
}

/// What a suspect must have gained to count: a handful of objects comes and goes in any program.
const LEAST_GAIN: u64 = 1 << 12;
/// A pile below the smallest that one look tells is told where it gained this for certain.
const SMALL_GAIN: u64 = 1 << 16;

impl Thresholds {
    /// What looks are taken with whose growth is compared afterwards: piles that are small yet.
    pub fn for_growth(self) -> Thresholds {
        Thresholds { bytes: (self.bytes / 16).max(1), permille: self.permille.min(5), ..self }
    }
}

/// The last look's suspects with what the earlier ones say of their growth: from three looks on the line that fits best,
/// with its 95 % interval (`analysis::trend`); of two looks the difference. What grew for certain is likely a leak and comes
/// first; what did not grow is only large, and left out if smaller than `limits`.
pub fn compare(mut looks: Vec<Look>, limits: Thresholds, live_bytes: u64) -> Vec<Suspect> {
    let Some(last) = looks.pop() else { return Vec::new() };
    if looks.is_empty() {
        return last.suspects;
    }
    let mut out = last.suspects;
    let smallest = limits.smallest(live_bytes);
    out.retain_mut(|s| {
        let mut points: Vec<(f64, f64)> = Vec::new();
        for l in &looks {
            // A look that does not know the pile tells nothing of its size.
            if let Some(x) = find(&l.suspects, s) {
                points.push((l.at.duration_since(looks[0].at).as_secs_f64() / 3600.0, size(x) as f64));
            }
        }
        points.push((last.at.duration_since(looks[0].at).as_secs_f64() / 3600.0, size(s) as f64));
        let gained = judge(s, &points, looks.len() + 1);
        // Crowds of goroutines are told whatever they hold.
        let small = size(s) < smallest && s.stack_bytes == 0;
        !small || (s.growth_is_certain == Some(true) && gained >= SMALL_GAIN as f64)
    });
    let growing = |s: &Suspect| s.growth_is_certain == Some(true) && s.growth_bytes_per_hour > Some(0.0);
    out.sort_by_key(|s| std::cmp::Reverse((s.certainty, growing(s), size(s))));
    out
}

/// Writes the growth into `s`; bytes gained between the first and the last point.
fn judge(s: &mut Suspect, points: &[(f64, f64)], looks: usize) -> f64 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
    let (hours, gained) = (last.0 - first.0, last.1 - first.1);
    let enough = gained >= LEAST_GAIN as f64 && gained * 1000.0 >= last.1;
    if points.len() < looks {
        s.evidence.push(format!("{} of {looks} looks saw it", points.len()));
    }
    let (at, of): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    if let Some(t) = trend::fit(&at, &of) {
        s.growth_bytes_per_hour = Some(t.bytes_per_hour);
        s.growth_interval = Some([t.low, t.high]);
        s.growth_is_certain = Some(t.certain && (t.bytes_per_hour < 0.0 || enough));
        if t.certain && t.low > 0.0 && enough {
            s.certainty = s.certainty.max(Certainty::Likely);
            let gained = units::bytes(gained as u64);
            let (n, span) = (points.len(), units::duration_ns((hours * 3.6e12) as u64));
            s.evidence.push(format!("it grew by {gained} over {n} looks in {span}, more than chance explains"));
            return last.1 - first.1;
        }
    } else if points.len() == 2 && looks == 2 && hours > 0.0 {
        s.growth_bytes_per_hour = Some(gained / hours);
        if enough && first.1 > 0.0 {
            s.certainty = s.certainty.max(Certainty::Likely);
            s.evidence.push("it grew between the looks".into());
        }
    }
    if gained <= 0.0 && points.len() == looks && s.certainty < Certainty::Sure {
        s.certainty = Certainty::Possible;
        s.evidence.push("it did not grow between the looks".into());
    } else if s.growth_is_certain == Some(false) {
        s.evidence.push("what changed between the looks may be chance".into());
    }
    gained
}

fn size(s: &Suspect) -> u64 {
    s.retained_bytes + s.stack_bytes
}

/// The same pile in another look: its main type may have changed where the holder has one pile of the pattern.
fn find<'l>(list: &'l [Suspect], s: &Suspect) -> Option<&'l Suspect> {
    let alike = |x: &&Suspect| x.pattern == s.pattern && x.holder == s.holder;
    list.iter().find(|x| alike(x) && x.type_name == s.type_name).or_else(|| {
        let mut all = list.iter().filter(alike);
        all.next().filter(|_| all.next().is_none())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::Pattern, *};

    fn suspect(holder: &str, bytes: u64) -> Suspect {
        Suspect {
            pattern: Pattern::GlobalMap,
            holder: holder.into(),
            type_name: "main.T".into(),
            objects: 1,
            retained_bytes: bytes,
            share_permille: 0,
            stack_bytes: 0,
            growth_bytes_per_hour: None,
            growth_interval: None,
            growth_is_certain: None,
            stand: None,
            certainty: Certainty::Possible,
            evidence: Vec::new(),
            path: Vec::new(),
            allocated_at: None,
            advice: String::new(),
        }
    }

    /// Looks half a minute apart; `rows`: holder and its MiB in each look, 0 where the look does not know it.
    fn looks(rows: &[(&str, [u64; 5])]) -> Vec<Look> {
        let begin = Instant::now();
        let of = |i: usize| {
            let known = rows.iter().filter(move |r| r.1[i] > 0);
            known.map(|r| suspect(r.0, r.1[i] << 20)).collect()
        };
        (0..5).map(|i| Look { at: begin + Duration::from_secs(30 * i as u64), suspects: of(i) }).collect()
    }

    #[test]
    fn what_grows_comes_first_and_noise_does_not_count() {
        let rows = [
            ("large", [500, 500, 500, 500, 500]),
            ("noisy", [80, 140, 70, 130, 110]),
            ("line", [10, 20, 30, 40, 50]),
            ("late", [0, 0, 5, 7, 9]),
        ];
        let out = compare(looks(&rows), Thresholds::default(), 0);
        let names: Vec<&str> = out.iter().map(|s| s.holder.as_str()).collect();
        assert_eq!(names, ["line", "late", "large", "noisy"]);
        // 10 MiB in 30 seconds.
        let hourly = 10.0 * 120.0 * f64::from(1 << 20);
        assert!((out[0].growth_bytes_per_hour.unwrap_or_default() / hourly - 1.0).abs() < 1e-6);
        assert_eq!((out[0].certainty, out[0].growth_is_certain), (Certainty::Likely, Some(true)));
        let [low, high] = out[3].growth_interval.expect("an interval");
        assert!(low < 0.0 && high > 0.0 && out[3].certainty == Certainty::Possible);
        assert!(out[1].evidence.iter().any(|e| e == "3 of 5 looks saw it"));
    }

    #[test]
    fn small_piles_are_told_only_where_they_grow() {
        let limits = Thresholds { bytes: 64 << 20, ..Thresholds::default() };
        let out = compare(looks(&[("still", [9; 5]), ("line", [1, 2, 3, 4, 5])]), limits, 0);
        assert_eq!(out.iter().map(|s| s.holder.as_str()).collect::<Vec<_>>(), ["line"]);
    }
}
