//! `tidegate plugins ...`: the client's side.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{LoadPluginArgs, NamedArgs, ServerListArgs};
use crate::columns::columns;
use crate::control::client;
use crate::control::messages::{LoadPlugin, Named, PluginChanged, Plugins};
use crate::modules::finish;

/// Prints the list; exit status 1 when it cannot be had.
pub(crate) fn list(args: &ServerListArgs) -> ExitCode {
    finish(client::get(&args.server.data, "/v1/plugins"), args.json, render)
}

/// Loads a file or brings one back; exit status 1 when it is refused.
pub(crate) fn load(args: &LoadPluginArgs) -> ExitCode {
    finish(ask_to_load(args), args.json, changed)
}

/// Takes a file out of use; exit status 1 when it cannot be.
pub(crate) fn unload(args: &NamedArgs) -> ExitCode {
    let request = Named { name: args.name.clone() };
    let answer = client::post(&args.server.data, "/v1/plugins/unload", &request);
    finish(answer.and_then(client::Answer::json), args.json, changed)
}

fn ask_to_load(args: &LoadPluginArgs) -> anyhow::Result<PluginChanged> {
    let data = &args.server.data;
    if Path::new(&args.what).extension().is_some_and(|extension| extension == "conf") {
        std::fs::metadata(&args.what).with_context(|| args.what.clone())?;
        let request = LoadPlugin { file: std::path::absolute(&args.what)?, replace: args.replace };
        return client::post(data, "/v1/plugins/load", &request)?.json();
    }
    anyhow::ensure!(
        !args.replace,
        "--replace puts a file in the place of another; {:?} is no .conf file",
        args.what
    );
    client::post(data, "/v1/plugins/enable", &Named { name: args.what.clone() })?.json()
}

fn render(list: &Plugins) -> String {
    let mut text = if list.plugins.is_empty() {
        "no plugins\n".to_owned()
    } else {
        let mut rows = vec![["NAME", "STATE", "HOOK LINES", "CONNECTORS"].map(String::from)];
        rows.extend(list.plugins.iter().map(|plugin| {
            let lines = plugin.hook_lines.to_string();
            [plugin.name.clone(), plugin.state.clone(), lines, plugin.connectors.join(" ")]
        }));
        columns(&rows, &[2])
    };
    text.push_str(&refused(&list.refused));
    text
}

/// What is wrong with the newest configuration.
pub(crate) fn refused(lines: &[String]) -> String {
    lines.iter().map(|line| format!("refused, the configuration before is in use: {line}\n")).collect()
}

fn changed(changed: &PluginChanged) -> String {
    let mut text = format!("{}: {} after {} ms\n", changed.name, changed.state, changed.took_ms);
    for (what, names) in [
        ("connectors opened", &changed.added),
        ("connectors changed", &changed.changed),
        ("connectors closed", &changed.removed),
    ] {
        if !names.is_empty() {
            text.push_str(&format!("{what}: {}\n", names.join(" ")));
        }
    }
    for warning in &changed.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}
