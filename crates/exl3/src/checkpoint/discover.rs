use std::collections::{BTreeSet, HashMap};

/// How a checkpoint calls the three projections of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExpertNaming {
    /// `gate_proj`, `up_proj`, `down_proj`: Qwen, GLM, DeepSeek.
    Projections,
    /// `w1`, `w3`, `w2`: Mixtral.
    Mixtral,
}

impl ExpertNaming {
    /// The names of gate, up and down.
    pub const fn projections(self) -> [&'static str; 3] {
        match self {
            Self::Projections => ["gate_proj", "up_proj", "down_proj"],
            Self::Mixtral => ["w1", "w3", "w2"],
        }
    }

    /// The usual prefix of layer `number`, under which `.experts.0` and so on lie.
    pub fn prefix(self, number: usize) -> String {
        match self {
            Self::Projections => format!("model.layers.{number}.mlp"),
            Self::Mixtral => format!("model.layers.{number}.block_sparse_moe"),
        }
    }
}

/// A layer whose experts are EXL3 tensors, as its tensors' names tell; not validated yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    number: usize,
    prefix: Box<str>,
    naming: ExpertNaming,
    num_experts: usize,
    missing_expert: Option<usize>,
    highest_expert: usize,
}

impl LayerInfo {
    /// The number after `layers.` in the prefix.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// What the names of the layer's tensors start with, such as `model.layers.3.mlp`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How the projections are called.
    pub const fn naming(&self) -> ExpertNaming {
        self.naming
    }

    /// Number of experts that the checkpoint names.
    pub const fn num_experts(&self) -> usize {
        self.num_experts
    }

    /// The lowest expert that is missing below one that exists.
    pub(super) const fn missing_expert(&self) -> Option<usize> {
        self.missing_expert
    }

    pub(super) const fn highest_expert(&self) -> usize {
        self.highest_expert
    }
}

/// Tensors that only EXL3 linears have.
pub(super) const EXL3_PARTS: [&str; 8] =
    ["trellis", "suh", "svh", "su", "sv", "mcg", "mul1", "scale"];

/// Finds all layers by `{prefix}.experts.{number}.{projection}.{part}`, ascending by number.
pub(super) fn layers<'a>(names: impl Iterator<Item = &'a str>) -> Vec<LayerInfo> {
    #[derive(Default)]
    struct Found {
        experts: BTreeSet<usize>,
        has_projections: bool,
        is_exl3: bool,
    }
    let mut found = HashMap::<&str, Found>::new();
    for (prefix, expert, naming, part) in names.filter_map(expert_tensor) {
        let layer = found.entry(prefix).or_default();
        layer.experts.insert(expert);
        layer.has_projections |= naming == ExpertNaming::Projections;
        layer.is_exl3 |= EXL3_PARTS.contains(&part);
    }
    let info = |(prefix, layer): (&str, Found)| {
        let highest_expert = *layer.experts.last()?;
        let gap = layer.experts.iter().enumerate().find(|(index, expert)| index != *expert);
        layer.is_exl3.then_some(LayerInfo {
            number: layer_number(prefix)?,
            prefix: prefix.into(),
            naming: if layer.has_projections {
                ExpertNaming::Projections
            } else {
                ExpertNaming::Mixtral
            },
            num_experts: layer.experts.len(),
            missing_expert: gap.map(|(index, _)| index),
            highest_expert,
        })
    };
    let mut layers: Vec<LayerInfo> = found.into_iter().filter_map(info).collect();
    layers.sort_by(|a, b| (a.number, &a.prefix).cmp(&(b.number, &b.prefix)));
    layers
}

/// Splits the name of an expert's tensor into prefix, expert, naming and part.
fn expert_tensor(name: &str) -> Option<(&str, usize, ExpertNaming, &str)> {
    let mut parts = name.rsplitn(5, '.');
    let (part, projection, expert) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next()? != "experts" {
        return None;
    }
    let naming = [ExpertNaming::Projections, ExpertNaming::Mixtral]
        .into_iter()
        .find(|naming| naming.projections().contains(&projection))?;
    Some((parts.next()?, plain_number(expert)?, naming, part))
}

fn layer_number(prefix: &str) -> Option<usize> {
    let mut parts = prefix.rsplit('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek() == Some(&"layers") {
            return plain_number(part);
        }
    }
    None
}

/// Reads a number in its only spelling, so that no two names mean one thing.
fn plain_number(text: &str) -> Option<usize> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_under_any_prefix() {
        let names = [
            "model.layers.3.mlp.experts.0.gate_proj.trellis",
            "model.layers.3.mlp.experts.1.down_proj.weight",
            "language_model.model.layers.2.mlp.experts.0.up_proj.suh",
            "model.layers.12.block_sparse_moe.experts.0.w1.trellis",
            "model.layers.4.mlp.experts.0.gate_proj.weight",
            "model.layers.5.mlp.gate_proj.trellis",
            "model.layers.6.mlp.experts.gate_up_proj.trellis",
            "model.layers.7.mlp.experts.07.gate_proj.trellis",
            "mlp.experts.0.gate_proj.trellis",
            "experts.0.gate_proj.trellis",
            "",
            "....",
        ];
        let found: Vec<_> = layers(names.into_iter())
            .into_iter()
            .map(|layer| (layer.number, layer.prefix.to_string(), layer.naming, layer.num_experts))
            .collect();
        let projections = ExpertNaming::Projections;
        assert_eq!(
            found,
            [
                (2, "language_model.model.layers.2.mlp".into(), projections, 1),
                (3, "model.layers.3.mlp".into(), projections, 2),
                (12, "model.layers.12.block_sparse_moe".into(), ExpertNaming::Mixtral, 1),
            ]
        );
    }

    #[test]
    fn gaps_are_seen_without_counting_up_to_the_highest() {
        let names = [
            "layers.0.mlp.experts.0.gate_proj.trellis",
            "layers.0.mlp.experts.2.gate_proj.trellis",
            "layers.0.mlp.experts.4294967295.gate_proj.trellis",
        ];
        let found = layers(names.into_iter());
        assert_eq!((found[0].num_experts, found[0].missing_expert), (3, Some(1)));
        assert_eq!(found[0].highest_expert, 4_294_967_295);
    }
}
