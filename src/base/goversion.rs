//! Go releases and experiments, from the version string that the linker leaves in the binary.

use std::fmt;

use serde::{Serialize, Serializer};

/// A Go release such as `go1.25.5 X:greenteagc` or `go1.26.6-X:nogreenteagc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoVersion {
    /// The 25 of go1.25.5.
    pub minor: u32,
    /// The 5 of go1.25.5; 0 when absent (release candidates, bare minor).
    pub patch: u32,
    /// Experiments named in the string, without the `X:`.
    pub experiments: Vec<String>,
    /// The string as found.
    pub raw: String,
}

impl GoVersion {
    /// Parses `go1.N[.P]`, with anything behind it; `None` for `devel ...` and other shapes without a release number.
    pub fn parse(raw: &str) -> Option<GoVersion> {
        let rest = raw.trim().strip_prefix("go1.")?;
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let n = digits(rest);
        let minor = rest[..n].parse().ok()?;
        let patch = match rest[n..].strip_prefix('.') {
            Some(p) => p[..digits(p)].parse().unwrap_or(0),
            None => 0,
        };
        let experiments = raw
            .split_once("X:")
            .map(|(_, list)| list.split([',', ' ']).filter(|s| !s.is_empty()).map(str::to_owned).collect())
            .unwrap_or_default();
        Some(GoVersion { minor, patch, experiments, raw: raw.trim().to_owned() })
    }

    /// A bare minor release, for `--assume-go 1.26` and for releases inferred from the binary's shape.
    pub fn minor(minor: u32) -> GoVersion {
        GoVersion { minor, patch: 0, experiments: Vec::new(), raw: format!("go1.{minor}") }
    }

    /// The patch release, `None` where the string does not name one.
    pub fn known_patch(&self) -> Option<u32> {
        let named = self.raw.strip_prefix("go1.")?.trim_start_matches(|c: char| c.is_ascii_digit());
        named.strip_prefix('.')?.starts_with(|c: char| c.is_ascii_digit()).then_some(self.patch)
    }

    pub fn has_experiment(&self, name: &str) -> bool {
        self.experiments.iter().any(|e| e == name)
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl Serialize for GoVersion {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiments_in_both_spellings() {
        let old = GoVersion::parse("go1.25.5 X:greenteagc").expect("a release");
        assert_eq!((old.minor, old.patch), (25, 5));
        assert!(old.has_experiment("greenteagc"));
        let new = GoVersion::parse("go1.26.6-X:nogreenteagc,foo").expect("a release");
        assert_eq!((new.minor, new.patch), (26, 6));
        assert!(new.has_experiment("nogreenteagc") && new.has_experiment("foo"));
        assert_eq!(GoVersion::parse("go1.21rc2").expect("a release").minor, 21);
        assert!(GoVersion::parse("devel +abc").is_none());
    }
}
