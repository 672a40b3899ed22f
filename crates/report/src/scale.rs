//! Where values lie on an axis, and which of them are marked.

use crate::words;

/// What is beyond a number like this, or nearer to 0 than one over it, is no measurement.
const MOST: f64 = 1e300;

/// An axis: values from `low` to `high` lie between the coordinates `from` and `to`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Linear,
    Log,
    Root,
}

impl Scale {
    /// Equal distances are equal differences.
    pub(crate) fn linear((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let [low, high] = [low, high].map(|end| end.clamp(-MOST, MOST));
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to, kind: Kind::Linear }
    }

    /// Equal distances are equal ratios; values must be positive.
    pub(crate) fn log((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let [low, high] = [low, high].map(|end| end.clamp(MOST.recip(), MOST).ln());
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, low + 0.5) };
        Self { low, high, from, to, kind: Kind::Log }
    }

    /// Small values have more room: distances from `low` are equal where their squares are.
    pub(crate) fn root((low, high): (f64, f64), ends: (f64, f64)) -> Self {
        Self { kind: Kind::Root, ..Self::linear((low, high), ends) }
    }

    /// The coordinate of a value; of the nearer end for a value beyond.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let value = if self.kind == Kind::Log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let share = if self.kind == Kind::Root { share.sqrt() } else { share };
        self.from + share * (self.to - self.from)
    }

    /// Where it starts and ends.
    pub(crate) const fn ends(&self) -> (f64, f64) {
        (self.from, self.to)
    }

    /// Round values within, some three to `most`.
    pub(crate) fn round_values(&self, most: usize) -> Vec<f64> {
        if self.kind != Kind::Log {
            return multiples((self.low, self.high), most);
        }
        let (low, high) = (self.low.exp(), self.high.exp());
        let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
        let within = |steps: &[f64]| -> Vec<f64> {
            let values = decades.clone().flat_map(|decade| {
                steps.iter().map(move |step| without_noise(step * 10f64.powi(decade)))
            });
            values.filter(|&value| value >= low * 0.999 && value <= high * 1.001).collect()
        };
        let steps: [&[f64]; 3] = [&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        if let Some(values) = steps.map(within).into_iter().find(|v| (3..=most).contains(&v.len()))
        {
            return values;
        }
        match within(&[1.0]) {
            few if few.len() < 3 => multiples((low, high), most),
            many => many.iter().copied().step_by(many.len().div_ceil(most)).collect(),
        }
    }
}

fn multiples((low, high): (f64, f64), most: usize) -> Vec<f64> {
    let rough = (high - low) / most.max(1) as f64;
    let decade = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * decade);
    let step = steps.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(10.0 * decade);
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    let count = (last - first + 1.0).clamp(0.0, most as f64 + 1.0) as usize;
    (0..count).map(|index| without_noise((first + index as f64) * step)).collect()
}

/// The shortest number that is as good as equal: 1.4 for 1.4000000000000001.
fn without_noise(value: f64) -> f64 {
    format!("{value:.9e}").parse().unwrap_or(value)
}

/// A mark on an axis of times.
pub(crate) fn time_mark(ms: f64) -> String {
    let text = words::time(ms);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{number} {unit}")
        }
        _ => text,
    }
}

/// Moves labels apart that are nearer than `gap`, keeping their order and staying between `low` and
/// `high` while they fit. Takes where they would be, and returns where they are.
pub(crate) fn spread(wanted: &[f64], gap: f64, (low, high): (f64, f64)) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    // Neighbours that touch form a block around the mean of what they want.
    let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
    for &index in &order {
        let mut block = (wanted[index], wanted[index], 1);
        while let Some(&(centre, sum, count)) = blocks.last() {
            let reach = gap * (count + block.2) as f64 / 2.0;
            if block.0 - centre >= reach {
                break;
            }
            blocks.pop();
            let (sum, count) = (sum + block.1, count + block.2);
            block = (sum / count as f64, sum, count);
        }
        let half = gap * (block.2 - 1) as f64 / 2.0;
        block.0 = block.0.min(high - half).max(low + half);
        blocks.push(block);
    }
    let mut places = vec![0.0; wanted.len()];
    let mut order = order.into_iter();
    let mut free = f64::NEG_INFINITY;
    for (centre, _, count) in blocks {
        let first = (centre - gap * (count - 1) as f64 / 2.0).max(free);
        for (step, index) in order.by_ref().take(count).enumerate() {
            places[index] = first + gap * step as f64;
            free = places[index] + gap;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_map_their_ends_and_stop_there() {
        let scale = Scale::log((1.0, 100.0), (0.0, 200.0));
        assert_eq!([0.5, 1.0, 10.0, 1e9].map(|v| scale.at(v).round()), [0.0, 0.0, 100.0, 200.0]);
        let down = Scale::linear((0.0, 4.0), (100.0, 0.0));
        assert_eq!([-1.0, 1.0, 4.0].map(|v| down.at(v)), [100.0, 75.0, 0.0]);
        assert!(Scale::linear((3.0, 3.0), (0.0, 1.0)).at(3.0).is_finite());
        assert!((Scale::log((5.0, 5.0), (0.0, 1.0)).at(5.0) - 0.5).abs() < 1e-9);
        assert_eq!(Scale::root((0.0, 4.0), (0.0, 10.0)).at(1.0), 5.0);
    }

    #[test]
    fn marks_are_round() {
        let marks = |low, high| Scale::log((low, high), (0.0, 1.0)).round_values(6);
        assert_eq!(marks(0.9, 11.0), [1.0, 2.0, 5.0, 10.0]);
        assert_eq!(marks(0.1, 99.0), [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]);
        assert_eq!(marks(6.0, 7.0), [6.0, 6.2, 6.4, 6.6, 6.8, 7.0]);
        assert!(marks(1e-3, 1e9).len() <= 6);
        let linear = Scale::linear((1.0, 2.1), (0.0, 1.0)).round_values(5);
        assert_eq!(linear, [1.0, 1.25, 1.5, 1.75, 2.0]);
        assert_eq!([1.0, 0.5, 20.0].map(time_mark), ["1 ms", "500 µs", "20 ms"]);
    }

    #[test]
    fn labels_keep_their_distance_and_order() {
        let places = spread(&[10.0, 11.0, 50.0, 9.0], 10.0, (0.0, 100.0));
        assert_eq!(places, [10.0, 20.0, 50.0, 0.0]);
        let crowded = spread(&[95.0; 4], 10.0, (0.0, 100.0));
        assert_eq!(crowded, [70.0, 80.0, 90.0, 100.0]);
        for wanted in [&[0.0, 1.0, 2.0, 30.0, 31.0, 31.0][..], &[5.0], &[]] {
            let mut places = spread(wanted, 12.0, (0.0, 60.0));
            places.sort_by(f64::total_cmp);
            assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 11.9), "{places:?}");
        }
    }
}
