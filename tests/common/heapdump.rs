//! Reads what runtime/debug.WriteHeapDump writes (runtime/heapdump.go): the runtime's own list of its objects.

use std::collections::HashMap;

/// One object record: the slot, and where in it pointers lie.
pub struct Object {
    pub bytes: u64,
    pub contents: Vec<u8>,
    pub pointers: Vec<u64>,
}

#[derive(Default)]
pub struct HeapDump {
    pub objects: HashMap<u64, Object>,
    /// Goroutine number and wait reason; not those of the runtime's own that are dead.
    pub goroutines: Vec<(u64, String)>,
    pub go: String,
    /// Finalizers that are set: the objects.
    pub finalizers: Vec<u64>,
    pub heap_objects: u64,
    pub heap_alloc: u64,
}

struct Reader<'d> {
    data: &'d [u8],
    at: usize,
}

impl<'d> Reader<'d> {
    fn number(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.data[self.at];
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
            shift += 7;
        }
    }

    fn numbers(&mut self, n: usize) -> Vec<u64> {
        (0..n).map(|_| self.number()).collect()
    }

    fn bytes(&mut self) -> &'d [u8] {
        let len = self.number() as usize;
        self.at += len;
        &self.data[self.at - len..self.at]
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// (kind, offset) until kind 0; kind 1 is a pointer.
    fn fields(&mut self) -> Vec<u64> {
        let mut out = Vec::new();
        loop {
            match self.number() {
                0 => return out,
                1 => out.push(self.number()),
                kind => panic!("field of kind {kind}"),
            }
        }
    }
}

/// Panics on anything that is no heap dump: it comes from the runtime.
pub fn parse(data: &[u8]) -> HeapDump {
    let head = b"go1.7 heap dump\n";
    assert!(data.starts_with(head));
    let mut r = Reader { data, at: head.len() };
    let mut out = HeapDump::default();
    loop {
        match r.number() {
            0 => return out,
            1 => {
                let addr = r.number();
                let contents = r.bytes().to_vec();
                let object = Object { bytes: contents.len() as u64, contents, pointers: r.fields() };
                assert!(out.objects.insert(addr, object).is_none(), "an object twice");
            }
            2 => {
                r.bytes();
                r.number();
            }
            3 => {
                r.numbers(2);
                r.bytes();
                r.number();
            }
            4 => {
                let head = r.numbers(8);
                let reason = r.text();
                r.numbers(4);
                out.goroutines.push((head[2], reason));
            }
            5 => {
                r.numbers(3);
                r.bytes();
                r.numbers(3);
                r.bytes();
                r.fields();
            }
            6 => {
                r.numbers(4);
                r.bytes();
                out.go = r.text();
                r.number();
            }
            7 => out.finalizers.push(r.numbers(5)[0]),
            11 => _ = r.numbers(5),
            8 => _ = r.numbers(2),
            9 => _ = r.numbers(3),
            10 => {
                let stats = r.numbers(24 + 256 + 1);
                (out.heap_alloc, out.heap_objects) = (stats[6], stats[11]);
            }
            12 | 13 => {
                r.number();
                r.bytes();
                r.fields();
            }
            14 => _ = r.numbers(7),
            15 => _ = r.numbers(6),
            16 => {
                r.numbers(2);
                for _ in 0..r.number() {
                    r.bytes();
                    r.bytes();
                    r.number();
                }
                r.numbers(2);
            }
            17 => _ = r.numbers(2),
            tag => panic!("record of kind {tag} at {}", r.at),
        }
    }
}
