//! Statements: templates with `${...}` variables, and checks of the statements that guests run directly.
//!
//! `${name}` becomes a bound parameter and is never pasted into the text. So it can stand only where a value can:
//! inside quotes it would be plain text, in the place of a name the database could not bind it. Both are refused
//! when the statement is compiled, with the reason.

mod cache;
pub(crate) mod command;
mod scan;

use std::sync::Arc;

use bytes::Bytes;
use tidegate_event::{Event, Field, Hook, Node, Value};

pub(crate) use cache::TemplateCache;
use scan::{Token, TokenKind, scan};

use crate::config::suggestion;

/// Why a statement cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StatementError {
    /// A variable that the hook does not offer.
    #[error("{hook} has no variable ${{{name}}}{suggestion}")]
    UnknownVariable {
        /// The hook's name.
        hook: &'static str,
        /// The variable as written.
        name: String,
        /// The nearest one, or all.
        suggestion: String,
    },
    /// `'${x}'`: the quotes would make it plain text.
    #[error("{0} stands inside quotes: write it without them, it is bound as a value")]
    InQuotes(String),
    /// `insert into ${x}`: names cannot be bound.
    #[error("{0} stands in the place of a name: only values can be variables ({1})")]
    InPlaceOfName(String, &'static str),
    /// `?` or `:name` in a template.
    #[error("{0} is no variable: write ${{name}}")]
    Parameter(String),
    /// A parameter form that the driver does not take.
    #[error("{0}: write parameters as ? or ?1")]
    ParameterForm(String),
    /// Parameters and values differ in number.
    #[error("the statement takes {wanted} parameters, {given} were given")]
    ParameterCount {
        /// Parameters in the statement.
        wanted: usize,
        /// Values given.
        given: usize,
    },
    /// A quote or comment that does not end.
    #[error("the {0} at column {1} is not closed")]
    Unclosed(&'static str, usize),
    /// A word of a command that cannot be taken as it is written.
    #[error("{0}")]
    Word(String),
    /// Nothing to run.
    #[error("the statement is empty")]
    Empty,
    /// Several statements in one text.
    #[error("one statement at a time: found text after `;`")]
    Several,
    /// A statement that would change the connection, not the data.
    #[error("{0} is not allowed: connections are shared and opened by the runtime")]
    NotAllowed(String),
}

/// What a statement is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// SQL or a language like it: variables become bound parameters.
    Sql,
    /// Commands of words, as Redis takes them: see `command`.
    Commands,
}

/// A value of a variable, as the event gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Nothing there.
    Null,
    /// A number.
    Integer(i64),
    /// Text.
    Text(Arc<str>),
    /// Bytes: the back end binds what its column wants.
    Bytes(Bytes),
}

impl Bound {
    /// The value of `field` in `event`.
    pub(crate) fn of(event: &Event, field: Field, node: &Node) -> Self {
        match event.value(field, node) {
            Value::Null => Self::Null,
            Value::Int(number) => Self::Integer(number),
            Value::Text(text) => Self::Text(Arc::from(text)),
            Value::Bytes(bytes) => Self::Bytes(bytes.clone()),
        }
    }

    /// Bytes it takes in a queue.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Null | Self::Integer(_) => 16,
            Self::Text(text) => 16 + text.len(),
            Self::Bytes(bytes) => 16 + bytes.len(),
        }
    }
}

/// A statement whose variables have become parameters: `?1`, `?2` ... of an SQL text, or pieces of a command's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: Arc<str>,
    /// The same as `text` for a command.
    written: Arc<str>,
    hook: Hook,
    fields: Vec<Field>,
    /// The words of a command; none in SQL.
    words: Vec<command::Word>,
}

impl Template {
    /// Compiles `text` with the variables of `hook`.
    ///
    /// # Errors
    /// What is wrong with it; the database has not seen it yet.
    pub fn compile(text: &str, hook: Hook, language: Language) -> Result<Self, StatementError> {
        match language {
            Language::Sql => Self::compile_sql(text, hook),
            Language::Commands => {
                let (words, fields) = command::compile(text, hook)?;
                let text: Arc<str> = text.into();
                Ok(Self { written: Arc::clone(&text), text, hook, fields, words })
            }
        }
    }

    fn compile_sql(text: &str, hook: Hook) -> Result<Self, StatementError> {
        let tokens = tokens_of(text)?;
        check_shape(text, &tokens)?;
        let mut sql = String::with_capacity(text.len());
        let mut fields = Vec::new();
        let mut copied = 0;
        for (index, token) in tokens.iter().enumerate() {
            let part = text.get(token.range.clone()).unwrap_or_default();
            match token.kind {
                TokenKind::Text if part.contains("${") => {
                    return Err(StatementError::InQuotes(placeholder_in(part)));
                }
                TokenKind::Name if part.contains("${") => {
                    return Err(StatementError::InPlaceOfName(
                        placeholder_in(part),
                        "quotes like these make a name",
                    ));
                }
                TokenKind::Parameter => return Err(StatementError::Parameter(part.to_owned())),
                TokenKind::Placeholder => {
                    let name = part.trim_start_matches("${").trim_end_matches('}');
                    let field = field(name, hook)?;
                    if let Some(why) = name_position(text, &tokens, index) {
                        return Err(StatementError::InPlaceOfName(part.to_owned(), why));
                    }
                    let number = fields.iter().position(|f| *f == field).unwrap_or_else(|| {
                        fields.push(field);
                        fields.len() - 1
                    });
                    sql.push_str(text.get(copied..token.range.start).unwrap_or_default());
                    sql.push_str(&format!("?{}", number + 1));
                    copied = token.range.end;
                }
                TokenKind::Text | TokenKind::Name | TokenKind::Word | TokenKind::Other => {}
            }
        }
        sql.push_str(text.get(copied..).unwrap_or_default());
        Ok(Self { written: text.into(), hook, text: sql.into(), fields, words: Vec::new() })
    }

    /// The statement as it was written: with [`Self::hook`] and [`Self::language`] it compiles to the same.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// The hook whose variables it has.
    pub(crate) fn hook(&self) -> Hook {
        self.hook
    }

    /// The language it is in.
    pub(crate) fn language(&self) -> Language {
        if self.words.is_empty() { Language::Sql } else { Language::Commands }
    }

    /// An SQL statement with parameters `?1`, `?2` ..., a command as it was written.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The words of a command with these values of its variables; none of an SQL statement.
    pub fn words(&self, values: &[Bound]) -> Vec<Vec<u8>> {
        self.words.iter().map(|word| word.with(values)).collect()
    }

    /// The values of its parameters for `event`, in their order.
    pub(crate) fn bind(&self, event: &Event, node: &Node) -> Box<[Bound]> {
        self.fields.iter().map(|field| Bound::of(event, *field, node)).collect()
    }
}

/// Checks a statement that a guest runs directly with `given` values: one statement, about data, with parameters
/// that the driver can bind.
pub(crate) fn check_direct(sql: &str, given: usize) -> Result<(), StatementError> {
    let tokens = tokens_of(sql)?;
    check_shape(sql, &tokens)?;
    let mut wanted = 0;
    for token in tokens.iter().filter(|t| matches!(t.kind, TokenKind::Parameter | TokenKind::Placeholder)) {
        let part = sql.get(token.range.clone()).unwrap_or_default();
        let number = part.get(1..).unwrap_or_default();
        match (part.get(..1), number.parse::<usize>()) {
            (Some("?"), Err(_)) if number.is_empty() => wanted += 1,
            (Some("?"), Ok(n)) if n > 0 => wanted = wanted.max(n),
            _ => return Err(StatementError::ParameterForm(part.to_owned())),
        }
    }
    if wanted == given { Ok(()) } else { Err(StatementError::ParameterCount { wanted, given }) }
}

/// Whether the statement inserts, updates or deletes rows, as far as its first word says.
pub fn changes_rows(sql: &str) -> bool {
    let tokens = scan(sql).unwrap_or_default();
    let first = tokens.first().and_then(|t| sql.get(t.range.clone())).unwrap_or_default();
    ["insert", "replace", "update", "delete", "with"].iter().any(|word| first.eq_ignore_ascii_case(word))
}

/// Statements that read or change data or tables. The rest (PRAGMA, ATTACH, BEGIN, VACUUM INTO ...) changes the
/// connection that others share, or reaches files.
const ALLOWED: [&str; 13] = [
    "select", "insert", "replace", "update", "delete", "with", "values", "create", "drop", "alter",
    "explain", "analyze", "reindex",
];

fn tokens_of(sql: &str) -> Result<Vec<Token>, StatementError> {
    scan(sql).map_err(|open| {
        let column = sql.get(..open.offset).map_or(0, |s| s.chars().count()) + 1;
        StatementError::Unclosed(open.what, column)
    })
}

fn check_shape(sql: &str, tokens: &[Token]) -> Result<(), StatementError> {
    let text = |token: &Token| sql.get(token.range.clone()).unwrap_or_default();
    let Some(first) = tokens.first().map(text).filter(|t| *t != ";") else {
        return Err(StatementError::Empty);
    };
    if let Some(end) = tokens.iter().position(|t| text(t) == ";")
        && end + 1 < tokens.len()
    {
        return Err(StatementError::Several);
    }
    if !ALLOWED.iter().any(|word| first.eq_ignore_ascii_case(word)) {
        return Err(StatementError::NotAllowed(first.to_uppercase()));
    }
    Ok(())
}

fn field(name: &str, hook: Hook) -> Result<Field, StatementError> {
    let row = hook.row();
    row.fields.iter().copied().find(|f| f.name() == name).ok_or_else(|| StatementError::UnknownVariable {
        hook: row.name,
        name: name.to_owned(),
        suggestion: suggestion(name, row.fields.iter().map(|f| f.name())),
    })
}

fn placeholder_in(part: &str) -> String {
    let from = part.find("${").and_then(|at| part.get(at..)).unwrap_or(part);
    from.find('}').and_then(|end| from.get(..=end)).unwrap_or(from).to_owned()
}

/// Whether the placeholder `index` stands where SQL wants a name, and why.
fn name_position(sql: &str, tokens: &[Token], index: usize) -> Option<&'static str> {
    let text = |at: usize| tokens.get(at).and_then(|t| sql.get(t.range.clone())).unwrap_or_default();
    let token = tokens.get(index)?;
    let before = index.checked_sub(1).and_then(|at| tokens.get(at));
    let previous = index.checked_sub(1).map(text).unwrap_or_default().to_ascii_lowercase();
    let next = text(index + 1);
    let is_name = |t: &Token| matches!(t.kind, TokenKind::Word | TokenKind::Name | TokenKind::Placeholder);
    let touches = before.is_some_and(|t| is_name(t) && t.range.end == token.range.start)
        || tokens.get(index + 1).is_some_and(|t| is_name(t) && t.range.start == token.range.end);
    if touches {
        return Some("it touches a name, a number or another variable");
    }
    if previous == "." || next == "." {
        return Some("next to a dot stands a name");
    }
    let before_that = index.checked_sub(2).map(text).unwrap_or_default();
    match &*previous {
        "from" if before_that.eq_ignore_ascii_case("distinct") => {} // a is distinct from ${b}
        "into" | "from" | "update" | "join" | "table" | "exists" | "view" | "index" | "trigger" => {
            return Some("a table is named here");
        }
        "as" | "set" | "by" | "column" | "collate" => return Some("a name is wanted here"),
        _ => {}
    }
    if next == "(" {
        return Some("a function is named here");
    }
    in_column_list(index, text).then_some("a column is named here")
}

/// `insert into NAME (..., ${x}, ...)`: within the first parentheses after the table.
fn in_column_list<'a>(index: usize, text: impl Fn(usize) -> &'a str) -> bool {
    let mut depth = 0_usize;
    for at in (0..index).rev() {
        match text(at) {
            ")" => depth += 1,
            "(" if depth > 0 => depth -= 1,
            "(" => {
                // `into NAME (` or `into SCHEMA.NAME (`.
                let back = |n: usize| at.checked_sub(n).map(&text).unwrap_or_default();
                return back(2).eq_ignore_ascii_case("into")
                    || (back(2) == "." && back(4).eq_ignore_ascii_case("into"));
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn compile(text: &str) -> Result<Template, StatementError> {
        Template::compile(text, Hook::MessagePublish, Language::Sql)
    }

    #[test]
    fn variables_become_numbered_parameters_once_each() {
        let template =
            compile("insert into msg(msgid, topic, again) values(${msgid}, ${topic}, ${msgid}) -- ${x}")
                .unwrap();
        assert_eq!(&**template.text(), "insert into msg(msgid, topic, again) values(?1, ?2, ?1) -- ${x}");
        assert_eq!(template.fields, [Field::Msgid, Field::Topic]);
    }

    #[test]
    fn every_statement_of_the_documents_compiles() {
        for (hook, text) in [
            (Hook::ClientConnected, "insert into conn(clientid) values(${clientid})"),
            (Hook::ClientDisconnected, "insert into disconn(clientid) values(${clientid})"),
            (Hook::SessionSubscribed, "insert into sub(topic, qos) values(${topic}, ${qos})"),
            (Hook::SessionUnsubscribed, "delete from sub where topic = ${topic}"),
            (
                Hook::SessionUnsubscribed,
                "delete from mqtt_acked where clientid = ${clientid} and topic = ${topic}",
            ),
            (Hook::MessagePublish, "insert into msg(msgid, topic) values(${msgid}, ${topic})"),
            (Hook::MessageAcked, "insert into ack(msgid, topic) values(${msgid}, ${topic})"),
            (Hook::MessageDeliver, "insert into deliver(msgid, topic) values(${msgid}, ${topic})"),
        ] {
            assert!(Template::compile(text, hook, Language::Sql).is_ok(), "{text}");
        }
    }

    #[test]
    fn an_unknown_variable_names_the_nearest() {
        let error = compile("delete from t where a = ${topik}").unwrap_err();
        assert_eq!(error.to_string(), "message.publish has no variable ${topik}; did you mean \"topic\"?");
        assert!(
            Template::compile("delete from t where a = ${payload}", Hook::ClientConnected, Language::Sql)
                .is_err()
        );
    }

    #[test]
    fn quotes_around_a_variable_are_refused() {
        let error = compile("insert into t values ('${topic}')").unwrap_err();
        assert_eq!(error, StatementError::InQuotes("${topic}".into()));
        assert!(error.to_string().contains("inside quotes"));
        assert!(matches!(compile("select 'a ${topic} b'"), Err(StatementError::InQuotes(_))));
    }

    #[test]
    fn a_variable_in_the_place_of_a_name_is_refused() {
        for bad in [
            "insert into ${topic} values (1)",
            "insert into t(a, ${topic}) values (1, 2)",
            "insert into main.t(${topic}) values (1)",
            "select * from ${topic}",
            "select * from a join ${topic}",
            "update ${topic} set a = 1",
            "update t set ${topic} = 1",
            "select ${topic}.a from t",
            "select t.${topic} from t",
            "select a as ${topic} from t",
            "select a from t order by ${topic}",
            "select ${topic}(a) from t",
            "select \"${topic}\" from t",
            "select `${topic}` from t",
            "select [${topic}] from t",
            "insert into t_${topic} values (1)",
            "select a from ${topic}_t",
            "select ${topic}${qos}",
            "drop table ${topic}",
            "drop table if exists ${topic}",
        ] {
            assert!(
                matches!(compile(bad), Err(StatementError::InPlaceOfName(..))),
                "{bad}: {:?}",
                compile(bad)
            );
        }
        for good in [
            "insert into t select ${topic}, ${qos}",
            "insert into t select lower(${topic})",
            "select a from t where b is distinct from ${topic}",
            "insert into t values ((${topic}))",
            "insert into t(a) values (lower(${topic}))",
            "select a from t where b in (${topic}, ${qos}) limit 1",
            "replace into t(a, b) values (${topic}, ${payload}) ;",
            "update t set a = ${topic}, b = ${qos} where c = ${clientid}",
            "insert into t(a) values (${topic}) on conflict(a) do update set a = ${topic}",
        ] {
            assert!(compile(good).is_ok(), "{good}: {:?}", compile(good));
        }
    }

    #[test]
    fn other_parameters_and_unclosed_quotes_are_refused() {
        assert_eq!(compile("delete from t where a = ?"), Err(StatementError::Parameter("?".into())));
        assert_eq!(compile("delete from t where a = :a"), Err(StatementError::Parameter(":a".into())));
        assert_eq!(compile("delete from t where a = 'x"), Err(StatementError::Unclosed("quote", 25)));
        assert_eq!(compile("delete from t where a = ${x"), Err(StatementError::Unclosed("`${`", 25)));
    }

    #[test]
    fn statements_about_the_connection_are_refused() {
        for bad in ["pragma synchronous = off", "ATTACH 'x' as y", "begin", "COMMIT", "vacuum into 'x'"] {
            assert!(matches!(compile(bad), Err(StatementError::NotAllowed(_))), "{bad}");
        }
        assert_eq!(compile("select 1; pragma x"), Err(StatementError::Several));
        assert_eq!(compile(" -- nothing"), Err(StatementError::Empty));
        assert_eq!(compile(";"), Err(StatementError::Empty));
    }

    #[test]
    fn direct_statements_count_their_parameters() {
        assert_eq!(check_direct("select ?, ?", 2), Ok(()));
        assert_eq!(check_direct("select ?2, ?1, '?'", 2), Ok(()));
        assert_eq!(check_direct("select ?", 0), Err(StatementError::ParameterCount { wanted: 1, given: 0 }));
        for bad in ["select $0", "select :a", "select @a", "select ?0", "select ${topic}", "select $1"] {
            assert!(matches!(check_direct(bad, 1), Err(StatementError::ParameterForm(_))), "{bad}");
        }
    }
}
