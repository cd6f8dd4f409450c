//! A hook line's object: which keys it may have and what they mean.

use tidegate_event::hook::TopicOf;
use tidegate_event::{AckLevel, ActionOptions, Hook, TopicFilter};

use super::diagnostic::{Diagnostic, Place, suggestion};
use super::duration;
use super::model::{HookLine, LineAction};
use super::node::{Kind, Node};
use super::source::HookSource;
use crate::actions;
use crate::backend::BackendKind;
use crate::statement::Template;

const KEYS: [&str; 7] = ["topic", "action", "pool", "offline_opts", "expired_time", "payload_format", "ack"];
/// Keys that only a line in TOML has: elsewhere they are parts of the line's own key.
const TOML_KEYS: [&str; 2] = ["hook", "n"];
/// Every word that names statements in some back end.
const STATEMENT_KEYS: [&str; 3] = ["sql", "cql", "commands"];

/// Whether a line in TOML may have the key.
pub(super) fn is_key(key: &str) -> bool {
    toml_keys().any(|known| known == key)
}

/// Every key of a line in TOML.
pub(super) fn toml_keys() -> impl Iterator<Item = &'static str> {
    KEYS.into_iter().chain(TOML_KEYS)
}

/// Checks `source` as a line of `kind`, whose pools are `pools`. Findings, warnings too, go to `findings`; a line
/// with an error gives `None`.
pub(super) fn read(
    source: &HookSource,
    kind: &'static BackendKind,
    pools: &[&str],
    findings: &mut Vec<Diagnostic>,
) -> Option<HookLine> {
    let Some(hook) = Hook::from_name(&source.hook) else {
        let names = Hook::all().filter(|hook| !hook.row().decides.is_leave()).map(Hook::name);
        let words = format!("unknown hook {:?}{}", source.hook, suggestion(&source.hook, names));
        findings.push(source.place_of_hook().error(words));
        return None;
    };
    if hook.row().decides.is_leave() {
        let words = format!(
            "{} asks whether a client may do something: only modules can answer, no action can stand on it",
            hook.name()
        );
        findings.push(source.place_of_hook().error(words));
        return None;
    }
    let mut reader = Reader { source, kind, findings, failed: false };
    let mut line = Parts::default();
    let known: Vec<&str> = if source.is_toml() { toml_keys().collect() } else { KEYS.to_vec() };
    for (key, value) in reader.fields("", &source.value, &known) {
        let place = source.place_of(&key, value.offset);
        match &*key {
            "topic" => line.topic = reader.topic(&place, &value),
            "action" => line.action = reader.action(hook, &value),
            "pool" => line.pool = reader.pool(&place, &value, pools),
            "offline_opts" => reader.offline_options(&value, &mut line.options),
            "expired_time" => {
                line.options.expired_time = reader.integer(&place, &value);
                if !kind.expires {
                    reader.without_effect(&place, "the back end keeps what is written until it is deleted");
                }
            }
            "payload_format" => {
                line.options.payload_format = reader.text(&place, &value);
                if line.options.payload_format.as_deref().is_some_and(|f| f != "mongo_json") {
                    reader.error(&place, "expected \"mongo_json\"");
                }
                if !kind.documents {
                    reader.without_effect(&place, "it is for back ends that store documents");
                }
            }
            _ => line.ack = reader.ack(&place, &value),
        }
    }
    let whole = &source.place;
    if line.action.is_none() && !reader.failed {
        reader.error(whole, "the line has no `action`");
    }
    if line.pool.is_none() && !reader.failed {
        reader.error(whole, "the line has no `pool`");
    }
    if reader.failed {
        return None;
    }
    Some(HookLine {
        kind,
        pool: line.pool?,
        hook,
        n: source.n,
        // A hook without a topic ignores the filter.
        topic: line.topic.filter(|_| hook.row().topic != TopicOf::None),
        action: line.action?,
        options: line.options,
        ack: line.ack,
        place: whole.clone(),
    })
}

#[derive(Default)]
struct Parts {
    topic: Option<TopicFilter>,
    action: Option<LineAction>,
    pool: Option<String>,
    options: ActionOptions,
    ack: AckLevel,
}

struct Reader<'a> {
    source: &'a HookSource,
    kind: &'static BackendKind,
    findings: &'a mut Vec<Diagnostic>,
    failed: bool,
}

impl Reader<'_> {
    fn error(&mut self, place: &Place, message: impl Into<String>) {
        self.failed = true;
        self.findings.push(place.error(message));
    }

    fn without_effect(&mut self, place: &Place, why: &str) {
        let name = self.kind.name;
        self.findings.push(place.warning(format!("accepted, no effect on {name}: {why}")));
    }

    /// The fields of an object; unknown and repeated keys are errors.
    fn fields(&mut self, path: &str, node: &Node, known: &[&str]) -> Vec<(String, Node)> {
        let Kind::Table(fields) = &node.kind else {
            let place = self.source.place_of(path, node.offset);
            self.error(&place, format!("expected an object, not {}", node.kind.name()));
            return Vec::new();
        };
        let mut kept: Vec<(String, Node)> = Vec::new();
        for (key, offset, value) in fields {
            let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let place = self.source.place_of(&full, *offset);
            if !known.contains(&&**key) {
                self.error(&place, format!("unknown key{}", suggestion(key, known.iter().copied())));
            } else if kept.iter().any(|(k, _)| k == key) {
                self.error(&place, "the key is repeated within the line");
            } else {
                kept.push((key.clone(), value.clone()));
            }
        }
        kept
    }

    fn text(&mut self, place: &Place, node: &Node) -> Option<String> {
        match &node.kind {
            Kind::Text(text) => Some(text.clone()),
            other => {
                self.error(place, format!("expected a string, not {}", other.name()));
                None
            }
        }
    }

    fn integer(&mut self, place: &Place, node: &Node) -> Option<u64> {
        match &node.kind {
            Kind::Integer(number) if *number > 0 => u64::try_from(*number).ok(),
            Kind::Integer(_) => {
                self.error(place, "expected a number above 0");
                None
            }
            other => {
                self.error(place, format!("expected a number, not {}", other.name()));
                None
            }
        }
    }

    fn topic(&mut self, place: &Place, node: &Node) -> Option<TopicFilter> {
        let text = self.text(place, node)?;
        match TopicFilter::new(text.as_str()) {
            Ok(filter) => Some(filter),
            Err(error) => {
                self.error(place, format!("{text:?} is no topic filter: {error}"));
                None
            }
        }
    }

    fn pool(&mut self, place: &Place, node: &Node, pools: &[&str]) -> Option<String> {
        let name = self.text(place, node)?;
        if !pools.contains(&&*name) {
            let near = suggestion(&name, pools.iter().copied());
            self.error(place, format!("back end {} has no pool {name:?}{near}", self.kind.name));
        }
        Some(name)
    }

    fn ack(&mut self, place: &Place, node: &Node) -> AckLevel {
        match self.text(place, node).as_deref() {
            Some("stored") | None => AckLevel::Stored,
            Some("accepted") => AckLevel::Accepted,
            Some(_) => {
                self.error(place, "expected \"stored\" or \"accepted\"");
                AckLevel::Stored
            }
        }
    }

    fn offline_options(&mut self, node: &Node, options: &mut ActionOptions) {
        for (key, value) in self.fields("offline_opts", node, &["max_returned_count", "time_range"]) {
            let place = self.source.place_of(&format!("offline_opts.{key}"), value.offset);
            if key == "max_returned_count" {
                let count = self.integer(&place, &value);
                options.max_returned_count = count.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            } else if let Some(text) = self.text(&place, &value) {
                options.time_range_ms = duration::parse_ms(&text);
                if options.time_range_ms.is_none() {
                    self.error(&place, "expected a number and s, m, h or d, for instance \"2h\"");
                }
            }
        }
    }

    fn action(&mut self, hook: Hook, node: &Node) -> Option<LineAction> {
        let known: Vec<&str> = ["function"].into_iter().chain(STATEMENT_KEYS).collect();
        let fields = self.fields("action", node, &known);
        let [(key, value)] = &*fields else {
            let words = match self.kind.statements {
                "" => "expected `function`".to_owned(),
                statements => format!("expected one of `function` and `{statements}`"),
            };
            let place = self.source.place_of("action", node.offset);
            if !self.failed {
                self.error(&place, words);
            }
            return None;
        };
        let place = self.source.place_of(&format!("action.{key}"), value.offset);
        if key == "function" {
            return self.function(hook, &place, value);
        }
        if key == self.kind.statements {
            return self.statements(hook, key, &place, value);
        }
        let name = self.kind.name;
        let words = match self.kind.statements {
            "" => format!("back end {name} takes no statements, only `function`"),
            statements => format!("back end {name} takes `{statements}`, not `{key}`"),
        };
        self.error(&place, words);
        None
    }

    fn function(&mut self, hook: Hook, place: &Place, value: &Node) -> Option<LineAction> {
        let name = self.text(place, value)?;
        match actions::find(&name, hook, self.kind) {
            Ok(function) => {
                if let Some(why) = self.kind.exact_only
                    && function.builtin.takes_filter()
                {
                    let words =
                        format!("{name} skips subscriptions with wildcards on {}: {why}", self.kind.name);
                    self.findings.push(place.warning(words));
                }
                Some(LineAction::Function(function))
            }
            Err(words) => {
                self.error(place, words);
                None
            }
        }
    }

    fn statements(&mut self, hook: Hook, key: &str, place: &Place, value: &Node) -> Option<LineAction> {
        let Kind::List(items) = &value.kind else {
            self.error(place, format!("expected a list of strings, not {}", value.kind.name()));
            return None;
        };
        if items.is_empty() {
            self.error(place, "expected at least one statement");
        }
        let mut statements = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let place = self.source.place_of(&format!("action.{key}[{index}]"), item.offset);
            if let Some(text) = self.text(&place, item) {
                if let Err(wrong) = Template::compile(&text, hook, self.kind.language()) {
                    self.error(&place, wrong.to_string());
                }
                statements.push(text);
            }
        }
        Some(LineAction::Statements(statements))
    }
}
