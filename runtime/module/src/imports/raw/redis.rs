//! `redis.*` of the world `raw`: words on their way in, replies on their way out.
//!
//! JSON nests, so a reply is what it looks like. Values are bytes and by far the most frequent, so they are plain text when
//! they are UTF-8; what else could be taken for one is an object with one key, which is its type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};
use tidegate_event::{Reply, ReplyError};

use super::Refusal;

/// The words of a command.
pub(super) fn words(command: Vec<Json>) -> Result<Vec<Vec<u8>>, Refusal> {
    command.into_iter().map(word).collect()
}

/// Text, a number in decimal digits, or `{"base64": "..."}`.
fn word(json: Json) -> Result<Vec<u8>, Refusal> {
    match json {
        Json::String(text) => Ok(text.into_bytes()),
        Json::Number(number) => Ok(number.to_string().into_bytes()),
        Json::Object(object) if object.len() == 1 && object.contains_key("base64") => {
            let text = object.get("base64").and_then(Json::as_str);
            let bytes = text.and_then(|text| BASE64.decode(text).ok());
            bytes.ok_or_else(|| Refusal::invalid("base64: expected base64 text"))
        }
        other => Err(Refusal::invalid(format!(
            "a word of a command is text, a number or {{\"base64\":\"...\"}}, found {other}"
        ))),
    }
}

/// A reply as a guest takes it.
pub(super) fn reply(reply: Reply) -> Json {
    match reply {
        Reply::Nil => Json::Null,
        Reply::Integer(number) => number.into(),
        // Infinities are no numbers in JSON.
        Reply::Double(number) if !number.is_finite() => number.to_string().into(),
        Reply::Double(number) => number.into(),
        Reply::Boolean(flag) => flag.into(),
        Reply::Status(text) => json!({ "status": text }),
        Reply::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(bytes) => json!({ "base64": BASE64.encode(bytes.as_bytes()) }),
        },
        Reply::List(list) => list.into_iter().map(self::reply).collect(),
        Reply::Map(pairs) => {
            let pair = |(key, value)| json!([self::reply(key), self::reply(value)]);
            json!({ "map": pairs.into_iter().map(pair).collect::<Json>() })
        }
        Reply::Error(ReplyError { code, message, retryable }) => {
            json!({ "error": { "code": code, "message": message, "retryable": retryable } })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_word_is_text_or_a_number_or_bytes() {
        let read = |json: Json| words(vec![json]).map(|mut words| words.remove(0)).map_err(|no| no.message);
        assert_eq!(read(json!("é \r\n")), Ok("é \r\n".as_bytes().to_vec()));
        assert_eq!(read(json!(-5)), Ok(b"-5".to_vec()));
        assert_eq!(read(json!(0.5)), Ok(b"0.5".to_vec()));
        assert_eq!(read(json!({"base64": "/wA="})), Ok(vec![255, 0]));
        assert!(read(json!({"base64": "*"})).unwrap_err().contains("base64"));
        for wrong in [json!(null), json!(true), json!([1]), json!({"a": 1})] {
            assert!(read(wrong.clone()).unwrap_err().contains(&wrong.to_string()), "{wrong}");
        }
    }

    #[test]
    fn every_type_of_a_reply_can_be_told_apart() {
        let refused = ReplyError { code: "ERR".into(), message: "no".into(), retryable: true };
        for (given, expected) in [
            (Reply::Nil, json!(null)),
            (Reply::Integer(i64::MIN), json!(i64::MIN)),
            (Reply::Double(0.5), json!(0.5)),
            (Reply::Double(f64::INFINITY), json!("inf")),
            (Reply::Boolean(true), json!(true)),
            (Reply::Status("OK".into()), json!({"status": "OK"})),
            (Reply::Bytes("é".into()), json!("é")),
            (Reply::Bytes(vec![255]), json!({"base64": "/w=="})),
            (Reply::List(vec![Reply::Nil, Reply::List(vec![Reply::Integer(1)])]), json!([null, [1]])),
            (Reply::Map(vec![(Reply::Bytes(b"k".to_vec()), Reply::Nil)]), json!({"map": [["k", null]]})),
            (Reply::Error(refused), json!({"error": {"code": "ERR", "message": "no", "retryable": true}})),
        ] {
            assert_eq!(reply(given), expected);
        }
    }
}
