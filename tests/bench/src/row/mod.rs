//! The rows of the bench: one module each, named as on the command line.

mod attacks;
mod batch;
mod broker;
mod call;
mod crowd;
mod loops;
mod modules;
mod store;
mod subscriptions;
mod transform;

pub use modules::weigh;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use crate::load::Span;
use crate::peer::Peer;
use crate::report::Report;

/// A row, as named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Row {
    /// The broker alone, against rumqttd and mosquitto.
    Broker,
    /// What a module that transforms every message adds.
    Transform,
    /// What calling a guest that does nothing costs.
    Call,
    /// Stored, then acknowledged: against the same driver's bare inserts.
    Store,
    /// What taking messages of many clients in one call brings a module that stores them.
    Batch,
    /// What many loaded modules cost that have nothing to do.
    Modules,
    /// What a hundred thousand subscriptions cost.
    Subscriptions,
    /// What others notice of guests that loop for ever or take memory without end.
    Loops,
    /// Ten thousand idle connections, and five thousand clients that publish at once.
    Crowd,
    /// What others notice of clients that are hostile or broken.
    Attacks,
}

impl Row {
    /// Every row, in the order they run.
    pub const ALL: [Self; 10] = [
        Self::Broker,
        Self::Subscriptions,
        Self::Crowd,
        Self::Attacks,
        Self::Transform,
        Self::Call,
        Self::Store,
        Self::Batch,
        Self::Modules,
        Self::Loops,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Subscriptions => "subscriptions",
            Self::Transform => "transform",
            Self::Call => "call",
            Self::Store => "store",
            Self::Batch => "batch",
            Self::Modules => "modules",
            Self::Loops => "loops",
            Self::Crowd => "crowd",
            Self::Attacks => "attacks",
        }
    }
}

/// What every row is run with.
#[derive(Debug)]
pub struct Bench {
    /// Our binary.
    pub tidegate: Option<PathBuf>,
    /// Who is measured in rows with peers.
    pub peers: Vec<Peer>,
    /// Rounds of every case.
    pub rounds: usize,
    /// Rounds that were asked for, if any were: what takes long or hardly varies has fewer than [`Self::rounds`].
    pub asked_rounds: Option<usize>,
    /// Warm-up and measured interval of a round.
    pub span: Span,
    /// A few seconds a row: fewer cases, so that every path is walked and no number means much.
    pub quick: bool,
    /// Only cases whose name contains this.
    pub case: Option<String>,
    /// Whether a case was wanted so far: a mistyped name would otherwise pass as a run without faults.
    pub any: Cell<bool>,
    /// Take a profile of our server.
    pub profile: bool,
    /// Where results go.
    pub report: Report,
}

impl Bench {
    /// The span of a round: `quick` or full.
    pub fn span(quick: bool) -> Span {
        if quick {
            Span { warm_up: Duration::from_millis(100), measure: Duration::from_millis(300) }
        } else {
            Span { warm_up: Duration::from_millis(500), measure: Duration::from_secs(3) }
        }
    }

    /// Whether the case called `name` is to run.
    pub fn wants(&self, name: &str) -> bool {
        let wanted = self.case.as_ref().is_none_or(|part| name.contains(part.as_str()));
        self.any.set(self.any.get() || wanted);
        wanted
    }

    /// Rounds of a case for which `few` are enough.
    pub fn rounds_or(&self, few: usize) -> usize {
        self.asked_rounds.unwrap_or_else(|| few.min(self.rounds))
    }

    /// Says which round of a case begins, and with whom.
    pub fn progress(&self, case: &str, round: usize, who: &str) {
        self.report.progress(&format!("    {case}: round {}, {who}", round + 1));
    }

    /// Runs `row`.
    ///
    /// # Errors
    /// When something could not be measured at all.
    pub async fn run(&mut self, row: Row) -> anyhow::Result<()> {
        match row {
            Row::Broker => broker::run(self).await,
            Row::Subscriptions => subscriptions::run(self).await,
            Row::Transform => transform::run(self).await,
            Row::Call => call::run(self).await,
            Row::Store => store::run(self).await,
            Row::Batch => batch::run(self).await,
            Row::Modules => modules::run(self).await,
            Row::Loops => loops::run(self).await,
            Row::Crowd => crowd::run(self).await,
            Row::Attacks => attacks::run(self).await,
        }
    }
}
