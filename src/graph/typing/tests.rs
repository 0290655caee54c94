use super::*;
use crate::{
    base::{Bitmap, Goid},
    graph::{Graph, Root, RootKind, Rows},
    runtime::{
        heap::Span,
        types::{Kind, TestTypes},
    },
};

/// A heap written down span by span, and a graph edge by edge.
#[derive(Default)]
struct World {
    spans: Vec<Span>,
    edges: Vec<(u32, u64, u32, u64)>,
    hints: Hints,
    roots: Vec<Root>,
    regions: Vec<Region>,
    next: u32,
}

impl World {
    /// A span of `n` slots; answers the id of the first.
    fn span(&mut self, elemsize: u64, n: u32, noscan: bool) -> u32 {
        let first = self.next;
        self.next += n;
        self.spans.push(Span {
            start: Addr(0xc000_0000_0000 + u64::from(first) * 0x10000),
            bytes: 8192,
            elemsize,
            nelems: n,
            limit: Addr(0),
            first: ObjectId(first),
            class: u8::from(elemsize <= 32768),
            noscan,
            user_arena: false,
            sweepgen: 0,
            alloc_count: n,
            large_type: Addr(0),
            specials: Addr(0),
            mspan: Addr(0),
        });
        first
    }

    /// The word at byte `at` of slot `from` points to byte `offset` of slot `to`.
    fn edge(&mut self, from: u32, at: u64, to: u32, offset: u64) {
        self.edges.push((from, at, to, offset));
    }

    /// A global of type `ty` at `at` whose first word points to an object.
    fn global(&mut self, at: u64, ty: TypeId, to: u32, offset: u32) {
        self.regions.push(Region { start: Addr(at), ty });
        self.roots.push(Root {
            kind: RootKind::Data,
            target: ObjectId(to),
            at: Addr(at),
            offset,
            goid: Goid(0),
            frame: 0,
        });
    }

    fn run(mut self, types: &TypeTable, guess: bool) -> Typing {
        let slots = self.next;
        self.edges.sort_by_key(|e| (e.0, e.1));
        let mut graph = Graph { roots: self.roots, ..Graph::default() };
        let mut degrees = vec![0u32; slots as usize];
        for &(from, at, to, offset) in &self.edges {
            let edge = graph.target.len() as u32;
            degrees[from as usize] += 1;
            graph.target.push(ObjectId(to));
            graph.words.push((at / 8) as u32);
            if offset > 0 {
                self.hints.interior.push((edge, offset as u32));
            }
        }
        graph.rows = Rows::of_degrees(degrees);
        let mut allocated = Bitmap::new(slots as usize);
        (0..slots as usize).for_each(|i| allocated.set(i));
        let heap = Heap::of_spans(self.spans, allocated);
        self.regions.sort();
        Typing::new(Input {
            locals: &Default::default(),
            asked: &[],
            heap: &heap,
            graph: &graph,
            hints: &self.hints,
            types,
            regions: &self.regions,
            malloc_headers: true,
            guess,
        })
    }
}

/// type Node struct { Next *Node; Items []Item; Name string } (48 bytes); Item struct { P *Node; N int }.
struct Planted {
    types: TypeTable,
    node: TypeId,
    item: TypeId,
    to_node: TypeId,
}

fn planted() -> Planted {
    let mut t = TestTypes::default();
    let int = t.basic(Kind::Int, "int", 8);
    let string = t.basic(Kind::String, "string", 16);
    let node = t.declare("main.Node", 48);
    let to_node = t.pointer(node);
    let item = t.declare("main.Item", 16);
    let items = t.slice(item);
    t.define(item, &[("P", 0, to_node), ("N", 8, int)]);
    t.define(node, &[("Next", 0, to_node), ("Items", 8, items), ("Name", 32, string)]);
    Planted { types: t.finish(), node, item, to_node }
}

#[test]
fn types_spread_along_fields() {
    let p = planted();
    let mut w = World::default();
    let nodes = w.span(48, 3, false);
    let items = w.span(64, 1, false);
    let text = w.span(32, 1, true);
    w.global(0x1000, p.to_node, nodes, 0);
    w.edge(nodes, 0, nodes + 1, 0);
    w.edge(nodes + 1, 8, items, 0);
    w.edge(items, 16, nodes + 2, 0);
    w.edge(nodes + 2, 32, text, 5);
    let typing = w.run(&p.types, false);
    for n in 0..3 {
        assert_eq!(typing.type_of(ObjectId(nodes + n)), p.node);
        assert_eq!(typing.known_by(ObjectId(nodes + n)), KnownBy::Propagated);
    }
    assert_eq!(p.types.name(typing.type_of(ObjectId(items))), "[]main.Item");
    assert_eq!(typing.type_of(ObjectId(text)), p.types.string_data());
}

#[test]
fn a_long_list_is_walked_to_its_end() {
    let p = planted();
    let mut w = World::default();
    let n = 100_000;
    let nodes = w.span(48, n, false);
    w.global(0x1000, p.to_node, nodes, 0);
    for i in 1..n {
        w.edge(nodes + i - 1, 0, nodes + i, 0);
    }
    let typing = w.run(&p.types, false);
    assert!((nodes..nodes + n).all(|i| typing.type_of(ObjectId(i)) == p.node));
}

#[test]
fn a_type_that_does_not_fit_is_not_taken() {
    let p = planted();
    let mut w = World::default();
    // Right class, but a pointer where a Node has none; and a Node cannot be in a span without pointers.
    let odd = w.span(48, 1, false);
    let other = w.span(48, 1, false);
    let noscan = w.span(48, 1, true);
    let big = w.span(96, 1, false);
    w.global(0x1000, p.to_node, odd, 0);
    w.global(0x2000, p.to_node, noscan, 0);
    w.global(0x3000, p.to_node, big, 0);
    w.edge(odd, 40, other, 0);
    let typing = w.run(&p.types, false);
    assert_eq!(typing.type_of(ObjectId(odd)), TypeId::UNKNOWN);
    assert_eq!(typing.type_of(ObjectId(noscan)), TypeId::UNKNOWN);
    assert_eq!(typing.known_by(ObjectId(big)), KnownBy::Guessed, "its first bytes are a Node, the object is larger");
}

#[test]
fn the_whole_beats_a_part_in_any_order() {
    let p = planted();
    for flip in [false, true] {
        let mut w = World::default();
        let nodes = w.span(48, 2, false);
        let (a, b) = if flip { (0x1000, 0x2000) } else { (0x2000, 0x1000) };
        // One holder knows an Item inside, the other the Node.
        let mut t = planted();
        let to_item = t.types.pointer_to(p.item);
        w.global(a, to_item, nodes, 8);
        w.global(b, p.to_node, nodes, 0);
        w.edge(nodes, 0, nodes + 1, 0);
        let typing = w.run(&t.types, false);
        assert_eq!(typing.type_of(ObjectId(nodes)), p.node);
        assert_eq!(typing.type_of(ObjectId(nodes + 1)), p.node);
        assert_eq!((typing.part_of(ObjectId(nodes)), typing.part_of(ObjectId(nodes + 1))), (None, None));
    }
}

#[test]
fn a_header_tells_one_from_many() {
    let mut t = TestTypes::default();
    let int = t.basic(Kind::Int, "int", 8);
    let big = t.declare("main.Big", 700);
    let to_big = t.pointer(big);
    t.slice(big);
    t.define(big, &[("P", 0, to_big), ("N", 8, int)]);
    t.place(big, 0x5000);
    let types = t.finish();
    let mut w = World::default();
    let one = w.span(768, 1, false);
    let many = w.span(2304, 1, false);
    w.hints.headers = vec![(ObjectId(one), Addr(0x5000)), (ObjectId(many), Addr(0x5000))];
    let typing = w.run(&types, false);
    assert_eq!(types.name(typing.type_of(ObjectId(one))), "main.Big");
    assert_eq!(types.name(typing.type_of(ObjectId(many))), "[]main.Big");
    assert_eq!(typing.known_by(ObjectId(many)), KnownBy::Exact);
}

#[test]
fn an_interface_names_what_it_holds() {
    let mut p = planted();
    TestTypes::place_in(&mut p.types, p.to_node, 0x7000);
    TestTypes::place_in(&mut p.types, p.node, 0x7100);
    let mut w = World::default();
    let holder = w.span(32, 1, false);
    let nodes = w.span(48, 2, false);
    w.edge(holder, 8, nodes, 0);
    w.edge(holder, 24, nodes + 1, 0);
    // A *Node is the data word itself, a Node is boxed: both lead to a Node.
    w.hints.interfaces = vec![(0, Addr(0x7000)), (1, Addr(0x7100))];
    let typing = w.run(&p.types, false);
    for n in 0..2 {
        assert_eq!(typing.type_of(ObjectId(nodes + n)), p.node);
        assert_eq!(typing.known_by(ObjectId(nodes + n)), KnownBy::Exact);
    }
    assert_eq!(typing.known_by(ObjectId(holder)), KnownBy::Unknown);
}

#[test]
fn a_container_is_found_around_its_part() {
    let mut t = TestTypes::default();
    let int = t.basic(Kind::Int, "int", 8);
    let node = t.declare("list.node", 16);
    let to_node = t.pointer(node);
    let entry = t.declare("list.entry", 40);
    t.define(node, &[("next", 0, to_node), ("flag", 8, int)]);
    t.define(entry, &[("node", 0, node), ("value", 16, to_node), ("n", 32, int)]);
    let types = t.finish();
    let mut w = World::default();
    let entries = w.span(48, 2, false);
    w.global(0x1000, to_node, entries, 0);
    w.edge(entries, 16, entries + 1, 0);
    let typing = w.run(&types, false);
    assert_eq!(typing.type_of(ObjectId(entries)), entry);
    assert_eq!(typing.type_of(ObjectId(entries + 1)), entry);
    assert_eq!(typing.known_by(ObjectId(entries)), KnownBy::Propagated);
}

#[test]
fn guesses_are_marked_and_use_the_children() {
    let p = planted();
    let mut w = World::default();
    let nodes = w.span(48, 2, false);
    let text = w.span(32, 1, true);
    // Nothing typed leads to the first node, but it leads to one that is known.
    w.global(0x1000, p.to_node, nodes + 1, 0);
    w.edge(nodes, 0, nodes + 1, 0);
    w.edge(nodes, 32, text, 0);
    let typing = w.run(&p.types, true);
    assert_eq!(typing.type_of(ObjectId(nodes)), p.node);
    assert_eq!(typing.known_by(ObjectId(nodes)), KnownBy::Guessed);
    assert_eq!(typing.known_by(ObjectId(text)), KnownBy::Guessed, "what follows from a guess is one");
    assert_eq!(typing.known_by(ObjectId(nodes + 1)), KnownBy::Propagated);
}

#[test]
fn threads_do_not_change_the_answer() {
    let p = planted();
    let n = 20_000;
    let build = || {
        let mut w = World::default();
        let nodes = w.span(48, n, false);
        let items = w.span(64, n, false);
        w.global(0x1000, p.to_node, nodes, 0);
        let mut seed = 1u64;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u32 % below
        };
        for i in 0..n {
            w.edge(nodes + i, 0, nodes + random(n), 0);
            w.edge(nodes + i, 8, items + random(n), u64::from(random(4)) * 16);
            w.edge(items + i, 16 * u64::from(random(4)), nodes + random(n), 0);
        }
        w
    };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| build().run(&p.types, true))
    };
    let (one, four) = (on(1), on(4));
    assert!(one == four);
}

#[test]
fn classes() {
    assert_eq!(class_size(1), 8);
    assert_eq!(class_size(33), 48);
    assert_eq!(class_size(32768), 32768);
    assert_eq!(class_size(32769), 40960);
    assert_eq!(class_size(u64::MAX), u64::MAX);
}
