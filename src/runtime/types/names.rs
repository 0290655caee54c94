//! Names as Go users write them. The runtime's own strings (`main.Session`, `shapes.Pair[string,*main.User]`) are the
//! model; DWARF writes whole import paths, which `shorten` brings to the same form.

use std::collections::HashMap;

use super::{TypeId, TypeTable, table::Kind, table::NameRef};

/// All names, each once, in one string.
#[derive(Debug, Default)]
pub(super) struct Names {
    pool: String,
    known: HashMap<Box<str>, NameRef>,
}

impl Names {
    pub fn intern(&mut self, name: &str) -> NameRef {
        if let Some(&at) = self.known.get(name) {
            return at;
        }
        let at = NameRef { start: self.pool.len() as u32, len: name.len() as u32 };
        // 4 GiB of names cannot come from a table of bounded size, but a reference must never be wrong.
        if self.pool.len().saturating_add(name.len()) > u32::MAX as usize {
            return NameRef::default();
        }
        self.pool.push_str(name);
        self.known.insert(name.into(), at);
        at
    }

    pub fn get(&self, at: NameRef) -> &str {
        self.pool.get(at.start as usize..(at.start as usize).saturating_add(at.len as usize)).unwrap_or("")
    }

    pub fn find(&self, name: &str) -> Option<NameRef> {
        self.known.get(name).copied()
    }
}

/// `map[string]*example.com/a/b.T` → `map[string]*b.T`: drops the directories of import paths, as `reflect` does; type
/// arguments keep theirs (`b.Pair[string,*example.com/a.U]`), as in the runtime's strings.
pub fn shorten(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut out = String::with_capacity(name.len());
    // Start of the path that is being read, in `out`.
    let mut path = 0;
    // Brackets of type arguments that are open.
    let mut depth = 0usize;
    let mut i = 0;
    while i < bytes.len() {
        let c = bytes[i];
        if depth > 0 {
            match c {
                b'[' => depth += 1,
                b']' => depth -= 1,
                _ => {}
            }
            push(&mut out, name, &mut i);
            continue;
        }
        match c {
            // `map[`, `[]`, `[4]` open no type arguments: they follow nothing or the word map.
            b'[' if out.len() > path && &out[path..] != "map" && !out.ends_with(']') => {
                depth = 1;
                push(&mut out, name, &mut i);
            }
            b'/' if !out[path..].contains(['"', '{']) => {
                out.truncate(path);
                i += 1;
            }
            b'[' | b']' | b'*' | b'(' | b')' | b' ' | b',' | b';' | b'{' | b'}' => {
                push(&mut out, name, &mut i);
                path = out.len();
            }
            b'"' => {
                // A struct tag: copied as it is.
                push(&mut out, name, &mut i);
                while i < bytes.len() && bytes[i] != b'"' {
                    if bytes[i] == b'\\' {
                        push(&mut out, name, &mut i);
                    }
                    push(&mut out, name, &mut i);
                }
                path = out.len();
            }
            _ => push(&mut out, name, &mut i),
        }
    }
    out
}

/// Copies the character at byte `i`.
fn push(out: &mut String, name: &str, i: &mut usize) {
    match name.get(*i..).and_then(|rest| rest.chars().next()) {
        Some(c) => {
            out.push(c);
            *i += c.len_utf8();
        }
        None => *i += 1,
    }
}

/// Import path part of a full name: `example.com/a/b.T[int]` → `example.com/a/b`; empty where there is none.
pub fn in_package(full: &str) -> &str {
    let head = &full[..full.find('[').unwrap_or(full.len())];
    let dir = head.rfind('/').map_or(0, |i| i + 1);
    match head[dir..].find('.') {
        Some(dot) if !head.contains([' ', '*', '(', '{']) => &head[..dir + dot],
        _ => "",
    }
}

/// Import path of a function's package: `example.com/a.(*T[...]).m.func1` → `example.com/a`.
pub fn function_package(name: &str) -> &str {
    let head = &name[..name.find(['(', '[']).unwrap_or(name.len())];
    let dir = head.rfind('/').map_or(0, |i| i + 1);
    head[dir..].find('.').map_or("", |dot| &head[..dir + dot])
}

impl TypeTable {
    /// Composes the name of an unnamed type from its parts (types that reflect made have no string to be found).
    pub(super) fn structural_name(&self, id: TypeId, depth: usize) -> String {
        let row = self.row(id);
        let known = self.names.get(row.name);
        if depth == 0 || (row.name.len > 0 && known != "?") {
            return known.to_owned();
        }
        let name = |t: TypeId| self.structural_name(t, depth - 1);
        match row.kind {
            Kind::Pointer => format!("*{}", name(row.elem)),
            Kind::Slice => format!("[]{}", name(row.elem)),
            Kind::Array => format!("[{}]{}", row.len, name(row.elem)),
            Kind::Map => format!("map[{}]{}", name(row.key), name(row.elem)),
            Kind::Chan => {
                let arrow = match row.dir {
                    1 => "<-chan ",
                    2 => "chan<- ",
                    _ => "chan ",
                };
                format!("{arrow}{}", name(row.elem))
            }
            Kind::Func => {
                let (params, results) = self.signature(id);
                let params: Vec<_> = params.map(name).collect();
                let results: Vec<_> = results.map(|t| self.structural_name(t, depth - 1)).collect();
                let results = match results.len() {
                    0 => String::new(),
                    1 => format!(" {}", results[0]),
                    _ => format!(" ({})", results.join(", ")),
                };
                format!("func({}){results}", params.join(", "))
            }
            Kind::Struct => {
                let fields: Vec<_> = self
                    .fields(id)
                    .iter()
                    .take(16)
                    .map(|f| format!("{} {}", self.field_name(f), self.structural_name(f.ty, depth - 1)))
                    .collect();
                if fields.is_empty() { "struct {}".to_owned() } else { format!("struct {{ {} }}", fields.join("; ")) }
            }
            _ => known.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn import_paths_are_shortened_as_reflect_does() {
        for (full, short) in [
            ("example.com/a/b.T", "b.T"),
            ("[]example.com/a/b.T", "[]b.T"),
            ("map[string]*example.com/a/b.T", "map[string]*b.T"),
            ("map[example.com/a/b.K]example.com/c.V", "map[b.K]c.V"),
            ("example.com/a/b.Pair[string,*example.com/c.U]", "b.Pair[string,*example.com/c.U]"),
            ("[4]*example.com/a/b.Pair[int,int]", "[4]*b.Pair[int,int]"),
            (
                "func(*net/http.Request, int) (net/http.Response, error)",
                "func(*http.Request, int) (http.Response, error)",
            ),
            ("chan<- net/http.X", "chan<- http.X"),
            ("main.Session", "main.Session"),
            ("struct { A net/http.X \"json:\\\"a/b\\\"\"; B int }", "struct { A http.X \"json:\\\"a/b\\\"\"; B int }"),
            ("gopkg.in/yaml%2ev3.Node", "yaml%2ev3.Node"),
        ] {
            assert_eq!(shorten(full), short);
        }
    }

    #[test]
    fn packages_of_full_names() {
        assert_eq!(in_package("example.com/a/b.T[int]"), "example.com/a/b");
        assert_eq!(in_package("main.T"), "main");
        assert_eq!(in_package("[]int"), "");
        assert_eq!(in_package("*main.T"), "");
        assert_eq!(in_package("int"), "");
        assert_eq!(function_package("example.com/a/b.(*T[...]).m.func1"), "example.com/a/b");
        assert_eq!(function_package("main.f"), "main");
    }
}
