//! A hook line's value as a tree with positions, the same for JSON (in `.conf` files) and TOML.

use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::DeValue;

/// A value and the byte offset at which it begins in its source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) offset: usize,
    pub(crate) kind: Kind,
}

/// What a [`Node`] is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// Keys with their offsets, in order; a repeated key stays.
    Table(Vec<(String, usize, Node)>),
}

impl Kind {
    /// How a message names it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a fraction",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Table(_) => "an object",
        }
    }
}

/// A text that is no JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonError {
    /// Byte offset in the text.
    pub(crate) offset: usize,
    pub(crate) message: String,
}

/// The documents nest three levels deep.
const MAX_DEPTH: usize = 8;

/// Reads one JSON object; `text` is one line.
pub(crate) fn from_json(text: &str) -> Result<Node, JsonError> {
    // Checks the whole syntax, with serde_json's own limit of nesting.
    serde_json::from_str::<serde_json::Value>(text).map_err(|error| {
        let words = error.to_string();
        let words = words.rsplit_once(" at line ").map_or(&*words, |(words, _)| words);
        let offset = error.column().saturating_sub(1).min(text.len());
        let offset = (0..=offset).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        JsonError { offset, message: format!("the value is not a JSON object: {words}") }
    })?;
    let node = read(text, text, 0)?;
    match node.kind {
        Kind::Table(_) => Ok(node),
        other => Err(JsonError {
            offset: 0,
            message: format!("expected a JSON object {{...}}, not {}", other.name()),
        }),
    }
}

fn read(whole: &str, part: &str, depth: usize) -> Result<Node, JsonError> {
    let offset = part.as_ptr() as usize - whole.as_ptr() as usize;
    let part = part.trim();
    let wrong = |error: serde_json::Error| JsonError { offset, message: error.to_string() };
    if depth > MAX_DEPTH {
        return Err(JsonError { offset, message: format!("nested deeper than {MAX_DEPTH} levels") });
    }
    let kind = match part.as_bytes().first() {
        Some(b'{') => {
            let fields = serde_json::Deserializer::from_str(part).deserialize_map(Fields).map_err(wrong)?;
            let mut table = Vec::with_capacity(fields.len());
            for (key, raw) in fields {
                let value = read(whole, raw.get(), depth + 1)?;
                let before = whole.get(..value.offset).unwrap_or_default();
                let close = before.rfind('"').unwrap_or(value.offset);
                let open = before.get(..close).and_then(|b| b.rfind('"')).unwrap_or(close);
                table.push((key, open, value));
            }
            Kind::Table(table)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(part).map_err(wrong)?;
            Kind::List(
                items.into_iter().map(|raw| read(whole, raw.get(), depth + 1)).collect::<Result<_, _>>()?,
            )
        }
        _ => match serde_json::from_str(part).map_err(wrong)? {
            serde_json::Value::Null => Kind::Null,
            serde_json::Value::Bool(b) => Kind::Boolean(b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(i) => Kind::Integer(i),
                None => Kind::Float(n.as_f64().unwrap_or(f64::MAX)),
            },
            serde_json::Value::String(s) => Kind::Text(s),
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => Kind::Null,
        },
    };
    Ok(Node { offset, kind })
}

/// Collects the fields of an object in order, values unread.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

/// The tree of a TOML value.
pub(crate) fn from_toml(value: &toml::Spanned<DeValue<'_>>) -> Node {
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Kind::Integer(integer),
            Err(_) => Kind::Float(f64::MAX),
        },
        DeValue::Float(float) => Kind::Float(float.as_str().parse().unwrap_or(f64::MAX)),
        DeValue::Boolean(boolean) => Kind::Boolean(*boolean),
        DeValue::Datetime(datetime) => Kind::Text(datetime.to_string()),
        DeValue::Array(items) => Kind::List(items.iter().map(from_toml).collect()),
        DeValue::Table(table) => {
            let mut fields: Vec<_> = table
                .iter()
                .map(|(key, value)| (key.get_ref().clone().into_owned(), key.span().start, from_toml(value)))
                .collect();
            fields.sort_by_key(|(_, offset, _)| *offset);
            Kind::Table(fields)
        }
    };
    Node { offset: value.span().start, kind }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn json_values_and_keys_know_where_they_begin() {
        let text = r#"{"topic": "q/#", "action" : {"sql": ["a", 5]}}"#;
        let node = from_json(text).unwrap();
        let Kind::Table(fields) = node.kind else { panic!("table") };
        let (key, key_offset, value) = fields.get(1).unwrap();
        assert_eq!((&**key, *key_offset), ("action", text.find("\"action").unwrap()));
        assert_eq!(value.offset, text.find("{\"sql").unwrap());
        let Kind::Table(inner) = &value.kind else { panic!("table") };
        let Kind::List(items) = &inner.first().unwrap().2.kind else { panic!("list") };
        assert_eq!(items.get(1).unwrap(), &Node { offset: text.find('5').unwrap(), kind: Kind::Integer(5) });
    }

    #[test]
    fn a_repeated_key_is_kept_for_the_reader_to_refuse() {
        let Kind::Table(fields) = from_json(r#"{"a": 1, "a": 2}"#).unwrap().kind else { panic!("table") };
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn errors_name_what_was_expected() {
        let wrong = from_json(r#"{"a": 1, b": 2}"#).unwrap_err();
        assert_eq!(
            (wrong.offset, &*wrong.message),
            (9, "the value is not a JSON object: key must be a string")
        );
        assert!(from_json("[1]").unwrap_err().message.contains("expected a JSON object"));
        assert!(from_json(r#"{"a": 1} x"#).unwrap_err().message.contains("trailing characters"));
    }
}
