//! Medians and spreads of a few rounds.

/// The middle of several measurements and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Summary {
    /// Summarises `samples`; of none, everything is NaN.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 };
        Self { median, least: at(0), greatest: at(sorted.len().wrapping_sub(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_the_spread_the_ends() {
        assert_eq!(Summary::of([3.0, 1.0, 2.0]), Summary { median: 2.0, least: 1.0, greatest: 3.0 });
        assert_eq!(Summary::of([4.0, 1.0]), Summary { median: 2.5, least: 1.0, greatest: 4.0 });
        assert!(Summary::of([]).median.is_nan());
    }
}
