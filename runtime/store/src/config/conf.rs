//! The documents' `.conf` syntax: `key = value` lines, comments, one JSON object as the value of a hook.
//!
//! A pure function of the text: no file is opened, nothing panics, whatever the text is.

use std::collections::HashMap;

use super::diagnostic::{Diagnostic, Place};
use super::node;

/// A `key = value` line. Blanks around the key, the `=` and the value do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Everything before the first `=`.
    pub key: String,
    /// Everything after it; empty = unset.
    pub value: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Where the value begins, in characters, counted from 1.
    pub column_of_value: usize,
}

impl Entry {
    /// Whether the value is a hook's JSON object: `backend.KIND.hook. ...`.
    pub fn is_hook(&self) -> bool {
        let mut parts = self.key.split('.');
        parts.next() == Some("backend") && parts.nth(1) == Some("hook")
    }
}

/// Reads `text`; `file` only names it in diagnostics.
///
/// Gives the entries in the order of their lines, a repeated key once (the last one wins, with a warning that
/// names both lines), and every finding. Lines with an error give no entry.
pub fn parse(file: &str, text: &str) -> (Vec<Entry>, Vec<Diagnostic>) {
    let mut entries: Vec<Option<Entry>> = Vec::new();
    let mut findings = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.split('\n').enumerate() {
        match parse_line(file, index + 1, line) {
            Ok(None) => {}
            Ok(Some(entry)) => {
                if let Some(index) = seen.insert(entry.key.clone(), entries.len())
                    && let Some(earlier) = entries.get_mut(index).and_then(Option::take)
                {
                    findings.push(place(file, &entry).warning(format!(
                        "the key is repeated: line {} replaces line {}",
                        entry.line, earlier.line
                    )));
                }
                entries.push(Some(entry));
            }
            Err(finding) => findings.push(finding),
        }
    }
    (entries.into_iter().flatten().collect(), findings)
}

/// The place of an entry's value.
pub(crate) fn place(file: &str, entry: &Entry) -> Place {
    Place { file: file.to_owned(), line: entry.line, column: entry.column_of_value, key: entry.key.clone() }
}

fn parse_line(file: &str, number: usize, line: &str) -> Result<Option<Entry>, Diagnostic> {
    let content = line.trim();
    if content.is_empty() || content.starts_with('#') {
        return Ok(None);
    }
    let column = |part: &str| {
        let offset = part.as_ptr() as usize - line.as_ptr() as usize;
        line.get(..offset).map_or(0, |before| before.chars().count()) + 1
    };
    let mut here = Place { file: file.to_owned(), line: number, column: column(content), key: String::new() };
    let Some((key, value)) = content.split_once('=') else {
        return Err(here.error("expected `key = value` or a comment that begins with #"));
    };
    let key = key.trim();
    here.key = key.to_owned();
    if key.is_empty() {
        return Err(here.error("expected a key before `=`"));
    }
    if key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(here.error("a key has no blanks; expected `key = value`"));
    }
    if key.split('.').any(str::is_empty) {
        return Err(here.error("a key is made of words joined by single dots"));
    }
    let value = value.trim();
    let entry =
        Entry { key: key.to_owned(), value: value.to_owned(), line: number, column_of_value: column(value) };
    if entry.is_hook() && !value.is_empty() {
        node::from_json(value).map_err(|wrong| {
            here.column = entry.column_of_value + value.get(..wrong.offset).map_or(0, |s| s.chars().count());
            here.error(wrong.message)
        })?;
    }
    Ok(Some(entry))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn blanks_around_the_equals_sign_are_optional() {
        let (entries, findings) = parse(
            "a.conf",
            "## comment\r\n  # another\r\n\r\nbackend.sqlite.hook.session.unsubscribed.1= {\"topic\": \"#\"}\r\na.b=c = d # e",
        );
        assert_eq!(findings, []);
        assert_eq!(
            entries,
            [
                Entry {
                    key: "backend.sqlite.hook.session.unsubscribed.1".into(),
                    value: "{\"topic\": \"#\"}".into(),
                    line: 4,
                    column_of_value: 45,
                },
                Entry { key: "a.b".into(), value: "c = d # e".into(), line: 5, column_of_value: 5 },
            ]
        );
    }

    #[test]
    fn an_empty_value_is_an_entry_without_value() {
        let (entries, findings) = parse("a.conf", "backend.redis.pool1.password =");
        assert_eq!(findings, []);
        assert_eq!(entries.first().unwrap().value, "");
    }

    #[test]
    fn the_last_of_a_repeated_key_wins_and_both_lines_are_named() {
        let (entries, findings) = parse("a.conf", "x.y = 1\nz.z = 2\nx.y = 3");
        assert_eq!(
            entries.iter().map(|e| (&*e.key, &*e.value)).collect::<Vec<_>>(),
            [("z.z", "2"), ("x.y", "3")]
        );
        assert_eq!(
            findings.first().unwrap().to_string(),
            "a.conf:3:7: x.y: the key is repeated: line 3 replaces line 1"
        );
    }

    #[test]
    fn the_documents_broken_line_is_refused_with_its_place() {
        let line = r##"backend.cassa.hook.session.unsubscribed.1= {"topic": "#", action": {"cql": ["delete from acked where client_id = ${clientid} and topic = ${topic}"]}, "pool": "pool1"}"##;
        let (entries, findings) = parse("emqx_backend_cassa.conf", line);
        assert_eq!(entries, []);
        let finding = findings.first().unwrap();
        assert_eq!((finding.line, finding.column), (Some(1), Some(line.find("action").unwrap() + 1)));
        assert!(finding.message.contains("key must be a string"), "{finding}");
    }

    #[test]
    fn lines_that_are_no_settings_are_refused() {
        for bad in [
            "hello",
            "= 1",
            "a b = 1",
            "a..b = 1",
            ".a = 1",
            "backend.x.hook.a.1 = 5",
            "backend.x.hook.a.1 = {",
        ] {
            let (entries, findings) = parse("f", bad);
            assert_eq!(entries, [], "{bad}");
            assert_eq!(findings.len(), 1, "{bad}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        let text = format!("backend.x.hook.a.1 = {}", "{\"a\":[".repeat(100_000));
        assert_eq!(parse("f", &text).1.len(), 1);
        let text = format!("backend.x.hook.a.1 = {}{}", "{\"a\":".repeat(1_000), "}".repeat(1_000));
        assert_eq!(parse("f", &text).1.len(), 1);
    }

    /// A taste of the fuzz target: pieces of real lines in random order, and cut anywhere.
    #[test]
    fn no_text_is_a_panic() {
        const PIECES: [&str; 20] = [
            "backend.sqlite.hook.message.publish.1",
            "backend.",
            ".",
            "=",
            " = ",
            "{",
            "}",
            "\"topic\"",
            ":",
            "\"#\"",
            ",",
            "[",
            "]",
            "\n",
            "\r",
            "#",
            "é",
            "\u{feff}",
            "\\u00",
            "1e999",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        for _ in 0..20_000 {
            let text: String =
                (0..random(30)).filter_map(|_| PIECES.get(random(PIECES.len()))).copied().collect();
            let (entries, findings) = parse("f", &text);
            assert!(entries.len() + findings.len() <= 2 * text.lines().count(), "{text}");
            for finding in findings {
                let line = finding.line.and_then(|n| text.split('\n').nth(n - 1)).unwrap();
                assert!(finding.column.unwrap() <= line.chars().count() + 2, "{finding}: {text:?}");
            }
        }
    }
}
