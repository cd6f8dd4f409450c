//! Reads the text of `tidegate.toml` against the table of keys, and reports everything that is wrong with it.

use tidegate_store::config::{Diagnostic, Lines, Place};
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, sections};
use super::{Config, listeners};

/// The table that the back ends read themselves.
const BACKEND: &str = "backend";

/// Reads `text`, the content of `file`, into `config`.
///
/// # Errors
/// Every problem of the file, in its order: syntax errors, unknown tables and keys (with the nearest that
/// exists) and values that cannot be. `config` is then half changed.
pub(crate) fn read(file: &str, text: &str, config: &mut Config) -> Result<(), Vec<Diagnostic>> {
    let mut problems = Problems { file, lines: Lines::new(text), list: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        // The parser's message of a duplicate key and the like does not name the place; the span does.
        problems.add(error.span().map(|span| span.start), "", error.message().to_owned());
    }
    for (name, value) in document.get_ref() {
        let section = &**name.get_ref();
        let place = Some(name.span().start);
        match value.get_ref() {
            _ if section == BACKEND => {}
            _ if !sections().any(|known| known == section) => {
                let known = sections().chain([BACKEND]);
                problems.add(place, section, unknown("no such table", section, known, &[]));
            }
            DeValue::Table(table) => read_section(section, table, config, &mut problems),
            _ => problems.add(place, section, format!("expected the table [{section}]")),
        }
    }
    problems.list.sort_by_key(|problem| (problem.line, problem.column));
    if problems.list.is_empty() { Ok(()) } else { Err(problems.list) }
}

fn read_section(section: &str, table: &DeTable<'_>, config: &mut Config, problems: &mut Problems<'_>) {
    for (name, value) in table {
        let (place, name) = (name.span().start, &**name.get_ref());
        let path = format!("{section}.{name}");
        if (section, name) == ("broker", listeners::KEY) {
            config.listeners = listeners::read(value.get_ref(), place, problems);
            continue;
        }
        match KEYS.iter().find(|key| key.section == section && key.name == name) {
            Some(key) => {
                if let Err(problem) = (key.set)(config, value.get_ref()) {
                    problems.add(Some(value.span().start), &path, problem);
                }
            }
            None => {
                let tables = (section == "broker").then_some(listeners::KEY);
                let here = KEYS.iter().filter(|key| key.section == section).map(|key| key.name).chain(tables);
                let elsewhere: Vec<_> =
                    KEYS.iter().filter(|key| key.name == name).map(|key| key.section).collect();
                problems.add(Some(place), &path, unknown("no such key", name, here, &elsewhere));
            }
        }
    }
}

/// "no such key; did you mean ...?", or what there is when nothing is near.
pub(super) fn unknown(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'static str>,
    elsewhere: &[&str],
) -> String {
    if let [section] = elsewhere {
        return format!("{what} in this table; it belongs to [{section}]");
    }
    let known: Vec<_> = known.collect();
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(name, candidate);
    match known.iter().min_by_key(distance) {
        Some(near) if distance(&near) <= 2.max(name.chars().count() / 3) => {
            format!("{what}; did you mean {near}?")
        }
        _ => format!("{what}; there are {}", known.join(", ")),
    }
}

/// Collects problems and turns byte offsets into lines and columns.
pub(super) struct Problems<'a> {
    file: &'a str,
    lines: Lines,
    list: Vec<Diagnostic>,
}

impl Problems<'_> {
    pub(super) fn add(&mut self, offset: Option<usize>, key: &str, message: String) {
        let problem = self.place(offset, key).error(message);
        self.list.push(problem);
    }

    /// Where a key stands.
    pub(super) fn place(&self, offset: Option<usize>, key: &str) -> Place {
        let at = offset.map(|offset| self.lines.position(offset)).unwrap_or_default();
        Place { file: self.file.to_owned(), line: at.line, column: at.column, key: key.to_owned() }
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::time::Duration;

    fn problems(text: &str) -> Vec<String> {
        read("tidegate.toml", text, &mut Config::default())
            .err()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_full_file_is_read() {
        let text = r#"
            node.name = "a@b"
            [broker]
            listen = ["127.0.0.1:0"]
            max_packet_bytes = "2MiB"
            connect_timeout = "5s"
            [log]
            format = "json"
            [api]
            listen = "off"
            [backend.sqlite.pool1]
            path = "x.db"
        "#;
        let mut config = Config::default();
        read("f", text, &mut config).unwrap();
        assert_eq!(config.node_name, "a@b");
        assert_eq!(config.listen, ["127.0.0.1:0".parse().unwrap()]);
        assert_eq!(config.broker.max_packet_bytes, 2 << 20);
        assert_eq!(config.broker.connect_timeout, Duration::from_secs(5));
        assert_eq!(config.api, None);
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_nearest() {
        assert_eq!(
            problems("[broker]\n  max_queud = 5\n"),
            ["tidegate.toml:2:3: broker.max_queud: no such key; did you mean max_queued?"]
        );
        assert_eq!(
            problems("[brokr]\nx = 1\n"),
            ["tidegate.toml:1:2: brokr: no such table; did you mean broker?"]
        );
        assert_eq!(
            problems("[shutdown]\nformat = \"json\"\n"),
            ["tidegate.toml:2:1: shutdown.format: no such key in this table; it belongs to [log]"]
        );
        assert_eq!(
            problems("[shutdown]\nwhatever = 1\n"),
            ["tidegate.toml:2:1: shutdown.whatever: no such key; there are deadline"]
        );
    }

    #[test]
    fn a_bad_value_names_its_place_and_what_was_expected() {
        assert_eq!(
            problems("[shutdown]\ndeadline = \"soon\""),
            [
                "tidegate.toml:2:12: shutdown.deadline: expected a duration such as \"5s\", \"250ms\" or a number \
              of seconds, found \"soon\""
            ]
        );
        let listen = problems("[broker]\nlisten = [\"127.0.0.1:1883\", \"nowhere\"]");
        assert!(
            listen[0].starts_with("tidegate.toml:2:10: broker.listen: expected an address IP:PORT"),
            "{listen:?}"
        );
        assert_eq!(
            problems("[log]\nformat = \"xml\""),
            ["tidegate.toml:2:10: log.format: expected \"human\" or \"json\", found \"xml\""]
        );
        assert!(problems("[log]\nlevel = \"a=b=c\"")[0].contains("log.level: expected a level"));
    }

    #[test]
    fn all_problems_are_reported_in_the_order_of_the_file() {
        let list =
            problems("[api]\nlisten = 1\n[broker]\nmax_inflight = 0\nnonsense = 1\n[node]\nname = 1\n");
        let places: Vec<_> =
            list.iter().map(|p| p.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            places,
            [
                "tidegate.toml:2:10 api.listen",
                "tidegate.toml:4:16 broker.max_inflight",
                "tidegate.toml:5:1 broker.nonsense",
                "tidegate.toml:7:8 node.name",
            ]
        );
    }

    #[test]
    fn syntax_errors_have_a_place_and_do_not_hide_the_rest() {
        let list = problems("[broker]\nlisten = \n[shutdown]\ndeadline = \"soon\"\n");
        assert!(list[0].starts_with("tidegate.toml:2:"), "{list:?}");
        assert!(list.iter().any(|p| p.contains("shutdown.deadline")), "{list:?}");
    }

    #[test]
    fn a_table_written_as_something_else_is_refused() {
        assert_eq!(problems("broker = 1"), ["tidegate.toml:1:1: broker: expected the table [broker]"]);
        assert_eq!(problems("[[log]]\nlevel = \"info\"").len(), 1);
    }
}
