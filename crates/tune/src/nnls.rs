//! Non-negative least squares with four unknowns, exactly: every active set is tried.

/// Unknowns.
pub(crate) const N: usize = 4;

/// A row and how much it counts.
pub(crate) type Weighted = ([f64; N], f64);

/// Non-negative `β` that minimises `Σ weight·(row·β − 1)²`, with that sum. Of equally good ones that
/// with the fewest, earliest unknowns; columns that the rows cannot tell apart are never used
/// together.
pub(crate) fn solve(rows: &[Weighted]) -> ([f64; N], f64) {
    // Columns of like size, or the elimination could not tell singular from small.
    let scale: [f64; N] =
        std::array::from_fn(|j| rows.iter().map(|(row, w)| w * row[j].powi(2)).sum::<f64>().sqrt());
    let scale = scale.map(|norm| if norm > 0.0 { norm } else { 1.0 });
    let mut gram = [[0.0; N]; N];
    let mut target = [0.0; N];
    for (row, weight) in rows {
        let row: [f64; N] = std::array::from_fn(|j| row[j] / scale[j]);
        for i in 0..N {
            target[i] += weight * row[i];
            for j in 0..N {
                gram[i][j] += weight * row[i] * row[j];
            }
        }
    }
    let mut sets: Vec<u32> = (0..1 << N).collect();
    sets.sort_by_key(|set| set.count_ones());
    let total: f64 = rows.iter().map(|(_, weight)| weight).sum();
    let mut best = ([0.0; N], total);
    for set in sets {
        let Some(beta) = solve_active(&gram, &target, set) else { continue };
        if beta.iter().any(|&b| b < 0.0) {
            continue;
        }
        let beta: [f64; N] = std::array::from_fn(|j| beta[j] / scale[j]);
        let loss = loss(rows, &beta);
        // Gains within rounding are none.
        if loss + 1e-9 * total < best.1 {
            best = (beta, loss);
        }
    }
    best
}

fn loss(rows: &[Weighted], beta: &[f64; N]) -> f64 {
    let value = |row: &[f64; N]| row.iter().zip(beta).map(|(x, b)| x * b).sum::<f64>();
    rows.iter().map(|(row, weight)| weight * (value(row) - 1.0).powi(2)).sum()
}

/// Least squares over the unknowns of `set`, the others 0, by elimination with pivoting; `None`
/// when they cannot be told apart.
fn solve_active(gram: &[[f64; N]; N], target: &[f64; N], set: u32) -> Option<[f64; N]> {
    let active: Vec<usize> = (0..N).filter(|j| set >> j & 1 == 1).collect();
    let mut system: Vec<Vec<f64>> = active
        .iter()
        .map(|&i| active.iter().map(|&j| gram[i][j]).chain([target[i]]).collect())
        .collect();
    for step in 0..active.len() {
        let size = |&row: &usize| system[row][step].abs();
        let pivot = (step..active.len()).max_by(|a, b| size(a).total_cmp(&size(b)))?;
        // The diagonal is 1: what remains of a column that depends on others is rounding.
        if size(&pivot) < 1e-9 {
            return None;
        }
        system.swap(step, pivot);
        let top = system[step].clone();
        for row in (0..active.len()).filter(|&row| row != step) {
            let factor = system[row][step] / top[step];
            system[row].iter_mut().zip(&top).for_each(|(x, t)| *x -= factor * t);
        }
    }
    let mut beta = [0.0; N];
    for (row, &j) in active.iter().enumerate() {
        beta[j] = system[row][active.len()] / system[row][row];
    }
    Some(beta)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use trellect_testkit::statistics::scipy;

    use super::*;

    #[test]
    fn the_unknowns_are_scipys() {
        for case in scipy().nnls {
            let rows = case.rows.iter().copied().zip(case.weights.iter().copied());
            let (found, loss) = solve(&rows.collect::<Vec<Weighted>>());
            assert!((loss - case.loss).abs() < 1e-9, "{loss} {case:?}");
            for (found, expected) in found.iter().zip(case.unknowns) {
                assert!((found - expected).abs() <= 1e-6 * expected.max(1e-3), "{found} {case:?}");
            }
        }
    }

    /// Coordinate descent: slow, obvious, and convex, so it ends at the optimum.
    fn brute_force(rows: &[Weighted]) -> f64 {
        let mut beta = [0.0; N];
        for _ in 0..20_000 {
            for j in 0..N {
                let squares: f64 = rows.iter().map(|(row, w)| w * row[j].powi(2)).sum();
                let rest = |(row, w): &Weighted| {
                    let others = (0..N).filter(|&i| i != j).map(|i| row[i] * beta[i]);
                    w * row[j] * (1.0 - others.sum::<f64>())
                };
                let slope: f64 = rows.iter().map(rest).sum();
                beta[j] = if squares > 0.0 { (slope / squares).max(0.0) } else { 0.0 };
            }
        }
        loss(rows, &beta)
    }

    #[test]
    fn a_true_model_is_found() {
        let beta = [5e3, 0.25, 0.0, 40.0];
        let rows: Vec<Weighted> = (1..12)
            .map(|i| {
                let x = [1.0, 1e6 * f64::from(i * i % 7 + 1), 1e6 * f64::from(i), f64::from(i % 5)];
                let y: f64 = x.iter().zip(&beta).map(|(x, b)| x * b).sum();
                (x.map(|x| x / y), 1.0)
            })
            .collect();
        let (found, loss) = solve(&rows);
        assert!(loss < 1e-12, "{loss}");
        for (found, beta) in found.iter().zip(beta) {
            assert!((found - beta).abs() <= 1e-6 * beta.max(1e-3), "{found} {beta}");
        }
    }

    #[test]
    fn columns_that_are_one_are_used_once() {
        let rows = [([0.0, 1.0, 1.0, 2.0], 1.0), ([0.0, 2.0, 2.0, 4.0], 2.0)];
        let (beta, _) = solve(&rows);
        assert_eq!(beta.iter().filter(|&&b| b > 0.0).count(), 1);
        assert!(beta[1] > 0.0);
        assert_eq!(solve(&[]), ([0.0; N], 0.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn no_other_answer_is_better(
            rows in proptest::collection::vec(
                (proptest::array::uniform4(-1.0f64..1.0), 0.1f64..2.0),
                5..12,
            ),
        ) {
            let (beta, loss) = solve(&rows);
            prop_assert!(beta.iter().all(|&b| b >= 0.0));
            prop_assert!(loss <= brute_force(&rows) + 1e-6);
        }
    }
}
