//! What one kernel for everything would cost, beside what the selector's picks do.

use trellect_tune::bench::regret::Uniform;

use super::frame::{Bar, BarPart, Bars};
use crate::kernel::Kernel;
use crate::words;

/// Kernels that are shown, but no others than the best two that are worse than this.
const MOST: usize = 6;
const HOPELESS: f64 = 1.5;

/// Draws the costs over the workloads of a kind; `None` where no kernel serves them all.
pub(crate) fn draw(uniform: &Uniform) -> Option<String> {
    uniform.kernels.first()?;
    let threads = uniform.threads.map(|threads| words::plural(threads, "thread") + ", ");
    let of = format!(
        "{}class {}, {}",
        threads.unwrap_or_default(),
        uniform.numeric,
        words::plural(uniform.workloads, "workload")
    );
    let bar = |name: String, ratio: f64, class: String, title: String, is_bold| Bar {
        name,
        parts: vec![BarPart { size: (ratio - 1.0).max(0.0), class, title }],
        value: format!("+{}", words::percent((ratio - 1.0).max(0.0))),
        is_bold,
    };
    let selected = uniform.selected.map(|ratio| {
        let title = format!("the selector's picks: {ratio:.3} times the fastest");
        bar("selected".into(), ratio, "picks".into(), title, true)
    });
    let kernels = uniform.kernels.iter().take(MOST).enumerate();
    let kernels = kernels.filter(|(rank, cost)| *rank < 2 || cost.ratio <= HOPELESS);
    let kernels = kernels.map(|(_, cost)| {
        let kernel = Kernel::named(&cost.kernel);
        let rough = if cost.rough { "\npartly first looks" } else { "" };
        let title = format!(
            "{} for everything: {:.3} times the fastest\n{:.2} at worst{rough}",
            kernel.label(),
            cost.ratio,
            cost.worst
        );
        let class = format!("solid s-{}", kernel.series.class());
        bar(kernel.brief(), cost.ratio, class, title, false)
    });
    let rows = selected.into_iter().chain(kernels).collect();
    let bars = Bars { title: "one kernel for everything", of: &of, left: 138.0, key: &[], rows };
    Some(bars.draw())
}
