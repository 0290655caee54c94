//! The dominator tree as people open it: who retains most, step by step; many equal children are one row.

use std::{collections::HashMap, ops::Range};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    dominators::{Dominators, Node, Vertex},
    holders::{HolderKind, Holders},
    locals::LocalHolders,
};
use crate::{
    base::Addr,
    graph::{build::Built, typing::Typed},
    runtime::{Runtime, heap::Heap, types::Kind},
};

#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Holder, or type of the object (of all of them, where `nodes` is above 1).
    pub name: String,
    /// `holder` or `object`.
    pub kind: &'static str,
    /// Null for holders and merged rows.
    pub addr: Option<Addr>,
    /// Nodes in this row.
    pub nodes: u64,
    /// The local variable that holds it (one of them, where several do): `main.handler.buf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    pub own_bytes: u64,
    pub retained_bytes: u64,
    /// Objects retained, the row's own included.
    pub objects: u64,
    pub children: Vec<Entry>,
}

/// How much of the tree is shown.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub depth: u32,
    /// Rows that retain less are left out.
    pub min_bytes: u64,
    /// Rows per level.
    pub width: usize,
    /// The tables inside maps are levels of their own; else what they hold stands directly below the map.
    pub internals: bool,
}

pub struct Tree<'a> {
    pub rt: &'a Runtime,
    pub heap: &'a Heap,
    pub built: &'a Built,
    pub typed: &'a Typed,
    pub holders: &'a Holders,
    pub dom: &'a Dominators,
    pub locals: LocalHolders<'a>,
}

impl Tree<'_> {
    /// The children of `node`, heaviest first. Cost: the nodes of the levels shown, on all cores.
    pub fn open(&self, node: Node, shape: Shape) -> Vec<Entry> {
        self.level(&[node], self.dom.retained(node), shape)
    }

    /// The entry of one node with its children.
    pub fn entry(&self, node: Node, shape: Shape) -> Entry {
        let mut row = Row::new(Group::Alone(node.0));
        row.add(self.dom, node);
        Entry { children: self.open(node, shape), ..self.describe(&row) }
    }

    /// `all`: what the parents retain together.
    fn level(&self, parents: &[Node], all: u64, shape: Shape) -> Vec<Entry> {
        if shape.depth == 0 {
            return Vec::new();
        }
        let mut rows = Rows::default();
        let mut open: Vec<(Node, bool)> = parents.iter().map(|&p| (p, !shape.internals && self.is_map(p))).collect();
        while !open.is_empty() {
            let tasks = self.tasks(&open);
            let parts: Vec<(Rows, Vec<Node>)> = tasks.into_par_iter().map(|task| self.rows_of(&task, all)).collect();
            open.clear();
            for (part, inside) in parts {
                part.list.into_iter().for_each(|row| rows.join(row));
                open.extend(inside.into_iter().map(|n| (n, true)));
            }
        }
        let mut rows = rows.list;
        rows.retain(|r| r.retained >= shape.min_bytes);
        rows.sort_by_key(|r| (std::cmp::Reverse(r.retained), r.first[0]));
        rows.truncate(shape.width);
        rows.iter()
            .map(|r| {
                // What hangs below them may be too little for any row.
                let open = if r.retained - r.own < shape.min_bytes { &[] } else { r.open.as_slice() };
                let children = self.level(open, r.retained, Shape { depth: shape.depth - 1, ..shape });
                Entry { children, ..self.describe(r) }
            })
            .collect()
    }

    /// Parents, each with a part of the nodes it dominates, in lists of about as many nodes. `open`: nodes, and whether they are
    /// parts of a map, into which one looks.
    fn tasks(&self, open: &[(Node, bool)]) -> Vec<Vec<Part>> {
        const NODES: u32 = 1 << 16;
        let mut tasks = vec![Vec::new()];
        let mut room = NODES;
        for &(node, in_map) in open {
            let (mut at, below) = (0, self.dom.below(node));
            while at < below {
                let to = below.min(at.saturating_add(room));
                tasks.last_mut().expect("one at least").push(Part { node, in_map, below: at..to });
                room -= to - at;
                at = to;
                if room == 0 {
                    tasks.push(Vec::new());
                    room = NODES;
                }
            }
        }
        tasks
    }

    /// The rows of a task, and the parts of maps to look into next.
    fn rows_of(&self, task: &[Part], all: u64) -> (Rows, Vec<Node>) {
        let mut rows = Rows::default();
        let mut inside = Vec::new();
        for part in task {
            for child in self.dom.children_from(part.node, part.below.clone()) {
                match part.in_map && self.inside_map(child) {
                    true => inside.push(child),
                    // Equal things are told apart only where one of them is heavy by itself.
                    false => rows.add(self.dom, self.group(child, all), child),
                }
            }
        }
        (rows, inside)
    }

    /// The variable that holds these objects, if it is one of a goroutine that nothing but the goroutine stands above, and
    /// the same for the first of them.
    fn held_by(&self, nodes: &[Node]) -> Option<String> {
        let name = |&n: &Node| match (self.dom.vertex(n), self.dom.vertex(self.dom.parent(n))) {
            (Vertex::Object(id), Vertex::Holder(_) | Vertex::Super) => self.locals.name(id),
            _ => None,
        };
        let first = name(nodes.first()?)?;
        nodes.iter().all(|n| name(n).as_ref() == Some(&first)).then_some(first)
    }

    fn inside_map(&self, n: Node) -> bool {
        matches!(self.dom.vertex(n), Vertex::Object(id) if self.typed.types.inside_map(self.typed.typing.type_of(id)))
    }

    fn is_map(&self, n: Node) -> bool {
        let header = |id| self.typed.types.kind(self.typed.typing.type_of(id)) == Kind::MapHeader;
        self.inside_map(n) || matches!(self.dom.vertex(n), Vertex::Object(id) if header(id))
    }

    fn group(&self, n: Node, all: u64) -> Group {
        let alone = self.dom.retained(n) * 20 >= all;
        match self.dom.vertex(n) {
            Vertex::Holder(h) if self.holders.list[h as usize].kind == HolderKind::Goroutine && !alone => {
                Group::Goroutines
            }
            Vertex::Object(id) if !alone => Group::Type(self.typed.typing.type_of(id).0),
            _ => Group::Alone(n.0),
        }
    }

    fn describe(&self, row: &Row) -> Entry {
        let nodes = &row.first;
        let (name, kind, addr) = match self.dom.vertex(nodes[0]) {
            Vertex::Super => ("everything alive".to_owned(), "holder", None),
            Vertex::Holder(_) if row.n > 1 => ("goroutines".to_owned(), "holder", None),
            Vertex::Holder(h) => (self.holders.name(self.rt, self.built, h), "holder", None),
            Vertex::Object(id) => (
                self.typed.name(id).unwrap_or("(untyped)").to_owned(),
                "object",
                (row.n == 1).then(|| self.heap.extent(id).0),
            ),
        };
        Entry {
            name,
            kind,
            addr,
            nodes: row.n,
            held_by: self.held_by(nodes),
            own_bytes: row.own,
            retained_bytes: row.retained,
            objects: row.objects,
            children: Vec::new(),
        }
    }
}

/// Some of the nodes that `node` dominates.
struct Part {
    node: Node,
    /// Parts of a map among its children are looked into.
    in_map: bool,
    below: Range<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Group {
    Alone(u32),
    Goroutines,
    Type(u32),
}

/// Nodes of a row that are looked at to see what holds them.
const LOOKED_AT: usize = 16;

/// Nodes that are shown as one.
struct Row {
    group: Group,
    n: u64,
    /// The first of them, `LOOKED_AT` at most.
    first: Vec<Node>,
    /// Those that dominate something.
    open: Vec<Node>,
    own: u64,
    retained: u64,
    objects: u64,
}

impl Row {
    fn new(group: Group) -> Row {
        Row { group, n: 0, first: Vec::new(), open: Vec::new(), own: 0, retained: 0, objects: 0 }
    }

    fn add(&mut self, dom: &Dominators, n: Node) {
        self.n += 1;
        if self.first.len() < LOOKED_AT {
            self.first.push(n);
        }
        if dom.below(n) > 0 {
            self.open.push(n);
        }
        self.own += dom.own_bytes(n);
        self.retained += dom.retained(n);
        self.objects += dom.retained_objects(n);
    }
}

/// Rows by what they are of.
#[derive(Default)]
struct Rows {
    list: Vec<Row>,
    index: HashMap<Group, usize>,
    /// The row that was added to last: neighbours are mostly alike.
    last: usize,
}

impl Rows {
    fn row(&mut self, group: Group) -> &mut Row {
        if self.list.get(self.last).is_none_or(|r| r.group != group) {
            self.last = *self.index.entry(group).or_insert_with(|| {
                self.list.push(Row::new(group));
                self.list.len() - 1
            });
        }
        &mut self.list[self.last]
    }

    fn add(&mut self, dom: &Dominators, group: Group, n: Node) {
        self.row(group).add(dom, n);
    }

    fn join(&mut self, mut other: Row) {
        let row = self.row(other.group);
        row.n += other.n;
        let room = LOOKED_AT - row.first.len();
        row.first.extend(other.first.into_iter().take(room));
        row.open.append(&mut other.open);
        row.own += other.own;
        row.retained += other.retained;
        row.objects += other.objects;
    }
}
