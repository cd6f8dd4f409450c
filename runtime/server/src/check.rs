//! `tidegate check`: everything `tidegate run` would read, looked at and reported, nothing started.
//!
//! No listener is opened and no database is touched; modules are compiled into a temporary cache and started on
//! empty copies of the databases.

mod copies;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tempfile::TempDir;
use tidegate_event::offline::Offline;
use tidegate_event::{IdSource, Node, Tenant};
use tidegate_module::{Host, HostConfig, Module};
use tidegate_store::Stores;
use tidegate_store::config::{Diagnostic, Severity, StoreConfig};

use crate::access;
use crate::backends;
use crate::config::{Config, Overrides};

/// Collects findings and prints them as they come.
#[derive(Default)]
struct Report {
    items: usize,
    errors: usize,
    warnings: usize,
}

impl Report {
    fn ok(&mut self, what: &str) {
        self.items += 1;
        println!("ok       {what}");
    }

    fn error(&mut self, what: &str) {
        self.items += 1;
        self.errors += 1;
        println!("error    {what}");
    }

    /// The findings about `file`, or that it is well and what it defines.
    fn file(&mut self, file: &str, findings: &[Diagnostic], loaded: &StoreConfig) {
        let mut well = true;
        for finding in findings.iter().filter(|finding| finding.file == file) {
            well &= finding.severity == Severity::Warning;
            self.finding(finding);
        }
        if well {
            let pools = loaded.pools.iter().filter(|pool| pool.place.file == file).count();
            let lines = loaded.hooks.iter().filter(|line| line.place.file == file).count();
            self.ok(&match (pools, lines) {
                (0, 0) => file.to_owned(),
                _ => format!("{file} (connectors: {pools}, hook lines: {lines})"),
            });
        }
    }

    fn finding(&mut self, finding: &Diagnostic) {
        if finding.severity == Severity::Warning {
            self.warnings += 1;
            println!("warning  {finding}");
        } else {
            self.error(&finding.to_string());
        }
    }
}

/// Checks and prints; exit status 1 when something is wrong.
pub fn main(overrides: Overrides) -> ExitCode {
    let mut report = Report::default();
    match run(overrides, &mut report) {
        Ok(()) => {}
        Err(error) => report.error(&format!("{error:#}")),
    }
    println!(
        "{} checked: {} well, {} wrong, {} warnings",
        report.items,
        report.items - report.errors,
        report.errors,
        report.warnings
    );
    if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(overrides: Overrides, report: &mut Report) -> anyhow::Result<()> {
    let (config, mut findings) = Config::load(overrides);
    let (conf_files, loaded) = backends::load(&config);
    let scratch = scratch_dir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let loaded = match loaded {
        Ok(loaded) => {
            findings.extend(loaded.warnings);
            loaded.config
        }
        Err(problems) => {
            findings.extend(problems);
            backends::embedded_alone(&config)
        }
    };
    let stores = match runtime.block_on(copies::open(&loaded, scratch.path())) {
        Ok((stores, refused)) => {
            findings.extend(refused);
            Some(stores)
        }
        Err(problems) => {
            findings.extend(problems);
            None
        }
    };
    let certificates = certificates(&config, &mut findings);
    let files = config.file.iter().map(|file| &file.name).chain(&conf_files).cloned().collect::<Vec<_>>();
    for file in &files {
        report.file(file, &findings, &loaded);
    }
    for finding in findings.iter().filter(|finding| !files.contains(&finding.file)) {
        report.finding(finding);
    }
    for line in &certificates {
        report.ok(line);
    }
    if files.is_empty() {
        report.ok("no configuration file: the defaults");
    }
    for found in access::files(&config.access).1 {
        match found {
            Ok(found) => {
                found.warnings.iter().for_each(|warning| report.finding(warning));
                report.ok(&format!("{} ({})", found.file, found.content));
            }
            Err(problems) => problems.iter().for_each(|problem| report.finding(problem)),
        }
    }
    let missing = matches!(std::fs::metadata(&config.modules_dir), Err(error) if error.kind() == std::io::ErrorKind::NotFound);
    if let Some(stores) = stores
        && !(missing && config.makes_modules_dir())
    {
        let host = host_config(&config, &scratch);
        for (path, result) in runtime.block_on(load_modules(&config.modules_dir, host, stores))? {
            match result {
                Ok(module) => {
                    let hooks: Vec<_> = module.hooks().iter().map(|(hook, _)| hook.name()).collect();
                    report.ok(&format!("{} ({})", path.display(), hooks.join(", ")));
                }
                Err(error) => report.error(&format!("{}: {error}", path.display())),
            }
        }
    }
    // Compiling may still go on for a module that was given up.
    runtime.shutdown_background();
    Ok(())
}

/// Opens the certificates of all listeners, as they would be opened at a start; gives a line for each that are well.
fn certificates(config: &Config, findings: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut well = Vec::new();
    for listener in &config.listeners {
        let Some(tls) = &listener.config.tls else { continue };
        let name = &listener.config.name;
        match tls.check() {
            Ok(warnings) => {
                let warning = |text: String| listener.place.warning(format!("{name}: {text}"));
                findings.extend(warnings.into_iter().map(warning));
                well.push(format!("listener {name} (certificates: {})", tls.certificates.len()));
            }
            Err(error) => {
                findings.push(listener.place.error(format!("{name}: {}", crate::cli::with_causes(&error))))
            }
        }
    }
    well
}

/// A directory that lives as long as the check.
pub(crate) fn scratch_dir() -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("tidegate-check-").tempdir().context("no temporary directory")
}

/// How the configuration says modules are run, with artefacts in the scratch directory.
pub(crate) fn host_config(config: &Config, cache: &TempDir) -> HostConfig {
    config.host_config(cache.path().join("cache"), Arc::new(IdSource::new(&Node::default())))
}

/// The stores that a module finds when no configuration names others: an empty copy of the embedded one.
pub(crate) async fn default_stores(scratch: &TempDir) -> anyhow::Result<Arc<Stores>> {
    let config = backends::embedded_alone(&Config::default());
    let opened = copies::open(&config, scratch.path()).await;
    let (stores, _) = opened.map_err(|problems| {
        anyhow::Error::msg(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    Ok(stores)
}

/// Loads every `.wasm` file of `dir` and the directories below, in the order of their names: compiles it, links it, reads its manifest,
/// starts one instance. `stores` has the connectors that the module may name.
pub(crate) async fn load_modules(
    dir: &Path,
    host: HostConfig,
    stores: Arc<Stores>,
) -> anyhow::Result<Vec<(PathBuf, Result<Arc<Module>, String>)>> {
    let unreadable = || format!("modules.dir: {} cannot be read", dir.display());
    let paths = tidegate_module::module_files(dir).with_context(unreadable)?;
    let host = Host::new(host, Arc::new(Node::default()), stores, Arc::new(Offline))?;
    let tenant = Tenant::default();
    let mut results = Vec::new();
    for path in paths {
        let result = host.load_below(dir, &path, &tenant).await.map_err(|error| error.to_string());
        results.push((path, result));
    }
    Ok(results)
}
