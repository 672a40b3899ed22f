//! The 128-wide Hadamard transform in float64 (`docs/formats.md#hadamard`).

use trellect_core::HADAMARD;

/// Multiplies every consecutive block of 128 values by `H`, in place, where
/// `H[i][j] = (-1)^popcount(i & j) / √128`: symmetric, orthonormal, its own inverse.
///
/// # Panics
/// When the length is no multiple of 128.
pub fn transform(values: &mut [f64]) {
    let (blocks, rest) = values.as_chunks_mut::<HADAMARD>();
    assert!(rest.is_empty(), "Hadamard blocks are 128 wide");
    let scale = (HADAMARD as f64).sqrt().recip();
    for block in blocks {
        let mut width = 1;
        while width < HADAMARD {
            for pair in block.chunks_exact_mut(2 * width) {
                let (left, right) = pair.split_at_mut(width);
                for (a, b) in left.iter_mut().zip(right) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            width *= 2;
        }
        block.iter_mut().for_each(|value| *value *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_vectors_become_the_rows_of_the_definition() {
        for i in 0..HADAMARD {
            let mut values = vec![0.0; 2 * HADAMARD];
            values[HADAMARD + i] = 1.0;
            transform(&mut values);
            assert!(values[..HADAMARD].iter().all(|&value| value == 0.0));
            for (j, value) in values[HADAMARD..].iter().enumerate() {
                let sign = if (i & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
                assert!((value - sign / 128f64.sqrt()).abs() < 1e-15, "H[{i}][{j}]");
            }
        }
    }
}
