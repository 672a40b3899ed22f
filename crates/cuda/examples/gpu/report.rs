//! The table, for machines and for people.

use std::fmt::Write as _;

use serde::Serialize;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) method: &'static str,
    pub(crate) cells: Vec<Cell>,
}

/// Where.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) device: String,
    pub(crate) facts: Vec<(&'static str, String)>,
    pub(crate) copy_gb_per_s_before: f64,
    pub(crate) copy_gb_per_s_after: f64,
}

/// One kernel on one workload.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) shape: String,
    pub(crate) bits: String,
    pub(crate) codebook: &'static str,
    pub(crate) tokens: usize,
    pub(crate) kernel: String,
    pub(crate) numeric: &'static str,
    /// Microseconds of one layer call.
    pub(crate) median_us: f64,
    pub(crate) p10_us: f64,
    pub(crate) p90_us: f64,
    /// Trellis bytes of the active experts per time.
    pub(crate) gb_per_s: f64,
    pub(crate) floor_us: f64,
    /// `floor_us / median_us`.
    pub(crate) share_of_floor: f64,
    pub(crate) peer_us: Option<f64>,
    /// `median_us / peer_us`.
    pub(crate) ratio_to_peer: Option<f64>,
    /// Relative Frobenius error of the first token.
    pub(crate) error: f64,
    /// Microseconds that the host spends on one call, where that was measured.
    pub(crate) host_us: Option<f64>,
    pub(crate) workspace_bytes: u64,
    /// Whether it is the fastest of its cell.
    pub(crate) fastest: bool,
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a share of `values` lies.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = share * (sorted.len().saturating_sub(1)) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    match sorted.get(high) {
        None => f64::NAN,
        Some(above) => sorted[low] + (above - sorted[low]) * (at - low as f64),
    }
}

impl Report {
    fn fastest(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| cell.fastest)
    }

    /// The fastest kernel of every cell: microseconds and the ratio to the peer.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let Machine { device, facts, copy_gb_per_s_before, copy_gb_per_s_after } = &self.machine;
        let facts: Vec<String> =
            facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!("# {device}\n\n{}.", facts.join(", ")));
        line(format!(
            "Copy bandwidth {copy_gb_per_s_before:.0} GB/s before, {copy_gb_per_s_after:.0} after.\n\n{}\n",
            self.method
        ));
        let mut tokens: Vec<usize> = self.cells.iter().map(|cell| cell.tokens).collect();
        tokens.sort_unstable();
        tokens.dedup();
        let header: Vec<String> = tokens.iter().map(ToString::to_string).collect();
        let mut rows: Vec<(&str, &str)> = Vec::new();
        for cell in &self.cells {
            let row = (cell.shape.as_str(), cell.bits.as_str());
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        type Show = fn(&Cell) -> String;
        let tables: [(&str, Show); 4] = [
            ("Microseconds per layer call, fastest kernel (ratio to the peer)", |cell| {
                let ratio = cell.ratio_to_peer.map(|ratio| format!(" ({ratio:.2})"));
                format!("{:.1}{}", cell.median_us, ratio.unwrap_or_default())
            }),
            ("Which kernel", |cell| {
                cell.kernel.trim_start_matches("moe_trellis_swiglu").replace("@cuda.", " ")
            }),
            ("GB/s of trellis (share of the floor)", |cell| {
                format!("{:.0} ({:.2})", cell.gb_per_s, cell.share_of_floor)
            }),
            ("Relative error of one token", |cell| format!("{:.1e}", cell.error)),
        ];
        for (title, show) in tables {
            line(format!("## {title}\n\n| shape, bits | {} |", header.join(" | ")));
            line(format!("|---|{}", "---|".repeat(tokens.len())));
            for (shape, bits) in &rows {
                let find = |tokens: &usize| {
                    let wanted = |cell: &&Cell| {
                        (cell.shape.as_str(), cell.bits.as_str()) == (*shape, *bits)
                            && cell.tokens == *tokens
                    };
                    self.fastest().find(wanted).map_or_else(String::new, show)
                };
                let cells: Vec<String> = tokens.iter().map(find).collect();
                line(format!("| {shape} {bits} | {} |", cells.join(" | ")));
            }
            line(String::new());
        }
        let ratios: Vec<f64> = self.fastest().filter_map(|cell| cell.ratio_to_peer).collect();
        if !ratios.is_empty() {
            let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
            let slower = ratios.iter().filter(|&&ratio| ratio >= 1.0).count();
            line(format!(
                "Geometric mean of the ratios {:.3} over {} cells; {slower} are not faster.",
                mean.exp(),
                ratios.len()
            ));
        }
        let host: Vec<f64> = self.fastest().filter_map(|cell| cell.host_us).collect();
        if !host.is_empty() {
            let _ = writeln!(text, "\nHost time of a call: median {:.1} µs.", median(&host));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(quantile(&[0.0, 10.0], 0.9), 9.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_table_has_the_fastest_kernel_of_every_cell() {
        let cell = |tokens, median_us, fastest| Cell {
            shape: "A".into(),
            bits: "2_2_2".into(),
            codebook: "mul1",
            tokens,
            kernel: "moe_trellis_swiglu_decode@cuda.k256".into(),
            numeric: "half",
            median_us,
            p10_us: median_us,
            p90_us: median_us,
            gb_per_s: 500.0,
            floor_us: 9.0,
            share_of_floor: 0.5,
            peer_us: Some(2.0 * median_us),
            ratio_to_peer: Some(0.5),
            error: 4e-4,
            host_us: Some(4.0),
            workspace_bytes: 1,
            fastest,
        };
        let machine = Machine {
            device: "a GPU".into(),
            facts: vec![("architecture", "sm_90a".into())],
            copy_gb_per_s_before: 3000.0,
            copy_gb_per_s_after: 2990.0,
        };
        let cells = vec![cell(1, 18.0, true), cell(1, 19.0, false), cell(2, 30.0, true)];
        let text = Report { machine, method: "measured", cells }.markdown();
        assert!(text.contains("| A 2_2_2 | 18.0 (0.50) | 30.0 (0.50) |"), "{text}");
        assert!(!text.contains("19.0"), "{text}");
        assert!(text.contains("0.500 over 2 cells; 0 are not faster"), "{text}");
    }
}
