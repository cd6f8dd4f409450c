//! Settings -> model: every name is checked against what exists.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_event::TopicFilter;

use super::diagnostic::{Diagnostic, Place, Severity, suggestion};
use super::hook_line;
use super::model::{HookLine, LineAction, Loaded, OptionValue, PoolConfig, StoreConfig};
use super::node::Kind;
use super::secret::{self, Secret};
use super::source::{OptionSource, Sources};
use crate::actions::Builtin;
use crate::backend::{self, BackendKind, OptionKind};

pub(super) fn resolve(sources: Sources) -> Result<Loaded, Vec<Diagnostic>> {
    let Sources { pools: tables, options, hooks, mut findings } = sources;
    let mut kinds = Kinds::default();
    let mut pools: Vec<PoolConfig> = Vec::new();
    for (kind, name, place) in &tables {
        if let Some(kind) = kinds.find(kind, place, &mut findings) {
            pool_index(&mut pools, kind, name, place);
        }
    }
    for source in &options {
        if let Some(kind) = kinds.find(&source.kind, &source.place, &mut findings) {
            add_option(&mut pools, kind, source, &mut findings);
        }
    }
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pool in &pools {
        names.entry(pool.kind.name).or_default().push(&pool.name);
    }
    let mut lines: Vec<HookLine> = Vec::new();
    for source in &hooks {
        if let Some(kind) = kinds.find(&source.kind, &source.place, &mut findings) {
            let names = names.get(kind.name).map_or(&[][..], Vec::as_slice);
            lines.extend(hook_line::read(source, kind, names, &mut findings));
        }
    }
    // Stable: lines of equal number keep the order of their files.
    lines.sort_by_key(|line| (line.hook, line.n));
    warn_of_double_stores(&lines, &mut findings);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    if errors.is_empty() {
        Ok(Loaded { config: StoreConfig { pools, hooks: lines }, warnings })
    } else {
        Err(errors)
    }
}

/// Finds back ends by name, complaining once about each that cannot be used.
#[derive(Default)]
struct Kinds {
    /// (file, kind) pairs already complained about: a whole file of one back end is one mistake.
    reported: BTreeSet<(String, String)>,
}

impl Kinds {
    fn find(
        &mut self,
        name: &str,
        place: &Place,
        findings: &mut Vec<Diagnostic>,
    ) -> Option<&'static BackendKind> {
        if let Some(kind) = backend::built_in().iter().find(|kind| kind.name == name) {
            return Some(kind);
        }
        if self.reported.insert((place.file.clone(), name.to_owned())) {
            let built_in = backend::built_in().iter().map(|kind| kind.name);
            let words = if backend::DOCUMENTED.contains(&name) {
                let list: Vec<_> = built_in.collect();
                format!("back end {name} is not built into this binary (it has: {})", list.join(", "))
            } else {
                format!("unknown back end {name:?}{}", suggestion(name, built_in.chain(backend::DOCUMENTED)))
            };
            findings.push(place.error(words));
        }
        None
    }
}

/// The pool of that name, made when it is new.
fn pool_index(pools: &mut Vec<PoolConfig>, kind: &'static BackendKind, name: &str, place: &Place) -> usize {
    if let Some(index) = pools.iter().position(|p| std::ptr::eq(p.kind, kind) && p.name == name) {
        return index;
    }
    pools.push(PoolConfig { kind, name: name.to_owned(), options: BTreeMap::new(), place: place.clone() });
    pools.len() - 1
}

fn add_option(
    pools: &mut Vec<PoolConfig>,
    kind: &'static BackendKind,
    source: &OptionSource,
    findings: &mut Vec<Diagnostic>,
) {
    let place = &source.place;
    if source.pool.is_empty() {
        let words = format!("unknown key; expected backend.{}.POOL.OPTION", kind.name);
        findings.push(place.error(words));
        return;
    }
    let index = pool_index(pools, kind, &source.pool, place);
    let Some(row) = kind.options.iter().find(|row| row.name == source.option) else {
        let names = kind.options.iter().filter(|row| row.kind != OptionKind::Inert).map(|row| row.name);
        let words = format!("unknown option of {}{}", kind.name, suggestion(&source.option, names));
        findings.push(place.error(words));
        return;
    };
    match read_value(row.kind, &source.value) {
        Ok(Some(_)) if row.kind == OptionKind::Inert => {
            findings.push(place.warning(format!("accepted, no effect on {}: {}", kind.name, row.doc)));
        }
        Ok(Some(value)) => {
            if let Some(pool) = pools.get_mut(index) {
                pool.options.insert(row.name, value);
            }
        }
        Ok(None) => {}
        Err(words) => findings.push(place.error(words)),
    }
}

/// The value of an option; `None` = unset (an empty text).
fn read_value(wanted: OptionKind, value: &Kind) -> Result<Option<OptionValue>, String> {
    let resolved = match value {
        Kind::Text(text) if text.is_empty() => return Ok(None),
        Kind::Text(text) => secret::resolve(text)?,
        _ => None,
    };
    let text = match (&resolved, value) {
        (Some(secret), _) => Some(secret.expose()),
        (None, Kind::Text(text)) => Some(text.as_str()),
        (None, _) => None,
    };
    match wanted {
        OptionKind::Inert => Ok(Some(OptionValue::Integer(0))),
        OptionKind::Text | OptionKind::Secret => match (resolved.clone(), text) {
            (Some(secret), _) => Ok(Some(OptionValue::Secret(secret))),
            (None, Some(text)) if wanted == OptionKind::Secret => {
                Ok(Some(OptionValue::Secret(Secret::literal(text))))
            }
            (None, Some(text)) => Ok(Some(OptionValue::Text(text.to_owned()))),
            (None, None) => Err(format!("expected a string, not {}", value.name())),
        },
        OptionKind::Boolean => match (value, text) {
            (Kind::Boolean(on), _) => Ok(Some(OptionValue::Boolean(*on))),
            (_, Some("true" | "on")) => Ok(Some(OptionValue::Boolean(true))),
            (_, Some("false" | "off")) => Ok(Some(OptionValue::Boolean(false))),
            _ => Err("expected true or false".to_owned()),
        },
        OptionKind::Integer { min, max } => {
            let number = match (value, text) {
                (Kind::Integer(number), _) => u64::try_from(*number).ok(),
                (_, Some(text)) => text.trim().parse().ok(),
                _ => None,
            };
            match number.filter(|n| (min..=max).contains(n)) {
                Some(number) => Ok(Some(OptionValue::Integer(number))),
                None => Err(format!("expected a number from {min} to {max}")),
            }
        }
    }
}

/// The documents warn of it: with both lines a QoS 1 or 2 message would be stored twice. It is stored once here.
fn warn_of_double_stores(lines: &[HookLine], findings: &mut Vec<Diagnostic>) {
    let all = |builtin| {
        let is = move |line: &&HookLine| matches!(line.action, LineAction::Function(function) if function.builtin == builtin);
        lines.iter().filter(is).collect::<Vec<_>>()
    };
    let publishes = all(Builtin::MessagePublish);
    let everything = TopicFilter::all();
    for store in all(Builtin::MessageStore) {
        let topics = store.topic.as_ref().unwrap_or(&everything);
        let same = publishes.iter().find(|publish| {
            let same_pool = std::ptr::eq(publish.kind, store.kind) && publish.pool == store.pool;
            same_pool && publish.topic.as_ref().unwrap_or(&everything).overlaps(topics)
        });
        // One is enough: thousands of lines on one topic would be millions of pairs.
        if let Some(publish) = same {
            findings.push(store.place.warning(format!(
                "on_message_store and the on_message_publish of {} line {} match the same topics of pool {:?}: \
                 such a message is stored once",
                publish.place.file, publish.place.line, store.pool
            )));
        }
    }
}
