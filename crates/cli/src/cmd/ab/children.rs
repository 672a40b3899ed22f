//! Two sides in a process each: what a process has only once, its environment, differs between them,
//! and so may the number of threads.
//!
//! A child is this command with the same flags and `--serve SIDE`. It prepares its layers, launches its
//! kernel once and prints a [`Greeting`]; then it answers every line on its stdin by one launch on the
//! next call, the same for both children, and the nanoseconds that it took. It ends with its stdin.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use trellect_tune::bench::ab::Turns;

use super::kernels::{self, Ready};
use super::{AbArgs, Pairs, Side, SideReport, Variable};
use crate::output::{self, WrongUsage};

/// How long one side rests after the other: threads without work spin for a while before they sleep,
/// and would take the other's processors.
const REST: Duration = Duration::from_millis(1);

/// What a child says when it is ready.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    kernel: String,
    threads: Option<usize>,
    error: Option<f64>,
}

/// Measures pairs by asking two processes in turns.
///
/// # Errors
/// When one of them does not start, or ends.
pub(super) fn measure(args: &AbArgs, pairs: &mut Pairs) -> anyhow::Result<[SideReport; 2]> {
    let (mut baseline, first) = Server::start(args, Side::Baseline)?;
    let (mut optimized, second) = Server::start(args, Side::Optimized)?;
    let mut turns = Turns::new();
    while !pairs.are_enough() {
        let pair = turns.pair(|side| match side {
            0 => baseline.time(),
            _ => optimized.time(),
        })?;
        pairs.push(pair);
    }
    Ok([first, second])
}

/// A child that is ready.
struct Server {
    side: Side,
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn start(args: &AbArgs, side: Side) -> anyhow::Result<(Self, SideReport)> {
        let program = std::env::current_exe().context("finding this program")?;
        let environment = args.environment(side);
        let mut process = Command::new(program)
            .args(std::env::args_os().skip(1))
            .args(["--serve", side.name()])
            .envs(environment.iter().map(|Variable { name, value }| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting a process for the {}", side.name()))?;
        let requests = process.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut server = Self { side, process, requests, answers };
        let Greeting { kernel, threads, error } =
            serde_json::from_str(&server.answer()?).context("reading a process's greeting")?;
        let variable = |Variable { name, value }: &Variable| format!("{name}={value}");
        let environment = environment.iter().map(variable).collect();
        Ok((server, SideReport { name: kernel, threads, environment, error }))
    }

    /// One launch: milliseconds.
    fn time(&mut self) -> anyhow::Result<f64> {
        thread::sleep(REST);
        // One that has ended says so when it is to answer.
        writeln!(self.requests).ok();
        let answer = self.answer()?;
        let ns: u64 = answer.trim().parse().with_context(|| format!("reading `{answer}`"))?;
        Ok(ns as f64 / 1e6)
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        if read.with_context(|| format!("reading from the {}", self.side.name()))? > 0 {
            return Ok(line);
        }
        // It has said why.
        let status = self.process.wait().context("waiting for a process")?;
        let message = format!("the {}'s process ended: {status}", self.side.name());
        Err(match status.code() {
            Some(2) => WrongUsage(message).into(),
            _ => anyhow!(message),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to lose, and may be in the middle of a long launch.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Is a child: prepares, greets and answers until stdin ends.
///
/// # Errors
/// When the kernel cannot compute the calls, or fails.
pub(super) fn serve(args: &AbArgs, side: Side) -> anyhow::Result<()> {
    // The parent acts on it, and needs this side's answer.
    ctrlc::set_handler(|| ()).context("listening for Ctrl-C")?;
    let kernel = [args.kernel(side)];
    kernels::on_bench(args, args.threads(side), &kernel, &|| false, |ready| {
        let SideReport { name, threads, error, .. } = ready.side(0);
        let greeting = Greeting { kernel: name, threads, error };
        output::print(&(serde_json::to_string(&greeting)? + "\n"))?;
        let Ready { bench, times, .. } = ready;
        let [kernel] = times.kernels.as_slice() else { bail!("one kernel per process") };
        for line in io::stdin().lines() {
            line.context("reading from the parent")?;
            let ns = bench.time_next(kernel.spec.id, args.tokens)?;
            output::print(&format!("{ns}\n"))?;
        }
        Ok(())
    })
}
