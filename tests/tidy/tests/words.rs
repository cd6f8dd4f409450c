//! What no file says.

use tidegate_tidy::{File, files, none};

/// Every line of `files` that holds one of `words`, as `path:line: word`.
fn lines_with(files: &[File], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            found.extend(
                words
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{}:{}: {word}", file.path, number + 1)),
            );
        }
    }
    found
}

#[test]
fn no_file_names_somebodys_machine() {
    // Written in pieces, so that this file does not break its own rule.
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("session", "-tooling"),
        concat!("/tmp/", "brief"),
    ];
    none("no path of one machine and no word of how the code came to be", lines_with(&files(), &words));
}

#[test]
fn nothing_is_left_to_do() {
    let mut files = files();
    files.retain(|file| file.is("rs") && (file.is_in("runtime") || file.is_in("sdk")));
    assert!(!files.is_empty());
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), "unimplemented!", "todo!(", concat!("XX", "X")];
    none("no half-done work in the runtime or the SDK", lines_with(&files, &words));
}

#[test]
fn the_search_finds_what_is_there() {
    let file = File { path: "a.rs".into(), text: "one\ntwo words\n".into() };
    assert_eq!(lines_with(&[file], &["wor", "x"]), ["a.rs:2: wor"]);
}
