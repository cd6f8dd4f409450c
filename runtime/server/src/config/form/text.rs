//! Texts of a form of their own: names, paths of URLs, origins of pages, names of servers.

use toml::de::DeValue;

use super::{Form, expected};

/// A text of at most 65,535 bytes, which is what a string of MQTT holds; may be empty.
pub(crate) struct MqttText;

impl Form<String> for MqttText {
    const SYNTAX: &'static str = "text";

    fn read(value: &DeValue<'_>) -> Result<String, String> {
        match value {
            DeValue::String(text) if text.len() <= usize::from(u16::MAX) && !text.contains('\0') => {
                Ok(text.to_string())
            }
            other => expected("a text of at most 65535 bytes", other),
        }
    }

    fn write(value: &String) -> String {
        format!("{value:?}")
    }
}

/// A text that is not empty and has no control characters.
pub(crate) struct Text;

impl Form<String> for Text {
    const SYNTAX: &'static str = "text";

    fn read(value: &DeValue<'_>) -> Result<String, String> {
        match value {
            DeValue::String(text) if !text.is_empty() && !text.contains(char::is_control) => {
                Ok(text.to_string())
            }
            other => expected("a text", other),
        }
    }

    fn write(value: &String) -> String {
        format!("{value:?}")
    }
}

/// The path of a URL.
pub(crate) struct UrlPath;

impl Form<String> for UrlPath {
    const SYNTAX: &'static str = "path that begins with /";

    fn read(value: &DeValue<'_>) -> Result<String, String> {
        let fits = |text: &str| {
            text.starts_with('/')
                && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
        };
        match value {
            DeValue::String(text) if fits(text) => Ok(text.to_string()),
            other => expected("the path of a URL, such as \"/mqtt\"", other),
        }
    }

    fn write(value: &String) -> String {
        format!("{value:?}")
    }
}

/// Reads a list of texts, each of which `fits`.
fn texts(value: &DeValue<'_>, what: &str, fits: impl Fn(&str) -> bool) -> Result<Vec<String>, String> {
    let DeValue::Array(list) = value else { return expected(&format!("a list of {what}"), value) };
    let text = |value: &DeValue<'_>| match value {
        DeValue::String(text) if fits(text) => Ok(text.to_string()),
        other => expected(what, other),
    };
    list.iter().map(|item| text(item.get_ref())).collect()
}

fn written(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", "))
}

/// Origins of web pages (RFC 6454 clause 6.2).
pub(crate) struct Origins;

impl Form<Vec<String>> for Origins {
    const SYNTAX: &'static str = "list of origins";

    fn read(value: &DeValue<'_>) -> Result<Vec<String>, String> {
        texts(value, "an origin such as \"https://example.com\" or \"https://example.com:8443\"", |text| {
            text.split_once("://").is_some_and(|(scheme, host)| {
                !scheme.is_empty()
                    && !host.is_empty()
                    && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
            })
        })
    }

    fn write(value: &Vec<String>) -> String {
        written(value)
    }
}

/// Names of servers.
pub(crate) struct ServerNames;

impl Form<Vec<String>> for ServerNames {
    const SYNTAX: &'static str = "list of names";

    fn read(value: &DeValue<'_>) -> Result<Vec<String>, String> {
        texts(value, "a name such as \"mqtt.example.com\" or \"*.example.com\"", |text| {
            let name = text.strip_prefix("*.").unwrap_or(text);
            !name.is_empty()
                && name.split('.').all(|label| !label.is_empty())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        })
    }

    fn write(value: &Vec<String>) -> String {
        written(value)
    }
}
