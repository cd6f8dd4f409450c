//! The normative statements (`statements/*.txt`), the tests that the sources have, and the page made of both.
//!
//! A line of a list is `id | who must keep it | summary` and, where there is no test, `| reason`. A line that begins
//! with `#` is a heading of the page. Summaries are in our own words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A list of statements and the tests that belong to it.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The name of the list in `statements` and of the folder in `tests`.
    pub name: &'static str,
    /// What the page calls it.
    pub title: &'static str,
}

/// The lists in the order of the page.
pub const PARTS: [Part; 2] = [
    Part { name: "v3", title: "MQTT 3.1.1, and 3.1 where it differs" },
    Part { name: "v5", title: "MQTT 5" },
];

/// Who can break a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Only a server.
    Server,
    /// Only a client. A test may show what the server does with one that breaks it.
    Client,
    /// Both.
    Both,
    /// Nobody whom a test could find out.
    Nobody,
}

impl Who {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "server" => Self::Server,
            "client" => Self::Client,
            "both" => Self::Both,
            "nobody" => Self::Nobody,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Both => "both",
            Self::Nobody => "nobody",
        }
    }
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A heading.
    Heading(String),
    /// A statement.
    Statement(Statement),
}

/// A normative statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// As the standard numbers it: `MQTT-3.1.0-1`; `MQIsdp-3.1-1` by us, because MQTT 3.1 has no numbers.
    pub id: String,
    /// Who can break it.
    pub who: Who,
    /// In a few words of our own.
    pub summary: String,
    /// Why there is no test.
    pub reason: Option<String>,
}

impl Statement {
    /// How the names of its tests begin: `mqtt_3_1_0_1`.
    pub fn prefix(&self) -> String {
        self.id.to_lowercase().replace(['-', '.'], "_")
    }
}

/// A test, where its statement is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// The file below the folder of the part: `connect.rs`.
    pub file: String,
    /// The function.
    pub name: String,
}

impl Test {
    /// The prefix of its statement: the first word and the numbers after it. `None` when there are no numbers.
    pub fn prefix(&self) -> Option<String> {
        let words: Vec<&str> = self.name.split('_').collect();
        let number = |word: &&&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let numbers = words.iter().skip(1).take_while(number).count();
        (numbers > 0).then(|| words[..=numbers].join("_"))
    }
}

/// Reads a list.
///
/// # Errors
/// The first line that is none.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| parse_line(line).ok_or_else(|| format!("no statement: {line}"))).collect()
}

fn parse_line(line: &str) -> Option<Line> {
    if let Some(heading) = line.strip_prefix('#') {
        return Some(Line::Heading(heading.trim().into()));
    }
    let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
    let (id, who, summary, reason) = match fields[..] {
        [id, who, summary] => (id, who, summary, None),
        [id, who, summary, reason] if !reason.is_empty() => (id, who, summary, Some(reason.into())),
        _ => return None,
    };
    let who = Who::of(who)?;
    Some(Line::Statement(Statement { id: id.into(), who, summary: summary.into(), reason }))
}

/// Finds the tests in the text of a source file; those that are ignored are none.
pub fn tests_in(file: &str, text: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    let (mut marked, mut ignored) = (false, false);
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            marked = true;
        } else if line.starts_with("#[ignore") {
            ignored = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            if marked && !ignored {
                let name = rest.split('(').next().unwrap_or_default();
                tests.push(Test { file: file.into(), name: name.into() });
            }
            (marked, ignored) = (false, false);
        }
    }
    tests
}

/// Whether `main`, the text of a test program's first file, makes `file` a module of it: otherwise nothing of it runs.
fn is_declared(main: &str, file: &str) -> bool {
    let declaration = format!("mod {};", file.trim_end_matches(".rs"));
    file == "main.rs" || main.lines().any(|line| line == declaration)
}

impl Part {
    /// The statements and headings of its list.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong.
    pub fn lines(self) -> Result<Vec<Line>, String> {
        let path = here().join("statements").join(format!("{}.txt", self.name));
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The tests of its folder, by file and in the order of each.
    ///
    /// # Errors
    /// A file cannot be read, or is no module of the test program.
    pub fn tests(self) -> Result<Vec<Test>, String> {
        let folder = here().join("tests").join(self.name);
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((name, std::fs::read_to_string(&path).map_err(failed)?));
            }
        }
        files.sort();
        let main = files.iter().find(|(name, _)| name == "main.rs").map_or("", |(_, text)| text);
        if let Some((name, _)) = files.iter().find(|(name, _)| !is_declared(main, name)) {
            return Err(format!("{}: {name} is not declared in main.rs", folder.display()));
        }
        Ok(files.iter().flat_map(|(name, text)| tests_in(name, text)).collect())
    }
}

/// What does not fit together: a statement twice, one that a server can break without test and reason, one with
/// both, a test of no statement.
pub fn disagreements(lines: &[Line], tests: &[Test]) -> Vec<String> {
    let mut wrong = Vec::new();
    let by_prefix = by_prefix(tests);
    let mut known: Vec<String> = Vec::new();
    for statement in statements(lines) {
        let (id, prefix) = (&statement.id, statement.prefix());
        if known.contains(&prefix) {
            wrong.push(format!("{id} is there twice"));
        }
        let tested = by_prefix.contains_key(&prefix);
        match (&statement.reason, statement.who) {
            (Some(_), _) if tested => wrong.push(format!("{id} has a test and a reason for none")),
            (None, Who::Server | Who::Both | Who::Nobody) if !tested => {
                wrong.push(format!("{id} has neither a test `{prefix}_...` nor a reason for none"));
            }
            _ => {}
        }
        known.push(prefix);
    }
    for test in tests {
        if test.prefix().is_none_or(|prefix| !known.contains(&prefix)) {
            wrong.push(format!("{}: {} is a test of no statement", test.file, test.name));
        }
    }
    wrong
}

fn statements(lines: &[Line]) -> impl Iterator<Item = &Statement> {
    lines.iter().filter_map(|line| match line {
        Line::Statement(statement) => Some(statement),
        Line::Heading(_) => None,
    })
}

fn by_prefix(tests: &[Test]) -> BTreeMap<String, Vec<&Test>> {
    let mut map: BTreeMap<String, Vec<&Test>> = BTreeMap::new();
    for test in tests {
        map.entry(test.prefix().unwrap_or_default()).or_default().push(test);
    }
    map
}

/// Where the page is.
pub fn page_path() -> PathBuf {
    here().join("../../docs/conformance.md")
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The page: every statement with its tests, or why there is none.
pub fn page(parts: &[(Part, Vec<Line>, Vec<Test>)]) -> String {
    let mut page = String::from(HEAD);
    for (part, lines, tests) in parts {
        let count = |tested: bool| {
            let prefixes = by_prefix(tests);
            statements(lines).filter(|of| prefixes.contains_key(&of.prefix()) == tested).count()
        };
        let _infallible = write!(
            page,
            "\n## {}\n\n{} statements have a test ({} tests, `tests/conformance/tests/{}`), {} have none.\n",
            part.title,
            count(true),
            tests.len(),
            part.name,
            count(false),
        );
        rows(&mut page, lines, tests);
    }
    page
}

fn rows(page: &mut String, lines: &[Line], tests: &[Test]) {
    let prefixes = by_prefix(tests);
    for line in lines {
        let statement = match line {
            Line::Heading(heading) => {
                let _infallible = write!(
                    page,
                    "\n### {heading}\n\n| statement | kept by | in short | tests, or why there is none |\n| --- | --- | --- | --- |\n"
                );
                continue;
            }
            Line::Statement(statement) => statement,
        };
        let shown = match (prefixes.get(&statement.prefix()), &statement.reason) {
            (Some(tests), _) => tests.iter().map(|test| shown(test)).collect::<Vec<_>>().join("<br>"),
            (None, Some(reason)) => reason.clone(),
            (None, None) => "only a client can break it".into(),
        };
        let _infallible = writeln!(
            page,
            "| {} | {} | {} | {shown} |",
            statement.id,
            statement.who.word(),
            statement.summary
        );
    }
}

/// File and function, as `cargo test` filters them.
fn shown(test: &Test) -> String {
    format!("`{}::{}`", test.file.trim_end_matches(".rs"), test.name)
}

const HEAD: &str = "\
# Conformance

<!-- Made by the test itself: `TIDEGATE_WRITE_DOCS=1 cargo test -p tidegate-conformance --test statements`. -->

Every normative statement of MQTT 3.1.1 and MQTT 5 by its number in the standard, who can break it, and the tests that try
it on the real binary with packets made by hand. `cargo test -p tidegate-conformance` runs them against the binary that
`TIDEGATE_BIN` names, or the one beside the test programs; `cargo xtask test` does, too. A test fails when the server breaks
its statement; every packet that the server sends in any of them is checked for its form as well.

Beside them, `--test malformed` sends thousands of sequences of packets that were broken by machine, judged by a second reading
of the standard: of each version, 3.1.1 and 5, at least 2,000 that must be refused, with a reason or, before MQTT 5, without one,
and at least 300 that must be served all the same. Others are served meanwhile.

The summaries are ours and no substitute for the standard's words.
";

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str =
        "# One\nMQTT-1.0.0-1 | server | A\nMQTT-1.0.0-11 | both | B | no way\nMQTT-1.0.0-2 | client | C\n";
    const SOURCE: &str = "#[test]\nfn mqtt_1_0_0_1_a() {}\nfn mqtt_1_0_0_11_no_test() {}\n#[test]\n#[x]\nfn mqtt_1_0_0_2_c() {\n";

    #[test]
    fn what_fits_is_not_reported() {
        let (lines, tests) = (parse(LIST).unwrap(), tests_in("a.rs", SOURCE));
        assert_eq!(
            tests.iter().map(|test| test.prefix().unwrap()).collect::<Vec<_>>(),
            ["mqtt_1_0_0_1", "mqtt_1_0_0_2"]
        );
        assert_eq!(disagreements(&lines, &tests), Vec::<String>::new());
        let part = PARTS[0];
        let page = page(&[(part, lines, tests)]);
        for row in [
            "| MQTT-1.0.0-1 | server | A | `a::mqtt_1_0_0_1_a` |",
            "| MQTT-1.0.0-11 | both | B | no way |",
            "2 statements have a test (2 tests, `tests/conformance/tests/v3`), 1 have none.",
        ] {
            assert!(page.contains(row), "{row}\n{page}");
        }
    }

    #[test]
    fn tests_that_do_not_run_are_none() {
        let source =
            "#[test]\n#[ignore = \"slow\"]\nfn mqtt_1_0_0_1_a() {}\n#[test]\nfn mqtt_1_0_0_2_b() {}\n";
        let tests = tests_in("a.rs", source);
        assert_eq!(tests, [Test { file: "a.rs".into(), name: "mqtt_1_0_0_2_b".into() }]);
        let main = "//! Two.\nmod a;\n// mod b;\n";
        assert!(is_declared(main, "a.rs") && is_declared(main, "main.rs"));
        assert!(!is_declared(main, "b.rs") && !is_declared(main, "c.rs"));
    }

    #[test]
    fn what_does_not_fit_is_reported() {
        let lines = parse(LIST).unwrap();
        let source =
            "#[test]\nfn mqtt_1_0_0_11_b() {}\n#[test]\nfn mqtt_1_0_0_3_d() {}\n#[test]\nfn other() {}\n";
        let wrong = disagreements(&lines, &tests_in("a.rs", source));
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(parse("MQTT-1 | nobody knows | A").is_err());
        assert!(parse("MQTT-1 | server").is_err());
        assert!(disagreements(&parse(&format!("{LIST}{LIST}")).unwrap(), &[]).len() > 3);
    }
}
