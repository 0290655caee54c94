//! Functions that the runtime treats in a special way. The numbers were renumbered twice; here they have names.

/// `internal/abi.FuncID` (runtime/symtab.go to Go 1.20), normalised over releases.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum FuncId {
    /// Not a special function.
    #[default]
    Normal,
    Abort,
    Asmcgocall,
    AsyncPreempt,
    Cgocallback,
    Corostart,
    DebugCallV2,
    GcBgMarkWorker,
    Goexit,
    Gogo,
    Gopanic,
    HandleAsyncEvent,
    Mcall,
    Morestack,
    Mstart,
    Panicwrap,
    Rt0Go,
    /// `runtime.runfinq`, `runtime.runFinalizers` from Go 1.25.
    RunFinalizers,
    /// Go 1.25+.
    RunCleanups,
    RuntimeMain,
    Sigpanic,
    Systemstack,
    SystemstackSwitch,
    /// Any wrapper that the compiler made.
    Wrapper,
    /// A number that this release is not known to use.
    Other(u8),
}

use FuncId::*;

/// Numbers 1 to 21 in Go 1.19 to 1.21.
const TO_121: &[FuncId] = &[
    Normal,
    Abort,
    Asmcgocall,
    AsyncPreempt,
    Cgocallback,
    DebugCallV2,
    GcBgMarkWorker,
    Goexit,
    Gogo,
    Gopanic,
    HandleAsyncEvent,
    Mcall,
    Morestack,
    Mstart,
    Panicwrap,
    Rt0Go,
    RunFinalizers,
    RuntimeMain,
    Sigpanic,
    Systemstack,
    SystemstackSwitch,
    Wrapper,
];
const TO_124: &[FuncId] = &[
    Normal,
    Abort,
    Asmcgocall,
    AsyncPreempt,
    Cgocallback,
    Corostart,
    DebugCallV2,
    GcBgMarkWorker,
    Goexit,
    Gogo,
    Gopanic,
    HandleAsyncEvent,
    Mcall,
    Morestack,
    Mstart,
    Panicwrap,
    Rt0Go,
    RunFinalizers,
    RuntimeMain,
    Sigpanic,
    Systemstack,
    SystemstackSwitch,
    Wrapper,
];
const FROM_125: &[FuncId] = &[
    Normal,
    Abort,
    Asmcgocall,
    AsyncPreempt,
    Cgocallback,
    Corostart,
    DebugCallV2,
    GcBgMarkWorker,
    Goexit,
    Gogo,
    Gopanic,
    HandleAsyncEvent,
    Mcall,
    Morestack,
    Mstart,
    Panicwrap,
    Rt0Go,
    RuntimeMain,
    RunFinalizers,
    RunCleanups,
    Sigpanic,
    Systemstack,
    SystemstackSwitch,
    Wrapper,
];

impl FuncId {
    /// Its number in Go 1.25 and later, for files: `of(25, number)` gives it back. Unknown ones become `Normal`.
    pub fn number(self) -> u8 {
        FROM_125.iter().position(|&f| f == self).unwrap_or(0) as u8
    }

    pub fn of(minor: u32, number: u8) -> FuncId {
        let table = match minor {
            ..=21 => TO_121,
            22..=24 => TO_124,
            _ => FROM_125,
        };
        table.get(number as usize).copied().unwrap_or(Other(number))
    }
}
