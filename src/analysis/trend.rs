//! A line through figures over time, and how far to trust its slope.

use serde::Serialize;

/// Least squares. `low` and `high`: the 95 % confidence interval of the slope, by Student's t distribution with n - 2
/// degrees of freedom. What does not lie on a line has a wide one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trend {
    pub bytes_per_hour: f64,
    pub low: f64,
    pub high: f64,
    /// The whole interval is above zero: it grows; or below: it shrinks.
    pub certain: bool,
}

/// 97.5 % quantile of the normal distribution.
pub const Z95: f64 = 1.959_964;

impl Trend {
    /// The same with an error of the values themselves, independent of how they lie on the line.
    pub fn widened(self, margin: f64) -> Trend {
        let wider = |half: f64| (half * half + margin * margin).sqrt();
        let mid = self.bytes_per_hour;
        let (low, high) = (mid - wider(mid - self.low), mid + wider(self.high - mid));
        Trend { low, high, certain: low > 0.0 || high < 0.0, ..self }
    }
}

/// Variance of the slope by errors of the changes from look to look: `steps[i]` is the variance of value i + 1 less value i.
pub fn slope_variance(hours: &[f64], steps: &[f64]) -> f64 {
    let mean = hours.iter().sum::<f64>() / hours.len().max(1) as f64;
    let spread: f64 = hours.iter().map(|t| (t - mean).powi(2)).sum();
    if spread <= 0.0 {
        return 0.0;
    }
    // A change counts in all values after it.
    let after = |i: usize| hours[i..].iter().map(|t| (t - mean) / spread).sum::<f64>();
    (1..hours.len()).zip(steps).map(|(i, v)| after(i).powi(2) * v).sum()
}

/// 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (any table of statistics).
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// `hours[i]` belongs to `values[i]`. `None` for fewer than three values, or when all were taken at one time.
pub fn fit(hours: &[f64], values: &[f64]) -> Option<Trend> {
    let n = hours.len();
    if n < 3 || n != values.len() {
        return None;
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n as f64;
    let (mt, mv) = (mean(hours), mean(values));
    let spread: f64 = hours.iter().map(|t| (t - mt).powi(2)).sum();
    if spread <= 0.0 || !spread.is_finite() {
        return None;
    }
    let slope = hours.iter().zip(values).map(|(t, v)| (t - mt) * (v - mv)).sum::<f64>() / spread;
    let rest: f64 = hours.iter().zip(values).map(|(t, v)| (v - mv - slope * (t - mt)).powi(2)).sum();
    let freedom = n - 2;
    let quantile = T.get(freedom - 1).copied().unwrap_or(1.96);
    let margin = quantile * (rest / freedom as f64 / spread).sqrt();
    let (low, high) = (slope - margin, slope + margin);
    Some(Trend { bytes_per_hour: slope, low, high, certain: low > 0.0 || high < 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_certain_and_noise_is_not() {
        let hours = [0.0, 1.0, 2.0, 3.0];
        let line = fit(&hours, &[10.0, 20.0, 30.0, 40.0]).expect("a trend");
        assert!((line.bytes_per_hour - 10.0).abs() < 1e-9 && line.certain && (line.high - line.low).abs() < 1e-6);
        let noise = fit(&hours, &[10.0, 40.0, 5.0, 30.0]).expect("a trend");
        assert!(!noise.certain && noise.low < 0.0 && noise.high > 0.0);
        assert!(fit(&hours[..2], &[1.0, 2.0]).is_none());
        assert!(fit(&[1.0; 3], &[1.0, 2.0, 3.0]).is_none());
    }

    /// A worked example of a textbook (Anscombe's first set): slope 0.5001, standard error 0.1179, 9 degrees of freedom.
    #[test]
    fn a_known_example() {
        let x = [10.0, 8.0, 13.0, 9.0, 11.0, 14.0, 6.0, 4.0, 12.0, 7.0, 5.0];
        let y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68];
        let t = fit(&x, &y).expect("a trend");
        assert!((t.bytes_per_hour - 0.5001).abs() < 1e-3);
        assert!(((t.high - t.low) / 2.0 - 2.262 * 0.1179).abs() < 1e-3);
    }
}
