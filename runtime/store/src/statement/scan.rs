//! A small scanner of SQL text: enough to tell names, quotes, comments and parameters apart.
//!
//! It knows the quotes of SQLite, MySQL, PostgreSQL and CQL (`'text'`, `"name"`, `` `name` ``, `[name]`) and both
//! comments. It does not judge the SQL: the database does.

use std::ops::Range;

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) range: Range<usize>,
}

/// What a piece is. Blanks and comments are no tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A keyword, an unquoted name or a number.
    Word,
    /// `'...'`.
    Text,
    /// `"..."`, `` `...` `` or `[...]`: a name.
    Name,
    /// `${...}` outside quotes and comments.
    Placeholder,
    /// `?`, `?1`, `$1`, `:name`, `@name`.
    Parameter,
    /// Any other character.
    Other,
}

/// A quote, comment or placeholder that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclosed {
    pub(super) what: &'static str,
    pub(super) offset: usize,
}

/// Splits `sql` into tokens.
pub(super) fn scan(sql: &str) -> Result<Vec<Token>, Unclosed> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = sql.get(at..)
        && let Some(first) = rest.chars().next()
    {
        let unclosed = |what| Unclosed { what, offset: at };
        let (kind, length) = match first {
            c if c.is_whitespace() => (None, c.len_utf8()),
            '-' if rest.starts_with("--") => (None, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => {
                let end = rest.get(2..).and_then(|r| r.find("*/")).ok_or(unclosed("comment"))?;
                (None, end + 4)
            }
            '\'' => (Some(TokenKind::Text), quoted(rest, '\'').ok_or(unclosed("quote"))?),
            '"' | '`' => (Some(TokenKind::Name), quoted(rest, first).ok_or(unclosed("quote"))?),
            '[' if !follows_value(&tokens) => match rest.find(']') {
                Some(end) => (Some(TokenKind::Name), end + 1),
                None => return Err(unclosed("bracket")),
            },
            '$' if rest.starts_with("${") => {
                let end = rest.find('}').ok_or(unclosed("`${`"))?;
                (Some(TokenKind::Placeholder), end + 1)
            }
            '?' => (Some(TokenKind::Parameter), 1 + run(rest, 1, |c| c.is_ascii_digit())),
            '$' | ':' | '@' if run(rest, 1, is_word) > 0 => {
                (Some(TokenKind::Parameter), 1 + run(rest, 1, is_word))
            }
            c if is_word(c) => (Some(TokenKind::Word), run(rest, 0, is_word)),
            c => (Some(TokenKind::Other), c.len_utf8()),
        };
        if let Some(kind) = kind {
            tokens.push(Token { kind, range: at..at + length });
        }
        at += length;
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_whitespace())
}

/// Bytes of the characters from byte `from` on for which `test` holds.
fn run(text: &str, from: usize, test: impl Fn(char) -> bool) -> usize {
    text.get(from..).map_or(0, |t| t.find(|c| !test(c)).unwrap_or(t.len()))
}

/// Length of the quoted text at the beginning of `rest`; a doubled quote stands for itself.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut at = 1;
    loop {
        at += rest.get(at..)?.find(quote)? + 1;
        if !rest.get(at..)?.starts_with(quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// `a[1]` subscripts something (PostgreSQL, CQL); otherwise a bracket opens a name.
fn follows_value(tokens: &[Token]) -> bool {
    matches!(tokens.last(), Some(Token { kind: TokenKind::Placeholder, .. }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn kinds(sql: &str) -> Vec<(TokenKind, &str)> {
        scan(sql).unwrap().into_iter().map(|t| (t.kind, sql.get(t.range).unwrap())).collect()
    }

    #[test]
    fn quotes_comments_and_parameters_are_told_apart() {
        use TokenKind::*;
        assert_eq!(
            kinds("select 'it''s ${x}', \"n\"\"m\" -- ${no}\n from [t] /* ' */ where a=${b} and c=?2;"),
            [
                (Word, "select"),
                (Text, "'it''s ${x}'"),
                (Other, ","),
                (Name, "\"n\"\"m\""),
                (Word, "from"),
                (Name, "[t]"),
                (Word, "where"),
                (Word, "a"),
                (Other, "="),
                (Placeholder, "${b}"),
                (Word, "and"),
                (Word, "c"),
                (Other, "="),
                (Parameter, "?2"),
                (Other, ";"),
            ]
        );
        assert_eq!(
            kinds(":a @b $1 ??"),
            [(Parameter, ":a"), (Parameter, "@b"), (Parameter, "$1"), (Parameter, "?"), (Parameter, "?")]
        );
        assert_eq!(kinds("größe é"), [(Word, "größe"), (Word, "é")]);
    }

    #[test]
    fn what_does_not_end_is_named() {
        for (sql, what, offset) in [
            ("a 'b", "quote", 2),
            ("\"", "quote", 0),
            ("/* x", "comment", 0),
            ("x ${a", "`${`", 2),
            ("[a", "bracket", 0),
        ] {
            assert_eq!(scan(sql), Err(Unclosed { what, offset }), "{sql}");
        }
    }
}
