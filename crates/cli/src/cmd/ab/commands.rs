//! Two commands that print how long something took.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use trellect_tune::bench::ab::Turns;

use super::{Pairs, SideReport};

/// Flags by side.
const FLAGS: [&str; 2] = ["--cmd-a", "--cmd-b"];

/// Runs the commands in turns, once for every pair, and once before that for nothing.
///
/// # Errors
/// When a command does not start, fails, or prints no milliseconds.
pub(super) fn measure(
    commands: [&String; 2],
    field: &str,
    pairs: &mut Pairs,
) -> anyhow::Result<[SideReport; 2]> {
    let time = |side: usize| {
        let context = || format!("{} `{}`", FLAGS[side], commands[side]);
        run(commands[side]).and_then(|output| latency(&output, field)).with_context(context)
    };
    let mut turns = Turns::new();
    let mut warm_up = true;
    while !pairs.are_enough() {
        match turns.pair(time) {
            Ok(_) if std::mem::take(&mut warm_up) => {}
            Ok(pair) => pairs.push(pair),
            Err(_) if pairs.are_ended_by_user() => break,
            Err(error) => return Err(error),
        }
    }
    let side = |command: &String| SideReport {
        name: command.clone(),
        threads: None,
        environment: Vec::new(),
        error: None,
    };
    Ok(commands.map(side))
}

/// Runs a command: what it printed.
fn run(command: &str) -> anyhow::Result<String> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let Output { status, stdout, stderr } = output.context("starting sh")?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr);
    match last_line(&said) {
        Some(line) => bail!("failed, {status}: {line}"),
        None => bail!("failed, {status}"),
    }
}

/// The milliseconds in what a command printed: the `field` of a JSON object, which is all of it or its
/// last line; else the last line.
fn latency(output: &str, field: &str) -> anyhow::Result<f64> {
    let Some(line) = last_line(output) else {
        bail!("printed nothing, expected a number of milliseconds");
    };
    let object = |text: &str| serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
    let found = match object(output).or_else(|| object(line)) {
        Some(object) => match object.pointer(field) {
            Some(value) => value.as_f64().ok_or_else(|| anyhow!("has {value} at {field}")),
            None => Err(anyhow!("printed a JSON object without {field}; --field names another")),
        },
        None => line.parse::<f64>().map_err(|_| anyhow!("printed `{}` last", shortened(line))),
    };
    match found {
        Ok(ms) if ms.is_finite() && ms > 0.0 => Ok(ms),
        Ok(ms) => bail!("printed {ms}, expected a positive number of milliseconds"),
        Err(error) => bail!("{error}, expected a number of milliseconds"),
    }
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// At most as much of a line as a message can hold.
fn shortened(line: &str) -> String {
    line.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_the_last_line_or_a_field() {
        let found = |text: &str, field: &str| latency(text, field).unwrap();
        assert_eq!(found("warming up\n 1.5 \n\n", "/latency_ms"), 1.5);
        assert_eq!(found("log\n{\"latency_ms\": 2}\n", "/latency_ms"), 2.0);
        assert_eq!(found("{\n \"rows\": [{\"ms\": 3e-1}]\n}", "/rows/0/ms"), 0.3);
    }

    #[test]
    fn anything_else_is_named() {
        let message = |text: &str| latency(text, "/latency_ms").unwrap_err().to_string();
        assert!(message(" \n").contains("printed nothing"));
        assert!(message("took 3 ms").contains("`took 3 ms` last, expected a number"));
        assert!(message("-1").contains("printed -1, expected a positive"));
        assert!(message("0").contains("positive") && message("NaN").contains("positive"));
        assert!(message("{\"ms\": 1}").contains("without /latency_ms; --field"));
        assert!(message("{\"latency_ms\": \"1\"}").contains("has \"1\" at /latency_ms"));
        assert!(message(&"x".repeat(1000)).len() < 200);
    }
}
