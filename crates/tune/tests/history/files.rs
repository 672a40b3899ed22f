//! The history as several processes and damaged files meet it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use trellect_tune::calibrate::StoredCalibration;
use trellect_tune::history::{History, HistoryError, Journal, Outcome, Prune, Record};

use crate::common::{count, directory, environment, journal, open, record};

const WRITER: &str = "TRELLECT_TEST_WRITER";
const READER: &str = "TRELLECT_TEST_READER";
const FILLER: &str = "TRELLECT_TEST_FILLER";

/// Not a test of its own: what [`spawn`] runs in another process.
#[test]
fn writer_process() {
    let Some(arguments) = std::env::var_os(WRITER) else { return };
    let arguments = arguments.into_string().unwrap();
    let (merges, path) = arguments.split_once(' ').unwrap();
    let mut history = open(Path::new(path));
    for done in 1..=merges.parse::<u64>().unwrap() {
        history.merge(&[record(7, &[1_000 + done]), record(done % 5, &[9])]).unwrap();
        println!("\nmerged {done}");
    }
}

fn spawn(path: &Path, merges: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "files::writer_process", "--nocapture"])
        .env(WRITER, format!("{merges} {}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until `child` has merged `merges` times.
fn wait_for(child: &mut Child, merges: u64) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let last = format!("merged {merges}");
    assert!(lines.map(Result::unwrap).any(|line| line == last));
}

#[test]
fn a_killed_writer_loses_nothing_it_had_recorded() {
    let (_directory, path) = directory();
    open(&path).merge(&[record(99, &[5; 10])]).unwrap();
    let mut child = spawn(&path, u64::MAX);
    wait_for(&mut child, 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let history = open(&path);
    let total = count(&history);
    assert!(total >= 10 + 2 * 20 && total.is_multiple_of(2), "{total}");
    let records = history.load(&environment().id()).unwrap();
    let earlier = records.iter().find(|record| record.context == 99).unwrap();
    assert_eq!(*earlier, record(99, &[5; 10]));
}

#[test]
fn two_processes_write_at_once() {
    let (_directory, path) = directory();
    for child in [spawn(&path, 50), spawn(&path, 50)] {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert_eq!(count(&open(&path)), 2 * 2 * 50);
}

#[test]
fn merged_records_load_as_if_taken_together() {
    let (_directory, path) = directory();
    let mut history = open(&path);
    history.merge(&[record(1, &[10, 20]), record(u64::MAX, &[u64::MAX])]).unwrap();
    history.merge(&[record(1, &[30])]).unwrap();
    let expected = [record(u64::MAX, &[u64::MAX]), record(1, &[10, 20, 30])];
    assert_eq!(history.load(&environment().id()).unwrap(), expected);
    assert_eq!(history.load("nowhere").unwrap(), []);
    history.register(&environment()).unwrap();
    let known = history.environments().unwrap();
    assert_eq!((known.len(), known[0].num_records), (1, 2));
    assert_eq!(known[0].fingerprint, Some(environment()));
    assert_eq!(history.prune(Prune::OlderThan(2_010)).unwrap(), 1);
    assert_eq!(history.prune(Prune::Environment(&environment().id())).unwrap(), 1);
    assert!(history.environments().unwrap().is_empty());
}

#[test]
fn journals_add_up_and_come_back() {
    let (_directory, path) = directory();
    let id = environment().id();
    open(&path).add(&id, &journal(3)).unwrap();
    let mut history = open(&path);
    history.add(&id, &journal(2)).unwrap();
    let mut expected = journal(5);
    expected.selections[0].lost_ns = 6;
    assert_eq!(history.journal(&id).unwrap(), expected);
    assert_eq!(
        expected.contexts[0].call.to_string(),
        "2 tokens, 3 of 8 experts with up to 2 each: 2 x 6_2_3, 1 x 6_3_4"
    );
    assert_eq!(history.journal("nowhere").unwrap(), Journal::default());
    assert!(history.prune(Prune::Environment(&id)).unwrap() > 0);
    assert_eq!(history.journal(&id).unwrap(), Journal::default());
}

#[test]
fn the_first_calibration_stays() {
    let (_directory, path) = directory();
    let id = environment().id();
    let stored = |bytes_per_ns| StoredCalibration { bytes_per_ns, kernels: Vec::new() };
    let mut history = open(&path);
    assert_eq!(history.calibration(&id).unwrap(), None);
    assert_eq!(history.keep_calibration(&id, &stored(1.5), 7).unwrap(), stored(1.5));
    assert_eq!(open(&path).keep_calibration(&id, &stored(2.5), 6).unwrap(), stored(1.5));
}

#[test]
fn a_file_of_the_first_schema_gains_what_it_lacks() {
    let (_directory, path) = directory();
    open(&path).merge(&[record(1, &[10])]).unwrap();
    let database = rusqlite::Connection::open(&path).unwrap();
    for table in ["contexts", "selections", "switches", "calibrations"] {
        database.execute(&format!("DROP TABLE {table}"), []).unwrap();
    }
    database.pragma_update(None, "user_version", 1).unwrap();
    drop(database);
    let mut history = open(&path);
    history.add(&environment().id(), &journal(2)).unwrap();
    assert_eq!(count(&history), 3);
}

#[test]
fn a_file_of_the_second_schema_keeps_what_it_has() {
    let (_directory, path) = directory();
    let id = environment().id();
    let mut before = journal(2);
    before.contexts[0].unix_s = 0;
    open(&path).add(&id, &before).unwrap();
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch(
            "DROP INDEX switches_by_context; ALTER TABLE contexts DROP COLUMN unix_s; \
             ALTER TABLE calibrations DROP COLUMN unix_s; PRAGMA user_version = 2;",
        )
        .unwrap();
    drop(database);
    let mut history = open(&path);
    assert_eq!(history.journal(&id).unwrap(), before);
    history.add(&id, &journal(0)).unwrap();
    assert_eq!(history.journal(&id).unwrap().contexts, journal(0).contexts);
}

#[test]
fn damaged_files_are_set_aside_and_kept() {
    let (_directory, path) = directory();
    open(&path).merge(&[record(1, &[10])]).unwrap();
    let mut damaged = fs::read(&path).unwrap();
    damaged[4096..].fill(0xa5);
    for bytes in [b"no database at all, but long enough to look at".to_vec(), damaged] {
        fs::write(&path, &bytes).unwrap();
        let (mut history, outcome) = History::open(Some(&path));
        let Outcome::SetAsideDamaged { moved_to, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(fs::read(moved_to).unwrap(), bytes);
        history.merge(&[record(1, &[10])]).unwrap();
        assert_eq!(count(&open(&path)), 1);
    }
}

#[test]
fn newer_files_are_set_aside_and_foreign_ones_left_alone() {
    let (_directory, path) = directory();
    drop(open(&path));
    let database = rusqlite::Connection::open(&path).unwrap();
    database.pragma_update(None, "user_version", 1000).unwrap();
    drop(database);
    let (_history, outcome) = History::open(Some(&path));
    let Outcome::SetAsideNewer { moved_to, found: 1000, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(moved_to.exists() && path.exists());

    let foreign = path.with_file_name("foreign.sqlite");
    let database = rusqlite::Connection::open(&foreign).unwrap();
    database.pragma_update(None, "application_id", 77).unwrap();
    drop(database);
    let before = fs::read(&foreign).unwrap();
    let (mut history, outcome) = History::open(Some(&foreign));
    let why = HistoryError::Foreign { application_id: 77 }.to_string();
    assert!(matches!(&outcome, Outcome::InMemory { why: w } if w.to_string() == why));
    history.merge(&[record(1, &[10])]).unwrap();
    assert_eq!((count(&history), fs::read(&foreign).unwrap()), (1, before));
}

#[test]
fn a_place_without_room_for_files_leaves_memory() {
    let (_directory, path) = directory();
    let file = path.parent().unwrap().parent().unwrap();
    fs::write(file, "a file where a directory should be").unwrap();
    let (mut history, outcome) = History::open(Some(&path));
    assert!(matches!(outcome, Outcome::InMemory { why: HistoryError::Io(_) }), "{outcome:?}");
    history.merge(&[record(1, &[10])]).unwrap();
    assert_eq!(count(&history), 1);
}

/// Not a test of its own: what [`a_read_only_file_is_read`] runs, as a user who may only read.
#[test]
fn reader_process() {
    let Some(path) = std::env::var_os(READER) else { return };
    let (mut history, outcome) = History::open(Some(Path::new(&path)));
    assert!(matches!(outcome, Outcome::ReadOnly), "{outcome:?}");
    assert_eq!(count(&history), 1);
    let error = history.merge(&[record(1, &[10])]).unwrap_err();
    assert!(matches!(error, HistoryError::ReadOnly(_)), "{error:?}");
    println!("\nread");
}

#[cfg(unix)]
#[test]
fn a_read_only_file_is_read() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    const NOBODY: u32 = 65_534;
    let (directory, path) = directory();
    let mut history = open(&path);
    history.merge(&[record(1, &[10])]).unwrap();
    drop(history);
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(&path, 0o444).unwrap();
    // Somewhere that every user can run it from.
    let program = directory.path().join("reader");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    mode(&program, 0o755).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", "files::reader_process", "--nocapture"]).env(READER, &path);
    let may_write = fs::OpenOptions::new().write(true).open(&path).is_ok();
    if may_write {
        // The superuser, whom no permission stops: the reader is another user.
        let above = path.ancestors().skip(1).take_while(|above| above.starts_with(&directory));
        above.for_each(|above| mode(above, 0o755).unwrap());
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let [text, errors] = [&output.stdout, &output.stderr].map(|out| String::from_utf8_lossy(out));
    assert!(output.status.success() && text.contains("\nread"), "{text}{errors}");
}

/// Not a test of its own: what [`a_file_that_cannot_grow_is_an_error_and_loses_nothing`] runs, as a
/// process whose files may not grow beyond a limit.
#[test]
fn filling_process() {
    let Some(path) = std::env::var_os(FILLER) else { return };
    let mut history = open(Path::new(&path));
    let mut merged = count(&history);
    for context in 0.. {
        let records: Vec<Record> = (0..50).map(|n| record(50 * context + n, &[9])).collect();
        match history.merge(&records) {
            Ok(()) => merged += 50,
            Err(error) => {
                let is_typed =
                    matches!(error, HistoryError::DiskFull(_) | HistoryError::Database(_));
                assert!(is_typed, "{error:?}");
                break;
            }
        }
    }
    // Nothing of the failed merge is there, and the history still reads.
    assert_eq!(count(&history), merged);
    println!("\nfull after {merged}");
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_grow_is_an_error_and_loses_nothing() {
    let (_directory, path) = directory();
    open(&path).merge(&[record(1, &[5; 10])]).unwrap();
    // Half a mebibyte or less; without the trap the system would end the process.
    let script = "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "files::filling_process", "--nocapture"])
        .env(FILLER, &path)
        .output()
        .unwrap();
    let [text, errors] = [&output.stdout, &output.stderr].map(|out| String::from_utf8_lossy(out));
    assert!(output.status.success(), "{text}{errors}");
    let (_, merged) = text.split_once("\nfull after ").expect("it is full some time");
    let merged: u64 = merged.lines().next().unwrap().parse().unwrap();
    let mut history = open(&path);
    assert_eq!(count(&history), merged);
    assert!(merged > 10, "some merges found room");
    history.merge(&[record(1, &[5])]).unwrap();
    assert_eq!(count(&history), merged + 1, "without the limit it goes on");
}

#[test]
fn a_locked_file_is_an_error_and_loses_nothing() {
    let (_directory, path) = directory();
    let mut history = open(&path);
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = history.merge(&[record(1, &[10])]).unwrap_err();
    assert!(matches!(error, HistoryError::Locked(_)), "{error:?}");
    other.execute_batch("ROLLBACK").unwrap();
    history.merge(&[record(1, &[10])]).unwrap();
    assert_eq!(count(&history), 1);
}
