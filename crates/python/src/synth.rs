//! Synthetic checkpoints, for tests and examples.

use std::path::PathBuf;

use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use trellect::core::{BitTuple, Codebook, LayerShape};
use trellect::exl3::synth::{OwnedLayer, SynthError, SynthSpec};
use trellect::exl3::{ExpertNaming, LayerToWrite, WriterConfig, write_checkpoint};

use crate::errors::raised;

/// Widths of the experts.
#[derive(FromPyObject)]
pub(crate) enum BitsArgument {
    Uniform(u64, u64, u64),
    Each(Vec<(u64, u64, u64)>),
    Named(String),
}

#[pyfunction]
#[pyo3(
    signature = (
        path, *, hidden_size, intermediate_size, num_experts, layers = vec![0],
        bits = BitsArgument::Named("mixed".into()), naming = "projections", seed = 0
    ),
    text_signature = "(path, *, hidden_size, intermediate_size, num_experts, layers=[0], \
                      bits='mixed', naming='projections', seed=0)"
)]
#[expect(clippy::too_many_arguments, reason = "they are keywords to its callers")]
pub(crate) fn write_synthetic(
    py: Python<'_>,
    path: PathBuf,
    hidden_size: usize,
    intermediate_size: usize,
    num_experts: usize,
    layers: Vec<usize>,
    bits: BitsArgument,
    naming: &str,
    seed: u64,
) -> PyResult<()> {
    let shape = LayerShape::new(hidden_size, intermediate_size, num_experts);
    let shape = shape.map_err(|error| raised(&error))?;
    let naming = match naming {
        "projections" => ExpertNaming::Projections,
        "mixtral" => ExpertNaming::Mixtral,
        _ => {
            let message = format!("naming is {naming:?}: expected projections or mixtral");
            return Err(PyValueError::new_err(message));
        }
    };
    let tuples = bits.tuples(num_experts)?;
    py.detach(|| {
        let make = |&number: &usize| {
            let seed = seed.wrapping_add(number as u64);
            let mut spec = SynthSpec::mixed(shape, Codebook::Mul1, seed);
            if let Some(tuples) = &tuples {
                spec.tuples.clone_from(tuples);
            }
            OwnedLayer::new(&spec)
        };
        let made = layers.iter().map(make).collect::<Result<Vec<_>, _>>().map_err(not_made)?;
        let views: Vec<_> = made.iter().map(OwnedLayer::view).collect();
        let to_write = layers.iter().zip(&views).map(|(&number, view)| LayerToWrite {
            number,
            naming,
            view,
            shared_expert: None,
            router: None,
        });
        let to_write: Vec<_> = to_write.collect();
        write_checkpoint(&path, &to_write, &WriterConfig::default()).map_err(|error| raised(&error))
    })
}

impl BitsArgument {
    /// The tuple of every expert; `None`: the mix of [`SynthSpec::mixed`].
    fn tuples(self, num_experts: usize) -> PyResult<Option<Vec<BitTuple>>> {
        let tuple = |(gate, up, down)| {
            BitTuple::new(gate, up, down)
                .map_err(|error| PyValueError::new_err(format!("bits: {error}")))
        };
        match self {
            Self::Named(name) if name == "mixed" => Ok(None),
            Self::Named(name) => {
                let message =
                    format!("bits is {name:?}: expected \"mixed\" or (gate, up, down), or a list");
                Err(PyValueError::new_err(message))
            }
            Self::Uniform(gate, up, down) => Ok(Some(vec![tuple((gate, up, down))?; num_experts])),
            Self::Each(tuples) => tuples.into_iter().map(tuple).collect::<PyResult<_>>().map(Some),
        }
    }
}

fn not_made(error: SynthError) -> PyErr {
    match error {
        SynthError::OutOfMemory { .. } => PyMemoryError::new_err(error.to_string()),
        _ => raised(&error),
    }
}
