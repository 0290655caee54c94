//! The dominator tree as people open it: who retains most, step by step; many equal children are one row.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    dominators::{Dominators, Node, Vertex},
    holders::{HolderKind, Holders},
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
}

impl Tree<'_> {
    /// The children of `node`, heaviest first. Cost: the nodes of the levels shown.
    pub fn open(&self, node: Node, shape: Shape) -> Vec<Entry> {
        let counts = self.dom.retained_objects();
        self.level(&[node], shape, &counts)
    }

    /// The entry of one node with its children.
    pub fn entry(&self, node: Node, shape: Shape) -> Entry {
        let counts = self.dom.retained_objects();
        let mut e = self.describe(&[node], &counts);
        e.children = self.level(&[node], shape, &counts);
        e
    }

    fn level(&self, parents: &[Node], shape: Shape, counts: &[u32]) -> Vec<Entry> {
        if shape.depth == 0 {
            return Vec::new();
        }
        // Equal things are told apart only where one of them is heavy by itself.
        let mut rows: HashMap<Group, Vec<Node>> = HashMap::new();
        let all: u64 = parents.iter().map(|&p| self.dom.retained(p)).sum();
        let mut open: Vec<Node> = parents.to_vec();
        while let Some(p) = open.pop() {
            let in_map = !shape.internals && self.is_map(p);
            for child in self.dom.children(p) {
                match in_map && self.inside_map(child) {
                    true => open.push(child),
                    false => rows.entry(self.group(child, all)).or_default().push(child),
                }
            }
        }
        let mut rows: Vec<Vec<Node>> = rows.into_values().collect();
        let weight = |r: &Vec<Node>| r.iter().map(|&n| self.dom.retained(n)).sum::<u64>();
        rows.retain(|r| weight(r) >= shape.min_bytes);
        rows.sort_by_cached_key(|r| (std::cmp::Reverse(weight(r)), r[0]));
        rows.truncate(shape.width);
        rows.iter()
            .map(|r| {
                let mut e = self.describe(r, counts);
                e.children = self.level(r, Shape { depth: shape.depth - 1, ..shape }, counts);
                e
            })
            .collect()
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

    fn describe(&self, nodes: &[Node], counts: &[u32]) -> Entry {
        let own = |n: &Node| match self.dom.vertex(*n) {
            Vertex::Object(id) => self.heap.extent(id).1,
            _ => 0,
        };
        let (name, kind, addr) = match self.dom.vertex(nodes[0]) {
            Vertex::Super => ("everything alive".to_owned(), "holder", None),
            Vertex::Holder(_) if nodes.len() > 1 => ("goroutines".to_owned(), "holder", None),
            Vertex::Holder(h) => (self.holders.name(self.rt, self.built, h), "holder", None),
            Vertex::Object(id) => (
                self.typed.name(id).unwrap_or("(untyped)").to_owned(),
                "object",
                (nodes.len() == 1).then(|| self.heap.extent(id).0),
            ),
        };
        Entry {
            name,
            kind,
            addr,
            nodes: nodes.len() as u64,
            own_bytes: nodes.iter().map(own).sum(),
            retained_bytes: nodes.iter().map(|&n| self.dom.retained(n)).sum(),
            objects: nodes.iter().map(|n| u64::from(counts[n.0 as usize])).sum(),
            children: Vec::new(),
        }
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Group {
    Alone(u32),
    Goroutines,
    Type(u32),
}
