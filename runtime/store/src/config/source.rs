//! The two front ends' common form: settings of pools and hook lines, with places, before anything is checked
//! against the back ends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::conf;
use super::diagnostic::{Diagnostic, Place, suggestion};
use super::hook_line;
use super::lines::{Lines, Position};
use super::node::{self, Kind, Node};
use crate::backend;

/// All settings of all files.
#[derive(Default)]
pub(crate) struct Sources {
    /// Pools that exist whether or not they have options: tables of TOML. (kind, pool, place)
    pub(crate) pools: Vec<(String, String, Place)>,
    pub(crate) options: Vec<OptionSource>,
    pub(crate) hooks: Vec<HookSource>,
    pub(crate) findings: Vec<Diagnostic>,
}

/// `backend.KIND.POOL.OPTION = value`. For options of a whole back end (`backend.dynamo.region`) the pool is
/// empty.
pub(crate) struct OptionSource {
    pub(crate) kind: String,
    pub(crate) pool: String,
    pub(crate) option: String,
    pub(crate) value: Kind,
    pub(crate) place: Place,
    pub(crate) in_toml: bool,
}

/// `backend.KIND.hook.HOOK.N = {...}`.
pub(crate) struct HookSource {
    pub(crate) kind: String,
    pub(crate) hook: String,
    /// Offset of the hook's name, where it is a part of the value: in TOML.
    hook_at: Option<usize>,
    pub(crate) n: u32,
    pub(crate) value: Node,
    pub(crate) place: Place,
    within: Within,
}

/// What offsets of a hook line's value count in.
enum Within {
    /// The value itself, on one line of a `.conf` file.
    Value(String),
    /// A whole TOML file, which all its lines share: a copy each would make reading quadratic.
    File(Arc<Lines>),
}

impl HookSource {
    /// The place of a part of the value; `key` is its name within the line (`action.function`).
    pub(crate) fn place_of(&self, key: &str, offset: usize) -> Place {
        let base = &self.place;
        let mut place = base.at(match &self.within {
            Within::File(lines) => lines.position(offset),
            Within::Value(text) => {
                let before = text.get(..offset).unwrap_or(text);
                Position { line: base.line, column: base.column + before.chars().count() }
            }
        });
        if !key.is_empty() {
            place.key = format!("{}: {key}", place.key);
        }
        place
    }

    /// The place of the hook's name.
    pub(crate) fn place_of_hook(&self) -> Place {
        self.hook_at.map_or_else(|| self.place.clone(), |offset| self.place_of("hook", offset))
    }

    pub(crate) fn is_toml(&self) -> bool {
        matches!(self.within, Within::File(_))
    }
}

impl Sources {
    /// Adds a `.conf` file.
    pub(crate) fn add_conf(&mut self, file: &str, text: &str) {
        let (entries, findings) = conf::parse(file, text);
        self.findings.extend(findings);
        for entry in entries {
            let place = conf::place(file, &entry);
            let parts: Vec<&str> = entry.key.split('.').collect();
            let Some((&"backend", [kind, rest @ ..])) = parts.split_first() else {
                self.findings.push(place.error("unknown key; expected `backend.KIND. ...`"));
                continue;
            };
            match rest {
                ["hook", hook @ .., n] if !hook.is_empty() => {
                    let Ok(n) = n.parse() else {
                        self.findings.push(
                            place.error("a hook's key ends in a number: backend.KIND.hook.message.publish.1"),
                        );
                        continue;
                    };
                    if entry.value.is_empty() {
                        continue; // unset
                    }
                    match node::from_json(&entry.value) {
                        Ok(value) => self.hooks.push(HookSource {
                            kind: proper(kind),
                            hook: hook.join("."),
                            hook_at: None,
                            n,
                            value,
                            place,
                            within: Within::Value(entry.value),
                        }),
                        Err(wrong) => self.findings.push(place.error(wrong.message)),
                    }
                }
                ["hook", ..] | [] => self
                    .findings
                    .push(place.error("expected backend.KIND.POOL.OPTION or backend.KIND.hook.HOOK.NUMBER")),
                [option] => self.option(kind, "", option, Kind::Text(entry.value), place, false),
                [pool, option @ ..] => {
                    self.option(kind, pool, &option.join("."), Kind::Text(entry.value), place, false)
                }
            }
        }
    }

    /// Adds the table `backend` of a TOML file.
    pub(crate) fn add_toml(&mut self, file: &str, text: &str) {
        let lines = Arc::new(Lines::new(text));
        let at = |offset: usize, key: String| {
            let position = lines.position(offset);
            Place { file: file.to_owned(), line: position.line, column: position.column, key }
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let offset = error.span().map_or(0, |span| span.start);
            self.findings.push(at(offset, String::new()).error(error.message()));
        }
        if !errors.is_empty() {
            return; // what was recovered is not what was written
        }
        let Some(backend) = document.get_ref().get("backend") else { return };
        let DeValue::Table(kinds) = backend.get_ref() else {
            self.findings.push(at(backend.span().start, "backend".into()).error("expected a table"));
            return;
        };
        for (kind, value) in kinds {
            let kind_key = format!("backend.{}", kind.get_ref());
            let DeValue::Table(pools) = value.get_ref() else {
                self.findings.push(at(kind.span().start, kind_key).error("expected a table"));
                continue;
            };
            for (pool, value) in pools {
                let key = format!("{kind_key}.{}", pool.get_ref());
                match (&**pool.get_ref(), value.get_ref()) {
                    ("hook", DeValue::Array(list)) => {
                        for (index, line) in list.iter().enumerate() {
                            let place = at(line.span().start, format!("{key}[{index}]"));
                            self.toml_hook(kind.get_ref(), index, node::from_toml(line), place, &lines);
                        }
                    }
                    ("hook", _) => self.findings.push(
                        at(pool.span().start, key.clone())
                            .error(format!("expected a list of tables, written [[{key}]]")),
                    ),
                    (pool_name, DeValue::Table(_)) => {
                        let place = at(pool.span().start, key.clone());
                        if !is_shared_table(kind.get_ref(), pool_name) {
                            self.pools.push((proper(kind.get_ref()), pool_name.to_owned(), place));
                        }
                        if let Kind::Table(options) = node::from_toml(value).kind {
                            for (option, offset, value) in options {
                                let place = at(offset, format!("{key}.{option}"));
                                self.option(kind.get_ref(), pool_name, &option, value.kind, place, true);
                            }
                        }
                    }
                    (option, _) => {
                        let place = at(pool.span().start, key.clone());
                        self.option(kind.get_ref(), "", option, node::from_toml(value).kind, place, true);
                    }
                }
            }
        }
    }

    fn toml_hook(&mut self, kind: &str, index: usize, line: Node, place: Place, lines: &Arc<Lines>) {
        let Kind::Table(mut fields) = line.kind else {
            self.findings.push(place.error(format!("expected a table, not {}", line.kind.name())));
            return;
        };
        let at = |key: &str, offset: usize| {
            let mut place = place.at(lines.position(offset));
            place.key = format!("{}: {key}", place.key);
            place
        };
        let mut take = |name: &str| {
            let index = fields.iter().position(|(key, _, _)| key == name)?;
            Some(fields.remove(index).2)
        };
        let (hook, hook_at) = match take("hook") {
            Some(Node { kind: Kind::Text(hook), offset }) => (hook, offset),
            Some(Node { kind, offset }) => {
                let words = format!("expected a string, not {}", kind.name());
                self.findings.push(at("hook", offset).error(words));
                return;
            }
            None => {
                let mut misspelt = false;
                for (key, offset, _) in fields.iter().filter(|(key, _, _)| !hook_line::is_key(key)) {
                    let near = suggestion(key, hook_line::toml_keys());
                    misspelt |= near.contains("\"hook\"");
                    self.findings.push(at(key, *offset).error(format!("unknown key{near}")));
                }
                if !misspelt {
                    let words = "the line has no `hook`, for instance \"message.publish\"";
                    self.findings.push(place.error(words));
                }
                return;
            }
        };
        let n = match take("n") {
            None => u32::try_from(index + 1).unwrap_or(u32::MAX),
            Some(Node { kind: Kind::Integer(n), .. }) if u32::try_from(n).is_ok() => {
                u32::try_from(n).unwrap_or_default()
            }
            Some(Node { offset, .. }) => {
                self.findings.push(at("n", offset).error("expected a number that is not negative"));
                return;
            }
        };
        let value = Node { offset: line.offset, kind: Kind::Table(fields) };
        let within = Within::File(Arc::clone(lines));
        self.hooks.push(HookSource {
            kind: proper(kind),
            hook,
            hook_at: Some(hook_at),
            n,
            value,
            place,
            within,
        });
    }

    fn option(&mut self, kind: &str, pool: &str, option: &str, value: Kind, place: Place, in_toml: bool) {
        // `backend.mongo.topology.pool_size`: not a pool, options of all of them.
        let shared = is_shared_table(kind, pool);
        let option = if shared { format!("{pool}.{option}") } else { option.to_owned() };
        let pool = if shared { String::new() } else { pool.to_owned() };
        self.options.push(OptionSource { kind: proper(kind), pool, option, value, place, in_toml });
    }

    /// Keys that two files set: the last file wins, with a warning that names both.
    pub(crate) fn drop_repeated(&mut self) {
        let mut seen: HashMap<(String, String, String), usize> = HashMap::new();
        let mut dropped = Vec::new();
        for (index, option) in self.options.iter().enumerate() {
            let key = (option.kind.clone(), option.pool.clone(), option.option.clone());
            if let Some(earlier) = seen.insert(key, index) {
                dropped.push((earlier, index));
            }
        }
        for (earlier, later) in &dropped {
            if let (Some(earlier), Some(later)) = (self.options.get(*earlier), self.options.get(*later)) {
                self.findings.push(replaces(&later.place, &earlier.place));
            }
        }
        let dropped: HashSet<usize> = dropped.into_iter().map(|(earlier, _)| earlier).collect();
        let mut index = 0..;
        self.options.retain(|_| index.next().is_some_and(|at| !dropped.contains(&at)));

        let mut seen: HashMap<(String, String, u32), usize> = HashMap::new();
        let mut dropped = HashSet::new();
        for (index, hook) in self.hooks.iter().enumerate() {
            if hook.is_toml() {
                continue; // lines of a list have no key of their own
            }
            if let Some(earlier) = seen.insert((hook.kind.clone(), hook.hook.clone(), hook.n), index) {
                if let Some(earlier) = self.hooks.get(earlier) {
                    self.findings.push(replaces(&hook.place, &earlier.place));
                }
                dropped.insert(earlier);
            }
        }
        let mut index = 0..;
        self.hooks.retain(|_| index.next().is_some_and(|at| !dropped.contains(&at)));
    }
}

/// The name of the back end that keys call `word`, so that `ecql` and `cassa` are one; an unknown word stays.
fn proper(word: &str) -> String {
    backend::find(word).map_or(word, |kind| kind.name).to_owned()
}

/// Whether `table` is not a pool of the back end but a part of its shared options' names.
fn is_shared_table(kind: &str, table: &str) -> bool {
    let begins = |name: &str| name.split_once('.').is_some_and(|(first, _)| first == table);
    backend::find(kind).is_some_and(|kind| kind.shared.iter().any(|row| begins(row.name)))
}

fn replaces(later: &Place, earlier: &Place) -> Diagnostic {
    later.warning(format!(
        "the key is repeated: {} line {} replaces {} line {}",
        later.file, later.line, earlier.file, earlier.line
    ))
}
