//! Where the back ends' configuration comes from: `.conf` files, and the `backend` tables of `tidegate.toml`.

use std::path::{Path, PathBuf};

use tidegate_store::backend::OptionKind;
use tidegate_store::config::{Diagnostic, Loaded, OptionValue, PoolConfig, StoreConfig};

use crate::config::{Config, read_text, unreadable};

/// Back end and pool of the connector that exists when no pool has its name.
const EMBEDDED: (&str, &str) = ("sqlite", "default");

/// The embedded connector's file in the data directory.
const EMBEDDED_FILE: &str = "tidegate.db";

/// The texts of the `.conf` files, by their names as messages show them, in the order of the names.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<(String, String)>,
    problems: Vec<Diagnostic>,
}

impl Sources {
    /// Those in the directory of `[conf]`.
    pub fn read(config: &Config) -> Self {
        let (files, problems) = conf_files(&config.conf_dir);
        Self { files, problems }
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.files.iter().map(|(name, _)| name.clone()).collect()
    }

    /// As if the file at `path` held `text`, or were not there.
    pub(crate) fn replace(&mut self, path: &Path, text: Option<String>) {
        let name = path.display().to_string();
        self.files.retain(|(other, _)| *other != name);
        if let Some(text) = text {
            let at = self.files.partition_point(|(other, _)| Path::new(other) < path);
            self.files.insert(at, (name, text));
        }
    }

    /// Checks them and the `backend` tables of `tidegate.toml`.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn resolve(self, config: &Config) -> Result<Loaded, Vec<Diagnostic>> {
        resolve(config, self.files, self.problems)
    }
}

/// Reads every source and checks it. Gives the names of the `.conf` files, and what they and `tidegate.toml` say or
/// all that is wrong with them.
pub fn load(config: &Config) -> (Vec<String>, Result<Loaded, Vec<Diagnostic>>) {
    let sources = Sources::read(config);
    (sources.names(), sources.resolve(config))
}

fn resolve(
    config: &Config,
    mut sources: Vec<(String, String)>,
    mut problems: Vec<Diagnostic>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let toml = config.file.as_ref().map(|file| (&*file.name, &*file.text));
    let (kind, pool) = EMBEDDED;
    let mut result = tidegate_store::config::load(&sources, toml);
    let configured = result.as_ref().is_ok_and(|loaded| loaded.config.has_pool(kind, pool));
    if !configured {
        if result.is_err() {
            // Perhaps only because a hook line names the embedded connector: let the store know it. If the
            // sources define the pool themselves this repeats a key, which is no error.
            sources
                .insert(0, ("(embedded)".into(), format!("backend.{kind}.{pool}.path = {EMBEDDED_FILE}\n")));
            result = tidegate_store::config::load(&sources, toml);
        }
        if let Ok(loaded) = &mut result {
            loaded.config.pools.retain(|p| !(p.kind.name == kind && p.name == pool));
            loaded.config.pools.insert(0, embedded(config));
        }
    }
    if let Ok(loaded) = &mut result {
        loaded.config.pools.iter_mut().for_each(|pool| fill_in_files(config, pool));
    }
    match result {
        Ok(loaded) if problems.is_empty() => Ok(loaded),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

/// Options that name a file in the data directory unless they are set.
fn fill_in_files(config: &Config, pool: &mut PoolConfig) {
    let kind = pool.kind;
    for row in kind.options.iter().filter(|row| row.kind == OptionKind::Path && !row.default.is_empty()) {
        let path = if kind.name == EMBEDDED.0 {
            file_of(config, &pool.name)
        } else {
            config.data_dir.join(row.default.trim_start_matches("DATA/"))
        };
        pool.options.entry(row.name).or_insert_with(|| OptionValue::Text(path.display().to_string()));
    }
}

/// The file of a pool that names none.
fn file_of(config: &Config, pool: &str) -> PathBuf {
    if pool == EMBEDDED.1 {
        config.data_dir.join(EMBEDDED_FILE)
    } else {
        config.data_dir.join(format!("{pool}.db"))
    }
}

/// The embedded connector.
fn embedded(config: &Config) -> PoolConfig {
    let path = file_of(config, EMBEDDED.1);
    PoolConfig::sqlite(EMBEDDED.1, &path.display().to_string())
}

/// What there is without any configuration of back ends: the embedded connector, no hook lines.
pub(crate) fn embedded_alone(config: &Config) -> StoreConfig {
    StoreConfig { pools: vec![embedded(config)], ..StoreConfig::default() }
}

/// The `.conf` files of `dir` in the order of their names, and what could not be read. No directory, no files.
fn conf_files(dir: &Path) -> (Vec<(String, String)>, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .filter_map(|entry| match entry {
                Ok(entry) => Some(entry.path()),
                Err(error) => {
                    problems.push(unreadable(dir, &error));
                    None
                }
            })
            .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            problems.push(unreadable(dir, &error));
            Vec::new()
        }
    };
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        match read_text(&path) {
            Ok(text) => sources.push((path.display().to_string(), text)),
            Err(error) => problems.push(unreadable(&path, &error)),
        }
    }
    (sources, problems)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::ConfigFile;

    fn config(dir: &Path, toml: Option<&str>) -> Config {
        Config {
            conf_dir: dir.join("conf.d"),
            data_dir: dir.join("data"),
            file: toml.map(|text| ConfigFile { name: "t.toml".into(), text: text.into() }),
            ..Config::default()
        }
    }

    fn paths(loaded: &Loaded) -> Vec<(String, String)> {
        let path = |pool: &PoolConfig| pool.text("path").unwrap_or_default().to_owned();
        loaded.config.pools.iter().map(|pool| (pool.connector(), path(pool))).collect()
    }

    #[test]
    fn without_configuration_there_is_the_embedded_connector() {
        let dir = tempfile::tempdir().unwrap();
        let loaded = load(&config(dir.path(), None)).1.unwrap();
        let file = dir.path().join("data/tidegate.db").display().to_string();
        assert_eq!(paths(&loaded), [("sqlite:default".into(), file)]);
        assert!(loaded.config.hooks.is_empty());
    }

    #[test]
    fn a_hook_line_may_name_the_embedded_connector() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[[backend.sqlite.hook]]\nhook = \"message.publish\"\npool = \"default\"\n\
                    action = { function = \"on_message_publish\" }\n";
        let loaded = load(&config(dir.path(), Some(text))).1.unwrap();
        let file = dir.path().join("data/tidegate.db").display().to_string();
        assert_eq!(paths(&loaded), [("sqlite:default".into(), file)]);
        assert_eq!(loaded.config.hooks.len(), 1);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }

    #[test]
    fn a_pool_called_default_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(dir.path().join("conf.d/b.conf"), "backend.sqlite.default.path = own.db\n").unwrap();
        std::fs::write(dir.path().join("conf.d/ignored.txt"), "nonsense").unwrap();
        let loaded = load(&config(dir.path(), None)).1.unwrap();
        assert_eq!(paths(&loaded), [("sqlite:default".into(), "own.db".into())]);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }

    #[test]
    fn pools_without_a_path_are_in_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[backend.sqlite.default]\npool_size = 2\n[backend.sqlite.other]\npool_size = 2\n";
        let loaded = load(&config(dir.path(), Some(text))).1.unwrap();
        let file = |name: &str| dir.path().join("data").join(name).display().to_string();
        let mut found = paths(&loaded);
        found.sort();
        let expected = [("sqlite:default", "tidegate.db"), ("sqlite:other", "other.db")];
        assert_eq!(found, expected.map(|(name, path)| (name.to_owned(), file(path))));
    }

    /// The row said `data/POOL.db`, wherever the data directory was, and for the pool `default` too.
    #[test]
    fn the_documented_default_of_path_is_the_file_that_is_used() {
        let row = tidegate_store::backend::built_in()
            .iter()
            .flat_map(|kind| kind.options)
            .find(|row| row.name == "path")
            .unwrap();
        let page = crate::config::reference::page();
        assert!(page.contains(&format!("| `path` | file | `{}` | {} |", row.default, row.doc)), "{page}");
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), Some("[backend.sqlite.other]\n[backend.sqlite.default]\n"));
        let data = config.data_dir.display().to_string();
        let mut used: Vec<_> = paths(&load(&config).1.unwrap()).into_iter().map(|(_, path)| path).collect();
        used.sort();
        // In the row's own words.
        let other = row.default.replace("DATA", &data).replace("POOL", "other");
        let default = "DATA/tidegate.db";
        assert!(row.doc.contains(&format!("the file of the pool `default` is `{default}`")), "{}", row.doc);
        assert_eq!(used, [other, default.replace("DATA", &data)]);
    }

    #[test]
    fn every_source_reports_its_errors() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(dir.path().join("conf.d/a.conf"), "backend.sqlite.default.pth = x\n").unwrap();
        std::fs::write(dir.path().join("conf.d/b.conf"), b"\xff").unwrap();
        let problems = load(&config(dir.path(), Some("[backend.nosuch.p]\nx = 1\n"))).1.unwrap_err();
        let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for part in ["a.conf:1", "b.conf: cannot be read: not UTF-8", "t.toml:"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
