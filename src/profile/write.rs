//! profile::write: a profile made sample by sample, and its bytes.

use std::collections::HashMap;

use prost::Message;

use super::{End, Function, Kind, Label, LabelValue, Line, Location, Profile, Text, proto};

/// Makes a profile of functions and lines without addresses.
#[derive(Debug)]
pub struct Builder {
    profile: Profile,
    functions: HashMap<Function, u32>,
    locations: HashMap<Line, u32>,
}

impl Builder {
    /// Of one kind of value, counted one by one.
    pub fn new(kind: &str, unit: &str) -> Builder {
        let mut profile = Profile { period: 1, ..Profile::default() };
        let kind = Kind { name: profile.strings.id(kind), unit: profile.strings.id(unit) };
        profile.kinds.push(kind);
        profile.period_type = kind;
        Builder { profile, functions: HashMap::new(), locations: HashMap::new() }
    }

    /// `stack`: function, file and line, innermost first.
    pub fn sample<'s>(
        &mut self,
        stack: impl Iterator<Item = (&'s str, &'s str, u32)>,
        value: i64,
        labels: impl Iterator<Item = (&'s str, &'s str)>,
    ) {
        let p = &mut self.profile;
        for (name, file, line) in stack {
            let function = Function { name: p.strings.id(name), file: p.strings.id(file) };
            let function = *self.functions.entry(function).or_insert_with(|| {
                p.functions.push(function);
                p.functions.len() as u32 - 1
            });
            let line = Line { function, line };
            p.stacks.push(*self.locations.entry(line).or_insert_with(|| {
                p.lines.push(line);
                p.locations.push(Location { address: 0, mapping: None, end: p.lines.len() as u32 });
                p.locations.len() as u32 - 1
            }));
        }
        for (key, value) in labels {
            let label = Label { key: p.strings.id(key), value: LabelValue::Text(p.strings.id(value)) };
            p.labels.push(label);
        }
        p.values.push(value);
        p.samples.push(End { stack: p.stacks.len() as u32, labels: p.labels.len() as u32 });
    }

    pub fn finish(self, time_ns: Option<u64>) -> Profile {
        Profile { time_ns, ..self.profile }
    }
}

impl Profile {
    /// As a file that is not compressed, which every reader accepts.
    pub fn encode(&self) -> Vec<u8> {
        let id = |i: usize| i as u64 + 1;
        let text = |t: Text| i64::from(t.0);
        let kind = |k: &Kind| proto::ValueType { kind: text(k.name), unit: text(k.unit) };
        let label = |l: &Label| {
            let mut out = proto::Label { key: text(l.key), ..Default::default() };
            match l.value {
                LabelValue::Text(t) => out.text = text(t),
                LabelValue::Number(n) => out.number = n,
            }
            out
        };
        let line = |l: &Line| proto::Line { function_id: u64::from(l.function) + 1, line: l.line.into() };
        let message = proto::Profile {
            sample_type: self.kinds.iter().map(kind).collect(),
            sample: self
                .samples()
                .map(|s| proto::Sample {
                    location_id: s.stack.iter().map(|&l| u64::from(l) + 1).collect(),
                    value: s.values.to_vec(),
                    label: s.labels.iter().map(label).collect(),
                })
                .collect(),
            mapping: (self.mappings.iter().enumerate())
                .map(|(i, m)| proto::Mapping { id: id(i), filename: text(m.file), build_id: text(m.build_id) })
                .collect(),
            location: (self.locations.iter().enumerate())
                .map(|(i, l)| proto::Location {
                    id: id(i),
                    mapping_id: l.mapping.map_or(0, |m| u64::from(m) + 1),
                    address: l.address,
                    line: self.lines(i as u32).iter().map(line).collect(),
                })
                .collect(),
            function: (self.functions.iter().enumerate())
                .map(|(i, f)| {
                    let name = text(f.name);
                    proto::Function { id: id(i), name, system_name: name, filename: text(f.file) }
                })
                .collect(),
            string_table: self.strings.list.iter().map(|s| s.as_bytes().to_vec()).collect(),
            time_nanos: self.time_ns.and_then(|t| i64::try_from(t).ok()).unwrap_or(0),
            duration_nanos: i64::try_from(self.duration_ns).unwrap_or(0),
            period_type: Some(kind(&self.period_type)),
            period: self.period,
        };
        message.encode_to_vec()
    }
}
