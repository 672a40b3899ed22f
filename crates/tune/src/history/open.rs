//! Opening: create, migrate, fall back, set aside.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::journal::{SCHEMA_2, SCHEMA_3};
use super::location::{default_location, is_remote};
use super::{History, HistoryError};

/// `TRLT`: tells our databases from those of other programs.
const APPLICATION_ID: i32 = 0x5452_4c54;
/// The newest schema that this version knows: the number of [`MIGRATIONS`].
const SCHEMA: i32 = MIGRATIONS.len() as i32;
/// How long to wait for other writers.
const PATIENCE: Duration = Duration::from_secs(2);

/// Statement `n` leads from schema `n` to schema `n + 1`.
const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE environments (id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE records (
        environment TEXT NOT NULL,
        kernel TEXT NOT NULL,
        context INTEGER NOT NULL,
        class TEXT NOT NULL,
        count INTEGER NOT NULL,
        sum BLOB NOT NULL,
        sum_squares BLOB NOT NULL,
        min_ns INTEGER NOT NULL,
        max_ns INTEGER NOT NULL,
        histogram BLOB NOT NULL,
        first_unix_s INTEGER NOT NULL,
        last_unix_s INTEGER NOT NULL,
        PRIMARY KEY (environment, kernel, context, class)
    ) WITHOUT ROWID;
",
    SCHEMA_2,
    SCHEMA_3,
];

/// What became of the file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The file is in use.
    Ready,
    /// The file can be read, but not written: a merge fails with [`HistoryError::ReadOnly`].
    ReadOnly,
    /// The file was damaged; it has another name now, and a new one is in use.
    SetAsideDamaged {
        /// Where the damaged file is.
        moved_to: PathBuf,
        /// What was found.
        why: HistoryError,
    },
    /// The file is of a newer version; it has another name now, and a new one is in use.
    SetAsideNewer {
        /// Where the newer file is.
        moved_to: PathBuf,
        /// Its schema.
        found: i32,
        /// The newest schema that this version knows.
        known: i32,
    },
    /// No file can be used: the history is in memory and ends with the process.
    InMemory {
        /// Why.
        why: HistoryError,
    },
}

/// A file that cannot be used as it is.
enum Unusable {
    Newer(i32),
    Failed(HistoryError),
}

impl<E: Into<HistoryError>> From<E> for Unusable {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl History {
    /// Opens or creates the history at `path`, or at the [`default_location`].
    ///
    /// Never fails: see [`Outcome`]. Checks the whole file, so the cost grows with its size.
    pub fn open(path: Option<&Path>) -> (Self, Outcome) {
        let Some(path) = path.map(Path::to_owned).or_else(default_location) else {
            return in_memory(HistoryError::NoLocation);
        };
        match connect(&path) {
            Ok((connection, outcome)) => (Self { connection }, outcome),
            Err(Unusable::Failed(HistoryError::Corrupt(_)) | Unusable::Newer(_)) => {
                replace(&path).unwrap_or_else(in_memory)
            }
            Err(Unusable::Failed(why)) => in_memory(why),
        }
    }

    /// A history that no file backs.
    pub fn in_memory() -> Self {
        let mut connection = Connection::open_in_memory().expect("memory for an empty database");
        if let Err(error) = migrate(&mut connection, 0) {
            unreachable!("an empty database takes the schema: {error}");
        }
        Self { connection }
    }
}

fn in_memory(why: HistoryError) -> (History, Outcome) {
    (History::in_memory(), Outcome::InMemory { why })
}

fn connect(path: &Path) -> Result<(Connection, Outcome), Unusable> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let start = Instant::now();
    loop {
        // SQLite itself falls back to reading where the file may not be written.
        match inspect(path, Connection::open(path)?) {
            // Where its directory may not be written either, it lacks the shared memory of its log.
            Err(Unusable::Failed(HistoryError::ReadOnly(_))) => {
                return inspect(path, open_unchanging(path)?);
            }
            // SQLite does not wait for another process that is changing the journal's mode.
            Err(Unusable::Failed(HistoryError::Locked(_))) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Opens a file that nobody can be writing, since a writer's log would be beside it.
fn open_unchanging(path: &Path) -> Result<Connection, HistoryError> {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte));
            }
            _ => uri += &format!("%{byte:02X}"),
        }
    }
    uri += "?immutable=1";
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Ok(Connection::open_with_flags(uri, flags)?)
}

fn inspect(path: &Path, mut connection: Connection) -> Result<(Connection, Outcome), Unusable> {
    connection.busy_timeout(PATIENCE)?;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application_id = pragma("application_id")?;
    let schema = pragma("user_version")?;
    if application_id != APPLICATION_ID && (application_id != 0 || schema != 0) {
        return Err(HistoryError::Foreign { application_id }.into());
    }
    if schema > SCHEMA {
        return Err(Unusable::Newer(schema));
    }
    check(&connection)?;
    if connection.is_readonly("main")? {
        return Ok((connection, Outcome::ReadOnly));
    }
    choose_journal(&connection, path)?;
    migrate(&mut connection, schema)?;
    Ok((connection, Outcome::Ready))
}

fn check(connection: &Connection) -> Result<(), HistoryError> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            Err(HistoryError::Corrupt(rusqlite::Error::SqliteFailure(code, Some(verdict))))
        }
    }
}

/// A write-ahead log where processes can share memory, else a rollback journal.
fn choose_journal(connection: &Connection, path: &Path) -> Result<(), HistoryError> {
    let switch = |mode| {
        connection
            .pragma_update_and_check(None, "journal_mode", mode, |row| row.get::<_, String>(0))
    };
    let wal = match is_remote(path) {
        true => false,
        false => match switch("WAL").map_err(HistoryError::from) {
            Err(locked @ HistoryError::Locked(_)) => return Err(locked),
            mode => mode.is_ok_and(|mode| mode == "wal"),
        },
    };
    if !wal {
        switch("DELETE")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
    } else {
        connection.pragma_update(None, "synchronous", "NORMAL")?;
    }
    Ok(())
}

fn migrate(connection: &mut Connection, schema: i32) -> Result<(), HistoryError> {
    if schema == SCHEMA {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let schema: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for statements in MIGRATIONS.iter().skip(usize::try_from(schema).unwrap_or(0)) {
        transaction.execute_batch(statements)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    Ok(transaction.commit()?)
}

/// Sets the file aside and starts a new one. Under a lock, and after another look: of two processes
/// that find the same damage, the second must not move the first one's new file.
fn replace(path: &Path) -> Result<(History, Outcome), HistoryError> {
    let lock = File::create(with_suffix(path, ".lock"))?;
    lock.lock()?;
    let why = match connect(path) {
        Ok((connection, outcome)) => return Ok((History { connection }, outcome)),
        Err(why) => why,
    };
    let outcome = match why {
        Unusable::Newer(found) => {
            Outcome::SetAsideNewer { moved_to: set_aside(path, "newer")?, found, known: SCHEMA }
        }
        Unusable::Failed(why @ HistoryError::Corrupt(_)) => {
            Outcome::SetAsideDamaged { moved_to: set_aside(path, "damaged")?, why }
        }
        Unusable::Failed(why) => return Err(why),
    };
    match connect(path) {
        Ok((connection, _)) => Ok((History { connection }, outcome)),
        Err(Unusable::Failed(why)) => Err(why),
        Err(Unusable::Newer(_)) => Err(std::io::Error::from(ErrorKind::AlreadyExists).into()),
    }
}

/// Renames the file, and its log and journal if there, to a name that is free.
fn set_aside(path: &Path, why: &str) -> Result<PathBuf, HistoryError> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let names = (0..).map(|n| with_suffix(path, &format!(".{why}-{seconds}-{n}")));
    let moved_to = names
        .take(1000)
        .find(|name| !name.exists())
        .ok_or_else(|| std::io::Error::from(ErrorKind::AlreadyExists))?;
    for part in ["-wal", "-shm", "-journal", ""] {
        match fs::rename(with_suffix(path, part), with_suffix(&moved_to, part)) {
            Err(error) if error.kind() == ErrorKind::NotFound && !part.is_empty() => {}
            result => result?,
        }
    }
    Ok(moved_to)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
