//! Functions of package sync and of the runtime that take and let go of things, by name, and where code calls them or
//! has them inlined. Function names and inline trees come from pclntab, so stripped binaries have them as well.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use crate::{
    base::Addr,
    image::{
        Func, Image,
        flow::{Flow, Step},
    },
};

/// What is taken or let go of; counted apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Held {
    Mutex,
    RwWrite,
    RwRead,
    /// Counts of a WaitGroup: Done lets go.
    Group,
    /// Wakes of a Cond: Signal and Broadcast let go.
    Cond,
    /// Receives from a channel: what a blocked sender waits for.
    Receive,
    /// Sends to a channel or closes it: what a blocked receiver waits for.
    Send,
    /// The lock of a descriptor of internal/poll that all its readers share, by the address of the FD.
    FdRead,
    /// The same of its writers.
    FdWrite,
}

/// How the key of a lookup in a map is passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// Address and length of a string.
    Text,
    /// A number of so many bytes.
    Word(usize),
    /// Its address.
    Pointed,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Api {
    /// +1 takes, -1 lets go of what the first argument points to.
    Step(Held, i8),
    /// Takes or not.
    Try(Held),
    /// `(*WaitGroup).Add`: the second argument says.
    GroupAdd,
    /// `(*fdMutex).rwlock` (+1), `rwunlock` (-1): the second argument says whether for reading.
    FdLock(i8),
    /// A lookup in a map, which changes nothing (an assignment looks up first).
    Lookup(KeyKind),
    DeferReturn,
    /// runtime.deferproc: the first argument is the function value.
    Defer,
    /// runtime.deferprocStack: the first argument is the record.
    DeferStack,
    /// Does not come back, or only by a panic.
    Ends,
    /// The slow path behind an inlined fast path that was counted.
    Slow,
}

/// Meaning of a function by its name; `None` for all others.
pub fn api(name: &str) -> Option<Api> {
    use Held::*;
    let name = name.strip_prefix("internal/").filter(|n| n.starts_with("sync.(")).unwrap_or(name);
    if let Some(name) = name.strip_prefix("internal/poll.") {
        return Some(match name {
            "(*FD).readLock" => Api::Step(FdRead, 1),
            "(*FD).readUnlock" => Api::Step(FdRead, -1),
            "(*FD).writeLock" => Api::Step(FdWrite, 1),
            "(*FD).writeUnlock" => Api::Step(FdWrite, -1),
            "(*fdMutex).rwlock" => Api::FdLock(1),
            "(*fdMutex).rwunlock" => Api::FdLock(-1),
            _ => return None,
        });
    }
    // A method value: a function of its own that takes the receiver from its closure and calls the method.
    if name.ends_with("-fm") {
        return None;
    }
    if !name.starts_with("sync.") && !name.starts_with("runtime.") {
        return matches!(name, "os.Exit" | "log.Fatal" | "log.Fatalf" | "log.Fatalln" | "syscall.Exit")
            .then_some(Api::Ends);
    }
    Some(match name {
        "sync.(*Mutex).Lock" => Api::Step(Mutex, 1),
        "sync.(*Mutex).Unlock" => Api::Step(Mutex, -1),
        "sync.(*Mutex).TryLock" => Api::Try(Mutex),
        "sync.(*RWMutex).Lock" => Api::Step(RwWrite, 1),
        "sync.(*RWMutex).Unlock" => Api::Step(RwWrite, -1),
        "sync.(*RWMutex).TryLock" => Api::Try(RwWrite),
        "sync.(*RWMutex).RLock" | "sync.(*rlocker).Lock" => Api::Step(RwRead, 1),
        "sync.(*RWMutex).RUnlock" | "sync.(*rlocker).Unlock" => Api::Step(RwRead, -1),
        "sync.(*RWMutex).TryRLock" => Api::Try(RwRead),
        "sync.(*WaitGroup).Done" => Api::Step(Group, -1),
        "sync.(*WaitGroup).Add" => Api::GroupAdd,
        "sync.(*Cond).Signal" | "sync.(*Cond).Broadcast" => Api::Step(Cond, -1),
        "runtime.chanrecv1" | "runtime.chanrecv2" => Api::Step(Receive, -1),
        "runtime.chansend1" | "runtime.closechan" => Api::Step(Send, -1),
        "runtime.mapaccess1_faststr" | "runtime.mapaccess2_faststr" | "runtime.mapassign_faststr" => {
            Api::Lookup(KeyKind::Text)
        }
        "runtime.mapaccess1_fast64"
        | "runtime.mapaccess2_fast64"
        | "runtime.mapassign_fast64"
        | "runtime.mapassign_fast64ptr" => Api::Lookup(KeyKind::Word(8)),
        "runtime.mapaccess1_fast32" | "runtime.mapaccess2_fast32" | "runtime.mapassign_fast32" => {
            Api::Lookup(KeyKind::Word(4))
        }
        "runtime.mapaccess1" | "runtime.mapaccess2" | "runtime.mapassign" => Api::Lookup(KeyKind::Pointed),
        "runtime.deferreturn" => Api::DeferReturn,
        "runtime.deferproc" => Api::Defer,
        "runtime.deferprocStack" => Api::DeferStack,
        "runtime.gopanic"
        | "runtime.throw"
        | "runtime.fatal"
        | "runtime.block"
        | "runtime.Goexit"
        | "sync.fatal"
        | "sync.throw"
        | "runtime.morestack"
        | "runtime.morestack_noctxt"
        | "runtime.exit"
        | "runtime.sigpanic" => Api::Ends,
        _ if name.starts_with("runtime.panic") || name.starts_with("runtime.goPanic") => Api::Ends,
        _ if name.starts_with("sync.(*Mutex).") || name.starts_with("sync.(*RWMutex).") => Api::Slow,
        _ => return None,
    })
}

/// Functions and instructions of one binary. Keeps what it has looked up.
pub struct Code<'i> {
    image: &'i Image,
    apis: HashMap<u64, Option<Api>>,
    small: HashMap<u64, bool>,
    counts: HashMap<(u64, u64), Option<[i8; 3]>>,
    locked: HashMap<u64, Option<(Api, u64)>>,
    loops: HashMap<u64, bool>,
    reader_count: u64,
}

/// Helpers larger than this are not stepped into.
const SMALL: usize = 1024;
/// Nor, where all that speaks for it is a call of a function value or an interface's method, larger than this.
const TINY: u64 = 256;
/// Instructions of one function that are looked at.
const MAX_FUNCTION: usize = 1 << 17;

impl<'i> Code<'i> {
    /// `reader_count`: offset of RWMutex.readerCount.
    pub fn new(image: &'i Image, reader_count: u64) -> Code<'i> {
        Code {
            image,
            apis: HashMap::new(),
            small: HashMap::new(),
            counts: HashMap::new(),
            locked: HashMap::new(),
            loops: HashMap::new(),
            reader_count,
        }
    }

    pub fn function(&self, pc: Addr) -> Option<Func<'i>> {
        self.image.pclntab.find(pc)
    }

    pub fn instruction(&self, pc: Addr) -> Option<Instruction> {
        let code = self.image.code_from(pc)?;
        let i = Decoder::with_ip(64, &code[..code.len().min(16)], pc.0, DecoderOptions::NONE).decode();
        (!i.is_invalid()).then_some(i)
    }

    /// What a call of the function at `entry` does.
    pub fn api_at(&mut self, entry: Addr) -> Option<Api> {
        let image = self.image;
        *self.apis.entry(entry.0).or_insert_with(|| {
            let f = image.pclntab.find(entry)?;
            (f.entry() == entry).then(|| api(f.name().trim_end_matches(".abi0"))).flatten()
        })
    }

    /// What a locked instruction does as the inlined body of a function of package sync, and the offset of the word it
    /// changes in the primitive.
    pub fn inlined(&mut self, i: &Instruction) -> Option<(Api, u64)> {
        if !i.has_lock_prefix() {
            return None;
        }
        if let Some(&known) = self.locked.get(&i.ip()) {
            return known;
        }
        // The compiler may give the instruction the line of the caller (a nil check moved into it), and no inlined
        // function then. The call of the slow path behind it always has one.
        let api = self.inlined_api(Addr(i.ip())).or_else(|| self.slow_path(i));
        let found = match api {
            Some(Api::Step(Held::RwRead, _) | Api::Try(Held::RwRead)) => Some(self.reader_count),
            Some(Api::Step(Held::Mutex, _) | Api::Try(Held::Mutex)) => Some(0),
            _ => None,
        };
        let found = api.zip(found);
        self.locked.insert(i.ip(), found);
        found
    }

    fn inlined_api(&self, pc: Addr) -> Option<Api> {
        self.function(pc)?.inline_frames(pc).filter(|l| l.inlined).find_map(|l| api(l.function))
    }

    /// The inlined function whose slow path is called right behind the locked instruction `first`.
    fn slow_path(&mut self, first: &Instruction) -> Option<Api> {
        const NEAR: usize = 24;
        let f = self.function(Addr(first.ip()))?;
        let mut todo = vec![first.next_ip()];
        let mut left = NEAR;
        while let Some(mut pc) = todo.pop() {
            while left > 0 && Addr(pc) < f.end() {
                left -= 1;
                let i = self.instruction(Addr(pc))?;
                if i.has_lock_prefix() {
                    break;
                }
                match i.flow_control() {
                    FlowControl::Next => pc = i.next_ip(),
                    FlowControl::ConditionalBranch => {
                        todo.push(i.near_branch_target());
                        pc = i.next_ip();
                    }
                    FlowControl::UnconditionalBranch => pc = i.near_branch_target(),
                    FlowControl::Call => {
                        let callee = self.function(Addr(i.near_branch_target()))?;
                        if !callee.name().trim_start_matches("internal/").starts_with("sync.") {
                            break;
                        }
                        let found = self.inlined_api(Addr(pc));
                        let exchange = first.mnemonic() == Mnemonic::Cmpxchg;
                        return found.filter(|a| match a {
                            Api::Step(Held::Mutex, 1) | Api::Try(_) => exchange,
                            _ => !exchange,
                        });
                    }
                    _ => break,
                }
            }
        }
        None
    }

    fn body(&self, f: &Func<'_>) -> impl Iterator<Item = Instruction> + use<'i> {
        let code = self.image.code_of(f).unwrap_or_default();
        let entry = f.entry().0;
        // `code_of` borrows from the image, not from the function.
        let mut d = Decoder::with_ip(64, code, entry, DecoderOptions::NONE);
        std::iter::from_fn(move || d.can_decode().then(|| d.decode())).take(MAX_FUNCTION)
    }

    /// Functions that `f` calls directly.
    pub fn callees(&self, f: &Func<'i>) -> Vec<Addr> {
        let to = |s: &Step| if let Flow::Call(to) = s.flow { Some(to) } else { None };
        self.image.flow(f).iter().filter_map(to).collect()
    }

    /// Is it a small helper that lets go of something, itself or through another such helper, or may do so through a function
    /// value or an interface?
    pub fn worth_entering(&mut self, entry: Addr, depth: u32) -> bool {
        if let Some(&known) = self.small.get(&entry.0) {
            return known;
        }
        // Calls in a circle end here.
        self.small.insert(entry.0, false);
        let Some(f) = self.function(entry).filter(|f| f.entry() == entry) else { return false };
        let small = f.end().distance_from(entry).is_some_and(|n| n <= SMALL as u64);
        let own = f.name().starts_with("runtime.");
        let tiny = f.end().distance_from(entry).is_some_and(|n| n <= TINY);
        let mut found = false;
        if small && !own {
            for i in self.body(&f).collect::<Vec<_>>() {
                found |= tiny && matches!(i.flow_control(), FlowControl::IndirectCall | FlowControl::IndirectBranch);
                let step = match self.inlined(&i) {
                    Some((a, _)) => Some(a),
                    None if i.is_call_near() || i.is_jmp_near() || i.is_jmp_short() => {
                        let to = Addr(i.near_branch_target());
                        let inside = to >= f.entry() && to < f.end();
                        match self.api_at(to).filter(|_| !inside) {
                            None if !inside && depth > 0 && self.worth_entering(to, depth - 1) => {
                                found = true;
                                None
                            }
                            a => a,
                        }
                    }
                    None => None,
                };
                found |= matches!(step, Some(Api::Step(..) | Api::GroupAdd | Api::FdLock(_)));
            }
        }
        self.small.insert(entry.0, found);
        found
    }

    /// Smallest number of locks taken and not let go of ([mutex, write, read]) over all ways from the entry of the
    /// function to `pc`. Looks at counts only, not at which lock. `None` where the way is not clear.
    pub fn taken_before(&mut self, pc: Addr) -> Option<[i8; 3]> {
        let f = self.function(Addr(pc.0.saturating_sub(1)))?;
        let key = (f.entry().0, pc.0);
        if let Some(known) = self.counts.get(&key) {
            return *known;
        }
        let found = self.flow(&f, pc);
        self.counts.insert(key, found);
        found
    }

    fn flow(&mut self, f: &Func<'i>, pc: Addr) -> Option<[i8; 3]> {
        const LIMIT: i8 = 8;
        let body: Vec<Instruction> = self.body(f).collect();
        let index: HashMap<u64, usize> = body.iter().enumerate().map(|(n, i)| (i.ip(), n)).collect();
        let mut best: Vec<Option<[i8; 3]>> = vec![None; body.len() + 1];
        let mut todo = vec![0usize];
        *best.first_mut()? = Some([0; 3]);
        let mut steps = 0usize;
        while let Some(n) = todo.pop() {
            steps += 1;
            if steps > 64 * MAX_FUNCTION {
                return None;
            }
            let Some(i) = body.get(n) else { continue };
            let mut count = best[n]?;
            let mut ends = false;
            let mut step = |a: Api| match a {
                Api::Step(Held::Mutex, d) => count[0] = (count[0] + d).clamp(-LIMIT, LIMIT),
                Api::Step(Held::RwWrite, d) => count[1] = (count[1] + d).clamp(-LIMIT, LIMIT),
                Api::Step(Held::RwRead, d) => count[2] = (count[2] + d).clamp(-LIMIT, LIMIT),
                Api::Ends => ends = true,
                _ => {}
            };
            if let Some((a, _)) = self.inlined(i) {
                step(a);
            } else if i.is_call_near() {
                let to = Addr(i.near_branch_target());
                match self.api_at(to) {
                    Some(a) => step(a),
                    None => {
                        if let Some(a) = self.wrapper(to) {
                            step(a);
                        }
                    }
                }
            }
            if ends {
                continue;
            }
            let target = |i: &Instruction| index.get(&i.near_branch_target()).copied();
            let next: [Option<usize>; 2] = match i.flow_control() {
                FlowControl::UnconditionalBranch => [target(i), None],
                FlowControl::ConditionalBranch => [target(i), Some(n + 1)],
                FlowControl::Return | FlowControl::Exception | FlowControl::Interrupt => [None, None],
                // A jump table: the ways are not clear.
                FlowControl::IndirectBranch => return None,
                _ => [Some(n + 1), None],
            };
            for to in next.into_iter().flatten() {
                let merged = match best[to] {
                    Some(old) => [0, 1, 2].map(|k| old[k].min(count[k])),
                    None => count,
                };
                if best[to] != Some(merged) {
                    best[to] = Some(merged);
                    todo.push(to);
                }
            }
        }
        best[*index.get(&pc.0)?]
    }

    /// Does some way on from the return address `pc` come to the call before it again, within the function? `false` for functions of
    /// the runtime, and where the way is not clear.
    pub fn comes_back(&mut self, pc: Addr) -> bool {
        if let Some(&known) = self.loops.get(&pc.0) {
            return known;
        }
        let found = self.function(Addr(pc.0.saturating_sub(1))).is_some_and(|f| {
            let body = if f.name().starts_with("runtime.") { Vec::new() } else { self.image.flow(&f) };
            let at = |to: Addr| body.binary_search_by_key(&to, |s| s.pc).ok();
            let mut seen = vec![false; body.len()];
            let mut todo: Vec<usize> = at(pc).into_iter().collect();
            while let Some(n) = todo.pop() {
                if std::mem::replace(&mut seen[n], true) {
                    continue;
                }
                let (jump, next) = match body[n].flow {
                    Flow::Call(to) if matches!(self.api_at(to), Some(Api::Ends)) => continue,
                    Flow::Jump(to) => (at(to), None),
                    Flow::Branch(to) => (at(to), Some(n + 1)),
                    Flow::End => (None, None),
                    Flow::Next | Flow::Call(_) => (None, Some(n + 1)),
                };
                if body[n].next == pc {
                    return true;
                }
                todo.extend(jump.into_iter().chain(next).filter(|&t| t < body.len()));
            }
            false
        });
        self.loops.insert(pc.0, found);
        found
    }

    /// A promoted method or other tiny function that does exactly one step of a lock.
    fn wrapper(&mut self, entry: Addr) -> Option<Api> {
        let f = self.function(entry).filter(|f| f.entry() == entry)?;
        if f.end().distance_from(entry)? > 256 || f.name().starts_with("runtime.") {
            return None;
        }
        let mut steps = Vec::new();
        for i in self.body(&f).collect::<Vec<_>>() {
            let a = match self.inlined(&i) {
                Some((a, _)) => Some(a),
                None if i.is_call_near() || i.is_jmp_near() => self.api_at(Addr(i.near_branch_target())),
                None => None,
            };
            match a {
                Some(a @ Api::Step(Held::Mutex | Held::RwWrite | Held::RwRead, _)) => steps.push(a),
                Some(Api::Try(_)) => return None,
                _ => {}
            }
        }
        (steps.len() == 1).then(|| steps[0])
    }
}
