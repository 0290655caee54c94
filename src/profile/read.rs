//! profile::read: a profile from a file or bytes, gzipped or not. The file is unpacked and decoded piece by piece into flat arrays, so
//! that neither a bomb nor a message of millions of parts takes more than a few times what was unpacked, and that is bounded.
//! The runtime writes texts last: nothing is resolved before the end.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use prost::Message;

use super::{End, Function, Kind, Label, LabelValue, Line, Location, Mapping, Profile, Text, proto};
use crate::base::{bytes, units};

/// Profiles of Go have some megabytes at most.
const MAX_UNPACKED: u64 = 256 << 20;
/// What deflate makes of profiles is a third to a tenth; a file that claims more than this is no profile.
const MAX_RATIO: u64 = 60;
const ALWAYS_ALLOWED: u64 = 16 << 20;
/// One field of the whole: a sample, a text.
const MAX_FIELD: usize = 4 << 20;
/// Mappings, functions, lines, locations, samples, texts of one profile; the largest programs have some hundred thousand functions.
const MAX_PARTS: usize = 1 << 21;
/// Entries of all stacks, values of all samples, labels.
const MAX_ENTRIES: usize = 1 << 25;
const PIECE: usize = 256 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What of a file is looked at in order to know what it is.
const HEAD: usize = 4096;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("cannot read {path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is {what} in text form, which has no time and no build: gosleuth compares the binary form", path = path.display())]
    Text { path: PathBuf, what: &'static str, ask: &'static str },
    #[error("{path} is damaged or no profile of pprof: {why}", path = path.display())]
    Damaged { path: PathBuf, why: String },
}

/// Forms of text that the runtime writes for people: how they begin, what they are, what to ask for instead.
const TEXTS: [(&str, &str, &str); 9] = [
    (
        "heap profile: ",
        "a heap profile",
        "the same without debug=: curl -o heap.pb.gz http://HOST/debug/pprof/heap?gc=1",
    ),
    (
        "goroutine profile: total ",
        "a goroutine profile",
        "the same without debug=: curl -o g.pb.gz http://HOST/debug/pprof/goroutine",
    ),
    ("goroutine ", "a dump of goroutines", "the profile instead: curl -o g.pb.gz http://HOST/debug/pprof/goroutine"),
    ("goroutineleak profile: ", "a profile of leaked goroutines", "the same without debug="),
    ("threadcreate profile: ", "a profile of threads", "the same without debug="),
    ("--- mutex", "a mutex profile", "the same without debug=: curl -o mutex.pb.gz http://HOST/debug/pprof/mutex"),
    ("--- contention", "a block profile", "the same without debug=: curl -o block.pb.gz http://HOST/debug/pprof/block"),
    ("<html>", "a page", "the profile itself: curl -o heap.pb.gz http://HOST/debug/pprof/heap?gc=1"),
    ("<!DOCTYPE", "a page", "the profile itself: curl -o heap.pb.gz http://HOST/debug/pprof/heap?gc=1"),
];

fn text_form(head: &[u8]) -> Option<(&'static str, &'static str)> {
    TEXTS.iter().find(|(begin, ..)| head.starts_with(begin.as_bytes())).map(|&(_, what, ask)| (what, ask))
}

/// Does this file look like something that `Profile::open` reads, or like its text form, which it refuses with advice?
pub fn is_profile(path: &Path) -> io::Result<bool> {
    let mut head = Vec::with_capacity(HEAD);
    File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
    if text_form(&head).is_some() {
        return Ok(true);
    }
    if head.starts_with(&GZIP_MAGIC) {
        let mut plain = Vec::with_capacity(HEAD);
        // It ends too early, since this is the beginning only: what was unpacked until then is there.
        let _ = MultiGzDecoder::new(&head[..]).take(HEAD as u64).read_to_end(&mut plain);
        head = plain;
    }
    // The first fields must be of a profile, and say what its values are.
    let whole = whole_fields(&head).ok().and_then(|n| head.get(..n)).unwrap_or_default();
    let first = proto::Profile::decode(whole).unwrap_or_default();
    Ok(first.sample_type.iter().chain(&first.period_type).any(|k| k.kind > 0))
}

/// Bytes of the fields that are whole at the beginning of `data`.
fn whole_fields(data: &[u8]) -> Result<usize, &'static str> {
    let mut at = 0;
    while at < data.len() {
        let rest = &data[at..];
        let varint = |from: usize| -> Result<Option<(u64, usize)>, &'static str> {
            let rest = rest.get(from..).unwrap_or_default();
            match bytes::uvarint(rest) {
                None if rest.len() >= 10 => Err("a number longer than ten bytes"),
                found => Ok(found),
            }
        };
        let Some((key, n)) = varint(0)? else { break };
        if key >> 3 == 0 {
            return Err("a field without number");
        }
        let size = match key & 7 {
            0 => varint(n)?.map(|(_, m)| n + m),
            1 => Some(n + 8),
            5 => Some(n + 4),
            2 => match varint(n)? {
                Some((len, _)) if len > MAX_FIELD as u64 => return Err("a part of more than 4 MiB"),
                found => found.map(|(len, m)| n + m + len as usize),
            },
            _ => return Err("a field of a kind that profiles do not have"),
        };
        match size {
            Some(size) if size <= rest.len() => at += size,
            _ => break,
        }
    }
    Ok(at)
}

/// What was gathered, with ids and indices of texts as the file has them.
#[derive(Default)]
struct Gather {
    kinds: Vec<proto::ValueType>,
    period_type: proto::ValueType,
    period: i64,
    time: i64,
    duration: i64,
    mappings: Vec<proto::Mapping>,
    functions: Vec<proto::Function>,
    /// With the end of its lines.
    locations: Vec<(proto::Location, usize)>,
    lines: Vec<proto::Line>,
    samples: Vec<End>,
    stacks: Vec<u64>,
    values: Vec<i64>,
    labels: Vec<proto::Label>,
    /// Values of each sample.
    width: Option<usize>,
    strings: super::Strings,
    /// The texts of the file in their order.
    texts: Vec<Text>,
}

fn count(n: usize) -> Result<u32, String> {
    u32::try_from(n).map_err(|_| "more parts than can be counted".to_owned())
}

impl Gather {
    /// Takes in what is decoded of one piece.
    fn add(&mut self, p: proto::Profile) -> Result<(), String> {
        self.kinds.extend(p.sample_type);
        if self.kinds.len() > 64 {
            return Err("more than 64 types of values".into());
        }
        for s in p.sample {
            let width = *self.width.get_or_insert(s.value.len());
            if s.value.len() != width || width == 0 {
                return Err(format!("a sample of {} values among samples of {width}", s.value.len()));
            }
            self.stacks.extend(s.location_id);
            self.values.extend(s.value);
            // A number of zero without a unit says nothing.
            self.labels.extend(s.label.into_iter().filter(|l| (l.text, l.number, l.unit) != (0, 0, 0)));
            self.samples.push(End { stack: count(self.stacks.len())?, labels: count(self.labels.len())? });
        }
        self.mappings.extend(p.mapping);
        self.functions.extend(p.function);
        for mut l in p.location {
            self.lines.append(&mut l.line);
            l.line = Vec::new();
            self.locations.push((l, self.lines.len()));
        }
        for s in &p.string_table {
            let text = String::from_utf8_lossy(s);
            self.texts.push(self.strings.id(&text));
        }
        let parts = [
            self.mappings.len(),
            self.functions.len(),
            self.lines.len(),
            self.locations.len(),
            self.samples.len(),
            self.texts.len(),
        ];
        let entries = [self.stacks.len(), self.values.len(), self.labels.len()];
        if parts.iter().any(|&n| n > MAX_PARTS) || entries.iter().any(|&n| n > MAX_ENTRIES) {
            return Err("more parts than any profile has".into());
        }
        if p.time_nanos != 0 {
            self.time = p.time_nanos;
        }
        self.duration = self.duration.max(p.duration_nanos);
        if let Some(t) = p.period_type {
            self.period_type = t;
        }
        self.period = self.period.max(p.period);
        Ok(())
    }

    /// Resolves everything.
    fn finish(self) -> Result<Profile, String> {
        match self.texts.first() {
            _ if self.kinds.is_empty() => return Err("it does not say what its values are".into()),
            Some(&Text(0)) => {}
            Some(_) => return Err("its first text is not the empty one".into()),
            None => return Err("it has no texts: the end is missing".into()),
        }
        if self.width.is_some_and(|w| w != self.kinds.len()) {
            return Err(format!(
                "samples of {} values where {} types are named",
                self.width.unwrap_or(0),
                self.kinds.len()
            ));
        }
        let text = |i: i64| -> Result<Text, String> {
            let found = usize::try_from(i).ok().and_then(|i| self.texts.get(i));
            found.copied().ok_or_else(|| format!("text {i} of {}", self.texts.len()))
        };
        let kind = |k: &proto::ValueType| Ok::<_, String>(Kind { name: text(k.kind)?, unit: text(k.unit)? });
        let ids = |what: &str, list: &mut dyn Iterator<Item = u64>| -> Result<HashMap<u64, u32>, String> {
            let mut out = HashMap::new();
            for (i, id) in list.enumerate() {
                if id == 0 || out.insert(id, count(i)?).is_some() {
                    return Err(format!("{what} {id} is there twice (two files in one?) or has no number"));
                }
            }
            Ok(out)
        };
        let mapping_of = ids("mapping", &mut self.mappings.iter().map(|m| m.id))?;
        let function_of = ids("function", &mut self.functions.iter().map(|f| f.id))?;
        let location_of = ids("location", &mut self.locations.iter().map(|l| l.0.id))?;
        let of = |map: &HashMap<u64, u32>, what: &str, id: u64| -> Result<u32, String> {
            map.get(&id).copied().ok_or_else(|| format!("{what} {id} is named but not there"))
        };
        let line = |l: &proto::Line| -> Result<Line, String> {
            let function = of(&function_of, "function", l.function_id)?;
            Ok(Line { function, line: u32::try_from(l.line).unwrap_or(0) })
        };
        let location = |(l, end): &(proto::Location, usize)| -> Result<Location, String> {
            let mapping = match l.mapping_id {
                0 => None,
                id => Some(of(&mapping_of, "mapping", id)?),
            };
            Ok(Location { address: l.address, mapping, end: count(*end)? })
        };
        let label = |l: &proto::Label| -> Result<Label, String> {
            let value = match l.text {
                0 => LabelValue::Number(l.number),
                t => LabelValue::Text(text(t)?),
            };
            Ok(Label { key: text(l.key)?, value })
        };
        Ok(Profile {
            kinds: self.kinds.iter().map(kind).collect::<Result<_, _>>()?,
            period_type: kind(&self.period_type)?,
            period: self.period,
            time_ns: u64::try_from(self.time).ok().filter(|&t| t > 0),
            duration_ns: u64::try_from(self.duration).unwrap_or(0),
            mappings: (self.mappings.iter())
                .map(|m| Ok::<_, String>(Mapping { file: text(m.filename)?, build_id: text(m.build_id)? }))
                .collect::<Result<_, _>>()?,
            functions: (self.functions.iter())
                .map(|f| {
                    let name = if f.name == 0 { f.system_name } else { f.name };
                    Ok::<_, String>(Function { name: text(name)?, file: text(f.filename)? })
                })
                .collect::<Result<_, _>>()?,
            locations: self.locations.iter().map(location).collect::<Result<_, _>>()?,
            lines: self.lines.iter().map(line).collect::<Result<_, _>>()?,
            stacks: (self.stacks.iter()).map(|&l| of(&location_of, "location", l)).collect::<Result<_, _>>()?,
            labels: self.labels.iter().map(label).collect::<Result<_, _>>()?,
            samples: self.samples,
            values: self.values,
            strings: self.strings,
        })
    }
}

/// `limit`: bytes that it may unpack to.
fn read(mut source: impl Read, limit: u64) -> Result<Profile, String> {
    let mut gather = Gather::default();
    let mut buf: Vec<u8> = Vec::with_capacity(PIECE);
    let mut total = 0u64;
    loop {
        let old = buf.len();
        let n = (&mut source).take(PIECE as u64).read_to_end(&mut buf).map_err(|e| {
            let kind = e.kind();
            match kind {
                io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
                _ => format!("it cannot be unpacked: {e}"),
            }
        })?;
        total += n as u64;
        if total > limit {
            return Err(format!("it unpacks to more than {}, which no profile of its size does", units::bytes(limit)));
        }
        let whole = whole_fields(&buf)?;
        if n == 0 {
            if whole != old {
                return Err("it ends in the middle of a part".into());
            }
            return gather.finish();
        }
        gather.add(proto::Profile::decode(&buf[..whole]).map_err(|e| e.to_string())?)?;
        buf.drain(..whole);
    }
}

impl Profile {
    /// Reads a file, gzipped or not.
    pub fn open(path: &Path) -> Result<Profile, ProfileError> {
        let file = |source| ProfileError::File { path: path.to_owned(), source };
        let mut source = File::open(path).map_err(file)?;
        let length = source.metadata().map_err(file)?.len();
        let mut head = Vec::new();
        (&mut source).take(HEAD as u64).read_to_end(&mut head).map_err(file)?;
        if let Some((what, ask)) = text_form(&head) {
            return Err(ProfileError::Text { path: path.to_owned(), what, ask });
        }
        Profile::from_reader(io::Cursor::new(&head).chain(source), length, head.starts_with(&GZIP_MAGIC))
            .map_err(|why| ProfileError::Damaged { path: path.to_owned(), why })
    }

    /// The same of bytes.
    pub fn of_bytes(data: &[u8]) -> Result<Profile, String> {
        Profile::from_reader(data, data.len() as u64, data.starts_with(&GZIP_MAGIC))
    }

    fn from_reader(source: impl Read, length: u64, packed: bool) -> Result<Profile, String> {
        match packed {
            true => {
                let limit = length.saturating_mul(MAX_RATIO).clamp(ALWAYS_ALLOWED, MAX_UNPACKED);
                read(MultiGzDecoder::new(source), limit)
            }
            false => read(source, MAX_UNPACKED),
        }
    }
}
