//! Settings -> model: every name is checked against what exists.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_event::TopicFilter;

use super::diagnostic::{Diagnostic, Place, Severity, suggestion};
use super::hook_line;
use super::model::{HookLine, LineAction, Loaded, PoolConfig, StoreConfig};
use super::source::{OptionSource, Sources};
use super::{Unusable, value};
use crate::actions::Builtin;
use crate::backend::{self, BackendKind, OptionKind};

pub(super) fn resolve(sources: Sources) -> Result<Loaded, Unusable> {
    let Sources { pools: tables, options, hooks, mut findings } = sources;
    let mut kinds = Kinds::default();
    let mut pools = Pools::default();
    for (kind, name, place) in &tables {
        if let Some(kind) = kinds.find(kind, place, &mut findings) {
            pools.index(kind, name, place, true);
        }
    }
    // Pools first: what they share is shared by all, wherever it stands.
    for shared in [false, true] {
        for source in options.iter().filter(|source| source.pool.is_empty() == shared) {
            if let Some(kind) = kinds.find(&source.kind, &source.place, &mut findings) {
                pools.add_option(kind, source, &mut findings);
            }
        }
    }
    pools.check(&mut findings);
    let pools = pools.list;
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
    let config = StoreConfig { pools, hooks: lines };
    if errors.is_empty() { Ok(Loaded { config, warnings }) } else { Err(Unusable { errors, config }) }
}

/// Back ends of `config` that this binary cannot open, each once a file, where they are first used.
pub(super) fn without_driver(config: &StoreConfig) -> Vec<Diagnostic> {
    let mut reported = BTreeSet::new();
    let pools = config.pools.iter().map(|pool| (pool.kind, &pool.place));
    let used = pools.chain(config.hooks.iter().map(|line| (line.kind, &line.place)));
    used.filter(|(kind, place)| kind.open.is_none() && reported.insert((kind.name, place.file.clone())))
        .map(|(kind, place)| place.error(kind.no_driver()))
        .collect()
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
        let found = backend::find(name);
        if found.is_none() && self.reported.insert((place.file.clone(), name.to_owned())) {
            let words = if backend::PLANNED.contains(&name) {
                format!("back end {name} is not in this binary yet")
            } else {
                let names = backend::known().flat_map(|kind| kind.aliases.iter().chain([&kind.name]));
                format!("unknown back end {name:?}{}", suggestion(name, names.copied()))
            };
            findings.push(place.error(words));
        }
        found
    }
}

/// The pools as their options come.
#[derive(Default)]
struct Pools {
    list: Vec<PoolConfig>,
    /// Where options were set: (index of the pool, option).
    places: BTreeMap<(usize, &'static str), Place>,
}

impl Pools {
    /// The pool of that name, made when it is new.
    fn index(&mut self, kind: &'static BackendKind, name: &str, place: &Place, in_toml: bool) -> usize {
        let is_it = |pool: &PoolConfig| std::ptr::eq(pool.kind, kind) && pool.name == name;
        if let Some(index) = self.list.iter().position(is_it) {
            return index;
        }
        let (name, place) = (name.to_owned(), place.clone());
        self.list.push(PoolConfig { kind, name, options: BTreeMap::new(), in_toml, place });
        self.list.len() - 1
    }

    fn add_option(
        &mut self,
        kind: &'static BackendKind,
        source: &OptionSource,
        findings: &mut Vec<Diagnostic>,
    ) {
        let place = &source.place;
        let is_shared = source.pool.is_empty();
        let pools = if is_shared {
            let all = self.list.iter().enumerate();
            all.filter(|(_, pool)| std::ptr::eq(pool.kind, kind)).map(|(index, _)| index).collect()
        } else {
            vec![self.index(kind, &source.pool, place, source.in_toml)]
        };
        let rows = if is_shared { kind.shared } else { kind.options };
        // What all pools share one of them may have for itself.
        let own = kind.shared.iter().filter(|_| !is_shared);
        let Some(row) = rows.iter().chain(own).find(|row| row.name == source.option) else {
            findings.push(place.error(unknown(kind, source)));
            return;
        };
        match value::read(row.kind, &source.value) {
            Ok(Some(_)) if matches!(row.kind, OptionKind::Inert(_)) => {
                findings.push(place.warning(format!("accepted, no effect on {}: {}", kind.name, row.doc)));
            }
            Ok(Some(value)) => {
                for index in pools {
                    if let Some(pool) = self.list.get_mut(index)
                        && !(is_shared && pool.is_set(row.name))
                    {
                        pool.options.insert(row.name, value.clone());
                        self.places.insert((index, row.name), place.clone());
                    }
                }
            }
            Ok(None) => {}
            Err(words) => findings.push(place.error(words)),
        }
    }

    /// Options of each pool, taken together.
    fn check(&self, findings: &mut Vec<Diagnostic>) {
        for (index, pool) in self.list.iter().enumerate() {
            if let Some((option, words)) = (pool.kind.check)(pool) {
                let place = self.places.get(&(index, option)).unwrap_or(&pool.place);
                findings.push(place.error(words));
            }
        }
    }
}

/// What there is in the place of an option that is unknown.
fn unknown(kind: &BackendKind, source: &OptionSource) -> String {
    let (name, option) = (kind.name, &source.option);
    let shared = kind.shared.iter().map(|row| row.name);
    if !source.pool.is_empty() {
        let names = kind.options.iter().filter(|row| !matches!(row.kind, OptionKind::Inert(_)));
        // A misspelt shared table looks like a pool.
        let whole = format!("{}.{option}", source.pool);
        let near = suggestion(&whole, shared);
        let near =
            if near.contains("did you mean") { near } else { suggestion(option, names.map(|r| r.name)) };
        return format!("unknown option of {name}{near}");
    }
    let near = suggestion(option, shared);
    if near.contains("did you mean") {
        return format!("unknown option of {name}{near}");
    }
    format!("unknown key; expected backend.{name}.POOL.OPTION{near}")
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
