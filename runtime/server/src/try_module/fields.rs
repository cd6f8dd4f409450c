//! Reading the keys of a JSON object strictly: an unknown key or a wrong type is a mistake with its place.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

/// A JSON object and where it stands.
pub(super) struct Fields<'a> {
    /// The file, and which of its events.
    place: &'a str,
    /// The keys that lead to it, with a dot at the end; empty at the top.
    path: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The object `value`, whose keys are among `known`.
    pub(super) fn of(
        place: &'a str,
        path: &'a str,
        value: &'a Value,
        known: &[&str],
        mistakes: &mut Vec<String>,
    ) -> Option<Self> {
        let Value::Object(object) = value else {
            let what =
                if path.is_empty() { String::new() } else { format!("{}: ", path.trim_end_matches('.')) };
            mistakes.push(format!("{place}: {what}expected an object, found {}", kind(value)));
            return None;
        };
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = match nearest(key, known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known are {}", known.join(", ")),
            };
            mistakes.push(format!("{place}: {path}{key}: unknown key; {hint}"));
        }
        Some(Self { place, path, object })
    }

    /// The value of `key`; null is as good as nothing.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A mistake of `key`.
    pub(super) fn mistake(&self, key: &str, words: impl std::fmt::Display) -> String {
        format!("{}: {}{key}: {words}", self.place, self.path)
    }

    /// What `read` makes of the value of `key`, or `otherwise` when there is none. When there is one that cannot be
    /// used, that it was `expected` is told.
    pub(super) fn read<T>(
        &self,
        key: &str,
        otherwise: T,
        expected: &str,
        mistakes: &mut Vec<String>,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> T {
        let Some(value) = self.get(key) else { return otherwise };
        read(value).unwrap_or_else(|| {
            mistakes.push(self.mistake(key, format!("expected {expected}, found {}", kind(value))));
            otherwise
        })
    }

    /// A text.
    pub(super) fn text(&self, key: &str, mistakes: &mut Vec<String>) -> Option<&'a str> {
        self.read(key, None, "a text", mistakes, |value| value.as_str().map(Some))
    }

    /// What `parse` makes of the text of `key`, which must be there: it is `expected`.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &self,
        key: &str,
        expected: &str,
        mistakes: &mut Vec<String>,
        parse: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Option<T> {
        if self.get(key).is_none() {
            mistakes.push(self.mistake(key, format!("missing; expected {expected}")));
        }
        let text = self.text(key, mistakes)?;
        parse(text).map_err(|error| mistakes.push(self.mistake(key, format!("{text:?}: {error}")))).ok()
    }

    /// Bytes, as base64.
    pub(super) fn base64(&self, key: &str, mistakes: &mut Vec<String>) -> Option<Vec<u8>> {
        self.read(key, None, "base64", mistakes, |value| BASE64.decode(value.as_str()?).ok().map(Some))
    }

    /// At most one of `keys` is there: each is a form of `what`.
    pub(super) fn one_of(&self, keys: &[&str], what: &str, mistakes: &mut Vec<String>) {
        let given: Vec<_> = keys.iter().filter(|key| self.get(key).is_some()).collect();
        if let [first, second, ..] = given.as_slice() {
            mistakes.push(self.mistake(second, format!("there is {first} already: one of them is {what}")));
        }
    }

    /// True or false; false when nothing is said.
    pub(super) fn flag(&self, key: &str, mistakes: &mut Vec<String>) -> bool {
        self.read(key, false, "true or false", mistakes, Value::as_bool)
    }
}

/// The word of `known` that is nearest to `word`, when one is near.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(word, candidate);
    let best = known.iter().min_by_key(distance)?;
    (distance(&best) <= word.chars().count().max(3) / 3).then_some(*best)
}

/// What a value is, with the value when it is short.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        Value::String(_) => "a long text".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}
