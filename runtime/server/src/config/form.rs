//! The ways a value of `tidegate.toml` may be written: durations, sizes, addresses, words.
//!
//! A [`Form`] reads one kind of value, says what it expected when it cannot, and writes a default back as
//! text for the reference page. The same forms read command line flags, so both accept the same words.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_event::QoS;
use toml::de::{DeInteger, DeValue};

/// Reads and writes values of one kind. `T` is the field's type.
pub(crate) trait Form<T> {
    /// What a reader of the reference page may write.
    const SYNTAX: &'static str;

    /// Reads a value of the file.
    ///
    /// # Errors
    /// What was expected and what stood there.
    fn read(value: &DeValue<'_>) -> Result<T, String>;

    /// The value as it would stand in the file.
    fn write(value: &T) -> String;
}

/// What stands in the file, in words, for "expected ..., found ...".
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", &**text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn expected<T>(what: &str, value: &DeValue<'_>) -> Result<T, String> {
    Err(format!("expected {what}, found {}", found(value)))
}

fn integer(value: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(value.as_str(), value.radix()).ok()
}

/// `name@host`.
pub(crate) struct NodeName;

impl Form<String> for NodeName {
    const SYNTAX: &'static str = "name@host";

    fn read(value: &DeValue<'_>) -> Result<String, String> {
        let well_formed = |text: &str| {
            text.split_once('@').is_some_and(|(name, host)| {
                !name.is_empty()
                    && !host.is_empty()
                    && !host.contains('@')
                    && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
            })
        };
        match value {
            DeValue::String(text) if well_formed(text) => Ok(text.to_string()),
            other => expected("name@host, such as \"tidegate@127.0.0.1\"", other),
        }
    }

    fn write(value: &String) -> String {
        format!("{value:?}")
    }
}

/// A file or directory. Relative paths are relative to the working directory.
pub(crate) struct Path;

impl Form<PathBuf> for Path {
    const SYNTAX: &'static str = "path";

    fn read(value: &DeValue<'_>) -> Result<PathBuf, String> {
        match value {
            DeValue::String(text) if !text.is_empty() && !text.contains('\0') => Ok(PathBuf::from(&**text)),
            other => expected("a path", other),
        }
    }

    fn write(value: &PathBuf) -> String {
        format!("{:?}", value.display().to_string())
    }
}

/// A [`Path`], or `""` for none.
pub(crate) struct PathOrNone;

impl Form<Option<PathBuf>> for PathOrNone {
    const SYNTAX: &'static str = "path, empty for none";

    fn read(value: &DeValue<'_>) -> Result<Option<PathBuf>, String> {
        match value {
            DeValue::String(text) if text.is_empty() => Ok(None),
            _ => Path::read(value).map(Some),
        }
    }

    fn write(value: &Option<PathBuf>) -> String {
        value.as_ref().map_or_else(|| "\"\"".into(), Path::write)
    }
}

/// Reads `IP:PORT`.
///
/// # Errors
/// What was expected.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("expected an address IP:PORT such as \"127.0.0.1:1883\" or \"[::1]:1883\", found {text:?}")
    })
}

/// Addresses `IP:PORT`, or an empty list.
pub(crate) struct Addresses;

impl Form<Vec<SocketAddr>> for Addresses {
    const SYNTAX: &'static str = "list of IP:PORT";

    fn read(value: &DeValue<'_>) -> Result<Vec<SocketAddr>, String> {
        match value {
            DeValue::String(text) => Ok(vec![address(text)?]),
            DeValue::Array(list) => list
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => address(text),
                    other => expected("an address IP:PORT", other),
                })
                .collect(),
            other => expected("a list of addresses IP:PORT", other),
        }
    }

    fn write(value: &Vec<SocketAddr>) -> String {
        let list = value.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>();
        format!("[{}]", list.join(", "))
    }
}

/// One address `IP:PORT`.
pub(crate) struct OneAddress;

impl Form<SocketAddr> for OneAddress {
    const SYNTAX: &'static str = "IP:PORT";

    fn read(value: &DeValue<'_>) -> Result<SocketAddr, String> {
        match value {
            DeValue::String(text) => address(text),
            other => expected("an address IP:PORT", other),
        }
    }

    fn write(value: &SocketAddr) -> String {
        format!("\"{value}\"")
    }
}

/// Reads `IP:PORT` or `off`.
///
/// # Errors
/// What was expected.
pub(crate) fn address_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    address(text).map(Some).map_err(|problem| format!("{problem}; \"off\" switches it off"))
}

/// An address `IP:PORT`, or `"off"`.
pub(crate) struct AddressOrOff;

impl Form<Option<SocketAddr>> for AddressOrOff {
    const SYNTAX: &'static str = "IP:PORT or \"off\"";

    fn read(value: &DeValue<'_>) -> Result<Option<SocketAddr>, String> {
        match value {
            DeValue::String(text) => address_or_off(text),
            other => expected("an address IP:PORT or \"off\"", other),
        }
    }

    fn write(value: &Option<SocketAddr>) -> String {
        value.map_or_else(|| "\"off\"".into(), |address| format!("\"{address}\""))
    }
}

/// A whole number of at least `MIN`, at most what the field can hold.
pub(crate) struct Count<const MIN: u64>;

impl<const MIN: u64, T: TryFrom<u64> + ToString> Form<T> for Count<MIN> {
    const SYNTAX: &'static str = "number";

    fn read(value: &DeValue<'_>) -> Result<T, String> {
        let number = match value {
            DeValue::Integer(number) => integer(number).filter(|n| *n >= MIN),
            _ => None,
        };
        match number.and_then(|n| T::try_from(n).ok()) {
            Some(number) => Ok(number),
            None => expected(&format!("a whole number from {MIN} to {}", largest::<T>()), value),
        }
    }

    fn write(value: &T) -> String {
        value.to_string()
    }
}

/// The largest number that a `T` can hold.
fn largest<T: TryFrom<u64>>() -> u64 {
    (0..=64)
        .rev()
        .map(|bits| u64::MAX.checked_shr(64 - bits).unwrap_or(0))
        .find(|n| T::try_from(*n).is_ok())
        .unwrap_or(0)
}

/// A number of bytes: `"1MiB"`, `"64KB"` or an integer.
pub(crate) struct Size;

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Form<T> for Size {
    const SYNTAX: &'static str = "size";

    fn read(value: &DeValue<'_>) -> Result<T, String> {
        let bytes = match value {
            DeValue::Integer(number) => integer(number),
            DeValue::String(text) => text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()),
            _ => None,
        };
        match bytes.filter(|n| *n > 0).map(T::try_from) {
            Some(Ok(size)) => Ok(size),
            Some(Err(_)) => expected(&format!("a size of at most {} bytes", largest::<T>()), value),
            None => expected("a size such as \"1MiB\" or a number of bytes", value),
        }
    }

    fn write(value: &T) -> String {
        let Ok(bytes) = (*value).try_into() else { return String::new() };
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if bytes > 0 && bytes.trailing_zeros() >= shift {
                return format!("\"{}{unit}\"", bytes >> shift);
            }
        }
        bytes.to_string()
    }
}

/// A [`Size`], or 0 for none at all.
pub(crate) struct SizeOrNone;

impl Form<u64> for SizeOrNone {
    const SYNTAX: &'static str = "size, 0 for none";

    fn read(value: &DeValue<'_>) -> Result<u64, String> {
        match value {
            DeValue::Integer(number) if integer(number) == Some(0) => Ok(0),
            _ => Size::read(value),
        }
    }

    fn write(value: &u64) -> String {
        Size::write(value)
    }
}

/// A length of time: `"5s"`, `"1m 30s"`, `"250ms"`, or an integer of seconds.
pub(crate) struct Span;

impl Form<Duration> for Span {
    const SYNTAX: &'static str = "duration";

    fn read(value: &DeValue<'_>) -> Result<Duration, String> {
        let span = match value {
            DeValue::Integer(number) => integer(number).map(Duration::from_secs),
            DeValue::String(text) => humantime::parse_duration(text).ok(),
            _ => None,
        };
        // Longer than this, adding it to a clock could overflow.
        match span.filter(|span| *span <= Duration::from_secs(u32::MAX.into())) {
            Some(span) => Ok(span),
            None => expected("a duration such as \"5s\", \"250ms\" or a number of seconds", value),
        }
    }

    fn write(value: &Duration) -> String {
        format!("\"{}\"", humantime::format_duration(*value).to_string().replace(' ', ""))
    }
}

/// A length of time kept as whole seconds; `"never"` is the longest.
pub(crate) struct Seconds;

impl Form<u32> for Seconds {
    const SYNTAX: &'static str = "duration or \"never\"";

    fn read(value: &DeValue<'_>) -> Result<u32, String> {
        match value {
            DeValue::String(text) if &**text == "never" => Ok(u32::MAX),
            other => match Span::read(other).map(|span| (u32::try_from(span.as_secs()), span.subsec_nanos()))
            {
                Ok((Ok(seconds), 0)) => Ok(seconds),
                _ => expected("a duration of whole seconds such as \"2h\", or \"never\"", other),
            },
        }
    }

    fn write(value: &u32) -> String {
        if *value == u32::MAX {
            "\"never\"".into()
        } else {
            Span::write(&Duration::from_secs((*value).into()))
        }
    }
}

/// A level (`info`) or levels by target (`info,tidegate_broker=debug`).
pub(crate) struct LogLevel;

/// Checks the directives of a log filter.
///
/// # Errors
/// What was expected.
pub(crate) fn log_level(text: &str) -> Result<String, String> {
    let is_level = |word: &str| word.trim().parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    // The filter's own parser takes any bare word for a target, so that a misspelt level would go unnoticed.
    let is_directive = |part: &str| match part.split_once('=') {
        Some((target, level)) => {
            let target = target.trim();
            let named = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '-';
            !target.is_empty() && target.chars().all(named) && is_level(level)
        }
        None => is_level(part),
    };
    if text.split(',').all(is_directive) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a level (off, error, warn, info, debug, trace) or a list such as \
         \"info,tidegate_broker=debug\", found {text:?}"
    ))
}

impl Form<String> for LogLevel {
    const SYNTAX: &'static str = "level";

    fn read(value: &DeValue<'_>) -> Result<String, String> {
        match value {
            DeValue::String(text) => log_level(text),
            other => expected("a level such as \"info\"", other),
        }
    }

    fn write(value: &String) -> String {
        format!("{value:?}")
    }
}

/// `true` or `false`.
pub(crate) struct Switch;

impl Form<bool> for Switch {
    const SYNTAX: &'static str = "true or false";

    fn read(value: &DeValue<'_>) -> Result<bool, String> {
        match value {
            DeValue::Boolean(on) => Ok(*on),
            other => expected("true or false", other),
        }
    }

    fn write(value: &bool) -> String {
        value.to_string()
    }
}

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

/// A quality of service: 0, 1 or 2.
pub(crate) struct Level;

impl Form<QoS> for Level {
    const SYNTAX: &'static str = "0, 1 or 2";

    fn read(value: &DeValue<'_>) -> Result<QoS, String> {
        let level = match value {
            DeValue::Integer(number) => integer(number).and_then(|level| u8::try_from(level).ok()),
            _ => None,
        };
        match level.map(QoS::try_from) {
            Some(Ok(qos)) => Ok(qos),
            _ => expected("0, 1 or 2", value),
        }
    }

    fn write(value: &QoS) -> String {
        value.level().to_string()
    }
}

/// One of a few words, given by the field's type.
pub(crate) struct Word;

/// A type whose values are words.
pub(crate) trait Words: Sized + Copy + PartialEq + 'static {
    /// How a reader may write it.
    const SYNTAX: &'static str;
    /// Every word with its value.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Form<T> for Word {
    const SYNTAX: &'static str = T::SYNTAX;

    fn read(value: &DeValue<'_>) -> Result<T, String> {
        if let DeValue::String(text) = value
            && let Some((_, value)) = T::WORDS.iter().find(|(word, _)| *word == &**text)
        {
            return Ok(*value);
        }
        expected(T::SYNTAX, value)
    }

    fn write(value: &T) -> String {
        T::WORDS.iter().find(|(_, v)| v == value).map_or_else(String::new, |(word, _)| format!("{word:?}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use toml::de::DeTable;

    fn read<T, F: Form<T>>(text: &str) -> Result<T, String> {
        let document = format!("x = {text}");
        let table = DeTable::parse(&document).unwrap().into_inner();
        F::read(table.get("x").unwrap().get_ref())
    }

    #[test]
    fn durations_are_texts_or_seconds() {
        assert_eq!(read::<_, Span>("\"1m 30s\""), Ok(Duration::from_secs(90)));
        assert_eq!(read::<_, Span>("\"250ms\""), Ok(Duration::from_millis(250)));
        assert_eq!(read::<_, Span>("7"), Ok(Duration::from_secs(7)));
        for bad in ["\"soon\"", "-1", "1.5", "\"5\"", "true", "18446744073709551615"] {
            let problem = read::<_, Span>(bad).unwrap_err();
            assert!(problem.starts_with("expected a duration such as \"5s\""), "{bad}: {problem}");
        }
    }

    #[test]
    fn whole_seconds_or_never() {
        assert_eq!(read::<_, Seconds>("\"never\""), Ok(u32::MAX));
        assert_eq!(read::<_, Seconds>("\"2h\""), Ok(7_200));
        assert!(read::<_, Seconds>("\"1500ms\"").unwrap_err().contains("whole seconds"));
    }

    #[test]
    fn sizes_are_texts_or_bytes_within_the_field() {
        assert_eq!(read::<u32, Size>("\"1MiB\""), Ok(1 << 20));
        assert_eq!(read::<u32, Size>("\"64 KB\""), Ok(64_000));
        assert_eq!(read::<usize, Size>("4096"), Ok(4_096));
        assert_eq!(
            read::<u32, Size>("\"8GiB\""),
            Err("expected a size of at most 4294967295 bytes, found \"8GiB\"".into())
        );
        for bad in ["\"much\"", "0", "-5", "[1]"] {
            assert!(read::<u32, Size>(bad).unwrap_err().starts_with("expected a size such as"), "{bad}");
        }
    }

    #[test]
    fn a_size_that_may_be_none_is_0() {
        assert_eq!(read::<u64, SizeOrNone>("0"), Ok(0));
        assert_eq!(read::<u64, SizeOrNone>("\"1MiB\""), Ok(1 << 20));
        assert!(read::<u64, SizeOrNone>("-1").unwrap_err().starts_with("expected a size such as"));
    }

    #[test]
    fn counts_say_their_range() {
        assert_eq!(read::<u16, Count<1>>("100"), Ok(100));
        assert_eq!(
            read::<u16, Count<1>>("70000"),
            Err("expected a whole number from 1 to 65535, found 70000".into())
        );
        assert_eq!(
            read::<u16, Count<1>>("0"),
            Err("expected a whole number from 1 to 65535, found 0".into())
        );
        assert!(read::<usize, Count<0>>("\"7\"").is_err());
    }

    #[test]
    fn switches_levels_and_texts() {
        assert_eq!(read::<_, Switch>("false"), Ok(false));
        assert_eq!(read::<_, Switch>("0"), Err("expected true or false, found 0".into()));
        assert_eq!(read::<_, Level>("1"), Ok(QoS::AtLeastOnce));
        for bad in ["3", "-1", "\"1\""] {
            assert!(read::<_, Level>(bad).unwrap_err().starts_with("expected 0, 1 or 2"), "{bad}");
        }
        assert_eq!(read::<_, MqttText>("\"\""), Ok(String::new()));
        assert!(read::<_, MqttText>("1").unwrap_err().starts_with("expected a text"));
        assert!(read::<_, MqttText>(&format!("\"{}\"", "x".repeat(65_536))).is_err());
    }

    #[test]
    fn addresses_need_a_port() {
        assert_eq!(read::<_, Addresses>("\"[::1]:1883\"").unwrap().len(), 1);
        assert_eq!(read::<_, Addresses>("[\"127.0.0.1:0\", \"0.0.0.0:1883\"]").unwrap().len(), 2);
        assert_eq!(read::<_, Addresses>("[]"), Ok(Vec::new()));
        for bad in ["1883", "\"127.0.0.1\"", "\"localhost:1883\"", "[1883]", "\"127.0.0.1:99999\""] {
            assert!(read::<_, Addresses>(bad).unwrap_err().contains("IP:PORT"), "{bad}");
        }
        assert_eq!(read::<_, AddressOrOff>("\"off\""), Ok(None));
        assert!(read::<_, AddressOrOff>("\"on\"").unwrap_err().contains("\"off\" switches it off"));
    }

    #[test]
    fn node_names_have_a_host() {
        assert_eq!(read::<_, NodeName>("\"a@b\""), Ok("a@b".into()));
        for bad in ["\"a\"", "\"@b\"", "\"a@\"", "\"a@b@c\"", "\"a b@c\"", "1"] {
            assert!(read::<_, NodeName>(bad).unwrap_err().contains("name@host"), "{bad}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let span = Duration::from_millis(61_500);
        assert_eq!(read::<Duration, Span>(&Span::write(&span)), Ok(span));
        for size in [1_u64, 1 << 10, 3 << 20, 5 << 30, 1_000] {
            assert_eq!(read::<u64, Size>(&<Size as Form<u64>>::write(&size)), Ok(size));
        }
        assert_eq!(read::<u32, Seconds>(&Seconds::write(&u32::MAX)), Ok(u32::MAX));
        assert_eq!(read::<_, Path>(&Path::write(&"./data".into())), Ok("./data".into()));
    }
}
