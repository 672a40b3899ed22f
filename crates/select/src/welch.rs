//! Welch's t-test: do two kernels differ in their mean latency, each with its own spread?

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::Timings;

/// Fewest latencies of either kernel that a comparison may rest on.
pub const MIN_TIMINGS: usize = 5;

/// A comparison of two kernels by Welch's unequal-variances t-test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WelchTest {
    /// The difference of the means in standard errors; negative where the first kernel is faster.
    /// Where neither kernel's latencies vary the means are compared directly: 0 for equal ones,
    /// else infinite.
    pub t: f64,
    /// Degrees of freedom after Welch and Satterthwaite; `n₁ + n₂ − 2` where neither varies.
    pub degrees_of_freedom: f64,
}

impl WelchTest {
    /// Compares `one` with `other`.
    ///
    /// `None` where either was timed less than [`MIN_TIMINGS`] times, or where the latencies lie so
    /// far apart that their variance is no longer finite.
    #[inline]
    pub fn compare(one: &Timings, other: &Timings) -> Option<Self> {
        if one.n.min(other.n) < MIN_TIMINGS {
            return None;
        }
        let difference = one.mean_ms - other.mean_ms;
        let (n1, n2) = (one.n as f64, other.n as f64);
        let (error1, error2) = (one.variance / n1, other.variance / n2);
        let squared_error = error1 + error2;
        if !squared_error.is_finite() {
            return None;
        }
        if squared_error == 0.0 {
            let t = if difference == 0.0 { 0.0 } else { f64::INFINITY.copysign(difference) };
            return Some(Self { t, degrees_of_freedom: n1 + n2 - 2.0 });
        }
        // Shares instead of squares: the squares of tiny variances would vanish.
        let (share1, share2) = (error1 / squared_error, error2 / squared_error);
        Some(Self {
            t: difference / squared_error.sqrt(),
            degrees_of_freedom: ((n1 - 1.0) * (n2 - 1.0))
                / (share1 * share1 * (n2 - 1.0) + share2 * share2 * (n1 - 1.0)),
        })
    }

    /// Whether the first kernel is faster at the two-sided 95 % level.
    #[inline]
    pub fn says_faster(&self) -> bool {
        self.t < -critical_value(self.degrees_of_freedom)
    }

    /// The two-sided p-value: how probable so large a difference is between equal kernels.
    pub fn p_value(&self) -> f64 {
        let student = StudentsT::new(0.0, 1.0, self.degrees_of_freedom);
        let student = student.expect("at least 4 degrees of freedom: 5 timings of each kernel");
        2.0 * student.sf(self.t.abs())
    }
}

/// The 97.5 % quantile of Student's t for 4 to 30 degrees of freedom.
///
/// `[round(float(scipy.stats.t.ppf(0.975, df)), 6) for df in range(4, 31)]`, SciPy 1.17.1.
const CRITICAL_VALUES: [f64; 27] = [
    2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139, 2.200985, 2.178813,
    2.160369, 2.144787, 2.13145, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963, 2.079614,
    2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.04523, 2.042272,
];

/// The 97.5 % quantile of Student's t: between the entries of the table a straight line, which
/// never lies below the quantile (at most 0.6 % above it); beyond the table the Cornish-Fisher
/// expansion about the normal quantile, exact to 3e-6.
#[inline]
pub(crate) fn critical_value(degrees_of_freedom: f64) -> f64 {
    let position = (degrees_of_freedom - 4.0).max(0.0);
    let (below, fraction) = (position as usize, position.fract());
    if let (Some(low), Some(high)) = (CRITICAL_VALUES.get(below), CRITICAL_VALUES.get(below + 1)) {
        return low + fraction * (high - low);
    }
    const Z: f64 = 1.959_963_984_540_054;
    const C1: f64 = (Z * Z * Z + Z) / 4.0;
    const C2: f64 = (5.0 * Z * Z * Z * Z * Z + 16.0 * Z * Z * Z + 3.0 * Z) / 96.0;
    const C3: f64 = (3.0 * Z * Z * Z * Z * Z * Z * Z + 19.0 * Z * Z * Z * Z * Z + 17.0 * Z * Z * Z
        - 15.0 * Z)
        / 384.0;
    let inverse = 1.0 / degrees_of_freedom;
    Z + inverse * (C1 + inverse * (C2 + inverse * C3))
}
