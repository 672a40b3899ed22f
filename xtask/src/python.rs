//! The Python package: built as a user would build it, its stubs compared with it, its tests run.
//!
//! What comes from PyPI lies in a virtual environment in the user's cache folder, one for every list of
//! requirements, which all clones share. The package itself lies in the clone's `target`.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;
use std::{env, io};

use etcetera::BaseStrategy;

use crate::shell::{Failure, root, run, succeeds};

const OLDEST: &str = "3.10";
/// Without these no test runs.
const REQUIREMENTS: &str = "crates/python/requirements.txt";
/// Without these only the tests of what needs them are skipped.
const MODEL_REQUIREMENTS: &str = "crates/python/requirements-models.txt";

/// Builds the package, compares its stubs with it and runs its tests.
///
/// [`Failure::NoPython`] where nothing of that can start.
pub(crate) fn python() -> Result<(), Failure> {
    let environment = Environment::prepare()?;
    environment.install_package()?;
    run(environment.python(&["-m", "mypy", "--package", "trellect"]))?;
    run(environment.python(&["-m", "mypy.stubtest", "trellect"]))?;
    run(environment.python(&["-m", "pytest"]))?;
    if !environment.has_models {
        loudly("torch and transformers cannot be installed: the tests that need them did NOT run");
    }
    Ok(())
}

/// As a part of all tests: where Python cannot be had that is said loudly, and only a continuous
/// integration fails of it.
pub(crate) fn python_where_possible() -> Result<(), Failure> {
    match python() {
        Err(failure @ Failure::NoPython { .. }) if env::var_os("CI").is_none() => {
            loudly(&format!("{failure}: the tests of the Python package did NOT run"));
            Ok(())
        }
        result => result,
    }
}

fn loudly(message: &str) {
    let line = "!".repeat(80);
    println!("{line}\n!!! {message}\n{line}");
}

/// A virtual environment with what the tests need, and where the package is put.
struct Environment {
    folder: PathBuf,
    has_models: bool,
}

impl Environment {
    fn prepare() -> Result<Self, Failure> {
        let version = version()?;
        let read = |name| {
            let path = root().join(name);
            fs::read_to_string(&path).map_err(|source| Failure::Unreadable { path, source })
        };
        let mut hasher = DefaultHasher::new();
        (version, read(REQUIREMENTS)?, read(MODEL_REQUIREMENTS)?).hash(&mut hasher);
        let caches = etcetera::choose_base_strategy()
            .map_err(|error| Failure::NoPython { why: error.to_string() })?
            .cache_dir()
            .join("trellect");
        let folder = caches.join(format!("python-{:016x}", hasher.finish()));
        let mut environment = Self { folder, has_models: false };
        let _lock = environment.lock().map_err(|source| Failure::NoPython {
            why: format!("{}: {source}", environment.folder.display()),
        })?;
        environment.install()?;
        Ok(environment)
    }

    /// Several clones may want the same environment at once.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let lock = File::create(self.folder.join("lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    fn install(&mut self) -> Result<(), Failure> {
        if !self.folder.join("complete").exists() {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv", "--clear"]).arg(self.folder.join("venv"));
            run(venv).and_then(|()| self.pip_install(REQUIREMENTS)).map_err(|failure| {
                Failure::NoPython { why: format!("no virtual environment: {failure}") }
            })?;
            self.mark("complete")?;
        }
        if !self.folder.join("models").exists() {
            println!("installing torch and transformers, once: about 5.6 GB");
            match self.pip_install(MODEL_REQUIREMENTS) {
                Ok(()) => self.mark("models")?,
                Err(failure) => println!("{failure}"),
            }
        }
        self.has_models = self.folder.join("models").exists();
        Ok(())
    }

    fn pip_install(&self, requirements: &str) -> Result<(), Failure> {
        run(self.python(&["-m", "pip", "install", "--quiet", "--requirement", requirements]))
    }

    fn mark(&self, name: &str) -> Result<(), Failure> {
        let path = self.folder.join(name);
        File::create(&path).map(drop).map_err(|source| Failure::Unreadable { path, source })
    }

    /// As `pip install .` does, but with the build's tool that is there, and in the profile of the
    /// other tests, which shares what they have built.
    fn install_package(&self) -> Result<(), Failure> {
        let mut pip = self.python(&["-m", "pip", "install", "--quiet", "--upgrade"]);
        pip.args(["--no-build-isolation", "--no-deps"]);
        pip.args(["--config-settings", "build-args=--profile=dev", "--target"]);
        pip.arg(package_folder()).arg(".");
        run(pip)
    }

    /// The environment's Python, at the root of the workspace; it sees the package.
    fn python(&self, arguments: &[&str]) -> Command {
        let programs = self.folder.join("venv/bin");
        let mut path = programs.clone().into_os_string();
        if let Some(rest) = env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let mut command = Command::new(programs.join("python"));
        command.args(arguments).current_dir(root()).env("PATH", path);
        command.env("PYTHONPATH", package_folder()).env("MYPYPATH", package_folder());
        command
    }
}

fn package_folder() -> PathBuf {
    root().join("target/python")
}

/// What identifies this machine's Python, if it is one that the package supports.
fn version() -> Result<Vec<u8>, Failure> {
    let python = |code: String| {
        let mut python = Command::new("python3");
        python.args(["-c", &code]);
        python
    };
    if !succeeds(python("pass".into())) {
        return Err(Failure::NoPython { why: "no python3 on this machine".into() });
    }
    let old_enough =
        format!("import sys; sys.exit(sys.version_info < ({}))", OLDEST.replace('.', ", "));
    if !succeeds(python(old_enough)) {
        return Err(Failure::NoPython { why: format!("python3 is older than {OLDEST}") });
    }
    let output = python("import sys; print(sys.executable, sys.version)".into()).output();
    output
        .map(|output| output.stdout)
        .map_err(|source| Failure::NotStarted { name: "python3".into(), source })
}
