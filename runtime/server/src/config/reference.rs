//! The reference page of `tidegate.toml`, derived from the table of keys and the back ends' tables of options.

use tidegate_store::backend::{OptionKind, built_in};

use super::Config;
use super::keys::{KEYS, sections};

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
    }
    page.push_str(BACKENDS);
    for kind in built_in() {
        page += &format!("\n### `[backend.{}.<pool>]`\n\n{}\n", kind.name, kind.doc);
        page += "\n| key | value | default | |\n| --- | --- | --- | --- |\n";
        for row in kind.options {
            let syntax = match row.kind {
                OptionKind::Integer { min, max } => format!("number from {min} to {max}"),
                OptionKind::Text | OptionKind::Secret => "text".to_owned(),
                OptionKind::Boolean => "`true` or `false`".to_owned(),
                OptionKind::Inert => {
                    page += &format!("| `{}` | any | | No effect: {}. |\n", row.name, row.doc);
                    continue;
                }
            };
            page += &format!("| `{}` | {syntax} | `{}` | {} |\n", row.name, row.default, row.doc);
        }
    }
    page
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

const BACKENDS: &str = "
## `[backend]`

Connectors (`[backend.<db>.<pool>]`) and hook lines (`[[backend.<db>.hook]]`), with the same keys as the `.conf`
files in the directory of `[conf]`. Without any, the connector `sqlite:default` exists (file `tidegate.db` in the
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
