//! Growth between pprof profiles: by place of allocation, function, line and stack, with how far samples can be trusted.
//!
//! A heap profile holds samples, scaled by the writer (runtime/pprof/protomem.go scaleHeapSample): an object of s bytes is taken with the chance
//! p = 1 - exp(-s/rate), and n taken ones stand for n/p. The chance is undone here, so that the number of samples behind a figure is
//! known; the variance of such a figure is n (1-p)/p^2 objects squared. Between two looks of one process an object that
//! is in both changes nothing, so only samples that came or went count: those allocated meanwhile (the alloc figures
//! tell) and those freed. Cost: a few passes over the buckets a list.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::trend::{self, Trend, Z95};
use crate::profile::{Line, Profile, Series};

/// What a profile is of, by its types of values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileKind {
    Heap,
    Goroutine,
    Cpu,
    Contention,
    Other,
}

impl ProfileKind {
    pub fn of(p: &Profile) -> ProfileKind {
        match () {
            _ if p.has("inuse_space") => ProfileKind::Heap,
            _ if p.has("goroutine") || p.has("goroutineleak") => ProfileKind::Goroutine,
            _ if p.has("cpu") => ProfileKind::Cpu,
            _ if p.has("contentions") => ProfileKind::Contention,
            _ => ProfileKind::Other,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            ProfileKind::Heap => "heap profile",
            ProfileKind::Goroutine => "goroutine profile",
            ProfileKind::Cpu => "CPU profile",
            ProfileKind::Contention => "mutex or block profile",
            ProfileKind::Other => "profile",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frame {
    pub function: String,
    pub file: String,
    pub line: u32,
}

/// Change an hour: a line through all looks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    pub per_hour: f64,
    /// The 95 % interval: of the fit, and of the samples.
    pub low: f64,
    pub high: f64,
    /// The interval does not contain zero.
    pub certain: bool,
}

/// One place, function, line or stack over all looks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub name: String,
    pub file: String,
    /// Absent where a row has several.
    pub line: Option<u32>,
    /// For each type of value, what it is in each look, without what it calls.
    pub flat: BTreeMap<String, Vec<i64>>,
    /// The same with what it calls; functions and lines only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cum: BTreeMap<String, Vec<i64>>,
    /// From the first look to the last, of the type that the list is ranked by.
    pub growth: i64,
    /// The same of `cum`, and the margin of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cum_growth: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cum_margin: Option<f64>,
    /// Half of the 95 % interval of `growth` by sampling; 0 where nothing is sampled, absent where the profile does not tell.
    pub margin: Option<f64>,
    /// Samples that came or went between the first look and the last: what the growth rests on. Absent where nothing is sampled.
    pub samples: Option<u64>,
    /// More than sampling explains, and with three looks more than the ups and downs do.
    pub certain: bool,
    /// Three looks or more.
    pub rate: Option<Rate>,
    /// The innermost step of `stack`, which is written out for rows that are kept only.
    #[serde(skip)]
    step: Option<u32>,
    /// Innermost first: of a stack itself, of a place the way by which most of its growth came.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<Frame>,
    /// How much of the place's growth came that way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_growth: Option<i64>,
    /// Ways by which it grew or shrank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stacks: Option<u64>,
}

/// Places whose change may be noise: they are not ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unclear {
    pub sites: u64,
    pub growth: i64,
}

#[derive(Clone, Debug, Serialize)]
pub struct ProfileGrowth {
    pub profile: ProfileKind,
    /// What is ranked by, and its unit.
    pub sample_type: String,
    pub unit: String,
    /// Hours from the first look to the last.
    pub hours: f64,
    /// The counters of allocations never fall, so that the looks can be of one process: only then are samples in both looks
    /// taken for the same objects. Absent where the profile has no such counters.
    pub may_be_one_process: Option<bool>,
    pub total: Row,
    /// By the innermost function that is not the runtime's, and its line.
    pub by_site: Vec<Row>,
    pub unclear: Unclear,
    pub by_function: Vec<Row>,
    pub by_line: Vec<Row>,
    pub by_stack: Vec<Row>,
    /// Heap profiles: what was allocated between the looks, freed or not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub churn_by_site: Vec<Row>,
}

/// Is it the runtime's own, and so no place that allocates or waits? Of contention the locks themselves are none either.
fn is_runtime(function: &str, of: ProfileKind) -> bool {
    let own: &[&str] = match of {
        ProfileKind::Contention => &["runtime.", "internal/runtime/", "sync.", "internal/sync."],
        _ => &["runtime.", "internal/runtime/"],
    };
    own.iter().any(|p| function.starts_with(p))
}

/// How the values of one type come from samples.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Sampling {
    /// Each one is counted.
    Whole,
    /// Of the heap, by bytes in use (where the type is of what is in use) and allocated; does the type count bytes?
    Heap {
        live: Option<usize>,
        made: usize,
        bytes: bool,
    },
    /// Each sample stands for so much.
    Each(f64),
    Unknown,
}

/// What samples say of the change from one look to the next: variance, and samples that came or went.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    variance: f64,
    samples: f64,
}

impl Doubt {
    /// What one sample more or less would change.
    fn each(&self) -> f64 {
        if self.samples > 0.0 { self.variance / self.samples } else { 0.0 }
    }
}

/// Samples that are added to those that were seen before their spread is believed: with none or a few, it says nothing (so many
/// make the interval right for as few as five: Agresti and Coull).
const FEW: f64 = 2.0;

/// What every list needs.
struct Compare<'s> {
    series: &'s Series,
    profile: ProfileKind,
    hours: &'s [f64],
    /// Bytes from sample to sample in each look.
    rates: Vec<f64>,
    one_process: bool,
}

impl Compare<'_> {
    fn values(&self, bucket: usize, kind: usize) -> Vec<i64> {
        self.series.values(bucket, kind).collect()
    }

    fn sampling(&self, kind: usize, of: ProfileKind) -> Sampling {
        let s = self.series;
        let name = s.strings.text(s.kinds[kind].name);
        let whole = self.rates.iter().all(|&r| r <= 1.0);
        match (of, s.kind("inuse_space"), s.kind("alloc_space")) {
            (ProfileKind::Goroutine, ..) => Sampling::Whole,
            (ProfileKind::Heap, ..) if whole => Sampling::Whole,
            (ProfileKind::Heap, Some(live), Some(made)) => {
                let live = name.starts_with("inuse").then_some(live);
                Sampling::Heap { live, made, bytes: name.ends_with("_space") }
            }
            (ProfileKind::Cpu, ..) => {
                let period = self.rates.first().copied().unwrap_or(1.0);
                Sampling::Each(if name == "cpu" { period } else { 1.0 })
            }
            _ => Sampling::Unknown,
        }
    }

    /// Bytes of an object of this bucket: by its label, else the mean of what was allocated.
    fn size(&self, bucket: usize, space: usize) -> f64 {
        let b = &self.series.buckets[bucket];
        if b.size > 0 {
            return b.size as f64;
        }
        let sum = |k: usize| self.series.values(bucket, k).map(|n| n as f64).sum::<f64>();
        let objects = self.series.kind("alloc_objects").map_or(0.0, sum);
        (sum(space) / objects.max(1.0)).abs().max(1.0)
    }

    /// For each step from look to look (or from the first to the last, as one).
    fn doubt(&self, bucket: usize, kind: usize, how: Sampling, pairs: &[(usize, usize)]) -> Vec<Doubt> {
        let counts = |k: usize| self.values(bucket, k);
        let chance = |look: usize, size: f64| {
            let rate = self.rates[look];
            if rate <= 1.0 { 1.0 } else { (1.0 - (-size / rate).exp()).max(1e-12) }
        };
        match how {
            Sampling::Whole | Sampling::Unknown => vec![Doubt::default(); pairs.len()],
            Sampling::Each(worth) => {
                let v = counts(kind);
                let one = |&(a, b): &(usize, usize)| {
                    let samples = (v[a].unsigned_abs() as f64 + v[b].unsigned_abs() as f64) / worth.max(1.0);
                    Doubt { variance: samples * worth * worth, samples }
                };
                pairs.iter().map(one).collect()
            }
            Sampling::Heap { live, made, bytes } => {
                let size = self.size(bucket, made);
                // Bytes and not objects: these were cut off at a whole number when they were scaled.
                let taken = |k: usize| -> Vec<f64> {
                    let raw = |(l, n): (usize, &i64)| (*n as f64 * chance(l, size) / size).abs().round();
                    counts(k).iter().enumerate().map(raw).collect()
                };
                let (made, live) = (taken(made), live.map(taken));
                let one = |&(a, b): &(usize, usize)| {
                    let born = (made[b] - made[a]).max(0.0);
                    let samples = match (&live, self.one_process) {
                        (None, true) => born,
                        (None, false) => made[a] + made[b],
                        (Some(live), false) => live[a] + live[b],
                        (Some(live), true) => {
                            let died = (born - (live[b] - live[a])).max(0.0);
                            (born + died).min(live[a] + live[b])
                        }
                    };
                    let p = chance(a, size).min(chance(b, size));
                    let each = (1.0 - p) / (p * p) * if bytes { size * size } else { 1.0 };
                    Doubt { variance: samples * each, samples }
                };
                pairs.iter().map(one).collect()
            }
        }
    }

    /// The figures of a row whose own buckets are `own`, ranked by `kind`.
    fn row(&self, own: &[usize], kind: usize, how: Sampling) -> Row {
        let s = self.series;
        let last = s.looks - 1;
        let flat = self.sums(own);
        let values = &flat[kind];
        let growth = values[last].saturating_sub(values[0]);
        let ends = [(0, last)];
        let steps: Vec<(usize, usize)> = (1..s.looks).map(|l| (l - 1, l)).collect();
        let mut whole = Doubt::default();
        let mut by_step = vec![Doubt::default(); steps.len()];
        let mut one = 0f64;
        for &b in own {
            let d = self.doubt(b, kind, how, &ends)[0];
            whole.variance += d.variance;
            whole.samples += d.samples;
            one = one.max(d.each());
            if s.looks > 2 {
                for (sum, d) in by_step.iter_mut().zip(self.doubt(b, kind, how, &steps)) {
                    sum.variance += d.variance;
                    sum.samples += d.samples;
                }
            }
        }
        let spare = FEW * one;
        let margin = (how != Sampling::Unknown).then(|| Z95 * (whole.variance + spare).sqrt());
        let floats: Vec<f64> = values.iter().map(|&v| v as f64).collect();
        let variances: Vec<f64> = by_step.iter().map(|d| d.variance + spare / steps.len() as f64).collect();
        let fit = trend::fit(self.hours, &floats).map(|t: Trend| {
            let doubt = trend::slope_variance(self.hours, &variances);
            t.widened(Z95 * doubt.sqrt())
        });
        let rate = fit.map(|t| Rate { per_hour: t.bytes_per_hour, low: t.low, high: t.high, certain: t.certain });
        let beyond = growth != 0 && margin.is_none_or(|m| growth.unsigned_abs() as f64 > m);
        let agrees = rate.is_none_or(|r| r.certain && (r.per_hour > 0.0) == (growth > 0));
        Row {
            growth,
            margin,
            samples: (!matches!(how, Sampling::Whole | Sampling::Unknown)).then_some(whole.samples as u64),
            certain: beyond && agrees,
            rate,
            flat: self.named(flat),
            ..Row::default()
        }
    }

    /// Values of each kind in each look.
    fn sums(&self, buckets: &[usize]) -> Vec<Vec<i64>> {
        let mut out = vec![vec![0i64; self.series.looks]; self.series.kinds.len()];
        for &b in buckets {
            for (kind, sums) in out.iter_mut().enumerate() {
                for (sum, v) in sums.iter_mut().zip(self.series.values(b, kind)) {
                    *sum = sum.saturating_add(v);
                }
            }
        }
        out
    }

    fn named(&self, sums: Vec<Vec<i64>>) -> BTreeMap<String, Vec<i64>> {
        let names = self.series.kinds.iter().map(|k| self.series.strings.text(k.name).to_owned());
        names.zip(sums).collect()
    }

    fn line(&self, line: u32) -> Option<Line> {
        self.series.lines.get(line as usize).copied()
    }

    fn frame(&self, line: u32) -> Frame {
        let s = self.series;
        let l = self.line(line);
        let f = l.and_then(|l| s.functions.get(l.function as usize));
        let (function, file) = f.map_or(("", ""), |f| (s.strings.text(f.name), s.strings.text(f.file)));
        Frame { function: function.to_owned(), file: file.to_owned(), line: l.map_or(0, |l| l.line) }
    }

    fn stack(&self, step: u32) -> Vec<Frame> {
        self.series.stack(step).map(|l| self.frame(l)).collect()
    }

    /// The line that a bucket counts for: the innermost that is not the runtime's, else the innermost.
    fn site(&self, bucket: usize) -> Option<u32> {
        let s = self.series;
        let own = |l: &u32| {
            let f = self.line(*l).and_then(|l| s.functions.get(l.function as usize));
            f.is_some_and(|f| !is_runtime(s.strings.text(f.name), self.profile))
        };
        let step = s.buckets[bucket].step;
        s.stack(step).find(own).or_else(|| s.stack(step).next())
    }

    fn rank(&self, mut rows: Vec<Row>, limit: usize) -> Vec<Row> {
        // What surely grows comes first, by the least that it grows; what surely shrinks last; between them what may be noise.
        let weight = |r: &Row| {
            let sure = match r.rate {
                _ if !r.certain => 0.0,
                Some(rate) if rate.per_hour < 0.0 => rate.high,
                Some(rate) => rate.low,
                None => r.growth as f64 - r.margin.unwrap_or(0.0).copysign(r.growth as f64),
            };
            (sure, r.growth, r.cum_growth)
        };
        rows.sort_by(|a, b| {
            let (x, y) = (weight(a), weight(b));
            y.0.total_cmp(&x.0)
                .then((y.1, y.2).cmp(&(x.1, x.2)))
                .then_with(|| (&a.name, &a.file, a.line).cmp(&(&b.name, &b.file, b.line)))
                .then_with(|| a.step.cmp(&b.step))
        });
        if limit > 0 && rows.len() > limit {
            let shrank: Vec<Row> = rows.iter().rev().take(limit / 4).filter(|r| r.growth < 0).cloned().collect();
            rows.truncate(limit - shrank.len());
            rows.extend(shrank.into_iter().rev());
        }
        self.with_stacks(rows)
    }

    fn with_stacks(&self, mut rows: Vec<Row>) -> Vec<Row> {
        for r in &mut rows {
            r.stack = r.step.map_or(Vec::new(), |s| self.stack(s));
        }
        rows
    }

    /// Rows of functions (by name) or of lines, flat and cum.
    fn by(&self, kind: usize, how: Sampling, lines: bool, limit: usize) -> Vec<Row> {
        let s = self.series;
        // Functions of one name are one row, whatever their files.
        let mut numbers: HashMap<(u32, u32), u32> = HashMap::new();
        let mut keys: Vec<u32> = Vec::new();
        let mut named: HashMap<&str, u32> = HashMap::new();
        let row_of: Vec<u32> = (s.lines.iter().zip(0..))
            .map(|(l, i)| {
                let name = s.functions.get(l.function as usize).map_or("", |f| s.strings.text(f.name));
                let n = named.len() as u32;
                let name = *named.entry(name).or_insert(n);
                let key = if lines { (u32::MAX, i) } else { (name, 0) };
                *numbers.entry(key).or_insert_with(|| {
                    keys.push(i);
                    keys.len() as u32 - 1
                })
            })
            .collect();
        let width = s.looks * s.kinds.len();
        let mut own: Vec<Vec<usize>> = keys.iter().map(|_| Vec::new()).collect();
        let mut cum = vec![0i64; keys.len() * width];
        let mut met = vec![usize::MAX; keys.len()];
        let mut doubts = vec![(0f64, 0f64); keys.len()];
        for (b, bucket) in s.buckets.iter().enumerate() {
            let values: Vec<i64> = (0..s.kinds.len()).flat_map(|k| s.values(b, k)).collect();
            let doubt = self.doubt(b, kind, how, &[(0, s.looks - 1)])[0];
            for (depth, line) in s.stack(bucket.step).enumerate() {
                let Some(&row) = row_of.get(line as usize) else { continue };
                let row = row as usize;
                if depth == 0 {
                    own[row].push(b);
                }
                // A function that calls itself counts once.
                if std::mem::replace(&mut met[row], b) != b {
                    let sums = cum[row * width..].iter_mut().zip(&values);
                    sums.for_each(|(sum, v)| *sum = sum.saturating_add(*v));
                    doubts[row].0 += doubt.variance;
                    doubts[row].1 = doubts[row].1.max(doubt.each());
                }
            }
        }
        let margin = |(variance, one): (f64, f64)| Z95 * (variance + FEW * one).sqrt();
        let rows = own.iter().zip(&keys).enumerate().map(|(i, (own, &line))| {
            let sums: Vec<Vec<i64>> = cum[i * width..(i + 1) * width].chunks(s.looks).map(<[i64]>::to_vec).collect();
            let grown = sums[kind][s.looks - 1].saturating_sub(sums[kind][0]);
            let frame = self.frame(line);
            Row {
                name: frame.function,
                file: frame.file,
                line: lines.then_some(frame.line),
                cum: self.named(sums),
                cum_growth: Some(grown),
                cum_margin: (how != Sampling::Unknown).then(|| margin(doubts[i])),
                ..self.row(own, kind, how)
            }
        });
        self.rank(rows.filter(changed).collect(), limit)
    }

    fn by_stack(&self, kind: usize, how: Sampling, limit: usize) -> Vec<Row> {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (b, bucket) in self.series.buckets.iter().enumerate() {
            groups.entry(bucket.step).or_default().push(b);
        }
        let mut rows: Vec<Row> = Vec::new();
        for (step, own) in groups {
            let row = self.row(&own, kind, how);
            if changed(&row) {
                let site = self.site(own[0]).map(|l| self.frame(l));
                rows.push(match site {
                    Some(f) => Row { name: f.function, file: f.file, line: Some(f.line), step: Some(step), ..row },
                    None => Row { name: "(no stack)".into(), ..row },
                });
            }
        }
        self.rank(rows, limit)
    }

    fn by_site(&self, kind: usize, how: Sampling) -> Vec<Row> {
        let mut groups: BTreeMap<Option<u32>, Vec<usize>> = BTreeMap::new();
        for b in 0..self.series.buckets.len() {
            groups.entry(self.site(b)).or_default().push(b);
        }
        let mut rows: Vec<Row> = Vec::new();
        for (site, own) in groups {
            let row = self.row(&own, kind, how);
            if row.growth == 0 {
                continue;
            }
            let mut ways: BTreeMap<u32, i64> = BTreeMap::new();
            for &b in &own {
                let v = self.values(b, kind);
                let grown = v[v.len() - 1].saturating_sub(v[0]);
                let sum = ways.entry(self.series.buckets[b].step).or_default();
                *sum = sum.saturating_add(grown);
            }
            let signed = |n: i64| if row.growth < 0 { n.saturating_neg() } else { n };
            let best = ways.iter().max_by_key(|(step, n)| (signed(**n), std::cmp::Reverse(**step)));
            let stacks = Some(ways.values().filter(|n| **n != 0).count() as u64);
            let (step, stack_growth) = best.map_or((None, None), |(s, n)| (Some(*s), Some(*n)));
            let f = site.map(|l| self.frame(l));
            let line = f.as_ref().map(|f| f.line);
            let (name, file) = f.map_or(("(no stack)".into(), String::new()), |f| (f.function, f.file));
            rows.push(Row { name, file, line, step, stack_growth, stacks, ..row });
        }
        rows
    }
}

/// Did anything change, of whatever type?
fn changed(r: &Row) -> bool {
    r.flat.values().chain(r.cum.values()).any(|v| v.windows(2).any(|w| w[0] != w[1]))
}

fn cut(mut rows: Vec<Row>, limit: usize) -> Vec<Row> {
    if limit > 0 {
        rows.truncate(limit);
    }
    rows
}

/// What is ranked by: what is in use, else the last type, as Go's own tool does.
fn ranked_by(s: &Series) -> usize {
    s.kind("inuse_space").unwrap_or(s.kinds.len() - 1)
}

/// `None` where the profiles have no type of values in common. `hours[i]` is the time of profile i; `limit`: rows of each
/// list, 0 for all.
pub fn compare(profiles: &[Profile], series: &Series, hours: &[f64], limit: usize) -> Option<ProfileGrowth> {
    let first = profiles.first().filter(|_| !series.kinds.is_empty())?;
    let profile = ProfileKind::of(first);
    let kind = ranked_by(series);
    let rates = profiles.iter().map(|p| p.period as f64).collect();
    let mut c = Compare { series, profile, hours, rates, one_process: false };
    let all: Vec<usize> = (0..series.buckets.len()).collect();
    let allocated = series.kind("alloc_objects");
    let may_be_one_process = allocated.filter(|_| profile == ProfileKind::Heap).map(|k| {
        // Counters of one stack and size only rise; scaling cuts off less than one.
        all.iter().all(|&b| c.values(b, k).windows(2).all(|w| w[1] >= w[0].saturating_sub(1)))
            && profiles.windows(2).all(|p| p[0].period == p[1].period)
    });
    c.one_process = may_be_one_process == Some(true);
    let how = c.sampling(kind, profile);
    let sites = c.by_site(kind, how);
    let unclear = sites.iter().filter(|r| !r.certain && r.growth != 0).fold(Unclear::default(), |sum, r| Unclear {
        sites: sum.sites + 1,
        growth: sum.growth.saturating_add(r.growth),
    });
    let churn = series.kind("alloc_space").filter(|&k| k != kind && c.one_process);
    Some(ProfileGrowth {
        profile,
        sample_type: series.strings.text(series.kinds[kind].name).to_owned(),
        unit: series.strings.text(series.kinds[kind].unit).to_owned(),
        hours: hours.last().copied().unwrap_or(0.0),
        may_be_one_process,
        total: Row { name: "all".into(), ..c.row(&all, kind, how) },
        by_site: c.rank(sites, limit),
        unclear,
        by_function: c.by(kind, how, false, limit),
        by_line: c.by(kind, how, true, limit),
        by_stack: c.by_stack(kind, how, limit),
        churn_by_site: churn.map_or(Vec::new(), |k| {
            let mut rows = c.by_site(k, c.sampling(k, profile));
            rows.sort_by_key(|r| std::cmp::Reverse(r.growth));
            c.with_stacks(cut(rows, limit))
        }),
    })
}
