//! image::codeindex: which functions refer to which global variables.

pub struct CodeIndex {}
