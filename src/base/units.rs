//! Figures as people read them. Text output only; JSON carries plain numbers.

/// `1.5 MiB`, `812 B`: binary units, three significant digits.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `1,203,441`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `14 min`, `3.2 s`, `870 ms`.
pub fn duration_ns(ns: u64) -> String {
    let s = ns as f64 / 1e9;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.0} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} ms", ns as f64 / 1e6),
        1_000_000_000..120_000_000_000 => format!("{s:.1} s"),
        120_000_000_000..7_200_000_000_000 => format!("{:.0} min", s / 60.0),
        7_200_000_000_000..172_800_000_000_000 => format!("{:.1} h", s / 3600.0),
        _ => format!("{:.1} d", s / 86400.0),
    }
}

/// `part` of `whole` as `12.3 %`; `-` when the whole is zero.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(1 << 30), "1.00 GiB");
        assert_eq!(count(1_203_441), "1,203,441");
        assert_eq!(count(999), "999");
        assert_eq!(duration_ns(14 * 60 * 1_000_000_000), "14 min");
    }
}
