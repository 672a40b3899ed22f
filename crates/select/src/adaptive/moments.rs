/// Count, mean and squared deviations of a stream of numbers (Welford).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Weight of the samples, which forgetting may lower.
    pub n: f64,
    /// Their mean; 0 without samples.
    pub mean: f64,
    /// `Σ (x − mean)²`.
    pub m2: f64,
}

impl Moments {
    /// `n` samples that all equal `mean`.
    pub const fn of(n: f64, mean: f64) -> Self {
        Self { n, mean, m2: 0.0 }
    }

    /// Adds one sample.
    pub fn push(&mut self, x: f64) {
        self.n += 1.0;
        let delta = x - self.mean;
        self.mean += delta / self.n;
        self.m2 += delta * (x - self.mean);
    }

    /// Adds one sample after scaling the older ones down to a weight of at most `max_n − 1`.
    pub fn push_forgetting(&mut self, x: f64, max_n: f64) {
        if self.n > max_n - 1.0 {
            self.m2 *= (max_n - 1.0) / self.n;
            self.n = max_n - 1.0;
        }
        self.push(x);
    }

    /// The moments of both streams together; commutative, and associative up to rounding.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let n = self.n + other.n;
        if n == 0.0 {
            return Self::default();
        }
        let delta = other.mean - self.mean;
        Self {
            n,
            mean: (self.n * self.mean + other.n * other.mean) / n,
            m2: self.m2 + other.m2 + delta * delta * (self.n * other.n / n),
        }
    }

    /// `m2 / (n − 1)`; 0 below two samples.
    pub fn variance(&self) -> f64 {
        if self.n > 1.0 { self.m2 / (self.n - 1.0) } else { 0.0 }
    }

    /// The mean shrunk towards `towards`, which counts as `weight` samples:
    /// `(n · mean + weight · towards) / (n + weight)`.
    pub fn shrunk(&self, towards: f64, weight: f64) -> f64 {
        (self.n * self.mean + weight * towards) / (self.n + weight)
    }
}

/// Regression of the prior's error for a kernel on its errors for other kernels of the same context: a
/// model that misjudges a whole context says nothing of who is fastest in it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CommonErrors {
    products: f64,
    squares: f64,
}

impl CommonErrors {
    /// Squared error, summed up, that the guess of nothing in common counts as: some sixteen contexts
    /// of errors of 12 %.
    const NOTHING: f64 = 0.25;

    /// Adds a kernel's error, where its context's others erred by `others` in the mean.
    pub(crate) fn push(&mut self, others: f64, own: f64) {
        self.products += others * own;
        self.squares += others * others;
    }

    /// Share of the others' error that a kernel has in common with them, 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        (self.products / (self.squares + Self::NOTHING)).clamp(0.0, 1.0)
    }
}
