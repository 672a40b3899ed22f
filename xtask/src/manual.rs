//! Manual pages and completions for those who package the program.

use crate::shell::{Failure, cargo, root, run};

/// Where they are written, below the root.
const FOLDER: &str = "target/manual";

/// Has the program write them.
pub(crate) fn manual() -> Result<(), Failure> {
    let folder = root().join(FOLDER);
    let mut program = cargo(&["run", "--package", "trellect-cli", "--", "manual", "--output"]);
    program.arg(&folder);
    run(program)?;
    println!("{}", folder.display());
    Ok(())
}
