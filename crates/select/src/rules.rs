use trellect_core::{CallFacts, Family, KernelId, KernelSpec, NumericClass, Rejection, WhyNot};

use crate::{
    Bucket, Decision, HeuristicFamily, Reason, Request, RuleConfig, SelectError, Thresholds,
};

/// The rules applied to one request: pure, so that explaining asks the same questions as selecting.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) config: &'a RuleConfig,
    pub(crate) thresholds: &'a Thresholds,
    pub(crate) request: &'a Request<'a>,
    pub(crate) candidates: &'a [KernelSpec],
}

impl<'a> Rules<'a> {
    /// The decision of every rule but exploration and feedback.
    pub(crate) fn baseline(&self) -> Result<Decision, SelectError> {
        let (choice, reason) = self.choice();
        let asked = self.request.call.numeric;
        let serves = |spec: &&KernelSpec| {
            is_named(spec, choice) && self.request.legal_as(spec, asked).is_ok()
        };
        if let Some(spec) = self.candidates.iter().find(serves) {
            return Ok(self.decision(spec, reason, None));
        }
        match self.substitute(choice) {
            Some(spec) => Ok(self.decision(spec, self.fallback_reason(choice), Some(choice))),
            None => Err(SelectError::NothingLegal { refusals: self.refusals() }),
        }
    }

    /// The legal candidates that may serve instead of a decision's kernel, with their positions.
    pub(crate) fn alternatives(
        &self,
        decision: &Decision,
    ) -> impl Iterator<Item = (usize, &'a KernelSpec)> + use<'a> {
        let Decision { kernel, class, class_asked, .. } = *decision;
        let open = !self.memory_is_tight() && class == class_asked;
        let candidates = if open { self.candidates } else { &[] };
        let request = self.request;
        candidates.iter().enumerate().filter(move |(_, spec)| {
            spec.class == class && spec.id != kernel && request.legal_as(spec, class).is_ok()
        })
    }

    /// The plain name that the rules want, be there such a candidate or not.
    fn choice(&self) -> (KernelId, Reason) {
        let asked = self.request.call.numeric;
        if self.memory_is_tight() {
            return (Bucket::Base.standard_kernel(asked), Reason::MemoryPressure);
        }
        let standard = self.bucket().standard_kernel(asked);
        let skew_share = self.thresholds.skew_share;
        if self.request.top_expert_share.is_some_and(|share| share >= skew_share) {
            return (standard, Reason::ActivationPatternSkewed);
        }
        (self.specialised(standard).unwrap_or(standard), Reason::Heuristic)
    }

    /// The form of `standard` for the experts' only tuple, where it is preferred and exists.
    fn specialised(&self, standard: KernelId) -> Option<KernelId> {
        let [tuple, rest @ ..] = self.request.call.active_tuples else { return None };
        let special = standard.with_tuple(*tuple);
        let wanted = standard == KernelId::new(Family::Decode)
            && rest.iter().all(|other| other == tuple)
            && self.thresholds.specialised_decode.contains(tuple);
        let class = self.request.call.numeric;
        let exists = |spec: &KernelSpec| spec.class == class && is_named(spec, special);
        (wanted && self.candidates.iter().any(exists)).then_some(special)
    }

    /// Who serves where `choice` cannot: the class asked for first, then more exact ones, and only
    /// where float32 accumulation was asked for and nobody has it, the plain form.
    fn substitute(&self, choice: KernelId) -> Option<&'a KernelSpec> {
        let asked = self.request.call.numeric;
        let more_exact = NumericClass::ALL.into_iter().rev().filter(|class| *class < asked);
        self.best_of(asked, choice)
            .or_else(|| more_exact.into_iter().find_map(|class| self.best_of(class, choice)))
            .or_else(|| match asked {
                NumericClass::Exact if !self.workspace_withholds_exact() => {
                    self.best_of(NumericClass::Half, choice)
                }
                _ => None,
            })
    }

    /// The substitute for `choice` among the legal candidates of `class`: its own form in that
    /// class, else the base kernel, else one of the same family, else the first. Where memory is
    /// tight the smallest workspace goes before the family.
    fn best_of(&self, class: NumericClass, choice: KernelId) -> Option<&'a KernelSpec> {
        let own_form = match class == self.request.call.numeric {
            true => choice,
            false => KernelId { fp32_acc: class == NumericClass::Exact, tuple: None, ..choice },
        };
        let preferred = [own_form, Bucket::Base.standard_kernel(class)];
        self.legal_as(class).min_by_key(|spec| {
            let name = spec.id.plain();
            let rank = preferred.iter().position(|id| *id == name).unwrap_or(preferred.len());
            let bytes = match self.memory_is_tight() {
                true => spec.workspace.bytes(self.request.call.num_pairs),
                false => 0,
            };
            (rank, bytes, name.family != choice.family)
        })
    }

    /// Whether an exact kernel could serve this call with more workspace: scarce memory may not
    /// change the class.
    fn workspace_withholds_exact(&self) -> bool {
        let call = CallFacts { workspace_limit: None, ..self.request.call };
        let unlimited = Request { call, ..*self.request };
        let exact = |spec: &KernelSpec| unlimited.legal_as(spec, NumericClass::Exact).is_ok();
        self.candidates.iter().any(exact)
    }

    /// Why no candidate called `choice` serves. A shortage of workspace counts before the rest,
    /// since more memory would bring the choice back.
    fn fallback_reason(&self, choice: KernelId) -> Reason {
        let asked = self.request.call.numeric;
        let namesakes = self.candidates.iter().filter(|spec| is_named(spec, choice));
        let mut reason = Reason::FallbackAvailability;
        for why in namesakes.filter_map(|spec| self.request.legal_as(spec, asked).err()) {
            match why {
                WhyNot::Workspace { .. } => return Reason::FallbackWorkspace,
                WhyNot::NotListed | WhyNot::Class { .. } => {}
                _ => reason = Reason::FallbackLegality,
            }
        }
        reason
    }

    /// Why each candidate cannot serve, not even as a kernel more exact than asked for.
    fn refusals(&self) -> Vec<Rejection> {
        let asked = self.request.call.numeric;
        let refusal = |spec: &KernelSpec| {
            let why = self.request.legal_as(spec, spec.class.min(asked)).err()?;
            Some(Rejection { kernel: spec.id, why })
        };
        self.candidates.iter().filter_map(refusal).collect()
    }

    fn legal_as(&self, class: NumericClass) -> impl Iterator<Item = &'a KernelSpec> + use<'a> {
        let request = self.request;
        self.candidates
            .iter()
            .filter(move |spec| spec.class == class && request.legal_as(spec, class).is_ok())
    }

    fn memory_is_tight(&self) -> bool {
        self.request.memory_pressure > self.config.memory_pressure_threshold
    }

    fn bucket(&self) -> Bucket {
        self.thresholds.bucket(self.request.call.num_tokens)
    }

    fn decision(
        &self,
        spec: &KernelSpec,
        reason: Reason,
        fallback_from: Option<KernelId>,
    ) -> Decision {
        Decision {
            kernel: spec.id,
            reason,
            class: spec.class,
            class_asked: self.request.call.numeric,
            tile_n: spec.tile_n,
            bucket: self.bucket(),
            heuristic_family: HeuristicFamily::of(self.request.active_bits),
            baseline_kernel: spec.id,
            explored: false,
            fallback_from,
        }
    }
}

/// Whether `spec` is an implementation of the plain name `name`.
fn is_named(spec: &KernelSpec, name: KernelId) -> bool {
    let KernelId { family, fp32_acc, tuple, variant: _ } = spec.id;
    (family, fp32_acc, tuple) == (name.family, name.fp32_acc, name.tuple)
}
