//! Medians, ratios of medians and their confidence intervals.

/// The number of resamples of the bootstrap.
const RESAMPLES: usize = 2000;
/// The seed of the resampling: the same readings give the same interval.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// Returns the median, or NaN if there are no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count.is_multiple_of(2) => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        count => sorted[count / 2],
    }
}

/// Returns the value below which the fraction `at` of the values lies (nearest rank).
pub fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (at * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// A ratio of medians and its bootstrap interval of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Ratio {
    /// The ratio.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// Returns the ratio of the medians of `ours` and `theirs`, or `None` if one of them is empty or
/// zero.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Ratio> {
    let value = median(ours) / median(theirs);
    if !value.is_finite() {
        return None;
    }
    let mut random = Random(SEED);
    let mut ratios: Vec<f64> =
        (0..RESAMPLES).map(|_| median(&random.resample(ours)) / median(&random.resample(theirs))).collect();
    ratios.sort_by(f64::total_cmp);
    Some(Ratio { value, low: quantile(&ratios, 0.025), high: quantile(&ratios, 0.975) })
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn resample(&mut self, values: &[f64]) -> Vec<f64> {
        // The remainder's bias is 2^-60 for a handful of values.
        (0..values.len()).map(|_| values[(self.next() % values.len() as u64) as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&hundred, 0.99), quantile(&hundred, 1.0), quantile(&hundred, 0.0)), (99.0, 100.0, 1.0));
    }

    #[test]
    fn the_interval_holds_the_ratio_and_widens_with_the_spread() {
        let theirs = [10.0, 10.1, 9.9, 10.0, 10.05];
        let steady = ratio(&[5.0, 5.05, 4.95, 5.0, 5.0], &theirs).expect("ratio");
        assert!((steady.value - 0.5).abs() < 0.01 && steady.low <= steady.value && steady.value <= steady.high);
        let wild = ratio(&[2.0, 9.0, 5.0, 1.0, 8.0], &theirs).expect("ratio");
        assert!(wild.high - wild.low > 5.0 * (steady.high - steady.low));
        assert_eq!(ratio(&[1.0], &[]), None);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }
}
