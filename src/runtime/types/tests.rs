use proptest::prelude::*;

use super::*;
use crate::{
    base::{Addr, Diagnostics, GoVersion},
    image::Module,
    target::fake::FakeMemory,
};

/// Writes descriptors into one section, as the linker would.
struct Section {
    base: u64,
    bytes: Vec<u8>,
}

impl Section {
    fn new(base: u64) -> Section {
        // Offset 0 is never a type.
        Section { base, bytes: vec![0; 64] }
    }

    fn put(&mut self, at: u64, value: u64, width: usize) {
        let off = (at - self.base) as usize;
        self.bytes[off..off + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }

    fn reserve(&mut self, len: usize) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.base + self.bytes.len() as u64;
        self.bytes.resize(self.bytes.len() + len, 0);
        at
    }

    fn name(&mut self, text: &str, flags: u8) -> u64 {
        let at = self.base + self.bytes.len() as u64;
        self.bytes.push(flags);
        self.bytes.push(text.len() as u8);
        self.bytes.extend_from_slice(text.as_bytes());
        at
    }

    /// (size, pointer bytes, kind byte, tflag, name) and the whole size of the descriptor; answers its address.
    fn desc(&mut self, size: u64, ptr_bytes: u64, kind: u8, tflag: u8, name: &str, len: usize) -> u64 {
        let at = self.reserve(len);
        let name = self.name(name, 1);
        self.put(at, size, 8);
        self.put(at + 8, ptr_bytes, 8);
        self.put(at + 16, 0x1234, 4);
        self.put(at + 20, u64::from(tflag), 1);
        self.put(at + 21, 0x0808, 2);
        self.put(at + 23, u64::from(kind), 1);
        self.put(at + 32, if ptr_bytes > 0 { self.base } else { 0 }, 8);
        self.put(at + 40, name - self.base, 4);
        at
    }

    fn structure(&mut self, size: u64, ptr_bytes: u64, name: &str, package: &str, fields: &[(&str, u64, u64)]) -> u64 {
        let at = self.desc(size, ptr_bytes, 25, 1 | 4, name, 96);
        let package = self.name(package, 0);
        self.put(at + 80, package - self.base, 4);
        let list = self.reserve(24 * fields.len());
        self.put(at + 56, list, 8);
        self.put(at + 64, fields.len() as u64, 8);
        for (i, (name, ty, offset)) in fields.iter().enumerate() {
            let name = self.name(name, 1);
            self.put(list + 24 * i as u64, name, 8);
            self.put(list + 24 * i as u64 + 8, *ty, 8);
            self.put(list + 24 * i as u64 + 16, *offset, 8);
        }
        at
    }

    fn pointer(&mut self, elem: u64, name: &str) -> u64 {
        let at = self.desc(8, 8, 22 | 0x20, 0, name, 56);
        self.put(at + 48, elem, 8);
        at
    }

    fn slice(&mut self, elem: u64, name: &str) -> u64 {
        let at = self.desc(24, 8, 23, 0, name, 56);
        self.put(at + 48, elem, 8);
        at
    }
}

const BASE: u64 = 0x50_0000;

struct Planted {
    bytes: Vec<u8>,
    node: Addr,
    outer: Addr,
    map: Addr,
}

/// type Node struct { Next *Node; Items []Node; Name string; N int }, type Outer struct { A [3]Node; F func(); I any },
/// map[string]*Node.
fn planted() -> Planted {
    let mut s = Section::new(BASE);
    let int = s.desc(8, 0, 2, 4, "int", 48);
    let uintptr = s.desc(8, 0, 12, 4, "uintptr", 48);
    let string = s.desc(16, 8, 24, 4, "string", 48);
    let any = s.desc(16, 16, 20, 0, "interface {}", 80);
    let func = s.desc(8, 8, 19 | 0x20, 0, "func()", 56);
    let node = s.reserve(0);
    // The struct refers to types that refer to it: their addresses are known only afterwards.
    let node_at = s.structure(
        56,
        40,
        "main.Node",
        "example.com/main",
        &[("Next", 0, 0), ("Items", 0, 8), ("Name", string, 32), ("N", int, 48)],
    );
    assert_eq!(node, node_at);
    let to_node = s.pointer(node, "*main.Node");
    let nodes = s.slice(node, "[]main.Node");
    let list = u64::from_le_bytes(s.bytes[(node + 56 - BASE) as usize..][..8].try_into().expect("eight bytes"));
    s.put(list + 8, to_node, 8);
    s.put(list + 24 + 8, nodes, 8);
    let array = s.desc(168, 152, 17, 0, "[3]main.Node", 72);
    s.put(array + 48, node, 8);
    s.put(array + 64, 3, 8);
    let outer =
        s.structure(192, 192, "main.Outer", "example.com/main", &[("A", array, 0), ("F", func, 168), ("I", any, 176)]);
    let group = s.structure(208, 208, "map.group[string]*main.Node", "", &[("ctrl", uintptr, 0)]);
    let map = s.desc(8, 8, 21 | 0x20, 0, "map[string]*main.Node", 112);
    s.put(map + 48, string, 8);
    s.put(map + 56, to_node, 8);
    s.put(map + 64, group, 8);
    s.reserve(256);
    Planted { bytes: s.bytes, node: Addr(node), outer: Addr(outer), map: Addr(map) }
}

fn module(len: usize) -> Module {
    Module {
        text: Addr(0x40_0000),
        etext: Addr(0x4f_0000),
        types: Addr(BASE),
        etypes: Addr(BASE + len as u64),
        ..Module::default()
    }
}

fn discover(bytes: Vec<u8>, version: &str) -> TypeTable {
    let modules = [module(bytes.len())];
    let memory = FakeMemory::new().with(BASE, bytes);
    TypeTable::discover(Sources {
        memory: &memory,
        modules: &modules,
        abi: Abi::of(&GoVersion::parse(version).expect("a release")),
        itab_table: None,
        diag: &Diagnostics::default(),
    })
}

#[test]
fn descriptors_become_rows() {
    let p = planted();
    let table = discover(p.bytes, "go1.25.1");
    let node = table.by_addr(p.node).expect("found by the scan");
    assert_eq!((table.name(node), table.package(node)), ("main.Node", "example.com/main"));
    let fields: Vec<_> = table.fields(node).iter().map(|f| (table.field_name(f), f.offset, table.name(f.ty))).collect();
    let expected = [("Next", 0, "*main.Node"), ("Items", 8, "[]main.Node"), ("Name", 32, "string"), ("N", 48, "int")];
    assert_eq!(fields, expected);
    assert_eq!(table.package(table.by_name("[]main.Node").expect("a slice")), "example.com/main");
}

#[test]
fn pointers_lead_to_types() {
    let p = planted();
    let table = discover(p.bytes, "go1.25.1");
    let plan = Plan::new(&table);
    let (node, outer) = (table.by_addr(p.node).expect("node"), table.by_addr(p.outer).expect("outer"));
    let nodes = table.backing_of(node).expect("made for the slice");
    let expect = [
        (node, 0, PtrTo::To(node)),
        (node, 8, PtrTo::To(nodes)),
        (node, 16, PtrTo::NoPointer),
        (node, 32, PtrTo::To(table.string_data())),
        (node, 48, PtrTo::NoPointer),
        (outer, 2 * 56 + 8, PtrTo::To(nodes)),
        (outer, 168, PtrTo::Code),
        (outer, 176, PtrTo::Untyped),
        (outer, 184, PtrTo::Interface),
        (nodes, 100 * 56, PtrTo::To(node)),
    ];
    for (ty, offset, to) in expect {
        assert_eq!(table.pointee(ty, offset), to, "{} at {offset}", table.name(ty));
        assert_eq!(plan.pointee(&table, ty, offset), to, "plan: {} at {offset}", table.name(ty));
    }
    assert!(table.has_part_at(outer, 56, node));
    assert!(!table.has_part_at(outer, 57, node));
    assert_eq!(path_at(&table, outer, 56 + 32), ".A[1].Name");
    assert_eq!(path_at(&table, nodes, 3 * 56 + 8), "[3].Items");
}

#[test]
fn a_map_implies_its_parts() {
    let p = planted();
    let table = discover(p.bytes.clone(), "go1.25.1");
    let map = table.by_addr(p.map).expect("the map type");
    let header = table.header_of(map).expect("made");
    assert_eq!((table.name(header), table.size(header)), ("map[string]*main.Node", 48));
    let PtrTo::Directory(directory) = table.pointee(header, 16) else { panic!("{:?}", table.pointee(header, 16)) };
    let PtrTo::To(tbl) = table.pointee(directory, 8) else { panic!("no table") };
    let PtrTo::To(groups) = table.pointee(tbl, 16) else { panic!("no groups") };
    assert_eq!(table.name(groups), "map[string]*main.Node (groups)");
    assert_eq!(table.name(table.elem(groups)), "map.group[string]*main.Node");
}

#[test]
fn a_section_that_ends_early_is_no_panic() {
    let p = planted();
    for len in 0..p.bytes.len() {
        discover(p.bytes[..len].to_vec(), "go1.21.1");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Hostile descriptors: any bytes anywhere give a table of bounded size, and lookups in it end.
    #[test]
    fn hostile_sections(changes in prop::collection::vec((0usize..2600, prop_oneof![
        any::<u64>(), Just(u64::MAX), Just(BASE), (0u64..0x900).prop_map(|o| BASE + o), 0u64..256,
    ], prop_oneof![Just(1usize), Just(4), Just(8)]), 0..40), minor in prop_oneof![Just(21), Just(23), Just(25), Just(27)]) {
        let mut bytes = planted().bytes;
        let len = bytes.len();
        for (at, value, width) in changes {
            if at + width <= len {
                bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
        }
        let table = discover(bytes, &format!("go1.{minor}"));
        prop_assert!(table.len() < 2000);
        let plan = Plan::new(&table);
        for id in table.ids() {
            for offset in [0, 8, 16, 1 << 20, !7] {
                plan.pointee(&table, id, offset);
                path_at(&table, id, offset);
                table.package(id);
            }
        }
    }
}
