//! `tidegate connectors ...`: the client's side.

use std::process::ExitCode;

use crate::cli::{ServerListArgs, WhichArgs};
use crate::columns::columns;
use crate::control::client;
use crate::control::messages::{Asked, Connectors, Which};
use crate::modules::finish;

/// Prints the list; exit status 1 when it cannot be had.
pub(crate) fn list(args: &ServerListArgs) -> ExitCode {
    finish(client::get(&args.server.data, "/v1/connectors"), args.json, render)
}

/// Asks databases; exit status 1 when one does not answer.
pub(crate) fn test(args: &WhichArgs) -> ExitCode {
    ask(args, "/v1/connectors/test")
}

/// Posts a question about connectors and prints what came of it.
pub(crate) fn ask(args: &WhichArgs, path: &str) -> ExitCode {
    let request = Which { name: args.name.clone() };
    let asked: anyhow::Result<Vec<Asked>> =
        client::post(&args.server.data, path, &request).and_then(client::Answer::json);
    let is_well = asked.as_ref().is_ok_and(|asked| asked.iter().all(|one| one.error.is_none()));
    let printed = finish(asked, args.json, |asked| asked.iter().map(answered).collect());
    if is_well { printed } else { ExitCode::FAILURE }
}

fn answered(asked: &Asked) -> String {
    match (&asked.error, &asked.done) {
        (Some(error), _) => format!("failed   {}: {error}\n", asked.name),
        (None, done) => {
            let words = done.as_deref().unwrap_or("done");
            format!("ok       {}: {words} ({} ms)\n", asked.name, asked.took_ms)
        }
    }
}

const TITLES: [&str; 7] = ["NAME", "STATE", "QUEUED", "STORED", "REFUSED", "ERRORS", "LAST ERROR"];

fn render(list: &Connectors) -> String {
    let mut rows = vec![TITLES.map(String::from)];
    rows.extend(list.connectors.iter().map(|connector| {
        [
            connector.name.clone(),
            connector.state.clone(),
            connector.queued.to_string(),
            connector.stored.to_string(),
            connector.refused.to_string(),
            connector.errors.to_string(),
            connector.last_error.clone().unwrap_or_else(|| "-".into()),
        ]
    }));
    columns(&rows, &[2, 3, 4, 5]) + &crate::plugins::refused(&list.refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::messages::Connector;

    #[test]
    fn connectors_stand_in_columns_and_what_is_refused_follows() {
        let connector = |name: &str, error: Option<&str>| Connector {
            name: name.into(),
            state: "up".into(),
            queued: 0,
            stored: 1_234,
            refused: 0,
            abandoned: 0,
            errors: 2,
            last_error: error.map(Into::into),
            last_error_at_ms: None,
        };
        let list = Connectors {
            connectors: vec![connector("sqlite:default", None), connector("redis:p", Some("refused"))],
            refused: vec!["a.conf:1:1: no".into()],
        };
        assert_eq!(
            render(&list),
            "NAME            STATE  QUEUED  STORED  REFUSED  ERRORS  LAST ERROR\n\
             sqlite:default  up          0    1234        0       2  -\n\
             redis:p         up          0    1234        0       2  refused\n\
             refused, the configuration before is in use: a.conf:1:1: no\n"
        );
    }
}
