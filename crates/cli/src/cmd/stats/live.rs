//! `stats --watch`: the history as it grows.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use console::Term;

use super::report::{EnvironmentReport, StatsReport};
use super::screen::Screen;
use crate::output;
use crate::table::{self, Column};

/// Rows of each table of an environment.
const MOST_ROWS: usize = 10;
/// Latest switches of an environment.
const MOST_SWITCHES: usize = 4;

/// Shows what `read` finds every `interval`, so many `times` or until Ctrl-C.
///
/// # Errors
/// When the history cannot be read, or the view not be written.
pub(super) fn run(
    interval: Duration,
    times: Option<u32>,
    read: &dyn Fn() -> anyhow::Result<StatsReport>,
) -> anyhow::Result<()> {
    let (interrupt, interrupted) = mpsc::channel();
    // Nobody waits any more after the first.
    ctrlc::set_handler(move || interrupt.send(()).unwrap_or_default())
        .context("listening for Ctrl-C")?;
    let terminal = Term::stdout();
    let is_drawn = terminal.is_term() && !console::is_dumb();
    let mut screen = is_drawn
        .then(|| Screen::enter(io::stdout()))
        .transpose()
        .context("preparing the terminal")?;
    let mut before: Option<(StatsReport, Instant)> = None;
    let mut shown = 0;
    loop {
        let (now, taken) = (read()?, Instant::now());
        let since = before.as_ref().map(|(report, at)| (report, taken - *at));
        let view = View { now: &now, since }.to_string();
        let is_read = match &mut screen {
            Some(screen) => is_there(screen.draw(&view, terminal.size()))?,
            None => output::print_to_reader(&format!("{view}\n"))?,
        };
        shown += 1;
        if !is_read || Some(shown) == times {
            return Ok(());
        }
        before = Some((now, taken));
        match interrupted.recv_timeout(interval) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
    }
}

/// Whether the terminal is still there.
fn is_there(drawn: io::Result<()>) -> anyhow::Result<bool> {
    match drawn {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("writing to the terminal"),
    }
}

/// What a history holds now, and what has been added since it was looked at before.
struct View<'a> {
    now: &'a StatsReport,
    since: Option<(&'a StatsReport, Duration)>,
}

impl fmt::Display for View<'_> {
    /// Environments that grow come first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "history {}", self.now.history)?;
        let with_news = self.now.environments.iter().map(|environment| {
            let news = self.since.map(|(before, elapsed)| {
                let before = before.environments.iter().find(|old| old.id == environment.id);
                News { before, elapsed }
            });
            (environment, news)
        });
        let mut all: Vec<(&EnvironmentReport, Option<News<'_>>)> = with_news.collect();
        all.sort_by_key(|(environment, news)| {
            std::cmp::Reverse(news.as_ref().map_or(0, |news| news.calls(environment)))
        });
        all.iter()
            .try_for_each(|(environment, news)| write_environment(f, environment, news.as_ref()))
    }
}

/// An environment as it was, if it was there, some time ago.
struct News<'a> {
    before: Option<&'a EnvironmentReport>,
    elapsed: Duration,
}

impl News<'_> {
    /// New calls.
    fn calls(&self, now: &EnvironmentReport) -> u64 {
        now.calls.saturating_sub(self.before.map_or(0, |before| before.calls))
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    /// What of the device time since then was lost, and what to probes; `None` without a call.
    fn lost(&self, now: &EnvironmentReport) -> Option<(f64, f64)> {
        let of = |share: fn(&EnvironmentReport) -> f64| {
            let seconds = |report: &EnvironmentReport| share(report) * report.device_seconds;
            seconds(now) - self.before.map_or(0.0, seconds)
        };
        let spent = of(|_| 1.0);
        let share = |lost: f64| (lost / spent).clamp(0.0, 1.0);
        (spent > 0.0).then(|| (share(of(|r| r.regret)), share(of(|r| r.exploration))))
    }

    /// New calls of a row of the selections.
    fn selections(&self, bucket: &str, kernel: &str, reason: &str, calls: u64) -> u64 {
        let rows = self.before.into_iter().flat_map(|before| &before.selections);
        let mut same = rows.filter(|row| {
            (row.bucket.as_str(), row.kernel_name.as_str(), row.reason.as_str())
                == (bucket, kernel, reason)
        });
        calls.saturating_sub(same.next().map_or(0, |row| row.calls))
    }
}

fn write_environment(
    f: &mut fmt::Formatter<'_>,
    environment: &EnvironmentReport,
    news: Option<&News<'_>>,
) -> fmt::Result {
    let EnvironmentReport { calls, device_seconds, regret, exploration, .. } = environment;
    writeln!(f, "\n{}", environment.title())?;
    let line = |regret: f64, exploration: f64| {
        let (regret, exploration) = (100.0 * regret, 100.0 * exploration);
        format!("lost to slower kernels {regret:.2} %, by probing {exploration:.2} %")
    };
    writeln!(f, "  in all  {calls} calls, {device_seconds:.2} s; {}", line(*regret, *exploration))?;
    if let Some(news) = news {
        let rate = news.per_second(news.calls(environment));
        match news.lost(environment) {
            Some((regret, exploration)) => {
                writeln!(f, "  now     {rate:.1} calls/s; {}", line(regret, exploration))?;
            }
            None => writeln!(f, "  now     no calls")?,
        }
    }
    write_selections(f, environment, news)?;
    write_latencies(f, environment)?;
    let switches = &environment.switches;
    if !switches.is_empty() {
        writeln!(f, "\nthe latest of {} switches:", switches.len())?;
    }
    let latest = &switches[switches.len().saturating_sub(MOST_SWITCHES)..];
    latest.iter().rev().try_for_each(|switch| writeln!(f, "  {switch}"))
}

fn write_selections(
    f: &mut fmt::Formatter<'_>,
    environment: &EnvironmentReport,
    news: Option<&News<'_>>,
) -> fmt::Result {
    if environment.selections.is_empty() {
        return Ok(());
    }
    let columns = [
        Column::Left("bucket"),
        Column::Left("kernel"),
        Column::Left("reason"),
        Column::Right("calls"),
        Column::Right("now/s"),
        Column::Right("mean ms"),
        Column::Right("lost ms"),
    ];
    let cells = environment.selections.iter().take(MOST_ROWS).map(|row| {
        let new = news.map(|news| {
            news.per_second(news.selections(&row.bucket, &row.kernel_name, &row.reason, row.calls))
        });
        vec![
            row.bucket.clone(),
            row.kernel_name.clone(),
            row.reason.clone(),
            row.calls.to_string(),
            table::optional(new, |new| format!("{new:.1}")),
            format!("{:.3}", row.total_ms / row.calls.max(1) as f64),
            format!("{:.2}", row.lost_ms),
        ]
    });
    write!(f, "\n{}", table::render(&columns, cells.collect()))
}

fn write_latencies(f: &mut fmt::Formatter<'_>, environment: &EnvironmentReport) -> fmt::Result {
    let mut latencies: Vec<_> = environment.latencies().collect();
    if latencies.is_empty() {
        return Ok(());
    }
    latencies.sort_by_key(|latency| std::cmp::Reverse(latency.samples));
    let columns = [
        Column::Left("bucket"),
        Column::Left("kernel"),
        Column::Right("samples"),
        Column::Right("p50 ms"),
        Column::Right("p95 ms"),
    ];
    let cells = latencies.iter().take(MOST_ROWS).map(|latency| {
        vec![
            latency.bucket.to_owned(),
            latency.kernel_name.to_owned(),
            latency.samples.to_string(),
            format!("{:.3}", latency.p50_ms),
            format!("{:.3}", latency.p95_ms),
        ]
    });
    write!(f, "\n{}", table::render(&columns, cells.collect()))
}
