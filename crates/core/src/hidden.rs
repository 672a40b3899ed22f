use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Borrowed hidden states, row-major `[num_tokens, hidden_size]`.
#[derive(Clone, Copy, Debug)]
pub enum Hidden<'a> {
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE single precision.
    F32(&'a [f32]),
}

impl Hidden<'_> {
    /// Number of elements, all tokens together.
    pub const fn len(&self) -> usize {
        match self {
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
            Self::F32(x) => x.len(),
        }
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `out.len()` elements from `start` on, as f32 (exact for every element type).
    ///
    /// # Panics
    /// When the range does not lie within the elements.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Self::F16(x) => x[range].convert_to_f32_slice(out),
            Self::Bf16(x) => x[range].convert_to_f32_slice(out),
            Self::F32(x) => out.copy_from_slice(&x[range]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_reads_as_f32() {
        let f32s = [1.0, -2.5, 0.0, 4.0];
        let f16s = f32s.map(f16::from_f32);
        let bf16s = f32s.map(bf16::from_f32);
        for hidden in [Hidden::F32(&f32s), Hidden::F16(&f16s), Hidden::Bf16(&bf16s)] {
            let mut out = [0.0; 2];
            hidden.read_f32(1, &mut out);
            assert_eq!(out, [-2.5, 0.0]);
            assert_eq!(hidden.len(), 4);
        }
    }
}
