use safetensors::Dtype;
use trellect_core::{
    Bits, Codebook, ExpertView, HADAMARD, LayerView, LinearView, Projection, TILE, VectorView,
};

use super::discover::EXL3_PARTS;
use super::shard::Entry;
use super::{Checkpoint, ExpertNaming, LayerInfo};
use crate::LoadError;
use crate::router::{FloatBytes, RouterView};

/// One validated MoE layer of a checkpoint, borrowing its tensors from the mapped files.
#[derive(Debug)]
pub struct MoeLayer<'a> {
    checkpoint: &'a Checkpoint,
    info: &'a LayerInfo,
    view: LayerView<'a>,
    shared_expert: Option<LayerView<'a>>,
    router: Option<RouterView<'a>>,
}

impl<'a> MoeLayer<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, info: &'a LayerInfo) -> Result<Self, LoadError> {
        let missing = |missing, expected| {
            Err(LoadError::MissingExpert { prefix: info.prefix().into(), missing, expected })
        };
        if let Some(expert) = info.missing_expert() {
            return missing(expert, info.highest_expert().saturating_add(1));
        }
        let read = |expert| checkpoint.expert(info.naming(), &expert_key(info, expert));
        let experts = (0..info.num_experts()).map(read).collect::<Result<Vec<_>, _>>()?;
        let gate = experts[0].gate;
        let (padded_hidden, padded_inner) = (gate.in_features(), gate.out_features());

        let router = checkpoint.router_tensors(info.prefix())?;
        if let Some(rows) = router.as_ref().map(|router| router.rows)
            && rows > info.num_experts()
        {
            return missing(info.num_experts(), rows);
        }
        let config = &checkpoint.config;
        let router_width = router.as_ref().map(|router| router.width);
        let hidden_size = config.hidden_size_of(padded_hidden, router_width);
        let router = router
            .map(|router| router.view(checkpoint, info.num_experts(), hidden_size))
            .transpose()?;

        let layer = |prefix: &str, experts, intermediate_size| {
            LayerView::new(experts, Some(hidden_size), Some(intermediate_size))
                .map_err(|source| LoadError::Layer { prefix: prefix.into(), source })
        };
        let view = layer(info.prefix(), experts, config.intermediate_size_of(padded_inner))?;
        let shared_expert = match checkpoint.shared_expert_key(info.prefix()) {
            Some(key) => {
                let expert = checkpoint.expert(ExpertNaming::Projections, &key)?;
                let inner = config.shared_intermediate_size_of(expert.gate.out_features());
                Some(layer(&key, vec![expert], inner)?)
            }
            None => None,
        };
        Ok(Self { checkpoint, info, view, shared_expert, router })
    }

    /// The layer's number.
    pub const fn number(&self) -> usize {
        self.info.number()
    }

    /// What the names of the layer's tensors start with.
    pub fn prefix(&self) -> &'a str {
        self.info.prefix()
    }

    /// How the projections are called.
    pub const fn naming(&self) -> ExpertNaming {
        self.info.naming()
    }

    /// The routed experts.
    pub const fn view(&self) -> &LayerView<'a> {
        &self.view
    }

    /// The expert that every token passes through, as a layer of one expert with its own inner
    /// width; `None` where there is none or it is not quantised.
    pub const fn shared_expert(&self) -> Option<&LayerView<'a>> {
        self.shared_expert.as_ref()
    }

    /// The router, if the checkpoint has `gate.weight` for this layer.
    pub const fn router(&self) -> Option<&RouterView<'a>> {
        self.router.as_ref()
    }

    /// Tells the operating system that the trellis tensors of one expert are not needed in memory
    /// any more, so that a layer being prepared is not resident twice. Reading them again is
    /// correct and costs a read of the file. An unknown expert and a checkpoint in memory are left
    /// alone.
    pub fn release_expert(&self, expert: usize) {
        let key = expert_key(self.info, expert);
        for projection in self.info.naming().projections() {
            if let Some(entry) = self.checkpoint.tensors.get(&format!("{key}.{projection}.trellis"))
            {
                self.checkpoint.shards[entry.shard].release(entry);
            }
        }
    }
}

fn expert_key(info: &LayerInfo, expert: usize) -> String {
    format!("{}.experts.{expert}", info.prefix())
}

/// The tensors of a router whose sizes are not checked yet.
struct RouterTensors<'a> {
    weight: &'a Entry,
    weight_name: String,
    rows: usize,
    width: usize,
    bias: Option<(&'a Entry, String)>,
}

impl<'a> RouterTensors<'a> {
    fn view(
        &self,
        checkpoint: &'a Checkpoint,
        num_experts: usize,
        hidden_size: usize,
    ) -> Result<RouterView<'a>, LoadError> {
        let (weight, name) = (self.weight, self.weight_name.as_str());
        checkpoint.expect_shape(name, weight, &[num_experts, hidden_size])?;
        let values = checkpoint.floats(name, weight)?;
        checkpoint.expect_finite(name, weight, values.iter())?;
        let bias = match &self.bias {
            Some((entry, name)) => {
                checkpoint.expect_shape(name, entry, &[num_experts])?;
                let bias = checkpoint.floats(name, entry)?;
                checkpoint.expect_finite(name, entry, bias.iter())?;
                Some(bias.iter().collect())
            }
            None => None,
        };
        Ok(RouterView::from_parts(values, num_experts, hidden_size, bias))
    }
}

impl Checkpoint {
    fn expert(&self, naming: ExpertNaming, key: &str) -> Result<ExpertView<'_>, LoadError> {
        let names = naming.projections();
        let linear =
            |projection: Projection| self.linear(&format!("{key}.{}", names[projection as usize]));
        Ok(ExpertView {
            gate: linear(Projection::Gate)?,
            up: linear(Projection::Up)?,
            down: linear(Projection::Down)?,
        })
    }

    fn linear(&self, key: &str) -> Result<LinearView<'_>, LoadError> {
        let name = |part: &str| format!("{key}.{part}");
        let legacy_scale = name("scale");
        if self.tensors.contains_key(&legacy_scale) {
            return Err(LoadError::LegacyScale { tensor: legacy_scale.into() });
        }
        let has = |part: &str| self.tensors.contains_key(&name(part));
        let codebook = match (has("mcg"), has("mul1")) {
            (false, false) => Codebook::ThreeInst,
            (true, false) => Codebook::Mcg,
            (false, true) => Codebook::Mul1,
            (true, true) => return Err(LoadError::BothCodebooks { linear: key.into() }),
        };
        let trellis_name = name("trellis");
        let trellis = self.require(&trellis_name)?;
        self.expect_type(&trellis_name, trellis, &[Dtype::I16], "I16")?;
        let (in_features, out_features, bits) = self.trellis_sizes(&trellis_name, trellis)?;
        let suh = self.scales(key, ["suh", "su"], in_features)?;
        let svh = self.scales(key, ["svh", "sv"], out_features)?;
        let bias = self.bias(&name("bias"), out_features)?;
        let data = self.data(trellis);
        LinearView::new(data, bits, codebook, in_features, out_features, suh, svh, bias)
            .map_err(|source| LoadError::Linear { linear: key.into(), source })
    }

    /// Reads `[in_features/16, out_features/16, 16·bits]`.
    fn trellis_sizes(
        &self,
        name: &str,
        trellis: &Entry,
    ) -> Result<(usize, usize, Bits), LoadError> {
        let &[rows, columns, words] = trellis.shape.as_slice() else {
            return Err(self.wrong_shape(name, trellis, "[in/16, out/16, 16·bits]"));
        };
        let size = |tiles: usize| {
            let size = tiles.checked_mul(TILE)?;
            (size > 0 && size.is_multiple_of(HADAMARD)).then_some(size)
        };
        let (Some(in_features), Some(out_features)) = (size(rows), size(columns)) else {
            let expected = "its first two dimensions to be positive multiples of 8";
            return Err(self.wrong_shape(name, trellis, expected));
        };
        let width = words.is_multiple_of(TILE).then(|| Bits::new((words / TILE) as u64));
        let Some(Ok(bits)) = width else {
            let (path, tensor) = (self.path_of(trellis), name.into());
            return Err(LoadError::Width { path, tensor, found: words });
        };
        Ok((in_features, out_features, bits))
    }

    /// Reads a scale vector, or its legacy form of packed signs where only that exists.
    fn scales(&self, key: &str, parts: [&str; 2], len: usize) -> Result<VectorView<'_>, LoadError> {
        let [name, legacy_name] = parts.map(|part| format!("{key}.{part}"));
        if let (None, Some(signs)) = (self.tensors.get(&name), self.tensors.get(&legacy_name)) {
            self.expect_type(&legacy_name, signs, &[Dtype::I16], "I16")?;
            self.expect_shape(&legacy_name, signs, &[len / TILE])?;
            return Ok(VectorView::Signs(self.data(signs)));
        }
        let scales = self.require(&name)?;
        self.expect_type(&name, scales, &[Dtype::F16], "F16")?;
        self.expect_shape(&name, scales, &[len])?;
        let view = VectorView::F16(self.data(scales));
        self.expect_finite(&name, scales, view.iter())?;
        Ok(view)
    }

    fn bias(&self, name: &str, len: usize) -> Result<Option<VectorView<'_>>, LoadError> {
        let Some(bias) = self.tensors.get(name) else { return Ok(None) };
        self.expect_type(name, bias, &[Dtype::F16, Dtype::F32], "F16 or F32")?;
        self.expect_shape(name, bias, &[len])?;
        let view = match bias.dtype {
            Dtype::F32 => VectorView::F32(self.data(bias)),
            _ => VectorView::F16(self.data(bias)),
        };
        self.expect_finite(name, bias, view.iter())?;
        Ok(Some(view))
    }

    fn router_tensors(&self, prefix: &str) -> Result<Option<RouterTensors<'_>>, LoadError> {
        let weight_name = format!("{prefix}.gate.weight");
        let Some(weight) = self.tensors.get(&weight_name) else { return Ok(None) };
        let &[rows, width] = weight.shape.as_slice() else {
            return Err(self.wrong_shape(&weight_name, weight, "[num_experts, hidden_size]"));
        };
        let bias_name = format!("{prefix}.gate.e_score_correction_bias");
        let bias = self.tensors.get(&bias_name).map(|entry| (entry, bias_name));
        Ok(Some(RouterTensors { weight, weight_name, rows, width, bias }))
    }

    /// What the names of the shared expert's tensors start with, if it is quantised.
    fn shared_expert_key(&self, prefix: &str) -> Option<String> {
        let is_exl3 = |key: &String| {
            let projections = ExpertNaming::Projections.projections();
            projections.iter().any(|projection| {
                EXL3_PARTS
                    .iter()
                    .any(|part| self.tensors.contains_key(&format!("{key}.{projection}.{part}")))
            })
        };
        ["shared_experts", "shared_expert"]
            .into_iter()
            .map(|name| format!("{prefix}.{name}"))
            .find(is_exl3)
    }

    fn floats(&self, name: &str, entry: &Entry) -> Result<FloatBytes<'_>, LoadError> {
        let data = self.data(entry);
        match entry.dtype {
            Dtype::F16 => Ok(FloatBytes::F16(data)),
            Dtype::BF16 => Ok(FloatBytes::Bf16(data)),
            Dtype::F32 => Ok(FloatBytes::F32(data)),
            _ => Err(self.wrong_type(name, entry, "F16, BF16 or F32")),
        }
    }

    fn data(&self, entry: &Entry) -> &[u8] {
        self.shards[entry.shard].data(entry)
    }

    fn path_of(&self, entry: &Entry) -> std::path::PathBuf {
        self.shards[entry.shard].path().into()
    }

    fn require(&self, name: &str) -> Result<&Entry, LoadError> {
        self.tensors.get(name).ok_or_else(|| LoadError::MissingTensor {
            path: self.path.clone(),
            tensor: name.into(),
        })
    }

    fn expect_type(
        &self,
        name: &str,
        entry: &Entry,
        accepted: &[Dtype],
        expected: &'static str,
    ) -> Result<(), LoadError> {
        match accepted.contains(&entry.dtype) {
            true => Ok(()),
            false => Err(self.wrong_type(name, entry, expected)),
        }
    }

    fn expect_shape(&self, name: &str, entry: &Entry, shape: &[usize]) -> Result<(), LoadError> {
        match entry.shape == shape {
            true => Ok(()),
            false => Err(self.wrong_shape(name, entry, &format!("{shape:?}"))),
        }
    }

    fn expect_finite(
        &self,
        name: &str,
        entry: &Entry,
        values: impl Iterator<Item = f32>,
    ) -> Result<(), LoadError> {
        match values.enumerate().find(|(_, value)| !value.is_finite()) {
            None => Ok(()),
            Some((index, found)) => {
                let (path, tensor) = (self.path_of(entry), name.into());
                Err(LoadError::NonFinite { path, tensor, index, found })
            }
        }
    }

    fn wrong_type(&self, name: &str, entry: &Entry, expected: &'static str) -> LoadError {
        let found = entry.dtype.to_string().into();
        LoadError::WrongType { path: self.path_of(entry), tensor: name.into(), found, expected }
    }

    fn wrong_shape(&self, name: &str, entry: &Entry, expected: &str) -> LoadError {
        LoadError::WrongShape {
            path: self.path_of(entry),
            tensor: name.into(),
            found: entry.shape.clone(),
            expected: expected.into(),
        }
    }
}
