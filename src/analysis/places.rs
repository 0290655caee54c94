//! Names of places: the member of which object, or the global variable, that an address lies in.

use std::collections::HashMap;

use crate::{
    base::{Addr, Bitmap, KnownBy, ObjectId},
    graph::{
        RootKind,
        build::Built,
        typing::{Typed, class_size},
    },
    runtime::{
        Runtime,
        heap::Heap,
        types::{Kind, TypeId, TypeTable},
    },
};

/// Deeper nesting of members is not followed.
const MAX_DEPTH: usize = 32;
/// Holders of one object that are remembered.
const MAX_HOLDERS: usize = 8;

/// Symbols that the linker puts at the ends of segments.
const SEGMENTS: [&str; 8] = [
    "runtime.data",
    "runtime.edata",
    "runtime.bss",
    "runtime.ebss",
    "runtime.noptrdata",
    "runtime.enoptrdata",
    "runtime.noptrbss",
    "runtime.enoptrbss",
];

/// Names places of one target.
pub struct Places<'a> {
    pub rt: &'a Runtime,
    pub heap: &'a Heap,
    pub built: &'a Built,
    pub typed: &'a Typed,
    /// Edges and roots that lead to the objects asked for at the start: pairs of object and number, sorted.
    edges: Vec<(ObjectId, u32)>,
    roots: Vec<(ObjectId, u32)>,
}

/// Numbers that belong to `id` in sorted pairs.
fn of(pairs: &[(ObjectId, u32)], id: ObjectId) -> impl Iterator<Item = u32> + '_ {
    let first = pairs.partition_point(|p| p.0 < id);
    pairs[first..].iter().take_while(move |p| p.0 == id).map(|p| p.1)
}

impl<'a> Places<'a> {
    /// `wanted`: objects whose holders will be asked for. Cost: one pass over all edges if there are any.
    pub fn new(
        rt: &'a Runtime,
        heap: &'a Heap,
        built: &'a Built,
        typed: &'a Typed,
        wanted: impl IntoIterator<Item = ObjectId>,
    ) -> Places<'a> {
        let mut marks = Bitmap::new(built.graph.slots());
        let mut any = false;
        for o in wanted {
            marks.set(o.index());
            any = true;
        }
        let (mut edges, mut roots) = (Vec::new(), Vec::new());
        if any {
            let mut known: HashMap<ObjectId, usize> = HashMap::new();
            for (i, to) in built.graph.target.iter().enumerate().filter(|(_, to)| marks.get(to.index())) {
                let n = known.entry(to).or_default();
                if *n < MAX_HOLDERS {
                    *n += 1;
                    edges.push((to, i as u32));
                }
            }
            edges.sort_unstable();
            for (i, r) in built.graph.roots.iter().enumerate().filter(|(_, r)| marks.get(r.target.index())) {
                roots.push((r.target, i as u32));
            }
            roots.sort_unstable();
        }
        Places { rt, heap, built, typed, edges, roots }
    }

    /// A global variable, from DWARF, the symbol table or the code that refers to it.
    pub fn global(&self, addr: Addr) -> Option<String> {
        let rt = self.rt;
        rt.image.modules.iter().find(|m| m.is_global(addr))?;
        // Static data without a name: the variable that points to it, as `var x = &T{...}` does.
        const NEAR: u64 = 1 << 12;
        let links = &self.built.global_links;
        let link = links[..links.partition_point(|l| l.0 <= addr)].last().filter(|l| addr.0 - l.0.0 < NEAR);
        // Symbols know sizes, DWARF does not.
        if let Some(symbols) = &rt.image.symbols {
            let named = |at: Addr| symbols.at(at).filter(|(s, _)| s.data && !SEGMENTS.contains(&s.name));
            if let Some((symbol, off)) = named(addr) {
                return Some(if off == 0 {
                    format!("global {}", symbol.name)
                } else {
                    format!("global {}+{off}", symbol.name)
                });
            }
            if let Some((link, (symbol, _))) = link.and_then(|l| Some((l, named(l.1)?))) {
                // Further on there may be another variable of its own.
                return Some(match addr.0 - link.0.0 {
                    0 => format!("static data that global {} points to", symbol.name),
                    off => format!("static data {off} bytes behind what global {} points to", symbol.name),
                });
            }
        }
        let at = addr.0.wrapping_sub(rt.image.bias);
        let vars = rt.image.dwarf.as_ref().map(|d| d.variables.as_slice()).unwrap_or_default();
        let named = vars.partition_point(|v| v.addr <= at).checked_sub(1).map(|i| match at - vars[i].addr {
            0 => format!("global {}", vars[i].name),
            off => format!("global {}+{off}", vars[i].name),
        });
        let by_code = |at: Addr| {
            let name = rt.image.name_global(at)?;
            Some(if name.starts_with("global ") { name } else { format!("global {name}") })
        };
        named
            .or_else(|| {
                let name = by_code(addr)?;
                // Code that refers to something before it says less than the variable that points to it.
                let pointed = link.filter(|l| l.0 == addr && name.contains("(+")).and_then(|l| by_code(l.1));
                Some(pointed.map_or(name, |p| format!("static data that {p} points to")))
            })
            .or_else(|| Some(format!("global at {addr}")))
    }

    /// Where a value of package sync at `addr` lies: `main.Account.mu`, `global main.gLock`, `heap sync.Mutex`, the stack
    /// of a goroutine. `what`: its type. `methods`: functions that work with it: where the object's type is only guessed,
    /// a receiver of theirs that fits and has such a member there says more.
    pub fn of<'n>(&self, addr: Addr, what: &str, methods: impl IntoIterator<Item = &'n str>) -> String {
        if let Some(name) = self.global(addr) {
            return name;
        }
        let Some((id, offset)) = self.heap.find(addr) else {
            return match self.built.goroutines.iter().find(|g| g.stack.0 <= addr && addr < g.stack.1) {
                Some(g) => format!("stack of goroutine {}", g.goid),
                None => "memory outside the heap".to_owned(),
            };
        };
        let typing = &self.typed.typing;
        let span = self.heap.span_of(id);
        if typing.known_by(id) > KnownBy::Guessed && !(span.noscan && span.elemsize == 16) {
            return self.in_object(id, offset);
        }
        if let Some(name) = self.fitting(id, offset, what, &mut methods.into_iter()) {
            return name;
        }
        // An object of its own, or several in one tiny block.
        if offset == span.value_offset(self.rt) && span.elemsize <= 128 || span.noscan && span.elemsize == 16 {
            return format!("heap {what}");
        }
        format!("heap object of unknown type +{offset}")
    }

    /// The member of an object whose type is not known for certain: of a receiver of `methods`, else of its guessed type,
    /// that fits the object and has a member of type `what` there.
    fn fitting(
        &self,
        id: ObjectId,
        offset: u64,
        what: &str,
        methods: &mut dyn Iterator<Item = &'_ str>,
    ) -> Option<String> {
        let (typing, types) = (&self.typed.typing, &self.typed.types);
        let span = self.heap.span_of(id);
        let header = span.value_offset(self.rt);
        let named = |ty: TypeId, at: u64| {
            let (path, found) = member(types, ty, at);
            let right = types.name(found) == what || what == "channel" && types.kind(found) == Kind::Chan;
            let whole = if path.is_empty() { format!("heap {what}") } else { format!("{}{path}", types.name(ty)) };
            right.then_some(whole)
        };
        let guessed = typing.type_of(id);
        methods
            .filter_map(|name| types.by_name(&receiver(name)?))
            .filter(|&ty| class_size(types.size(ty) + header) == span.elemsize)
            .find_map(|ty| named(ty, offset.checked_sub(header)?))
            .or_else(|| {
                let begin = header + typing.part_of(id).unwrap_or(0);
                named(guessed, offset.checked_sub(begin).filter(|_| guessed.is_known())?)
            })
    }

    fn in_object(&self, id: ObjectId, offset: u64) -> String {
        let ty = self.typed.typing.type_of(id);
        let begin = self.heap.span_of(id).value_offset(self.rt) + self.typed.typing.part_of(id).unwrap_or(0);
        match offset.checked_sub(begin) {
            Some(at) if ty.is_known() => {
                let types = &self.typed.types;
                match member(types, ty, at).0 {
                    path if path.is_empty() => format!("heap {}", types.name(ty)),
                    path => format!("{}{path}", types.name(ty)),
                }
            }
            _ => format!("heap object of unknown type +{offset}"),
        }
    }

    /// Who holds the object at `addr`: a global, else a member of an object that is not the runtime's own. Only for
    /// objects given to `new`. `what` and `methods` as in `of`.
    pub fn holder<'n>(
        &self,
        addr: Addr,
        what: &str,
        methods: impl IntoIterator<Item = &'n str> + Clone,
    ) -> Option<String> {
        let (id, _) = self.heap.find(addr)?;
        let graph = &self.built.graph;
        let global = of(&self.roots, id).find_map(|r| {
            let root = &graph.roots[r as usize];
            matches!(root.kind, RootKind::Data | RootKind::Bss).then(|| self.global(root.at)).flatten()
        });
        global.or_else(|| {
            of(&self.edges, id).find_map(|e| {
                let from = graph.source_of(e as usize);
                let at = 8 * graph.word_of(e as usize);
                if self.typed.typing.known_by(from) > KnownBy::Guessed {
                    let ty = self.typed.name(from)?;
                    let own = ty.starts_with("runtime.") || ty.starts_with("chan ") || ty.starts_with("func");
                    return (!own).then(|| self.in_object(from, at));
                }
                self.fitting(from, at, what, &mut methods.clone().into_iter())
            })
        })
    }
}

/// `http.conn` of `net/http.(*conn).serve.func1`: the type as the runtime writes it.
fn receiver(function: &str) -> Option<String> {
    let name = function.rsplit_once('/').map_or(function, |(_, last)| last);
    let (package, rest) = name.split_once(".(*")?;
    let (ty, _) = rest.split_once(')')?;
    Some(format!("{package}.{ty}"))
}

/// The member of a type that begins at or holds byte `offset`, not going into the types of package sync; and the type
/// that was come to.
fn member(table: &TypeTable, id: TypeId, offset: u64) -> (String, TypeId) {
    let (mut id, mut offset) = (id, offset);
    let mut path = String::new();
    for _ in 0..MAX_DEPTH {
        let kind = table.kind(id);
        if offset == 0 && (table.name(id).starts_with("sync.") || table.name(id).starts_with("internal/sync.")) {
            break;
        }
        match kind {
            Kind::Array | Kind::Backing => {
                let elem = table.elem(id);
                let size = table.size(elem);
                if size == 0 {
                    break;
                }
                path.push_str(&format!("[{}]", offset / size));
                (id, offset) = (elem, offset % size);
            }
            _ if kind.has_fields() => {
                // Of members at the same offset the last one has a size.
                let Some(f) = table.fields(id).iter().rev().find(|f| f.offset <= offset) else { break };
                path.push('.');
                path.push_str(table.field_name(f));
                (id, offset) = (f.ty, offset - f.offset);
            }
            _ => break,
        }
    }
    (path, id)
}
