//! The servers that tests share are the same wherever they are listed: the kinds of `tests/servers`, the compose file
//! for who has Docker, and the page that says what each variable holds.

use std::collections::BTreeSet;

use tidegate_tidy::{none, text};

/// Every word of `text` that begins like a variable of a shared server.
fn variables(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    words.filter(|word| word.starts_with("TIDEGATE_")).map(String::from).collect()
}

/// What stands between quotation marks after `key` in the rows of `KINDS`, in order.
fn fields(kinds: &str, key: &str) -> Vec<String> {
    let lines = kinds.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": \""));
    lines.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

#[test]
fn every_list_of_shared_servers_has_the_same_variables() {
    let kinds = text("tests/servers/src/kind.rs");
    let known: BTreeSet<String> = fields(&kinds, "variable").into_iter().collect();
    assert!(!known.is_empty(), "no row was found in tests/servers/src/kind.rs");
    let page = text("docs/servers.md");
    let table: String = page.lines().filter(|line| line.starts_with("| `")).collect::<Vec<_>>().join("\n");
    let mut offenders = Vec::new();
    for (file, found) in [
        ("the comment of docs/compose.yaml", variables(&text("docs/compose.yaml"))),
        ("the table of docs/servers.md", variables(&table)),
    ] {
        offenders.extend(known.difference(&found).map(|name| format!("{file} lacks {name}")));
        offenders.extend(found.difference(&known).map(|name| format!("{file} has {name}, no kind has it")));
    }
    none("variables of shared servers, as tests/servers/src/kind.rs has them", offenders);
}

#[test]
fn the_table_of_servers_has_the_kinds_in_their_order() {
    let kinds = text("tests/servers/src/kind.rs");
    let expected: Vec<String> = fields(&kinds, "name")
        .into_iter()
        .zip(fields(&kinds, "variable"))
        .map(|(name, variable)| format!("| `{name}` | `{variable}` |"))
        .collect();
    let page = text("docs/servers.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let is_row = |(row, start): (&&str, &String)| row.starts_with(start.as_str());
    let agree = rows.len() == expected.len() && rows.iter().zip(&expected).all(is_row);
    assert!(
        agree,
        "docs/servers.md has the rows\n  {}\nwanted\n  {}",
        rows.join("\n  "),
        expected.join("\n  ")
    );
}

#[test]
fn words_that_are_variables_are_found() {
    let found = variables("export TIDEGATE_REDIS=127.0.0.1:1 TIDEGATE_REDIS_AUTH=x, `TIDEGATE_X1`");
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        ["TIDEGATE_REDIS", "TIDEGATE_REDIS_AUTH", "TIDEGATE_X1"]
    );
    assert_eq!(fields("    name: \"a\",\n    named: \"b\",\n", "name"), ["a"]);
}
