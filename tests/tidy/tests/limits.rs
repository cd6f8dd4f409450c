//! The page of limits names every limit: the keys that set one, and the labels under which it is counted.

use tidegate_tidy::{none, text};

/// The page.
const PAGE: &str = "docs/limits.md";

/// The strings of the constant `NAME` in Rust source.
fn strings<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let declaration = format!("const {name}: ");
    let Some((_, rest)) = source.split_once(&declaration) else { return Vec::new() };
    let value = rest.split_once('=').map_or("", |(_, value)| value);
    let list = value.split_once(';').map_or(value, |(list, _)| list);
    list.split('"').skip(1).step_by(2).collect()
}

#[test]
fn the_page_of_limits_has_every_label() {
    let (page, metrics) = (text(PAGE), text("runtime/broker/src/metrics.rs"));
    let mut offenders = Vec::new();
    for (name, short) in [("LIMITS", "limit"), ("DROPS", "drop"), ("TURNED", "away")] {
        let labels = strings(&metrics, name);
        assert!(labels.len() > 3, "{name} was not found");
        let rows = labels.into_iter().map(|label| format!("`{short}={label}`"));
        offenders.extend(rows.filter(|label| !page.contains(label)));
    }
    none("docs/limits.md lacks these labels of runtime/broker/src/metrics.rs", offenders);
}

#[test]
fn the_page_of_limits_has_every_key_that_sets_one() {
    let (page, reference) = (text(PAGE), text("docs/configuration.md"));
    let broker =
        reference.split("\n## ").find(|section| section.starts_with("`[broker]`")).unwrap_or_default();
    let keys = broker.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let keys: Vec<&str> = keys.filter(|key| key.starts_with("max_")).collect();
    assert!(keys.len() > 10, "{keys:?}");
    let offenders = keys.into_iter().filter(|key| !page.contains(&format!("`{key}`"))).map(String::from);
    none("docs/limits.md lacks these keys of [broker]", offenders);
}

#[test]
fn the_strings_of_a_constant_are_found() {
    let source = "const A: [&str; 1] = [\"x\"];\npub const LIST: [&str; 2] =\n    [\"one\", \"two\"];\nlet y = \"three\";\n";
    assert_eq!(strings(source, "LIST"), ["one", "two"]);
    assert_eq!(strings(source, "B"), Vec::<&str>::new());
}
