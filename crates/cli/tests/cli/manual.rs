//! Manual pages and completions.

use std::fs;
use std::process::Command;

use crate::{arg, trellect};

#[test]
fn every_command_has_a_page_and_every_shell_completions() {
    let directory = tempfile::tempdir().unwrap();
    let outcome = trellect(["manual", "--output", arg(directory.path())]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let read = |file: &str| fs::read_to_string(directory.path().join(file)).expect(file);
    for page in ["trellect", "trellect-run", "trellect-ab", "trellect-stats", "trellect-history"] {
        let text = read(&format!("man1/{page}.1"));
        assert!(text.contains(".SH SYNOPSIS") && text.contains("Examples:"), "{page}: {text}");
    }
    read("man1/trellect-history-export.1");
    // What is hidden has no page, nor has help on the help.
    for page in ["trellect-manual", "trellect-help"] {
        assert!(!directory.path().join(format!("man1/{page}.1")).exists(), "{page}");
    }
    assert!(!read("man1/trellect-ab.1").contains("serve"));
    for (file, words) in [
        ("trellect.bash", ["--until-decided", "--cmd"]),
        ("_trellect", ["--until-decided", "--cmd"]),
        ("trellect.fish", ["until-decided", "cmd-a"]),
    ] {
        let text = read(&format!("completions/{file}"));
        assert!(words.iter().all(|word| text.contains(word)), "{file}");
    }
    let bash = directory.path().join("completions/trellect.bash");
    assert!(Command::new("bash").arg("-n").arg(&bash).status().unwrap().success());
    trellect(["manual", "--output", arg(&bash)]).fails(1, "making ");
}
