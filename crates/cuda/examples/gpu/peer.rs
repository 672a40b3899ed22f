//! What exllamav3 1.4.1 takes, in microseconds per layer call: mul1 codebook, one H100 80GB HBM3,
//! a graph chain over cold layers, the path it takes by itself. And what no kernel can beat there.

/// Tokens of the table's columns.
const TOKENS: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 512, 2048];

/// Shape, widths, microseconds.
const PEER: [(&str, &str, [u32; 10]); 14] = [
    ("A", "2_2_2", [59, 78, 103, 158, 301, 394, 401, 430, 1061, 3645]),
    ("A", "3_3_3", [61, 80, 106, 161, 299, 395, 403, 432, 1062, 3591]),
    ("A", "4_4_4", [59, 79, 104, 158, 290, 379, 388, 416, 1036, 3518]),
    ("A", "6_2_3", [62, 81, 108, 165, 452, 579, 590, 620, 1500, 4384]),
    ("A", "6_3_4", [62, 81, 107, 164, 456, 599, 609, 640, 1519, 4390]),
    ("A", "6_2_4", [61, 81, 106, 168, 447, 585, 600, 632, 1497, 4378]),
    ("B", "2_2_2", [58, 79, 108, 199, 349, 458, 503, 537, 1197, 4978]),
    ("B", "4_4_4", [58, 79, 107, 197, 337, 443, 488, 522, 1153, 4870]),
    ("B", "6_2_3", [61, 83, 114, 211, 523, 686, 752, 791, 1635, 5634]),
    ("B", "6_3_4", [61, 83, 114, 214, 535, 700, 771, 809, 1656, 5663]),
    ("C", "2_2_2", [109, 194, 347, 682, 1290, 1714, 1848, 1951, 4635, 12539]),
    ("C", "4_4_4", [108, 193, 346, 680, 1287, 1713, 1853, 1967, 4872, 13004]),
    ("C", "6_2_3", [117, 209, 376, 755, 1815, 2360, 2598, 2719, 6401, 15605]),
    ("C", "6_3_4", [122, 219, 389, 766, 1968, 2591, 2854, 2978, 6996, 16767]),
];

/// Weights per second that the peer's decoder feeds the matrix units with, alone on the chip.
const DECODED_PER_S: f64 = 4.2e12;
/// Multiply-adds per second of an fp16 matrix product of 8192³, twice.
const FLOP_PER_S: f64 = 731e12;

/// The peer's time for a cell; it has none for experts of different widths.
pub(crate) fn microseconds(shape: &str, bits: &str, tokens: usize) -> Option<f64> {
    let row = PEER.iter().find(|row| row.0 == shape && row.1 == bits)?;
    let column = TOKENS.iter().position(|&found| found == tokens)?;
    Some(row.2[column].into())
}

/// The widths of a shape's rows.
pub(crate) fn widths(shape: &str) -> Vec<String> {
    PEER.iter().filter(|row| row.0 == shape).map(|row| row.1.into()).collect()
}

/// The slowest of reading `bytes`, decoding `weights` once and `macs` on the matrix units.
pub(crate) fn floor_microseconds(bytes: f64, weights: f64, macs: f64, copy_gb_per_s: f64) -> f64 {
    let read = bytes / copy_gb_per_s / 1e3;
    let decode = weights / DECODED_PER_S * 1e6;
    let multiply = 2.0 * macs / FLOP_PER_S * 1e6;
    read.max(decode).max(multiply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_found_by_shape_widths_and_tokens() {
        assert_eq!(microseconds("A", "6_2_3", 16), Some(452.0));
        assert_eq!(microseconds("A", "mixed", 16), None);
        assert_eq!(microseconds("C", "2_2_2", 3), None);
        assert_eq!(widths("B").len(), 4);
    }

    #[test]
    fn the_floor_is_the_slowest_part() {
        // Shape A, 2 bits: decoding limits one token, the matrix units 2048.
        let weights = 4.0 * 9_437_184.0;
        let one = floor_microseconds(weights / 4.0, weights, weights, 3000.0);
        assert!((one - 9.0).abs() < 0.1, "{one}");
        let macs = 8192.0 * 9_437_184.0;
        let many = floor_microseconds(1.5e8, 64.0 * 9_437_184.0, macs, 3000.0);
        assert!((many - 211.0).abs() < 1.0, "{many}");
    }
}
