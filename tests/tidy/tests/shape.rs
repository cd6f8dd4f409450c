//! What a source file looks like: it says what it is for, it is short, and its name means something.

use tidegate_tidy::{File, files, none};

/// No file is longer.
const MAX_LINES: usize = 800;
/// Half of the runtime's files are not longer.
const MAX_MEDIAN: usize = 200;
/// Names that say nothing about what is in them.
const EMPTY_NAMES: [&str; 10] =
    ["utils", "util", "helpers", "helper", "manager", "managers", "common", "misc", "stuff", "shared"];

fn rust() -> Vec<File> {
    let mut files = files();
    files.retain(|file| file.is("rs"));
    assert!(files.len() > 20, "the rules look at {} files only", files.len());
    files
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let offenders = rust().into_iter().filter(|file| !file.text.starts_with("//! "));
    none("a file opens with `//! `", offenders.map(|file| file.path));
}

#[test]
fn no_file_is_long() {
    let lines = |file: &File| file.text.lines().count();
    let offenders = rust().into_iter().filter(|file| lines(file) > MAX_LINES);
    none("too many lines", offenders.map(|file| format!("{}: {} lines", file.path, lines(&file))));
}

#[test]
fn the_usual_file_is_short() {
    let mut files = rust();
    files.retain(|file| file.is_in("runtime") && !file.names().any(|name| name == "tests"));
    let mut lines: Vec<usize> = files.iter().map(|file| file.text.lines().count()).collect();
    lines.sort_unstable();
    let at = |part: usize| lines[(lines.len() - 1) * part / 100];
    println!("{} files of the runtime: median {}, p90 {}, longest {}", lines.len(), at(50), at(90), at(100));
    assert!(at(50) <= MAX_MEDIAN, "the median file has {} lines, more than {MAX_MEDIAN}", at(50));
}

#[test]
fn every_name_means_something() {
    let offenders = rust().into_iter().filter(|file| file.names().any(|name| EMPTY_NAMES.contains(&name)));
    none("a module is named for what it does", offenders.map(|file| file.path));
}

#[test]
fn nothing_else_lies_at_the_top() {
    let known = [
        ".cargo",
        ".ci",
        ".gitignore",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "clippy.toml",
        "deny.toml",
        "docs",
        "guest-examples",
        "runtime",
        "rustfmt.toml",
        "sdk",
        "tests",
        "wit",
    ];
    let mut offenders: Vec<String> = files()
        .iter()
        .filter_map(|file| file.path.split('/').next())
        .filter(|name| !known.contains(name))
        .map(String::from)
        .collect();
    offenders.dedup();
    none("the top of the repository holds only what ARCHITECTURE.md maps", offenders);
}
