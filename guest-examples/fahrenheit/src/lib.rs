//! Adds the temperature in Fahrenheit to JSON messages that have it in Celsius.

use serde_json::{Map, Number, Value};
use tidegate_sdk::{Client, Event, Message, Result, Verdict, export};

/// The field that is added. Change it, build and copy the file again: the next message has the new name.
/// (The demo does so by replacing the text between the quotes; keep it on one line.)
const FIELD: &str = "fahrenheit";

export!(message_publish: convert);

fn convert(_: Event, _: Option<Client>, message: Message) -> Result<Verdict> {
    Ok(match with_fahrenheit(&message.payload) {
        Some(payload) => Verdict::Replace(message.with_payload(payload)),
        None => Verdict::Pass,
    })
}

/// The JSON object in `payload` with [`FIELD`] added; `None` when it is no object with a number `celsius`.
fn with_fahrenheit(payload: &[u8]) -> Option<Vec<u8>> {
    let mut object: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    let celsius = object.get("celsius")?.as_f64()?;
    let fahrenheit = ((celsius * 1.8 + 32.0) * 100.0).round() / 100.0;
    // No JSON number is infinite: a celsius near the limit of f64 passes unchanged.
    object.insert(FIELD.to_owned(), Value::Number(Number::from_f64(fahrenheit)?));
    serde_json::to_vec(&object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(payload: &str) -> Option<String> {
        with_fahrenheit(payload.as_bytes()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn the_field_comes_last_and_the_others_stay_as_they_are() {
        let payload =
            r#"{"z":1,"device":"d1","celsius":21.5,"id":123456789012345678901234567890,"a":[1.50]}"#;
        let expected = format!("{},\"{FIELD}\":70.7}}", payload.trim_end_matches('}'));
        assert_eq!(converted(payload), Some(expected));
    }

    #[test]
    fn it_is_rounded_to_two_digits() {
        assert_eq!(
            converted(r#"{"celsius":-17.7777}"#),
            Some(format!(r#"{{"celsius":-17.7777,"{FIELD}":0.0}}"#))
        );
        assert_eq!(
            converted(r#"{"celsius":36.66}"#),
            Some(format!(r#"{{"celsius":36.66,"{FIELD}":97.99}}"#))
        );
    }

    #[test]
    fn a_field_that_is_there_already_is_replaced_in_its_place() {
        let payload = format!(r#"{{"{FIELD}":0,"celsius":100}}"#);
        assert_eq!(converted(&payload), Some(format!(r#"{{"{FIELD}":212.0,"celsius":100}}"#)));
    }

    #[test]
    fn what_is_no_reading_passes_unchanged() {
        for payload in
            ["", "21.5", "not json", "[1]", "{}", r#"{"celsius":"21.5"}"#, r#"{"celsius":null}"#, "\u{0}"]
        {
            assert_eq!(converted(payload), None, "{payload:?}");
        }
        assert_eq!(with_fahrenheit(b"\xff\xfe"), None);
        assert_eq!(converted(r#"{"celsius":1e308}"#), None);
    }
}
