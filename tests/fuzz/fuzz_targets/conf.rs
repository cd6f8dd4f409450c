//! Arbitrary text as configuration: the documents' `.conf` syntax and `tidegate.toml`.
//!
//! An input is a `.conf` text; after a line `%%` a `tidegate.toml` may follow. Without one the text is also read
//! as a `tidegate.toml` of its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_store::config::{self, Diagnostic, Severity, conf};

/// SQLite is linked in, though no text opens it. Its C is compiled by a compiler with an address sanitizer of its
/// own, which registers variables of equal name in different functions in a way that the other's reading of them
/// takes for duplicates.
#[unsafe(no_mangle)]
extern "C" fn __asan_default_options() -> *const std::ffi::c_char {
    c"detect_odr_violation=0".as_ptr()
}

const CONF: &str = "fuzz.conf";
const TOML: &str = "tidegate.toml";

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    parse(&text);
    // A secret `file:PATH` opens what it names, and a fuzzer finds /dev/zero.
    if text.contains("file:") {
        return;
    }
    match text.split_once("\n%%\n") {
        Some((conf, toml)) => load(Some(conf), Some(toml)),
        None => {
            load(Some(&text), None);
            load(None, Some(&text));
        }
    }
});

fn parse(text: &str) {
    let (entries, findings) = conf::parse(CONF, text);
    assert_eq!((&entries, &findings), (&conf::parse(CONF, text).0, &conf::parse(CONF, text).1));
    for finding in &findings {
        check(finding, Some(text), None);
        assert!(finding.line.is_some(), "{finding:?}");
    }
    let shown = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = shown.split('\n').collect();
    let mut last = 0;
    for entry in &entries {
        assert!(entry.line > last, "entries in the order of their lines, one a line: {entry:?}");
        last = entry.line;
        let line = lines[entry.line - 1];
        assert!(line.contains(&entry.key) && !entry.key.is_empty(), "{entry:?}");
        assert!(entry.column_of_value >= 1, "{entry:?}");
        let before = entry.column_of_value - 1;
        let value: String = line.chars().skip(before).collect();
        assert!(value.starts_with(&entry.value), "{entry:?} is not at its column of {line:?}");
        assert!(!findings.iter().any(|f| f.line == Some(entry.line) && f.severity == Severity::Error));
    }
    let mut keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    keys.sort_unstable();
    assert!(keys.is_sorted_by(|a, b| a < b), "a key came twice");
}

fn load(conf: Option<&str>, toml: Option<&str>) {
    let sources: Vec<(String, String)> =
        conf.into_iter().map(|text| (CONF.to_owned(), text.to_owned())).collect();
    let (findings, expected) = match config::load(&sources, toml.map(|text| (TOML, text))) {
        Ok(loaded) => (loaded.warnings, Severity::Warning),
        Err(errors) => {
            assert!(errors.iter().any(|error| error.severity == Severity::Error), "refused without an error");
            (errors, Severity::Error)
        }
    };
    for finding in &findings {
        check(finding, conf, toml);
        if expected == Severity::Warning {
            assert_eq!(finding.severity, Severity::Warning, "{finding}");
        }
    }
}

/// A finding says what is wrong and points into the file it names.
fn check(finding: &Diagnostic, conf: Option<&str>, toml: Option<&str>) {
    assert!(!finding.message.is_empty(), "{finding:?}");
    assert!(!finding.to_string().contains('\n') || finding.key.contains('\n'), "{finding:?}");
    let text = match finding.file.as_str() {
        CONF => conf,
        TOML => toml,
        _ => None,
    };
    let text = text.unwrap_or_else(|| panic!("names no file that was given: {finding:?}"));
    let Some(number) = finding.line else { return };
    let line = text.split('\n').nth(number.wrapping_sub(1));
    let line = line.unwrap_or_else(|| panic!("line outside of the file: {finding:?}"));
    let columns = line.chars().count() + 1;
    assert!(finding.column.is_none_or(|column| (1..=columns).contains(&column)), "{finding:?} in {line:?}");
}
