//! Reading a manifest: every value where it stands, every mistake reported with its place.

mod rollout;

use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use tidegate_event::hook::TopicOf;
use tidegate_event::{AckLevel, Hook, TopicFilter, TopicName};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::imports::http::Destination;

use super::{
    ConfigValue, ErrorPolicy, HookEntry, Located, MAX_TABLE_ELEMENTS, Manifest, ManifestError, Mode,
    Priority, keys,
};

type Value<'t> = Spanned<DeValue<'t>>;

/// Further attempts of `policy = "retry"`.
const DEFAULT_RETRIES: u32 = 3;
const MAX_RETRIES: i64 = 100;
const MAX_POISON_AFTER: i64 = 1_000;
const MAX_HANDLES: i64 = 1_000_000;
/// Ticks in shorter order are work for a loop with a clock.
const MIN_TICK: Duration = Duration::from_millis(10);
/// What may follow the last attempt.
const POLICIES: [(&str, ErrorPolicy); 4] = [
    ("pass", ErrorPolicy::Pass),
    ("drop", ErrorPolicy::Drop),
    ("reject", ErrorPolicy::Reject),
    ("dead-letter", ErrorPolicy::DeadLetter),
];
/// The longest duration: 136 years, which can be added to every clock of the system.
const MAX_DURATION: Duration = Duration::from_secs(u32::MAX as u64);

/// The word of `known` that is nearest to `word`, when one is near.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (best, distance) = known
        .into_iter()
        .map(|candidate| (candidate, strsim::damerau_levenshtein(word, candidate)))
        .min_by_key(|(_, distance)| *distance)?;
    (distance <= word.chars().count().max(3) / 3).then_some(best)
}

pub(super) fn parse(file: &str, text: &str) -> Result<Manifest, Vec<ManifestError>> {
    let mut reader = Reader { file, text, errors: Vec::new() };
    let mut manifest = Manifest::default();
    match DeTable::parse(text) {
        Ok(table) => reader.root(table.get_ref(), &mut manifest),
        Err(error) => reader.error(&error.span().unwrap_or(0..0), "", error.message()),
    }
    if reader.errors.is_empty() {
        return Ok(manifest);
    }
    reader.errors.sort_by_key(|error| (error.line, error.column));
    Err(reader.errors)
}

/// Whether the manifest asks for its module to be mandatory, whatever else is wrong with it.
///
/// Only a clear no is one: a manifest that is no TOML asks for it when one of its lines begins with the key,
/// and so does a value that is neither true nor false.
pub(super) fn asks_mandatory(text: &str) -> bool {
    const KEY: &str = "mandatory";
    match DeTable::parse(text) {
        Ok(table) => {
            table.get_ref().get(KEY).is_some_and(|value| !matches!(value.get_ref(), DeValue::Boolean(false)))
        }
        Err(_) => text.lines().any(|line| {
            let around = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\u{feff}');
            line.trim_start_matches(around).starts_with(KEY)
        }),
    }
}

struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    errors: Vec<ManifestError>,
}

impl Reader<'_> {
    fn position(&self, span: &Range<usize>) -> (usize, usize) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).map_or(0, |rest| rest.chars().count());
        (before.matches('\n').count() + 1, column + 1)
    }

    fn error(&mut self, span: &Range<usize>, key: &str, message: impl Into<String>) {
        let (line, column) = self.position(span);
        self.errors.push(ManifestError {
            file: self.file.to_owned(),
            line,
            column,
            key: key.to_owned(),
            message: message.into(),
        });
    }

    fn located<T>(&self, span: &Range<usize>, value: T) -> Located<T> {
        let (line, column) = self.position(span);
        Located { value, line, column }
    }

    fn unknown(&mut self, span: &Range<usize>, key: &str, name: &str, what: &str, known: &[&'static str]) {
        let hint = match nearest(name, known.iter().copied()) {
            Some(word) => format!("unknown {what}; did you mean {word:?}?"),
            None => format!("unknown {what}; known are {}", known.join(", ")),
        };
        self.error(span, key, hint);
    }

    fn root(&mut self, table: &DeTable<'_>, manifest: &mut Manifest) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match name {
                "hooks" => manifest.hooks = self.hooks(value),
                "priority" => {
                    if let Some(number) = self.integer(name, value, i64::from(i32::MIN), i64::from(i32::MAX))
                    {
                        manifest.priority = Priority(i32::try_from(number).unwrap_or_default());
                    }
                }
                "connectors" => {
                    manifest.connectors = self.strings(name, value);
                }
                "ack" => {
                    let levels = [("stored", AckLevel::Stored), ("accepted", AckLevel::Accepted)];
                    if let Some(level) = self.word(name, value, &levels) {
                        manifest.ack = level;
                    }
                }
                "mandatory" => {
                    if let Some(mandatory) = self.boolean(name, value) {
                        manifest.mandatory = mandatory;
                    }
                }
                "tick" => {
                    let mut every = MIN_TICK;
                    self.duration(name, value, &mut every);
                    if every < MIN_TICK {
                        self.error(&value.span(), name, format!("expected at least {MIN_TICK:?}"));
                    }
                    manifest.tick = Some(self.located(&value.span(), every));
                }
                "config" => self.config(value, manifest),
                "instances" => self.instances(value, manifest),
                "limits" => self.limits(value, manifest),
                "on_error" => self.on_error(value, manifest),
                "rollout" => self.rollout(value, manifest),
                "http" => self.http(value, manifest),
                _ => self.unknown(&key.span(), name, name, "key", keys::ROOT),
            }
        }
        if let Some((key, _)) = table.iter().find(|(key, _)| key.get_ref() == "rollout") {
            self.rollout_fits(&key.span(), manifest);
        }
    }

    fn hooks(&mut self, value: &Value<'_>) -> Option<Vec<HookEntry>> {
        let mut entries = Vec::new();
        for (key, filters) in self.table("hooks", value)? {
            let name = key.get_ref().as_ref();
            let path = format!("hooks.{name}");
            let Some(hook) = Hook::from_name(name) else {
                let known: Vec<_> = Hook::all().map(Hook::name).collect();
                self.unknown(&key.span(), &path, name, "hook", &known);
                continue;
            };
            let mut parsed = Vec::new();
            for (span, text) in self.texts(&path, filters).unwrap_or_default() {
                match TopicFilter::new(text) {
                    Ok(filter) if hook.row().topic == TopicOf::None && filter != TopicFilter::all() => {
                        self.error(&span, &path, "this hook has no topic: write [] or [\"#\"]");
                    }
                    Ok(filter) => parsed.push(filter),
                    Err(error) => self.error(&span, &path, format!("{text:?}: {error}")),
                }
            }
            entries.push(HookEntry { hook: self.located(&key.span(), hook), filters: parsed });
        }
        Some(entries)
    }

    fn config(&mut self, value: &Value<'_>, manifest: &mut Manifest) {
        for (key, value) in self.table("config", value).into_iter().flatten() {
            let name = key.get_ref().as_ref();
            let parsed = match value.get_ref() {
                DeValue::String(text) => match text.split_once(':') {
                    Some(("env", variable)) => ConfigValue::Env(variable.to_owned()),
                    Some(("file", path)) => ConfigValue::File(path.into()),
                    _ => ConfigValue::Text(text.as_ref().to_owned()),
                },
                DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => ConfigValue::Text(number.to_string()),
                    Err(error) => {
                        self.error(&value.span(), &format!("config.{name}"), error.to_string());
                        continue;
                    }
                },
                DeValue::Float(number) => ConfigValue::Text(number.as_str().to_owned()),
                DeValue::Boolean(flag) => ConfigValue::Text(flag.to_string()),
                DeValue::Datetime(time) => ConfigValue::Text(time.to_string()),
                DeValue::Array(_) | DeValue::Table(_) => {
                    self.error(
                        &value.span(),
                        &format!("config.{name}"),
                        "expected a string, number or boolean",
                    );
                    continue;
                }
            };
            manifest.config.push((name.to_owned(), self.located(&value.span(), parsed)));
        }
    }

    fn instances(&mut self, value: &Value<'_>, manifest: &mut Manifest) {
        let into = &mut manifest.instances;
        let mut max_at = None;
        for (key, value) in self.table("instances", value).into_iter().flatten() {
            let name = key.get_ref().as_ref();
            let path = format!("instances.{name}");
            match name {
                "mode" => {
                    let modes = [("warm", Mode::Warm), ("fresh", Mode::Fresh), ("single", Mode::Single)];
                    if let Some(mode) = self.word(&path, value, &modes) {
                        into.mode = mode;
                    }
                }
                "max" => {
                    max_at = Some(value.span());
                    self.count(&path, value, 1, 10_000, &mut into.max);
                }
                "idle" => self.count(&path, value, 0, 10_000, &mut into.idle),
                "recycle_calls" => self.count(&path, value, 1, i64::MAX, &mut into.recycle_calls),
                "recycle_memory" => {
                    into.recycle_memory = self.size(&path, value);
                }
                _ => self.unknown(&key.span(), &path, name, "key", keys::INSTANCES),
            }
        }
        if let (Mode::Single, Some(span)) = (into.mode, max_at) {
            self.error(&span, "instances.max", "mode = \"single\" has one instance: leave max out");
        }
    }

    fn limits(&mut self, value: &Value<'_>, manifest: &mut Manifest) {
        let into = &mut manifest.limits;
        for (key, value) in self.table("limits", value).into_iter().flatten() {
            let name = key.get_ref().as_ref();
            let path = format!("limits.{name}");
            match name {
                "cpu" => self.duration(&path, value, &mut into.cpu),
                "timeout" => self.duration(&path, value, &mut into.timeout),
                "memory" => {
                    if let Some(bytes) = self.size(&path, value) {
                        into.memory = bytes;
                        manifest.memory_at = Some(self.located(&value.span(), ()));
                    }
                }
                "table_elements" => {
                    let most = i64::try_from(MAX_TABLE_ELEMENTS).unwrap_or(i64::MAX);
                    self.count(&path, value, 1, most, &mut into.table_elements);
                }
                "storage_ops" => self.count(&path, value, 0, i64::from(u32::MAX), &mut into.storage_ops),
                "log_bytes" => into.log_bytes = self.size(&path, value).unwrap_or(into.log_bytes),
                "publishes" => self.count(&path, value, 0, i64::from(u32::MAX), &mut into.publishes),
                "hostcall_bytes" => {
                    into.hostcall_bytes = self.size(&path, value).unwrap_or(into.hostcall_bytes);
                }
                "handles" => self.count(&path, value, 1, MAX_HANDLES, &mut into.handles),
                "http_bytes" => {
                    into.http_bytes = self.size(&path, value).map_or(into.http_bytes, |bytes| bytes as u64);
                }
                _ => self.unknown(&key.span(), &path, name, "key", keys::LIMITS),
            }
        }
    }

    fn http(&mut self, value: &Value<'_>, manifest: &mut Manifest) {
        for (key, value) in self.table("http", value).into_iter().flatten() {
            let name = key.get_ref().as_ref();
            let path = format!("http.{name}");
            if name != "allow" {
                self.unknown(&key.span(), &path, name, "key", keys::HTTP);
                continue;
            }
            for (span, text) in self.texts(&path, value).unwrap_or_default() {
                match Destination::parse(text) {
                    Ok(host) => manifest.http.push(self.located(&span, (text.to_owned(), host))),
                    Err(error) => self.error(&span, &path, format!("{text:?}: {error}")),
                }
            }
        }
    }

    fn on_error(&mut self, value: &Value<'_>, manifest: &mut Manifest) {
        let into = &mut manifest.on_error;
        let (mut retry, mut then) = (false, None);
        // Keys that belong to some policies only, with their places.
        let mut of_attempts = Vec::new();
        for (key, value) in self.table("on_error", value).into_iter().flatten() {
            let name = key.get_ref().as_ref();
            let path = format!("on_error.{name}");
            match name {
                "policy" if matches!(value.get_ref(), DeValue::String(word) if word == "retry") => {
                    retry = true;
                }
                "policy" => {
                    let word = self.string(&path, value);
                    let known = word.and_then(|word| POLICIES.iter().find(|(known, _)| *known == word));
                    match (word, known) {
                        (_, Some((_, policy))) => into.policy = Some(*policy),
                        (Some(word), None) => {
                            let known = ["pass", "drop", "reject", "retry", "dead-letter"];
                            self.unknown(&value.span(), &path, word, "policy", &known);
                        }
                        (None, None) => {}
                    }
                }
                "retries" => {
                    of_attempts.push((path.clone(), key.span()));
                    let mut retries = DEFAULT_RETRIES;
                    self.count(&path, value, 1, MAX_RETRIES, &mut retries);
                    into.retries = Some(retries);
                }
                "backoff" => {
                    of_attempts.push((path.clone(), key.span()));
                    self.duration(&path, value, &mut into.backoff);
                }
                "then" => then = Some((key.span(), self.word(&path, value, &POLICIES))),
                "dead_letter_topic" => into.dead_letter_topic = self.topic(&path, value),
                "poison_after" => {
                    let mut most = into.poison_after.map_or(0, NonZeroU32::get);
                    self.count(&path, value, 0, MAX_POISON_AFTER, &mut most);
                    into.poison_after = NonZeroU32::new(most);
                }
                _ => self.unknown(&key.span(), &path, name, "key", keys::ON_ERROR),
            }
        }
        match then {
            Some((_, policy)) if retry => into.policy = policy,
            Some((span, _)) => self.error(&span, "on_error.then", "belongs to policy = \"retry\""),
            None => {}
        }
        if retry {
            into.retries = into.retries.or(Some(DEFAULT_RETRIES));
        } else if into.policy != Some(ErrorPolicy::DeadLetter) {
            for (path, span) in of_attempts {
                self.error(&span, &path, "belongs to policy = \"retry\" and policy = \"dead-letter\"");
            }
        }
    }

    /// The name of a topic.
    fn topic(&mut self, key: &str, value: &Value<'_>) -> Option<TopicName> {
        let text = self.string(key, value)?;
        match text.parse() {
            Ok(topic) => Some(topic),
            Err(error) => {
                self.error(&value.span(), key, format!("{text:?}: {error}"));
                None
            }
        }
    }

    fn wrong(&mut self, key: &str, value: &Value<'_>, expected: &str) {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("the string {text:?}"),
            DeValue::Integer(number) => format!("the integer {number}"),
            DeValue::Float(number) => format!("the float {number}"),
            DeValue::Boolean(flag) => format!("the boolean {flag}"),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.error(&value.span(), key, format!("expected {expected}, found {found}"));
    }

    fn table<'a, 'v>(&mut self, key: &str, value: &'a Value<'v>) -> Option<&'a DeTable<'v>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(table);
        }
        self.wrong(key, value, "a table");
        None
    }

    fn string<'a>(&mut self, key: &str, value: &'a Value<'_>) -> Option<&'a str> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(text.as_ref());
        }
        self.wrong(key, value, "a string");
        None
    }

    fn word<T: Copy>(&mut self, key: &str, value: &Value<'_>, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.string(key, value)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.unknown(&value.span(), key, text, "value", &known);
        }
        found
    }

    fn boolean(&mut self, key: &str, value: &Value<'_>) -> Option<bool> {
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(*flag);
        }
        self.wrong(key, value, "true or false");
        None
    }

    fn integer(&mut self, key: &str, value: &Value<'_>, least: i64, most: i64) -> Option<i64> {
        if let DeValue::Integer(number) = value.get_ref()
            && let Ok(number) = i64::from_str_radix(number.as_str(), number.radix())
            && (least..=most).contains(&number)
        {
            return Some(number);
        }
        let expected = if most == i64::MAX {
            format!("an integer of at least {least}")
        } else {
            format!("an integer from {least} to {most}")
        };
        self.wrong(key, value, &expected);
        None
    }

    fn count<T: TryFrom<i64>>(&mut self, key: &str, value: &Value<'_>, least: i64, most: i64, into: &mut T) {
        if let Some(Ok(number)) = self.integer(key, value, least, most).map(T::try_from) {
            *into = number;
        }
    }

    fn duration(&mut self, key: &str, value: &Value<'_>, into: &mut Duration) {
        match value.get_ref() {
            DeValue::String(text) => match humantime::parse_duration(text) {
                Ok(duration) if duration < Duration::from_millis(1) => {
                    self.error(&value.span(), key, "expected at least \"1ms\"");
                }
                Ok(duration) if duration > MAX_DURATION => {
                    self.error(&value.span(), key, "expected at most \"136y\"");
                }
                Ok(duration) => *into = duration,
                Err(error) => self.error(
                    &value.span(),
                    key,
                    format!("expected a duration such as \"50ms\", found {text:?}: {error}"),
                ),
            },
            _ => self.wrong(key, value, "a duration such as \"50ms\""),
        }
    }

    fn size(&mut self, key: &str, value: &Value<'_>) -> Option<usize> {
        let bytes = match value.get_ref() {
            DeValue::String(text) => text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()),
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        match bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) if bytes > 0 => Some(bytes),
            _ => {
                self.wrong(key, value, "a size such as \"32MiB\"");
                None
            }
        }
    }

    /// The strings of an array, with their places.
    fn texts<'a>(&mut self, key: &str, value: &'a Value<'_>) -> Option<Vec<(Range<usize>, &'a str)>> {
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong(key, value, "an array of strings");
            return None;
        };
        Some(array.iter().filter_map(|item| Some((item.span(), self.string(key, item)?))).collect())
    }

    fn strings(&mut self, key: &str, value: &Value<'_>) -> Option<Vec<Located<String>>> {
        let texts = self.texts(key, value)?;
        Some(texts.into_iter().map(|(span, text)| self.located(&span, text.to_owned())).collect())
    }
}
