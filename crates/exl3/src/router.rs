//! Routers: from hidden states to experts and weights.
//!
//! [`RouterView`] is the weight as the checkpoint stores it and computes logits; [`RouterConfig`]
//! is the rule that turns logits into a [`Routing`].

mod view;

use trellect_core::{Routing, RoutingError};

use crate::checkpoint::ModelConfig;

pub use view::{FloatBytes, RouterView};

/// What a logit becomes before experts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// The softmax over all experts: Mixtral, Qwen.
    Softmax,
    /// The logistic function of each logit: GLM, DeepSeek-V3.
    Sigmoid,
}

/// Restricts a token to the experts of its best groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimit {
    /// Equal groups that the experts are divided into, in order.
    pub num_groups: usize,
    /// Groups that a token may choose from.
    pub topk_group: usize,
}

/// How logits become experts and weights.
///
/// Each token takes the `top_k` experts of the highest key, ties going to the lower id. The key is
/// the score plus the correction bias. With [`GroupLimit`] only the experts of the `topk_group` best
/// groups count; a group is as good as the sum of its two highest keys. A weight is the score
/// without bias, divided by `Σ + 1e-20` over the token's experts if `renormalize`, times
/// `scaling_factor`. All in f64; weights are rounded to f32 at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterConfig {
    /// Experts per token.
    pub top_k: usize,
    /// How a logit becomes a score.
    pub scoring: Scoring,
    /// Whether a token's weights are divided by their sum.
    pub renormalize: bool,
    /// Multiplies every weight.
    pub scaling_factor: f64,
    /// Group-limited selection.
    pub groups: Option<GroupLimit>,
}

impl RouterConfig {
    /// Softmax over the `top_k` selected logits: Mixtral, Qwen3-MoE.
    pub const fn softmax(top_k: usize) -> Self {
        let scoring = Scoring::Softmax;
        Self { top_k, scoring, renormalize: true, scaling_factor: 1.0, groups: None }
    }

    /// Normalised sigmoids times `scaling_factor`: GLM-4 MoE, DeepSeek-V3 with one group.
    pub const fn sigmoid(top_k: usize, scaling_factor: f64) -> Self {
        Self { scoring: Scoring::Sigmoid, scaling_factor, ..Self::softmax(top_k) }
    }

    /// The rule that a model's `config.json` states.
    ///
    /// Where fields are absent: `scoring_func` is sigmoid if the router has a correction bias, else
    /// softmax; `norm_topk_prob` is true but for Qwen and OLMoE, whose own default is false;
    /// `routed_scaling_factor` is 1; `n_group` is 1.
    ///
    /// # Errors
    /// [`RouterError::MissingField`] without `num_experts_per_tok`, or with groups and no
    /// `topk_group`; [`RouterError::Unsupported`] for another scoring or selection.
    pub fn from_model(model: &ModelConfig, has_correction_bias: bool) -> Result<Self, RouterError> {
        let missing = |field| RouterError::MissingField { field };
        let unsupported =
            |field, found: &str| Err(RouterError::Unsupported { field, found: found.into() });
        let top_k = model.num_experts_per_tok.ok_or(missing("num_experts_per_tok"))?;
        let scoring = match model.scoring_func.as_deref() {
            Some("softmax") => Scoring::Softmax,
            Some("sigmoid") => Scoring::Sigmoid,
            Some(other) => return unsupported("scoring_func", other),
            None if has_correction_bias => Scoring::Sigmoid,
            None => Scoring::Softmax,
        };
        let groups = match model.n_group {
            None | Some(0 | 1) => None,
            Some(num_groups) => {
                let topk_group = model.topk_group.ok_or(missing("topk_group"))?;
                Some(GroupLimit { num_groups, topk_group })
            }
        };
        match model.topk_method.as_deref() {
            None | Some("noaux_tc" | "greedy") => {}
            Some("group_limited_greedy") if groups.is_none() => {}
            Some(other) => return unsupported("topk_method", other),
        }
        let unnormalized = ["qwen2_moe", "qwen3_moe", "olmoe"];
        let family_default =
            || model.model_type.as_deref().is_none_or(|family| !unnormalized.contains(&family));
        Ok(Self {
            top_k,
            scoring,
            renormalize: model.norm_topk_prob.unwrap_or_else(family_default),
            scaling_factor: model.routed_scaling_factor.unwrap_or(1.0),
            groups,
        })
    }

    /// Routes tokens by `logits`, `[num_tokens, num_experts]`. The ids of a token are in descending
    /// order of the key.
    ///
    /// # Errors
    /// [`RouterError`] when a length disagrees, a logit or bias is not finite, `top_k` is not 1 to
    /// the number of experts that a token may choose from, or the groups do not divide the experts.
    pub fn route(
        &self,
        logits: &[f32],
        correction_bias: Option<&[f32]>,
        num_experts: usize,
    ) -> Result<Routing, RouterError> {
        if num_experts == 0 || !logits.len().is_multiple_of(num_experts) {
            let expected = logits.len().next_multiple_of(num_experts.max(1));
            return Err(RouterError::Length { part: "logits", found: logits.len(), expected });
        }
        if let Some(bias) = correction_bias {
            expect_length("correction bias", bias.len(), num_experts)?;
            expect_finite("correction bias", bias)?;
        }
        expect_finite("logits", logits)?;
        self.check_selection(num_experts)?;
        let num_pairs = (logits.len() / num_experts).saturating_mul(self.top_k);
        if num_pairs > Routing::MAX_PAIRS {
            return Err(RoutingError::TooMany { pairs: num_pairs }.into());
        }

        let bias = |expert: usize| correction_bias.map_or(0.0, |bias| f64::from(bias[expert]));
        let mut topk_ids = Vec::with_capacity(num_pairs);
        let mut topk_weights = Vec::with_capacity(num_pairs);
        let (mut scores, mut keys) = (vec![0.0; num_experts], vec![0.0; num_experts]);
        let mut order = Vec::with_capacity(num_experts);
        for token in logits.chunks_exact(num_experts) {
            self.score(token, &mut scores);
            for (expert, key) in keys.iter_mut().enumerate() {
                *key = scores[expert] + bias(expert);
            }
            // Distinct logits may share a softmax that has underflowed.
            let by_logit = self.scoring == Scoring::Softmax && correction_bias.is_none();
            let logit = |expert: usize| if by_logit { f64::from(token[expert]) } else { 0.0 };
            let descending = |a: &usize, b: &usize| {
                keys[*b].total_cmp(&keys[*a]).then(logit(*b).total_cmp(&logit(*a))).then(a.cmp(b))
            };
            self.allowed(&keys, &mut order);
            order.sort_unstable_by(descending);
            order.truncate(self.top_k);

            let sum: f64 = order.iter().map(|expert| scores[*expert]).sum();
            let scale = match self.renormalize {
                true => self.scaling_factor / (sum + 1e-20),
                false => self.scaling_factor,
            };
            topk_ids.extend(order.iter().map(|expert| *expert as i32));
            topk_weights.extend(order.iter().map(|expert| (scores[*expert] * scale) as f32));
        }
        Ok(Routing::new(num_experts, self.top_k, &topk_ids, &topk_weights)?)
    }

    fn check_selection(&self, num_experts: usize) -> Result<(), RouterError> {
        let mut choosable = num_experts;
        if let Some(GroupLimit { num_groups, topk_group }) = self.groups {
            let divides = num_groups > 0 && num_experts.is_multiple_of(num_groups);
            if !divides || !(1..=num_groups).contains(&topk_group) {
                return Err(RouterError::Groups { num_groups, topk_group, num_experts });
            }
            choosable = num_experts / num_groups * topk_group;
        }
        match (1..=choosable).contains(&self.top_k) && i32::try_from(num_experts).is_ok() {
            true => Ok(()),
            false => Err(RouterError::TopK { top_k: self.top_k, choosable }),
        }
    }

    fn score(&self, logits: &[f32], scores: &mut [f64]) {
        match self.scoring {
            Scoring::Softmax => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                for (score, logit) in scores.iter_mut().zip(logits) {
                    *score = (f64::from(*logit) - f64::from(max)).exp();
                }
                let sum: f64 = scores.iter().sum();
                scores.iter_mut().for_each(|score| *score /= sum);
            }
            Scoring::Sigmoid => {
                for (score, logit) in scores.iter_mut().zip(logits) {
                    *score = 1.0 / (1.0 + (-f64::from(*logit)).exp());
                }
            }
        }
    }

    /// Fills `experts` with those that a token of these keys may choose from.
    fn allowed(&self, keys: &[f64], experts: &mut Vec<usize>) {
        experts.clear();
        let Some(GroupLimit { num_groups, topk_group }) = self.groups else {
            experts.extend(0..keys.len());
            return;
        };
        let group_size = keys.len() / num_groups;
        let quality = |group: &[f64]| {
            let (mut best, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
            for &key in group {
                second = second.max(key.min(best));
                best = best.max(key);
            }
            if group.len() == 1 { best } else { best + second }
        };
        let mut groups: Vec<(f64, usize)> =
            keys.chunks_exact(group_size).map(quality).zip(0..).collect();
        groups.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, group) in &groups[..topk_group] {
            experts.extend(group * group_size..(group + 1) * group_size);
        }
    }
}

fn expect_length(part: &'static str, found: usize, expected: usize) -> Result<(), RouterError> {
    match found == expected {
        true => Ok(()),
        false => Err(RouterError::Length { part, found, expected }),
    }
}

fn expect_finite(part: &'static str, values: &[f32]) -> Result<(), RouterError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(RouterError::NonFinite { part, index, found: values[index] }),
    }
}

/// A router that cannot be built, or tokens that it cannot route.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// A field of `config.json` without which the rule is unknown.
    #[error("config.json lacks `{field}`")]
    MissingField {
        /// The field.
        field: &'static str,
    },
    /// A rule that is not implemented.
    #[error("config.json: `{field}` is `{found}`, which is not supported")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        found: Box<str>,
    },
    /// A part of the wrong length.
    #[error("{part}: {found} elements, expected {expected}")]
    Length {
        /// Which part.
        part: &'static str,
        /// Its length.
        found: usize,
        /// The length that the sizes ask for; the next whole one for rows.
        expected: usize,
    },
    /// A value that is NaN or infinite.
    #[error("{part}[{index}] is {found}, expected a finite number")]
    NonFinite {
        /// Which part.
        part: &'static str,
        /// The element, counted row-major.
        index: usize,
        /// Its value.
        found: f32,
    },
    /// More experts per token than a token may choose from, or none.
    #[error("top_k is {top_k}: expected 1 to the {choosable} experts that a token may choose from")]
    TopK {
        /// The value found.
        top_k: usize,
        /// Experts of the allowed groups.
        choosable: usize,
    },
    /// Groups that do not divide the experts.
    #[error("{topk_group} of {num_groups} groups cannot be chosen among {num_experts} experts")]
    Groups {
        /// Number of groups.
        num_groups: usize,
        /// Groups that a token may choose from.
        topk_group: usize,
        /// Number of experts.
        num_experts: usize,
    },
    /// A result that is no routing.
    #[error(transparent)]
    Routing(#[from] RoutingError),
}
