//! The reference page of `tidegate.toml`, derived from the table of keys and the back ends' tables of options.

use tidegate_store::backend::{Carried, OptionKind, OptionRow, known};

use super::Config;
use super::keys::{KEYS, sections};
use super::listeners::{CERTIFICATE_ROWS, CERTIFICATES, LISTENER_ROWS, Row};

/// The text of `docs/configuration.md`.
pub fn page() -> String {
    let defaults = Config::default();
    let mut page = String::from(INTRODUCTION);
    for section in sections() {
        page += &format!("\n## `[{section}]`\n\n| key | value | default | |\n| --- | --- | --- | --- |\n");
        for key in KEYS.iter().filter(|key| key.section == section) {
            let text = key.text.split_whitespace().collect::<Vec<_>>().join(" ");
            let shown = (key.show)(&defaults);
            page += &format!("| `{}` | {} | `{shown}` | {text} |\n", key.name, key.syntax);
        }
        if section == "broker" {
            page.push_str(LISTENERS);
            rows(&mut page, LISTENER_ROWS);
            page += &format!("\nEach of its `{CERTIFICATES}`, of which TLS needs at least one:\n");
            rows(&mut page, CERTIFICATE_ROWS);
        }
    }
    page.push_str(BACKENDS);
    for kind in known() {
        page += &format!("\n### `[backend.{}.<pool>]`\n\n{}", kind.name, kind.doc);
        if kind.open.is_none() {
            page += " This binary has no driver for it yet: its configuration is checked, and it is refused at start.";
        }
        page += "\n";
        options(&mut page, kind.options);
        if !kind.shared.is_empty() {
            page += &format!("\nFor all pools, `[backend.{}]`, or for one alone:\n", kind.name);
            options(&mut page, kind.shared);
        }
        page += &match kind.statements {
            "" => "\nNo statements of one's own. ".to_owned(),
            statements => format!("\nStatements of one's own: `{statements}`. "),
        };
        page += &match kind.functions {
            Carried::All => "Carries all functions.".to_owned(),
            Carried::Only(names) => format!("Carries {}.", quoted(names)),
        };
        if let Some(why) = kind.exact_only {
            page += &format!(" Subscriptions with wildcards fetch nothing: {why}.");
        }
        page += "\n";
    }
    page += FUNCTIONS;
    for function in tidegate_store::actions::reference() {
        let hooks: Vec<_> = function.hooks.iter().map(|hook| hook.name()).collect();
        page += &format!("| `{}` | {} | {} |\n", function.name, quoted(&hooks), function.doc);
    }
    page
}

/// The keys of a table.
fn rows<T>(page: &mut String, rows: &[Row<T>]) {
    *page += "\n| key | value | default | |\n| --- | --- | --- | --- |\n";
    for row in rows {
        let default = if row.default.is_empty() { String::new() } else { format!("`{}`", row.default) };
        *page += &format!("| `{}` | {} | {default} | {} |\n", row.name, row.syntax, row.text);
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A table of options.
fn options(page: &mut String, rows: &[OptionRow]) {
    *page += "\n| key | value | default | |\n| --- | --- | --- | --- |\n";
    for row in rows {
        if let OptionKind::Inert(form) = row.kind {
            *page += &format!("| `{}` | {} | | No effect: {}. |\n", row.name, syntax(*form), row.doc);
            continue;
        }
        let default = if row.default.is_empty() { String::new() } else { format!("`{}`", row.default) };
        *page += &format!("| `{}` | {} | {default} | {} |\n", row.name, syntax(row.kind), row.doc);
    }
}

/// What may be written.
fn syntax(kind: OptionKind) -> String {
    match kind {
        OptionKind::Integer { min, max } => format!("number from {min} to {max}"),
        OptionKind::Text => "text".into(),
        OptionKind::Secret => "text, never shown".into(),
        OptionKind::Boolean => "`true` or `false`".into(),
        OptionKind::Word { words, .. } => quoted(words),
        OptionKind::Server { .. } => "host:port".into(),
        OptionKind::Servers { .. } => "host:port, several with commas".into(),
        OptionKind::Url => "URL".into(),
        OptionKind::Path => "file".into(),
        OptionKind::Inert(form) => syntax(*form),
    }
}

const INTRODUCTION: &str = "# Configuration

<!-- Made from the tables of keys: `tidegate config reference > docs/configuration.md`. -->

`tidegate run` reads `./tidegate.toml` if it is there (or the file that `--config` names). Every key has a
default, so the file may be absent. Command line flags override the file. An unknown key or a value that cannot
be is an error with file, line, column and the nearest spelling; `tidegate check` reports all of them without
starting anything. Relative paths are relative to the working directory.

A *size* is a text such as `\"1MiB\"` or a number of bytes; a *duration* is a text such as `\"5s\"`, `\"250ms\"` or
`\"1m30s\"`, or a number of seconds.
";

const LISTENERS: &str = "
### `[[broker.listener]]`

A listener with TLS, WebSocket or a name of its own, one table each; the addresses of `listen` are plain MQTT and have the name
`default`. Changes of the files take effect while the server runs, changes of these tables at the next start:
[listeners.md](listeners.md).
";

const BACKENDS: &str = "
## `[backend]`

Connectors (`[backend.<db>.<pool>]`) and hook lines (`[[backend.<db>.hook]]`), with the same keys as the `.conf`
files in the directory of `[conf]`, which are the documents' own: see [backends.md](backends.md). A change of these
tables or files takes effect while the server runs. A value may be `env:NAME` or `file:PATH`; an empty one is unset. Without any, the connector `sqlite:default` exists (file `tidegate.db` in the
directory of `[data]`) and no hook line.

```toml
[backend.sqlite.pool1]
path = \"./data/mqtt.db\"

[[backend.sqlite.hook]]
hook = \"message.publish\"
topic = \"#\"
action = { function = \"on_message_publish\" }
pool = \"pool1\"
```
";

const FUNCTIONS: &str = "
## Functions of hook lines

| function | hooks | |
| --- | --- | --- |
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    /// The page in the repository is made from the table; after a change of a row, write it again.
    #[test]
    fn the_page_in_docs_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            stored == super::page(),
            "docs/configuration.md is stale: run `tidegate config reference > docs/configuration.md`"
        );
    }
}
