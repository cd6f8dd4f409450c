//! `tidegate modules list`: the modules of a running server, or the files of a directory.

mod request;
mod table;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::api::report::{FailureReport, Modules};
use crate::cli::ListArgs;
use crate::config::Config;

/// Prints the list; exit status 1 when it cannot be had.
pub(crate) fn list(args: &ListArgs) -> ExitCode {
    let modules = if args.offline { inspect(&args.modules) } else { ask(args) };
    match modules {
        Ok(modules) if args.json => match serde_json::to_string_pretty(&modules) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => crate::cli::fail(&error),
        },
        Ok(modules) => {
            print!("{}", table::render(&modules));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ask(args: &ListArgs) -> anyhow::Result<Modules> {
    let body = request::get(args.api, "/api/v1/modules").with_context(|| {
        format!(
            "no tidegate server answers on {} (is it running? --api names another address, --offline looks at \
             the files)",
            args.api
        )
    })?;
    serde_json::from_slice(&body).with_context(|| format!("{} is no tidegate server", args.api))
}

/// Loads every file of the directory, calls none.
fn inspect(dir: &Path) -> anyhow::Result<Modules> {
    let cache = crate::check::scratch_dir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let host = crate::check::host_config(&Config::default(), &cache);
    let stores = runtime.block_on(crate::check::default_stores(&cache))?;
    let results = runtime.block_on(crate::check::load_modules(dir, host, stores))?;
    let mut list = Modules::default();
    for (path, result) in results {
        match result {
            Ok(module) => list.modules.push(crate::status::report(&module)),
            Err(error) => {
                list.failures.push(FailureReport {
                    path: path.display().to_string(),
                    error,
                    mandatory: false,
                });
            }
        }
    }
    list.modules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    Ok(list)
}
