//! image::release: which Go release built a binary that does not say so: from the pclntab header, the shape of
//! moduledata and functions that a release introduced (they are in the smallest program and stay from then on).

use super::{
    NEWEST_KNOWN,
    pclntab::{MAGIC_118, Pclntab},
};

/// (first release that has it, function of the runtime). Any one of a release's functions proves "at least".
const MARKERS: &[(u32, &[&str])] = &[
    (27, &["runtime.xRegScan", "runtime.moduleTypelinks", "runtime.addModuleItabs", "runtime.mallocgcTinySC2"]),
    (26, &["runtime.xRegSave", "runtime.makeObjPtr", "runtime.panicBounds"]),
    (25, &["runtime.runFinalizers", "runtime.gcScanCleanup", "runtime.setVMAName"]),
    (24, &["runtime.getGCMask", "runtime.buildGCMask", "runtime.mallocgcLarge"]),
    (23, &["runtime.itabInit", "runtime.popDefer"]),
    (22, &["runtime.cheaprand", "runtime.gdestroy", "runtime.randinit"]),
    (21, &["runtime.wbMove", "runtime.doInit1", "runtime.traceback2"]),
];

/// The minor release, `None` where the functions contradict the shape (`shape`: first and last release that fit it).
pub fn infer(tab: &Pclntab, shape: (u32, u32)) -> Option<u32> {
    let by_name = MARKERS.iter().find(|(_, names)| names.iter().any(|n| tab.find_name(n).is_some())).map(|(m, _)| *m);
    // No marker at all: older than 1.21, or the names of the runtime are obfuscated and only the shape is left.
    let has_runtime_names = tab.find_name("runtime.mallocgc").is_some();
    let minor = match by_name {
        Some(m) => m,
        None if tab.header().magic == MAGIC_118 => 19,
        None if has_runtime_names => 20,
        None if shape.0 == shape.1.min(NEWEST_KNOWN) => shape.0,
        None => return None,
    };
    (shape.0..=shape.1).contains(&minor).then_some(minor)
}
