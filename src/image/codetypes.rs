//! image::codetypes: what the code of a program proves about the types of its global variables: the descriptor that a
//! function passes to the allocator before it stores the result in a global, the map type beside a map that it loads, the
//! receiver of a method; which type each call of the allocator asks for; and what words of a stopped frame hold. For binaries without DWARF. Reads machine
//! code and function names only; knows no type table.
//!
//! Each function is followed once, in address order. What a register holds is kept along forward jumps and dropped
//! wherever two ways meet that disagree, at targets of backward jumps and across calls, so that a fact holds on every way
//! that leads to it. amd64 with Go's register calling convention (Go 1.17+). Cost: one decoding pass over the text.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use rayon::prelude::*;

use super::{Func, Image, Module};
use crate::{base::Addr, target::Arch};

/// What is known about the type of a global variable or of a word in one. Descriptors are addresses of abi.Type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Said {
    /// It points to a value of this type.
    PointerTo(Addr),
    /// It points to a value of this type, and a length is stored beside it: of an array, the slice of it.
    StartOf(Addr),
    /// It is a slice with elements of this type.
    SliceOf(Addr),
    /// It is of this type: a map, a channel, a struct.
    Is(Addr),
    Str,
    /// `[]byte`.
    Bytes,
    /// It points to the receiver type of the method at this entry.
    PointerToReceiver(Addr),
    /// It is of the receiver type of the method at this entry.
    IsReceiver(Addr),
}

/// What a statement is about: a word of a global variable, or the word `member` bytes into what the pointer there leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub at: Addr,
    pub member: Option<u32>,
}

impl Place {
    fn of(at: u64) -> Place {
        Place { at: Addr(at), member: None }
    }

    fn member(at: u64, member: u32) -> Place {
        Place { at: Addr(at), member: Some(member) }
    }
}

/// One statement, and how many instructions make it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statement {
    pub place: Place,
    pub said: Said,
    pub times: u32,
}

/// What a call of the allocator asks for. Descriptors are addresses of abi.Type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asked {
    One(Addr),
    /// An array of these.
    Elements(Addr),
}

/// What a word of a frame holds while a call is under way: so many bytes above the stack pointer of that moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spilled {
    /// Where the call returns to.
    pub pc: Addr,
    pub offset: i64,
    pub said: Said,
}

/// What the code of a program says, by address: of global variables, and of calls by the address they return to.
#[derive(Default)]
pub(super) struct CodeTypes {
    callees: HashMap<u64, Callee>,
    /// What functions return first.
    results: HashMap<u64, Made>,
    /// Sorted by place.
    statements: Vec<Statement>,
    calls: Vec<(Addr, Asked)>,
}

/// What was just made, and so what its pointer points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Made {
    Object(u64),
    Elements(u64),
    Header(u64),
    Str,
    Bytes,
    /// The first result of the function at this entry.
    ResultOf(u64),
    /// What the method at this entry was called on.
    Receiver(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Value {
    #[default]
    Unknown,
    Zero,
    /// An address that the code names.
    Address(u64),
    /// The word of a global variable.
    Loaded(u64),
    /// The word so many bytes into what the pointer in a global variable leads to.
    Member(u64, u32),
    Made(Made),
}

/// Functions of the runtime and standard library whose arguments or results say something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Callee {
    /// (type) makes one.
    NewObject,
    /// (size, type, ...) makes one.
    Malloc,
    /// (element type, ...) makes an array.
    MakeSlice,
    /// (old, len, cap, n, element type): Go 1.20+.
    GrowSlice,
    /// (map or channel type, ...) makes one.
    MakeHeader,
    /// (map type, map, ...).
    UseMap,
    /// (type, address, address): both hold values of the type.
    Move,
    /// (type, address).
    Touch,
    Str,
    Bytes,
    /// Changes no register that code relies on afterwards.
    Barrier,
}

/// How far a chain of functions that return each other's results is followed.
const MAX_CHAIN: usize = 4;
/// Stack words of one function that are kept track of.
const MAX_SPILLS: usize = 64;
/// A member further into a struct is not kept track of.
const MAX_MEMBER: u64 = 1 << 12;
/// Pending jump targets of one function.
const MAX_TARGETS: usize = 4096;

fn callee(name: &str, minor: u32) -> Option<Callee> {
    let plain = match name {
        "strings.Repeat" | "strings.Join" | "strings.ToLower" | "strings.ToUpper" | "strings.Replace"
        | "strings.ReplaceAll" | "strings.Map" | "strings.Clone" | "fmt.Sprintf" | "fmt.Sprint" | "fmt.Sprintln"
        | "strconv.Itoa" | "strconv.FormatInt" | "strconv.FormatUint" | "strconv.Quote" => return Some(Callee::Str),
        "os.ReadFile" | "io.ReadAll" => return Some(Callee::Bytes),
        _ => name.strip_prefix("runtime.")?,
    };
    Some(match plain {
        "newobject" => Callee::NewObject,
        "makeslice" | "makeslice64" | "makeslicecopy" => Callee::MakeSlice,
        "growslice" if minor < 20 => Callee::MakeSlice,
        "makemap" | "makemap64" | "makechan" | "makechan64" => Callee::MakeHeader,
        "typedmemmove" | "wbMove" => Callee::Move,
        "typedmemclr" | "wbZero" | "convT" | "convTnoptr" => Callee::Touch,
        "slicebytetostring" | "slicerunetostring" | "intstring" => Callee::Str,
        "stringtoslicebyte" => Callee::Bytes,
        "mapclear" | "mapiterinit" | "mapIterStart" => Callee::UseMap,
        _ if plain.starts_with("gcWriteBarrier") => Callee::Barrier,
        _ if plain.starts_with("concatstring") => Callee::Str,
        _ if plain.starts_with("growslice") => Callee::GrowSlice,
        _ if plain.starts_with("mallocgc") => Callee::Malloc,
        _ if ["mapassign", "mapaccess", "mapdelete"].iter().any(|p| plain.starts_with(p)) => Callee::UseMap,
        _ => return None,
    })
}

/// Does the name say a method with a pointer receiver (and no closure in it)?
fn is_pointer_method(name: &str) -> bool {
    let Some((head, method)) = name.rsplit_once(").") else { return false };
    let plain = |s: &str| !s.contains(['.', '[', ']', '-', '(']);
    head.rsplit_once("(*").is_some_and(|(_, ty)| plain(ty)) && plain(method)
}

/// The full name of the type that the method `name` has a pointer to as receiver: `a/b.(*T).M` → `a/b.T`.
pub fn receiver(name: &str) -> Option<String> {
    if !is_pointer_method(name) {
        return None;
    }
    let (head, _) = name.rsplit_once(").")?;
    let (package, ty) = head.rsplit_once("(*")?;
    Some(format!("{package}{ty}"))
}

#[derive(Clone, Default)]
struct State {
    regs: [Value; 16],
    spills: Vec<(i64, Value)>,
}

impl State {
    fn forget_registers(&mut self) {
        self.regs = [Value::Unknown; 16];
    }

    /// What holds on both ways.
    fn meet(&mut self, other: &State) {
        for (a, b) in self.regs.iter_mut().zip(&other.regs) {
            *a = either(*a, *b);
        }
        self.spills.retain_mut(|(at, value)| match other.spills.iter().find(|o| o.0 == *at) {
            Some(o) => {
                *value = either(*value, o.1);
                *value != Value::Unknown
            }
            None => false,
        });
    }

    fn spill(&mut self, at: i64, value: Value) {
        self.spills.retain(|s| s.0 != at);
        if value != Value::Unknown && self.spills.len() < MAX_SPILLS {
            self.spills.push((at, value));
        }
    }

    fn spilled(&self, at: i64) -> Value {
        self.spills.iter().find(|s| s.0 == at).map_or(Value::Unknown, |s| s.1)
    }
}

/// nil is of every type.
fn either(a: Value, b: Value) -> Value {
    match (a, b) {
        _ if a == b => a,
        (Value::Zero, Value::Made(_)) => b,
        (Value::Made(_), Value::Zero) => a,
        _ => Value::Unknown,
    }
}

const RAX: usize = 0;
const RCX: usize = 1;
const RBX: usize = 3;
const RSI: usize = 6;

/// Backward jumps of one function, and which stack words its instructions write.
struct Loops {
    /// Targets of backward jumps, sorted.
    targets: Vec<u64>,
    /// Code from such a target to its jump, overlapping ones joined; sorted.
    ranges: Vec<(u64, u64)>,
    /// (displacement from rsp, instruction).
    writes: Vec<(i64, u64)>,
}

impl Loops {
    /// `None` for a function that calls nothing: nothing of interest is in it.
    fn of(code: &[u8], base: Addr) -> Option<Loops> {
        let mut out = Loops { targets: Vec::new(), ranges: Vec::new(), writes: Vec::new() };
        let (mut calls, mut jumps) = (false, Vec::new());
        let mut i = Instruction::default();
        let mut decoder = Decoder::with_ip(64, code, base.0, DecoderOptions::NONE);
        while decoder.can_decode() {
            decoder.decode_out(&mut i);
            match i.flow_control() {
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    // To the entry: after the stack was grown the function begins anew.
                    if (base.0 + 1..=i.ip()).contains(&i.near_branch_target()) {
                        jumps.push((i.near_branch_target(), i.ip()));
                    }
                }
                FlowControl::Call => calls = true,
                _ => {
                    if i.op_count() > 0 && i.op0_kind() == OpKind::Memory && i.memory_base() == Register::RSP {
                        out.writes.push((i.memory_displacement64() as i64, i.ip()));
                    }
                }
            }
        }
        if !calls {
            return None;
        }
        jumps.sort_unstable();
        for (from, to) in jumps {
            match out.ranges.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => out.ranges.push((from, to)),
            }
            out.targets.push(from);
        }
        Some(out)
    }

    /// The loops that `ip` is the head of one of.
    fn begins(&self, ip: u64) -> Option<(u64, u64)> {
        self.targets.binary_search(&ip).ok()?;
        let at = self.ranges.partition_point(|r| r.1 < ip);
        self.ranges.get(at).copied().filter(|r| r.0 <= ip)
    }

    /// May an instruction in the range write the stack word at `at`? The widest store has 64 bytes.
    fn writes(&self, at: i64, from: u64, to: u64) -> bool {
        self.writes.iter().any(|&(disp, ip)| (from..=to).contains(&ip) && (at - 63..at + 8).contains(&disp))
    }
}

struct Walk<'a> {
    image: &'a Image,
    module: &'a Module,
    callees: &'a HashMap<u64, Callee>,
    found: Vec<(Place, Word)>,
    /// Calls of the allocator, by the address they return to.
    calls: Vec<(Addr, Asked)>,
    /// The function has a pointer receiver.
    method: bool,
    /// Calls whose frames are asked for, by the address they return to, and what was found: (call, offset, word).
    watched: &'a [Addr],
    spilled: Vec<(Addr, i64, Word)>,
    /// Places of this function's constants in globals.
    numbers: Vec<u64>,
    /// The first result of the function, over all its returns; `None` before the first.
    result: Option<Value>,
}

/// A statement whose source may be the result of a function that is looked at elsewhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Said(Said),
    ResultOf(u64),
}

impl<'a> Walk<'a> {
    fn new(image: &'a Image, module: &'a Module, callees: &'a HashMap<u64, Callee>) -> Self {
        Walk {
            image,
            module,
            callees,
            found: Vec::new(),
            calls: Vec::new(),
            method: false,
            watched: &[],
            spilled: Vec::new(),
            numbers: Vec::new(),
            result: None,
        }
    }

    fn is_global(&self, addr: u64) -> bool {
        self.module.is_global(Addr(addr))
    }

    fn is_type(&self, addr: u64) -> bool {
        (self.module.types.0..self.module.etypes.0).contains(&addr)
    }

    fn descriptor(&self, value: Value) -> Option<u64> {
        match value {
            Value::Address(a) if self.is_type(a) => Some(a),
            _ => None,
        }
    }

    fn store(&mut self, to: Place, value: Value) {
        let Value::Made(made) = value else { return };
        self.found.push((to, said(made)));
    }

    /// A call of `target`, which returns to `next`.
    fn call(&mut self, target: u64, next: u64, state: &mut State) {
        let regs = state.regs;
        let say = |found: &mut Vec<(Place, Word)>, at: Place, what: Said| found.push((at, Word::Said(what)));
        let kind = self.callees.get(&target).copied();
        if kind == Some(Callee::Barrier) {
            state.regs[11] = Value::Unknown;
            return;
        }
        state.forget_registers();
        let Some(kind) = kind else {
            state.regs[RAX] = Value::Made(Made::ResultOf(target));
            let (at, what): (Place, fn(Addr) -> Said) = match regs[RAX] {
                Value::Loaded(at) => (Place::of(at), Said::PointerToReceiver),
                Value::Member(at, member) => (Place::member(at, member), Said::PointerToReceiver),
                Value::Address(a) if self.is_global(a) => (Place::of(a), Said::IsReceiver),
                _ => return,
            };
            if self.image.pclntab.find(Addr(target)).is_some_and(|f| is_pointer_method(f.name())) {
                say(&mut self.found, at, what(Addr(target)));
            }
            return;
        };
        let made = match kind {
            Callee::NewObject => self.descriptor(regs[RAX]).map(Made::Object),
            Callee::Malloc => self.descriptor(regs[RBX]).map(Made::Object),
            Callee::MakeSlice => self.descriptor(regs[RAX]).map(Made::Elements),
            Callee::GrowSlice => self.descriptor(regs[RSI]).map(Made::Elements),
            Callee::MakeHeader => self.descriptor(regs[RAX]).map(Made::Header),
            Callee::Str => Some(Made::Str),
            Callee::Bytes => Some(Made::Bytes),
            Callee::UseMap => {
                let map = match regs[RBX] {
                    Value::Loaded(at) => Some(Place::of(at)),
                    Value::Member(at, member) => Some(Place::member(at, member)),
                    _ => None,
                };
                if let (Some(ty), Some(at)) = (self.descriptor(regs[RAX]), map) {
                    say(&mut self.found, at, Said::Is(Addr(ty)));
                }
                None
            }
            Callee::Move | Callee::Touch => {
                if let Some(ty) = self.descriptor(regs[RAX]) {
                    let places = [Some(regs[RBX]), (kind == Callee::Move).then_some(regs[RCX])];
                    for place in places.into_iter().flatten() {
                        if let Value::Address(at) = place
                            && self.is_global(at)
                        {
                            say(&mut self.found, Place::of(at), Said::Is(Addr(ty)));
                        }
                    }
                }
                None
            }
            Callee::Barrier => None,
        };
        let asked = match made {
            Some(Made::Object(t)) => Some(Asked::One(Addr(t))),
            Some(Made::Elements(t)) => Some(Asked::Elements(Addr(t))),
            _ => None,
        };
        self.calls.extend(asked.map(|a| (Addr(next), a)));
        state.regs[RAX] = made.map_or(Value::Unknown, Value::Made);
    }

    /// Takes note of what the frame holds at a call that is asked for.
    fn watch(&mut self, next: u64, state: &State) {
        if self.watched.binary_search(&Addr(next)).is_ok() {
            let made = |s: &(i64, Value)| match s.1 {
                Value::Made(made) => Some((Addr(next), s.0, said(made))),
                _ => None,
            };
            self.spilled.extend(state.spills.iter().filter_map(made));
        }
    }

    fn returns(&mut self, value: Value) {
        self.result = Some(match self.result {
            None => value,
            Some(before) => either(before, value),
        });
    }

    fn function(&mut self, function: &Func<'_>, code: &[u8]) {
        let (base, first) = (function.entry(), self.found.len());
        self.method = is_pointer_method(function.name());
        self.numbers.clear();
        self.follow(code, base);
        for (at, word) in self.found.get_mut(first..).unwrap_or_default() {
            if let Word::Said(Said::PointerTo(t)) = *word
                && at.member.is_none()
                && self.numbers.contains(&(at.at.0 + 8))
            {
                *word = Word::Said(Said::StartOf(t));
            }
        }
    }

    fn follow(&mut self, code: &[u8], base: Addr) {
        let end = base.0 + code.len() as u64;
        let Some(loops) = Loops::of(code, base) else { return self.returns(Value::Unknown) };
        let mut i = Instruction::default();
        let mut ahead: HashMap<u64, State> = HashMap::new();
        let mut state = Some(State::default());
        let mut decoder = Decoder::with_ip(64, code, base.0, DecoderOptions::NONE);
        while decoder.can_decode() {
            decoder.decode_out(&mut i);
            let ip = i.ip();
            if let Some(other) = ahead.remove(&ip) {
                match &mut state {
                    Some(s) => s.meet(&other),
                    None => state = Some(other),
                }
            }
            if let Some((from, to)) = loops.begins(ip) {
                // Whatever way leads here comes from before the loops or out of them: stack words hold what they held on
                // every way in, if no instruction of the loops writes them.
                for (_, other) in ahead.iter().filter(|(at, _)| (from..=to).contains(*at)) {
                    match &mut state {
                        Some(s) => s.meet(other),
                        None => state = Some(other.clone()),
                    }
                }
                if let Some(s) = &mut state {
                    s.forget_registers();
                    s.spills.retain(|spill| !loops.writes(spill.0, from, to));
                }
            }
            // Reached in a way that is not understood (a jump table): nothing is known.
            let now = state.get_or_insert_with(State::default);
            if ip == base.0 && self.method {
                now.regs[RAX] = Value::Made(Made::Receiver(base.0));
            }
            if matches!(i.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
                self.watch(i.next_ip(), now);
            }
            match i.flow_control() {
                FlowControl::Next => self.plain(&i, now),
                FlowControl::Call => self.call(i.near_branch_target(), i.next_ip(), now),
                FlowControl::IndirectCall => now.forget_registers(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    let to = i.near_branch_target();
                    if to > ip && to < end {
                        if ahead.len() >= MAX_TARGETS {
                            return self.returns(Value::Unknown);
                        }
                        ahead.entry(to).and_modify(|s| s.meet(now)).or_insert_with(|| now.clone());
                    } else if to >= end || to < base.0 {
                        // A tail call: its result is not followed.
                        self.returns(Value::Unknown);
                    }
                    if i.flow_control() == FlowControl::UnconditionalBranch {
                        state = None;
                    }
                }
                FlowControl::Return => {
                    self.returns(now.regs[RAX]);
                    state = None;
                }
                FlowControl::IndirectBranch => {
                    self.returns(Value::Unknown);
                    state = None;
                }
                _ => state = None,
            }
        }
    }

    /// An instruction that goes on to the next one.
    fn plain(&mut self, i: &Instruction, state: &mut State) {
        use Mnemonic::*;
        let full = |r: Register| (r.is_gpr64() || r.is_gpr32()).then(|| r.full_register().number());
        let memory = |n: u32| i.op_kind(n) == OpKind::Memory;
        let rip = i.is_ip_rel_memory_operand();
        let on_stack = || i.memory_base() == Register::RSP && i.memory_index() == Register::None;
        let stack_at = || i.memory_displacement64() as i64;
        // In what a pointer that was just loaded from a variable leads to.
        let member = |state: &State| {
            let within = i.memory_displacement64() < MAX_MEMBER && i.memory_index() == Register::None;
            match state.regs[full(i.memory_base()).filter(|_| within)?] {
                Value::Loaded(at) => Some(Place::member(at, i.memory_displacement64() as u32)),
                _ => None,
            }
        };
        match i.mnemonic() {
            Cmp | Test | Bt | Ucomisd | Ucomiss | Nop | Int3 | Prefetcht0 | Prefetchnta | Comisd => {}
            Push | Pop => state.spills.clear(),
            Mov if memory(0) && i.op1_kind() == OpKind::Register => {
                let wide = i.op1_register().is_gpr64();
                let value = full(i.op1_register()).filter(|_| wide).map_or(Value::Unknown, |r| state.regs[r]);
                if rip {
                    self.store(Place::of(i.ip_rel_memory_address()), value);
                    for v in state.regs.iter_mut().chain(state.spills.iter_mut().map(|s| &mut s.1)) {
                        if *v == Value::Loaded(i.ip_rel_memory_address()) {
                            *v = Value::Unknown;
                        }
                    }
                } else if on_stack() {
                    state.spill(stack_at(), value);
                } else if let Some(to) = member(state) {
                    self.store(to, value);
                }
            }
            Mov if memory(0) => {
                if rip {
                    self.numbers.push(i.ip_rel_memory_address());
                } else if on_stack() {
                    state.spill(stack_at(), Value::Unknown);
                }
            }
            Mov | Lea if i.op0_kind() == OpKind::Register && i.op0_register().is_gpr64() => {
                let Some(to) = full(i.op0_register()) else { return };
                let known = |r: Register| full(r).map_or(Value::Unknown, |r| state.regs[r]);
                state.regs[to] = if i.mnemonic() == Lea {
                    if rip {
                        Value::Address(i.ip_rel_memory_address())
                    } else {
                        // Inside an array: still one of its elements.
                        let parts = [known(i.memory_base()), known(i.memory_index())];
                        let inside = |v: &&Value| {
                            matches!(v, Value::Made(Made::Elements(_) | Made::Str | Made::Bytes | Made::ResultOf(_)))
                        };
                        match parts.iter().find(inside) {
                            // What a function returned may be a struct: only a slice may be entered.
                            Some(Value::Made(Made::ResultOf(_))) | None => Value::Unknown,
                            Some(v) => *v,
                        }
                    }
                } else if i.op1_kind() == OpKind::Register {
                    known(i.op1_register())
                } else if memory(1) && rip && self.is_global(i.ip_rel_memory_address()) {
                    Value::Loaded(i.ip_rel_memory_address())
                } else if memory(1) && on_stack() {
                    state.spilled(stack_at())
                } else if let Some(Place { at, member: Some(member) }) = member(state).filter(|_| memory(1)) {
                    Value::Member(at.0, member)
                } else {
                    Value::Unknown
                };
            }
            Xor if i.op0_kind() == OpKind::Register
                && i.op1_kind() == OpKind::Register
                && i.op0_register() == i.op1_register() =>
            {
                if let Some(r) = full(i.op0_register()) {
                    state.regs[r] = Value::Zero;
                }
            }
            Add | Sub if i.op0_kind() == OpKind::Register => {
                if i.op0_register() == Register::RSP {
                    return state.spills.clear();
                }
                let keep = i.mnemonic() == Add && i.op0_register().is_gpr64();
                let known = |n: u32| match i.op_kind(n) {
                    OpKind::Register => full(i.op_register(n)).map_or(Value::Unknown, |r| state.regs[r]),
                    _ => Value::Unknown,
                };
                let inside = |v: &Value| matches!(v, Value::Made(Made::Elements(_) | Made::Str | Made::Bytes));
                let value = [known(0), known(1)].into_iter().find(|v| keep && inside(v)).unwrap_or_default();
                if let Some(r) = full(i.op0_register()) {
                    state.regs[r] = value;
                }
            }
            Mul | Imul | Div | Idiv | Cqo | Cdq | Cdqe | Cmpxchg | Cmpxchg16b | Cpuid | Rdtsc | Rdtscp | Xgetbv
            | Mulx | Syscall => {
                state.forget_registers();
            }
            Movsq | Movsb | Movsd | Movsw | Stosq | Stosb | Stosd => {
                for r in [1, 6, 7] {
                    state.regs[r] = Value::Unknown;
                }
                state.spills.clear();
            }
            _ => {
                for n in 0..i.op_count().min(2) {
                    if i.op_kind(n) == OpKind::Register {
                        let r = i.op_register(n).full_register();
                        if r.is_gpr64() {
                            state.regs[r.number()] = Value::Unknown;
                        }
                    }
                }
                if i.op_count() > 0 && memory(0) && on_stack() {
                    // Vector stores cover more words than one.
                    let at = stack_at();
                    state.spills.retain(|s| !(at - 7..at + 64).contains(&s.0));
                }
            }
        }
    }
}

/// What a word says once the results of functions are known.
fn resolve(results: &HashMap<u64, Made>, mut word: Word) -> Option<Said> {
    for _ in 0..MAX_CHAIN {
        match word {
            Word::Said(s) => return Some(s),
            Word::ResultOf(f) => word = said(*results.get(&f)?),
        }
    }
    None
}

fn said(made: Made) -> Word {
    Word::Said(match made {
        Made::Object(t) => Said::PointerTo(Addr(t)),
        Made::Elements(t) => Said::SliceOf(Addr(t)),
        Made::Header(t) => Said::Is(Addr(t)),
        Made::Str => Said::Str,
        Made::Bytes => Said::Bytes,
        Made::ResultOf(f) => return Word::ResultOf(f),
        Made::Receiver(f) => Said::PointerToReceiver(Addr(f)),
    })
}

impl Image {
    /// What the code of the program's own module says of its global variables and of what they point to, sorted by place;
    /// worked out on first use, which is best made before the target is stopped. Nothing on arm64.
    pub fn code_types(&self) -> &[Statement] {
        &self.read_code().statements
    }

    /// What the call that returns to `pc` asks the allocator for. From the same reading.
    pub fn asked_at(&self, pc: Addr) -> Option<Asked> {
        let calls = &self.read_code().calls;
        calls.binary_search_by_key(&pc, |c| c.0).ok().map(|i| calls[i].1)
    }

    /// What words of the frames of `function` hold at the calls that return to `pcs`, sorted. Cost: the function is read once more.
    pub fn spilled(&self, function: &Func<'_>, pcs: &[Addr]) -> Vec<Spilled> {
        let known = self.read_code();
        let (Some(module), Some(code)) = (self.modules.first(), self.code_of(function)) else { return Vec::new() };
        if self.elf.arch != Arch::Amd64 || function.flags().asm() {
            return Vec::new();
        }
        let mut walk = Walk::new(self, module, &known.callees);
        walk.watched = pcs;
        walk.function(function, code);
        let word = |(pc, offset, word)| Some(Spilled { pc, offset, said: resolve(&known.results, word)? });
        walk.spilled.into_iter().filter_map(word).collect()
    }

    fn read_code(&self) -> &CodeTypes {
        self.code_types.get_or_init(|| CodeTypes::of(self).unwrap_or_default())
    }
}

impl CodeTypes {
    fn of(image: &Image) -> Option<CodeTypes> {
        let (module, tab) = (image.modules.first()?, image.pclntab.tables().first()?);
        if image.elf.arch != Arch::Amd64 {
            return None;
        }
        let minor = image.go_version.minor;
        let callees: HashMap<u64, Callee> =
            tab.funcs().filter_map(|f| Some((f.entry().0, callee(f.name(), minor)?))).collect();
        type Part = (Vec<(Place, Word)>, Vec<(u64, Made)>, Vec<(Addr, Asked)>);
        let (found, results, mut calls): Part = (0..tab.len())
            .into_par_iter()
            .with_min_len(64)
            .fold(Part::default, |mut out, i| {
                if let Some(f) = tab.func(i)
                    && let Some(code) = image.code_of(&f)
                    && !f.flags().asm()
                {
                    let mut walk = Walk::new(image, module, &callees);
                    (walk.found, walk.calls) = (std::mem::take(&mut out.0), std::mem::take(&mut out.2));
                    walk.function(&f, code);
                    (out.0, out.2) = (walk.found, walk.calls);
                    if let Some(Value::Made(made)) = walk.result {
                        out.1.push((f.entry().0, made));
                    }
                }
                out
            })
            .reduce(Part::default, |mut a, mut b| {
                a.0.append(&mut b.0);
                a.1.append(&mut b.1);
                a.2.append(&mut b.2);
                a
            });
        calls.par_sort_unstable();
        let results: HashMap<u64, Made> = results.into_iter().collect();
        let mut all: Vec<(Place, Said)> =
            found.into_iter().filter_map(|(at, word)| Some((at, resolve(&results, word)?))).collect();
        all.par_sort_unstable();
        let mut statements: Vec<Statement> = Vec::new();
        for (place, said) in all.into_iter().filter(|(place, _)| module.is_global(place.at)) {
            match statements.last_mut() {
                Some(s) if s.place == place && s.said == said => s.times += 1,
                _ => statements.push(Statement { place, said, times: 1 }),
            }
        }
        Some(CodeTypes { callees, results, statements, calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers() {
        assert_eq!(receiver("a.b/c.(*T).M").as_deref(), Some("a.b/c.T"));
        for no in ["c.(*T).M.func1", "c.(*T).M-fm", "c.T.M", "c.F", "c.(*T[...]).M", "c.(*T).M.(*U).N.func2"] {
            assert_eq!(receiver(no), None, "{no}");
        }
    }
}
