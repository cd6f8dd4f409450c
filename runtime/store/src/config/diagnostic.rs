//! What is wrong (or odd) in a configuration, and where.

use std::fmt;

use super::lines::Position;

/// Whether the configuration can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot: nothing starts half configured.
    Error,
    /// It can, but somebody should look.
    Warning,
}

/// One finding. Displayed as `file:line:column: key: message`, leaving out what is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Name of the file as the caller gave it; empty when there is none.
    pub file: String,
    /// Line, counted from 1.
    pub line: Option<usize>,
    /// Column in characters, counted from 1.
    pub column: Option<usize>,
    /// The key as written (`backend.sqlite.pool1.path`); empty when the line has none.
    pub key: String,
    /// What was found and what was expected.
    pub message: String,
    /// Error or warning.
    pub severity: Severity,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        if !self.file.is_empty() {
            f.write_str(": ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// A place in a configuration source: what a diagnostic needs to point at it later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// File name.
    pub file: String,
    /// Line, counted from 1; 0 when there is none (a pool made by the program).
    pub line: usize,
    /// Column in characters, counted from 1; 0 when there is none.
    pub column: usize,
    /// The key as written.
    pub key: String,
}

impl Place {
    /// The same place at another position of the same line or value.
    #[must_use]
    pub(crate) fn at(&self, position: Position) -> Self {
        Self { line: position.line, column: position.column, ..self.clone() }
    }

    /// An error here.
    pub fn error(&self, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, message.into())
    }

    /// A warning here.
    pub fn warning(&self, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Warning, message.into())
    }

    fn diagnostic(&self, severity: Severity, message: String) -> Diagnostic {
        Diagnostic {
            file: self.file.clone(),
            line: (self.line > 0).then_some(self.line),
            column: (self.column > 0).then_some(self.column),
            key: self.key.clone(),
            message,
            severity,
        }
    }
}

/// `; did you mean "x"?` for the candidate nearest to `wrong`, or the list of all when none is near.
pub(crate) fn suggestion<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = candidates.into_iter().collect();
    all.sort_unstable();
    all.dedup();
    let near = all
        .iter()
        .map(|name| (strsim::osa_distance(wrong, name), *name))
        .filter(|(distance, name)| *distance <= 2.max(name.chars().count() / 3))
        .min();
    match near {
        Some((_, name)) => format!("; did you mean {name:?}?"),
        None if all.is_empty() => String::new(),
        None => format!("; expected one of {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_names_what_it_knows() {
        let place = Place { file: "a.conf".into(), line: 3, column: 7, key: "backend.x".into() };
        assert_eq!(place.error("no").to_string(), "a.conf:3:7: backend.x: no");
        assert_eq!(Place::default().error("no").to_string(), "no");
    }

    #[test]
    fn the_nearest_spelling_is_suggested() {
        assert_eq!(suggestion("pth", ["path", "pool_size"]), "; did you mean \"path\"?");
        assert_eq!(suggestion("zzzzzz", ["b", "a"]), "; expected one of a, b");
    }
}
