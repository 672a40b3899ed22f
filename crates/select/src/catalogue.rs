use trellect_core::{Family, KernelId, KernelSpec, NumericClass, TokenRange, WorkspaceModel};

use crate::{Bucket, Thresholds};

/// The kernels by their plain names, for selections where no backend is at hand.
///
/// Legality is the widest that a kernel of the name has: decode computes one token, every other
/// family any number. The workspace is unknown and taken as nothing.
pub fn catalogue(thresholds: &Thresholds) -> Vec<KernelSpec> {
    let decode = KernelId::new(Family::Decode);
    let specialised = thresholds.specialised_decode.iter().map(|tuple| decode.with_tuple(*tuple));
    let any_tuple = [Family::Prefill4, Family::Base, Family::LargeBatch, Family::Grouped];
    let fp32_acc = [Bucket::Decode, Bucket::Prefill4, Bucket::Base]
        .map(|row| row.standard_kernel(NumericClass::Exact));
    std::iter::once(decode)
        .chain(specialised)
        .chain(any_tuple.map(KernelId::new))
        .chain(fp32_acc)
        .map(plain_spec)
        .collect()
}

/// Every plain name that a policy with these thresholds may choose from the [`catalogue`]; each
/// must be a kernel that a backend has.
pub fn reachable_kernels(thresholds: &Thresholds) -> Vec<KernelId> {
    catalogue(thresholds).into_iter().map(|spec| spec.id).collect()
}

fn plain_spec(id: KernelId) -> KernelSpec {
    KernelSpec {
        id,
        class: if id.fp32_acc { NumericClass::Exact } else { NumericClass::Half },
        tokens: match id.family {
            Family::Decode => TokenRange::ONE,
            _ => TokenRange::ANY,
        },
        tile_n: match id.family {
            Family::LargeBatch => 128,
            _ => 64,
        },
        rows_per_decode: match id.family {
            Family::Decode => 1,
            Family::Prefill4 | Family::Grouped => 4,
            Family::Base => 16,
            Family::LargeBatch => 128,
        },
        workspace: WorkspaceModel::default(),
        capture_safe: false,
        deterministic: false,
    }
}
