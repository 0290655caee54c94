//! profile::series: several profiles in common terms: functions by name and file, lines, stacks, and the values of each stack and object
//! size in each look. Addresses are left out: they differ from build to build.

use std::collections::HashMap;

use super::{Function, Kind, LabelValue, Line, Profile, Strings};

/// Functions of all stacks, inlined ones included: of a file whose locations have many lines each and are named often these are
/// many more than the file has bytes.
const MAX_WALKED: usize = 1 << 26;
/// The same without what stacks have in common.
const MAX_STEPS: usize = 1 << 22;

#[derive(Debug, thiserror::Error)]
#[error("the stacks of these profiles are longer than any that a program has")]
pub struct TooDeep;

/// A function on the way from the root. Chains of these are stacks; each chain is there once.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Who called it: index of a step, or `Series::ROOT`.
    pub caller: u32,
    /// Index into `Series::lines`.
    pub line: u32,
}

/// Samples of one stack and one object size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bucket {
    /// The innermost step, or `Series::ROOT` of a sample without a stack.
    pub step: u32,
    /// Bytes of an object, by the label that the heap profile has; 0 where there is none.
    pub size: u64,
}

#[derive(Debug, Default)]
pub struct Series {
    pub strings: Strings,
    pub functions: Vec<Function>,
    /// Each line of a function once.
    pub lines: Vec<Line>,
    pub steps: Vec<Step>,
    pub buckets: Vec<Bucket>,
    /// What all profiles have, in the order of the first.
    pub kinds: Vec<Kind>,
    pub looks: usize,
    /// By bucket, look, kind.
    values: Vec<i64>,
}

/// Numbers given to things as they come.
struct Numbers<T>(HashMap<T, u32>);

impl<T: std::hash::Hash + Eq + Copy> Numbers<T> {
    fn of(&mut self, list: &mut Vec<T>, item: T) -> u32 {
        *self.0.entry(item).or_insert_with(|| {
            list.push(item);
            list.len() as u32 - 1
        })
    }
}

impl Series {
    pub const ROOT: u32 = u32::MAX;

    pub fn new(profiles: &[Profile]) -> Result<Series, TooDeep> {
        let mut out = Series { looks: profiles.len(), ..Series::default() };
        let Some(first) = profiles.first() else { return Ok(out) };
        let common = |k: &(&str, &str)| profiles.iter().all(|p| p.kind_names().any(|o| o == *k));
        let names: Vec<(&str, &str)> = first.kind_names().filter(common).collect();
        out.kinds = names.iter().map(|(n, u)| Kind { name: out.strings.id(n), unit: out.strings.id(u) }).collect();
        let mut functions = Numbers(HashMap::new());
        let mut lines = Numbers(HashMap::new());
        let mut buckets = Numbers(HashMap::new());
        let mut steps: HashMap<(u32, u32), u32> = HashMap::new();
        for (look, p) in profiles.iter().enumerate() {
            let mut walked = 0;
            let columns: Vec<usize> = names.iter().filter_map(|k| p.kind_names().position(|o| o == *k)).collect();
            // The functions and lines of this profile in common terms.
            let mut function = |f: &Function| {
                let f = Function { name: out.strings.id(p.text(f.name)), file: out.strings.id(p.text(f.file)) };
                functions.of(&mut out.functions, f)
            };
            let function_of: Vec<u32> = p.functions.iter().map(&mut function).collect();
            let mut line_of: Vec<u32> = Vec::with_capacity(p.lines.len());
            for l in &p.lines {
                let function = function_of.get(l.function as usize).copied().unwrap_or(0);
                line_of.push(lines.of(&mut out.lines, Line { function, ..*l }));
            }
            // Locations without lines are functions by themselves.
            let mut bare: HashMap<u32, u32> = HashMap::new();
            let size_key = p.strings.index.get("bytes").copied();
            for s in p.samples() {
                let mut at = Series::ROOT;
                for &location in s.stack.iter().rev() {
                    let end = p.locations.get(location as usize).map_or(0, |l| l.end as usize);
                    let mut own = line_of.get(end - p.lines(location).len()..end).unwrap_or_default();
                    let unnamed;
                    if own.is_empty() {
                        let id = *bare.entry(location).or_insert_with(|| {
                            let f = nameless(p, location, &mut out.strings);
                            let function = functions.of(&mut out.functions, f);
                            lines.of(&mut out.lines, Line { function, line: 0 })
                        });
                        unnamed = [id];
                        own = &unnamed;
                    }
                    for &line in own.iter().rev() {
                        walked += 1;
                        at = *steps.entry((at, line)).or_insert_with(|| {
                            out.steps.push(Step { caller: at, line });
                            out.steps.len() as u32 - 1
                        });
                    }
                    if walked > MAX_WALKED || out.steps.len() > MAX_STEPS {
                        return Err(TooDeep);
                    }
                }
                let size = s.labels.iter().find_map(|l| match l.value {
                    LabelValue::Number(n) if Some(l.key) == size_key => u64::try_from(n).ok(),
                    _ => None,
                });
                let b = buckets.of(&mut out.buckets, Bucket { step: at, size: size.unwrap_or(0) }) as usize;
                let row = out.looks * out.kinds.len();
                if out.values.len() < (b + 1) * row {
                    out.values.resize((b + 1) * row, 0);
                }
                for (kind, &column) in columns.iter().enumerate() {
                    let sum = &mut out.values[b * row + look * columns.len() + kind];
                    *sum = sum.saturating_add(s.values.get(column).copied().unwrap_or(0));
                }
            }
        }
        Ok(out)
    }

    /// The value of a kind in each look.
    pub fn values(&self, bucket: usize, kind: usize) -> impl Iterator<Item = i64> {
        let row = self.looks * self.kinds.len();
        (0..self.looks).map(move |l| self.values.get(bucket * row + l * self.kinds.len() + kind).copied().unwrap_or(0))
    }

    /// Number of the kind of this name.
    pub fn kind(&self, name: &str) -> Option<usize> {
        self.kinds.iter().position(|k| self.strings.text(k.name) == name)
    }

    /// The lines from a step outwards.
    pub fn stack(&self, step: u32) -> impl Iterator<Item = u32> {
        let mut at = step;
        std::iter::from_fn(move || {
            let s = self.steps.get(at as usize)?;
            at = s.caller;
            Some(s.line)
        })
    }
}

/// `app+0x1234`: what is known of a place without functions.
fn nameless(p: &Profile, location: u32, strings: &mut Strings) -> Function {
    let l = p.locations.get(location as usize);
    let mapping = l.and_then(|l| p.mappings.get(l.mapping? as usize));
    let file = mapping.map_or("", |m| p.text(m.file));
    let name = format!("{}@{:#x}", file.rsplit('/').next().unwrap_or(file), l.map_or(0, |l| l.address));
    Function { name: strings.id(&name), file: strings.id(file) }
}
