//! A matrix file is input: whatever it says is checked once, here.

use std::fmt::Display;

use trellect_core::LayerShape;
use trellect_select::adaptive::CostCoefficients;

use super::{Cell, FORMAT, Matrix, MatrixContext, MatrixError, Round, VERSION};

impl Matrix {
    /// Checks that all parts belong together.
    ///
    /// # Errors
    /// [`MatrixError::Field`] for the first that does not.
    pub fn validate(&self) -> Result<(), MatrixError> {
        expect("format", &self.format, FORMAT)?;
        expect("version", &self.version, VERSION)?;
        let shape = &self.shape;
        LayerShape::new(shape.hidden_size, shape.intermediate_size, shape.num_experts)
            .map_err(|error| fault("shape", error.found, "1 to a model's size"))?;
        if !(1..=shape.num_experts).contains(&shape.top_k) {
            return Err(fault("shape.top_k", shape.top_k, "1 to num_experts"));
        }
        for (i, layer) in self.layers.iter().enumerate() {
            expect(&format!("layers[{i}]: experts"), &layer.len(), shape.num_experts)?;
        }
        for (i, kernel) in self.kernels.iter().enumerate() {
            if self.kernels[..i].iter().any(|other| other.name == kernel.name) {
                return Err(fault(&format!("kernels[{i}].name"), kernel.name, "no repetition"));
            }
            if kernel.rows_per_decode == 0 {
                return Err(fault(&format!("kernels[{i}].rows_per_decode"), 0, "at least 1"));
            }
            if kernel.cost.is_some_and(|cost| !CostCoefficients::from(cost).is_valid()) {
                let found = format!("{:?}", kernel.cost);
                return Err(fault(&format!("kernels[{i}].cost"), found, "0 or more"));
            }
        }
        for (i, context) in self.contexts.iter().enumerate() {
            self.validate_context(&format!("contexts[{i}]"), context)?;
        }
        Ok(())
    }

    fn validate_context(&self, at: &str, context: &MatrixContext) -> Result<(), MatrixError> {
        if context.rounds.is_empty() || context.num_tokens == 0 {
            return Err(fault(at, "no round or no token", "at least one of each"));
        }
        for (i, round) in context.rounds.iter().enumerate() {
            self.validate_round(&format!("{at}.rounds[{i}]"), context.num_tokens, round)?;
        }
        expect(&format!("{at}.cells: count"), &context.cells.len(), self.kernels.len())?;
        for (i, cell) in context.cells.iter().enumerate() {
            let Cell::Ns(ns) = cell else { continue };
            expect(&format!("{at}.cells[{i}].ns: count"), &ns.len(), context.rounds.len())?;
            if ns.contains(&0) {
                return Err(fault(&format!("{at}.cells[{i}].ns"), 0, "more than 0 ns"));
            }
        }
        Ok(())
    }

    fn validate_round(
        &self,
        at: &str,
        num_tokens: usize,
        round: &Round,
    ) -> Result<(), MatrixError> {
        if round.layer >= self.layers.len() {
            return Err(fault(&format!("{at}.layer"), round.layer, "an index into layers"));
        }
        expect(&format!("{at}.loads: count"), &round.loads.len(), self.shape.num_experts)?;
        let pairs: u64 = round.loads.iter().map(|&rows| u64::from(rows)).sum();
        let expected = num_tokens as u128 * self.shape.top_k as u128;
        expect(&format!("{at}.loads: sum"), &u128::from(pairs), expected)?;
        let ceiling = round.ceiling_gib_per_s;
        if !(ceiling.is_finite() && ceiling >= 0.0) {
            return Err(fault(&format!("{at}.ceiling_gib_per_s"), ceiling, "0 or more"));
        }
        Ok(())
    }
}

fn expect<T, U>(field: &str, found: &T, expected: U) -> Result<(), MatrixError>
where
    T: PartialEq<U> + Display,
    U: Display,
{
    match *found == expected {
        true => Ok(()),
        false => Err(fault(field, found, expected)),
    }
}

fn fault(field: &str, found: impl Display, expected: impl Display) -> MatrixError {
    let (field, found, expected) = (field.into(), found.to_string(), expected.to_string());
    MatrixError::Field { field, found, expected }
}
