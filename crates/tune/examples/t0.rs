//! Prints the tables of the simulated evaluation: `t0 [seeds] [short] [long]`, by default 24 seeds
//! of 20000 and 200000 calls.

use trellect_tune::evaluate::table;

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let or = |at: usize, default| given.get(at).copied().unwrap_or(default);
    let (seeds, short, long) = (or(0, 24) as u64, or(1, 20_000), or(2, 200_000));
    println!("Regret, %: mean [95 % interval over {seeds} seeds] / last 20 %");
    for (prior, error_sd) in [("12 % off, as assumed", 0.12), ("25 % off", 0.25)] {
        println!("\nA prior that is {prior}:\n");
        println!("{}", table::regret_table(&[short, long], error_sd, seeds));
    }
    println!("Safety over {long} calls\n");
    println!("{}", table::safety_table(long, seeds));
}
