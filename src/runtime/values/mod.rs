//! runtime::values: strings, slices, maps (one file per implementation), channels, interfaces, closures.
