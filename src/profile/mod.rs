//! profile: pprof profiles (profile.proto) as flat arrays: read, written, and several of them in common terms.
//! Owns `Profile`, `Builder`, `Series`. Reads files and bytes; imports only `base`. Used by `analysis::profiles` and by the
//! goroutine profile of `output`. Does not know processes, growth or text. Cost: a few times the unpacked file.

mod proto;
mod read;
mod series;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;

pub use read::{ProfileError, is_profile};
pub use series::{Series, TooDeep};
pub use write::Builder;

/// Number of a text in `Strings`; 0 is the empty one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Text(u32);

/// Texts, each once.
#[derive(Debug)]
pub struct Strings {
    list: Vec<Box<str>>,
    index: HashMap<Box<str>, Text>,
}

impl Default for Strings {
    fn default() -> Strings {
        let mut out = Strings { list: Vec::new(), index: HashMap::new() };
        out.id("");
        out
    }
}

impl Strings {
    pub fn id(&mut self, text: &str) -> Text {
        if let Some(&id) = self.index.get(text) {
            return id;
        }
        let id = Text(self.list.len() as u32);
        self.list.push(text.into());
        self.index.insert(text.into(), id);
        id
    }

    pub fn text(&self, id: Text) -> &str {
        self.list.get(id.0 as usize).map_or("", |s| s)
    }
}

/// What a figure counts, and in what: `inuse_space` in `bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Kind {
    pub name: Text,
    pub unit: Text,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Function {
    pub name: Text,
    pub file: Text,
}

/// A line of a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Line {
    /// Index into `Profile::functions`.
    pub function: u32,
    /// 0: not known.
    pub line: u32,
}

/// A part of the address space that a file was mapped to; the first is the program itself.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    pub file: Text,
    pub build_id: Text,
}

#[derive(Clone, Copy, Debug)]
pub struct Location {
    pub address: u64,
    /// Index into `Profile::mappings`.
    pub mapping: Option<u32>,
    /// Where its lines end in `Profile::lines`; they begin where those of the one before end.
    end: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LabelValue {
    Text(Text),
    Number(i64),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Label {
    pub key: Text,
    pub value: LabelValue,
}

/// Where the parts of one sample end in `Profile::stacks` and `Profile::labels`.
#[derive(Clone, Copy, Debug)]
struct End {
    stack: u32,
    labels: u32,
}

/// One profile. Ids of the file are indices here.
#[derive(Debug, Default)]
pub struct Profile {
    pub strings: Strings,
    /// What the values of a sample are, in their order.
    pub kinds: Vec<Kind>,
    pub period_type: Kind,
    /// Of the heap profile: bytes that are allocated from one sample to the next, in the mean.
    pub period: i64,
    /// Nanoseconds since 1970.
    pub time_ns: Option<u64>,
    /// What it covers, where it does not cover the whole life of the process.
    pub duration_ns: u64,
    pub mappings: Vec<Mapping>,
    pub functions: Vec<Function>,
    pub locations: Vec<Location>,
    lines: Vec<Line>,
    samples: Vec<End>,
    /// Locations, innermost first.
    stacks: Vec<u32>,
    /// As many for each sample as there are kinds.
    values: Vec<i64>,
    labels: Vec<Label>,
}

/// One sample of a profile.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'p> {
    /// Indices of locations, innermost first.
    pub stack: &'p [u32],
    pub values: &'p [i64],
    pub labels: &'p [Label],
}

impl Profile {
    pub fn text(&self, id: Text) -> &str {
        self.strings.text(id)
    }

    /// The lines of a location, innermost first: all but the last are inlined into the next.
    pub fn lines(&self, location: u32) -> &[Line] {
        let i = location as usize;
        let end = |i: usize| self.locations.get(i).map_or(0, |l| l.end as usize);
        let begin = i.checked_sub(1).map_or(0, end);
        self.lines.get(begin..end(i)).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    pub fn samples(&self) -> impl Iterator<Item = Sample<'_>> {
        let (mut stack, mut labels) = (0, 0);
        self.samples.iter().enumerate().map(move |(i, end)| {
            let values = i * self.kinds.len()..(i + 1) * self.kinds.len();
            let s = Sample {
                stack: self.stacks.get(stack..end.stack as usize).unwrap_or_default(),
                values: self.values.get(values).unwrap_or_default(),
                labels: self.labels.get(labels..end.labels as usize).unwrap_or_default(),
            };
            (stack, labels) = (end.stack as usize, end.labels as usize);
            s
        })
    }

    /// Name and unit of each kind.
    pub fn kind_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.kinds.iter().map(|k| (self.text(k.name), self.text(k.unit)))
    }

    /// Whether values of this name are there.
    pub fn has(&self, kind: &str) -> bool {
        self.kind_names().any(|(name, _)| name == kind)
    }
}
