//! What the commands about connectors do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tidegate_store::{ConnectorReport, Stores};

use super::files::Refusal;
use super::messages::{Asked, Connector, Connectors, Which};
use super::modules::{Controls, millis};

/// How long a database may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Controls {
    /// Every connector.
    pub(super) fn connectors(&self) -> Result<Connectors, Refusal> {
        let reload = self.reload_of_back_ends()?;
        let connectors = reload.stores().report().into_iter().map(shown).collect();
        Ok(Connectors { connectors, refused: reload.told().refused })
    }

    /// Asks databases whether they answer.
    pub(super) async fn test_connectors(&self, which: Which) -> Result<Vec<Asked>, Refusal> {
        self.ask(which, Question::Answers).await
    }

    /// Makes the tables of databases.
    pub(super) async fn apply_schema(&self, which: Which) -> Result<Vec<Asked>, Refusal> {
        self.ask(which, Question::Tables).await
    }

    /// Asks the connectors that are meant, all at once.
    async fn ask(&self, which: Which, question: Question) -> Result<Vec<Asked>, Refusal> {
        let stores = self.reload_of_back_ends()?.stores().clone();
        let names = meant(&stores, which.name.as_deref())?;
        Ok(join_all(names.into_iter().map(|name| asked(&stores, name, question))).await)
    }
}

/// What is asked of a database.
#[derive(Clone, Copy)]
enum Question {
    /// Whether it answers.
    Answers,
    /// To have its tables.
    Tables,
}

async fn asked(stores: &Stores, name: String, question: Question) -> Asked {
    let began = Instant::now();
    let answer = async {
        match question {
            Question::Answers => stores.check(&name).await.map(|()| "it answers".to_owned()),
            Question::Tables => stores.apply_schema(&name).await,
        }
    };
    let (done, error) = match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(words)) => (Some(words), None),
        Ok(Err(error)) => (None, Some(error.to_string())),
        Err(_) => (None, Some(format!("no answer within {PATIENCE:?}"))),
    };
    Asked { name, done, error, took_ms: millis(began) }
}

/// The connectors that `name` means: one, those of a back end, or all.
fn meant(stores: &Arc<Stores>, name: Option<&str>) -> Result<Vec<String>, Refusal> {
    let all: Vec<String> = stores.report().into_iter().map(|report| report.name).collect();
    let Some(wanted) = name else { return Ok(all) };
    let kind = tidegate_store::backend::find(wanted).map_or(wanted, |kind| kind.name);
    let is_meant = |name: &String| {
        let (of, pool) = name.split_once(':').unwrap_or((name, name));
        name == wanted || pool == wanted || of == kind
    };
    let meant: Vec<String> = all.iter().filter(|name| is_meant(name)).cloned().collect();
    if meant.is_empty() {
        return Err(Refusal::Unknown(format!("no connector {wanted:?}; there are {}", all.join(", "))));
    }
    Ok(meant)
}

fn shown(report: ConnectorReport) -> Connector {
    let state = match (report.waits, report.is_up) {
        (true, _) => "waiting",
        (false, true) => "up",
        (false, false) => "down",
    };
    Connector {
        name: report.name,
        state: state.into(),
        queued: report.queued,
        stored: report.stored,
        refused: report.refused,
        abandoned: report.abandoned,
        errors: report.errors,
        last_error_at_ms: report.last_error.as_ref().map(|error| error.at_ms),
        last_error: report.last_error.map(|error| error.words),
    }
}
