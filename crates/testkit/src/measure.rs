/// Relative Frobenius error `‖found − expected‖ / ‖expected‖`.
///
/// 0 where both are all zero or empty, infinity where only `expected` is zero, NaN as soon as one
/// element of either is NaN.
///
/// # Panics
/// When the lengths differ.
pub fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "results of different lengths");
    let error = norm(found.iter().zip(expected).map(|(f, e)| f64::from(*f) - e));
    if error == 0.0 { 0.0 } else { error / norm(expected.iter().copied()) }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_relative_to_the_expected_norm() {
        assert_eq!(relative_error(&[3.0, 4.5], &[3.0, 4.0]), 0.1);
        assert_eq!(relative_error(&[], &[]), 0.0);
        assert_eq!(relative_error(&[0.0], &[0.0]), 0.0);
        assert_eq!(relative_error(&[1.0], &[0.0]), f64::INFINITY);
        assert!(relative_error(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert!(relative_error(&[1.0, 1.0], &[1.0, f64::NAN]).is_nan());
    }
}
