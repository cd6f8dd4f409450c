//! Replies to Redis commands for `tidegate test`, in the form in which modules of the world `raw` get them
//! (`docs/raw-modules.md`).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};
use tidegate_event::{Reply, ReplyError};

use super::{read_json, shown};

/// What a reply may look like.
const EXPECTED: &str = "null, a number, true or false, a text, a list, or an object with one of base64, status, map \
                        (a list of pairs) and error (code, message, retryable)";

/// The replies of a file, a list.
///
/// # Errors
/// All mistakes, each with the file and the place in the list.
pub(super) fn read(path: &Path) -> Result<Vec<Reply>, Vec<String>> {
    replies(&shown(path), &read_json(path)?)
}

fn replies(place: &str, value: &Value) -> Result<Vec<Reply>, Vec<String>> {
    let Value::Array(list) = value else { return Err(vec![format!("{place}: expected a list of replies")]) };
    let (mut replies, mut mistakes) = (Vec::new(), Vec::new());
    for (number, value) in list.iter().enumerate() {
        match reply(value) {
            Some(reply) => replies.push(reply),
            None => mistakes.push(format!("{place}[{number}]: expected {EXPECTED}, found {value}")),
        }
    }
    if mistakes.is_empty() { Ok(replies) } else { Err(mistakes) }
}

fn reply(value: &Value) -> Option<Reply> {
    Some(match value {
        Value::Null => Reply::Nil,
        Value::Bool(value) => Reply::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Reply::Integer(number),
            None => Reply::Double(number.as_f64()?),
        },
        Value::String(text) => Reply::Bytes(text.clone().into_bytes()),
        Value::Array(list) => Reply::List(list.iter().map(reply).collect::<Option<_>>()?),
        Value::Object(object) => typed(object)?,
    })
}

/// An object with one key, which is the type.
fn typed(object: &Map<String, Value>) -> Option<Reply> {
    let mut keys = object.iter();
    let (Some((kind, value)), None) = (keys.next(), keys.next()) else { return None };
    Some(match kind.as_str() {
        "base64" => Reply::Bytes(BASE64.decode(value.as_str()?).ok()?),
        "status" => Reply::Status(value.as_str()?.to_owned()),
        "map" => {
            let pair = |pair: &Value| match pair.as_array()?.as_slice() {
                [key, value] => Some((reply(key)?, reply(value)?)),
                _ => None,
            };
            Reply::Map(value.as_array()?.iter().map(pair).collect::<Option<_>>()?)
        }
        "error" => {
            let text = |key: &str| Some(value.get(key)?.as_str()?.to_owned());
            let retryable = value.get("retryable").is_some_and(|value| *value == Value::Bool(true));
            Reply::Error(ReplyError { code: text("code")?, message: text("message")?, retryable })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn every_reply_has_a_form() {
        let error =
            |retryable| Reply::Error(ReplyError { code: "ERR".into(), message: "no".into(), retryable });
        let forms = json!([
            null, -1, 0.5, true, "é", {"base64": "/w=="}, {"status": "OK"}, [[1], null], {"map": [["k", 1]]},
            {"error": {"code": "ERR", "message": "no", "retryable": true}},
            {"error": {"code": "ERR", "message": "no"}},
        ]);
        let expected = vec![
            Reply::Nil,
            Reply::Integer(-1),
            Reply::Double(0.5),
            Reply::Boolean(true),
            Reply::Bytes("é".into()),
            Reply::Bytes(vec![255]),
            Reply::Status("OK".into()),
            Reply::List(vec![Reply::List(vec![Reply::Integer(1)]), Reply::Nil]),
            Reply::Map(vec![(Reply::Bytes("k".into()), Reply::Integer(1))]),
            error(true),
            error(false),
        ];
        assert_eq!(replies("r.json", &forms), Ok(expected));
    }

    #[test]
    fn what_is_no_reply_is_named_with_its_place() {
        let wrong = json!([1, {"satus": "OK"}, {"map": [["k"]]}, [{"base64": "*"}], {"error": "no"}]);
        let mistakes = replies("r.json", &wrong).unwrap_err();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(mistakes[0].starts_with("r.json[1]: expected null, a number"), "{mistakes:?}");
        assert!(mistakes[0].ends_with("found {\"satus\":\"OK\"}"), "{mistakes:?}");
        assert_eq!(replies("r.json", &json!({})), Err(vec!["r.json: expected a list of replies".into()]));
    }
}
