//! Executes a batch: one pipeline on a server, stage after stage on a cluster.
//!
//! Not all of a batch may be decided: one node of a cluster is lost, one command is refused for now. Built-in operations may
//! be executed again, custom commands may not: each is decided for itself.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::future::join_all;
use redis::{Cmd, Value, cmd};

use super::batch::{Lists, Stages, Step, forget, stages};
use super::error::Answer;
use super::keys;
use super::link::{Group, Known, Links};
use super::message::ForeignIds;
use crate::backend::{BackendError, WriteError};
use crate::operation::Operation;
use crate::statement::{Bound, Template};

/// An operation with its place in the batch.
type Numbered<'a> = (usize, &'a Operation);

/// What is not written of a batch, by index; the first reason counts.
#[derive(Default)]
struct Left {
    refused: BTreeMap<usize, BackendError>,
    undecided: BTreeMap<usize, BackendError>,
}

impl Left {
    fn undecide(&mut self, operations: &[usize], error: &BackendError) {
        for operation in operations {
            self.undecided.entry(*operation).or_insert_with(|| error.clone());
        }
    }

    fn refuse(&mut self, operations: &[usize], error: &BackendError) {
        for operation in operations {
            self.refused.entry(*operation).or_insert_with(|| error.clone());
        }
    }

    /// Notes what built-in operations learn from the answers to their commands on `key`.
    fn note<'a>(&mut self, key: &str, operations: &[usize], answers: impl Iterator<Item = &'a Answer>) {
        if let Some(fault) = answers.filter_map(|answer| answer.as_ref().err()).next() {
            let error = fault.clone().into_backend(key);
            if error.is_retryable() {
                self.undecide(operations, &error);
            } else {
                self.refuse(operations, &error);
            }
        }
    }

    /// Notes what a custom operation learns from the answers to its commands. Once any of them was executed, the operation
    /// is decided: it would be executed again.
    fn note_custom(&mut self, operation: usize, answers: &[Answer]) {
        let Some(fault) = answers.iter().filter_map(|answer| answer.as_ref().err()).next().cloned() else {
            return;
        };
        let fault = if answers.iter().any(Result::is_ok) { fault.for_good() } else { fault };
        let error = fault.into_backend("");
        if error.is_retryable() {
            self.undecide(&[operation], &error);
        } else {
            self.refuse(&[operation], &error);
        }
    }

    /// Why something is undecided, if anything is.
    fn why(&self) -> Option<BackendError> {
        self.undecided.values().next().cloned()
    }

    /// The steps that may follow those before them. What could not be written must not be named, and what could not be
    /// named yet must not be passed by what came after it: a client's position would pass it, too.
    fn ready(&mut self, mut steps: Vec<Step>) -> Vec<Step> {
        steps.retain(|step| {
            let error = step.operations.iter().find_map(|operation| self.undecided.get(operation)).cloned();
            if let Some(error) = error {
                self.undecide(&step.operations, &error);
                return false;
            }
            !step.operations.iter().all(|operation| self.refused.contains_key(operation))
        });
        steps
    }

    fn into_result(mut self, count: usize) -> Result<(), WriteError> {
        self.undecided.retain(|operation, _| !self.refused.contains_key(operation));
        if self.undecided.len() == count
            && let Some(error) = self.why()
        {
            return Err(error.into());
        }
        if self.refused.is_empty() && self.undecided.is_empty() {
            return Ok(());
        }
        Err(WriteError::all_but(self.refused.into_iter().collect(), self.undecided.into_iter().collect()))
    }
}

/// Writes `operations`. Refused and undecided ones do not keep the others from being written.
pub(super) async fn execute(
    links: &Links,
    operations: &[Operation],
    foreign: &ForeignIds,
) -> Result<(), WriteError> {
    let numbered: Vec<Numbered<'_>> = operations.iter().enumerate().collect();
    let left = if links.is_cluster() {
        on_cluster(links, &numbered, foreign).await
    } else {
        on_server(links, &numbered, foreign).await
    };
    left.into_result(operations.len())
}

/// Built-in and custom operations, in turns.
fn runs<'a, 'b>(operations: &'b [Numbered<'a>]) -> impl Iterator<Item = (bool, &'b [Numbered<'a>])> {
    let is_custom = |(_, operation): &Numbered<'_>| matches!(operation, Operation::Execute { .. });
    let runs = operations.chunk_by(move |a, b| is_custom(a) == is_custom(b));
    runs.map(move |run| (run.first().is_some_and(is_custom), run))
}

/// The commands of a custom operation.
fn custom(operation: &Operation) -> Group {
    match operation {
        Operation::Execute { statements, values, .. } => {
            statements.iter().zip(values).map(|(statement, values)| filled(statement, values)).collect()
        }
        _ => Group::new(),
    }
}

/// A custom command with its values.
fn filled(statement: &Template, values: &[Bound]) -> Cmd {
    let mut command = Cmd::new();
    for word in statement.words(values) {
        command.arg(word);
    }
    command
}

/// Whose transaction it is.
enum Owner {
    /// Built-in operations: key, operations and number of commands of each step.
    BuiltIn(Vec<(String, Vec<usize>, usize)>),
    Custom(usize),
}

/// All in one pipeline: the built-in operations between custom ones are one transaction, each action's commands too.
async fn on_server(links: &Links, operations: &[Numbered<'_>], foreign: &ForeignIds) -> Left {
    let (mut groups, mut owners) = (Vec::new(), Vec::new());
    for (is_custom, run) in runs(operations) {
        if is_custom {
            for (at, operation) in run {
                groups.push(custom(operation));
                owners.push(Owner::Custom(*at));
            }
            continue;
        }
        let (mut group, mut steps) = (Vec::new(), Vec::new());
        let all = stages(run.iter().copied(), foreign, false).into_steps();
        for step in all.filter(|step| !step.commands.is_empty()) {
            steps.push((step.key, step.operations, step.commands.len()));
            group.extend(step.commands);
        }
        if !group.is_empty() {
            groups.push(group);
            owners.push(Owner::BuiltIn(steps));
        }
    }
    let mut left = Left::default();
    for (known, owner) in links.transactions(groups, None).await.into_iter().zip(owners) {
        match (owner, known) {
            (Owner::Custom(operation), Ok(answers)) => left.note_custom(operation, &answers),
            (Owner::Custom(operation), Err(error)) => left.undecide(&[operation], &error),
            (Owner::BuiltIn(steps), Ok(answers)) => {
                // Behind what is written again these are, too: in their order.
                let mut behind = left.why();
                let mut answers = answers.iter();
                for (key, operations, count) in &steps {
                    left.note(key, operations, answers.by_ref().take(*count));
                }
                behind = behind.or_else(|| left.why());
                if let Some(error) = behind {
                    steps.iter().for_each(|(_, operations, _)| left.undecide(operations, &error));
                }
            }
            (Owner::BuiltIn(steps), Err(error)) => {
                steps.iter().for_each(|(_, operations, _)| left.undecide(operations, &error));
            }
        }
    }
    left
}

/// Stage after stage; within a stage every step goes to the node of its key. Custom actions of different topics and
/// clients run at the same time, each command by command. What is about a client or topic of which something is undecided
/// waits with that.
async fn on_cluster(links: &Links, operations: &[Numbered<'_>], foreign: &ForeignIds) -> Left {
    let mut left = Left::default();
    for (is_custom, run) in runs(operations) {
        let is_undecided = |(at, _): &&Numbered<'_>| left.undecided.contains_key(at);
        let held: HashSet<&str> =
            operations.iter().filter(is_undecided).map(|(_, operation)| operation.place()).collect();
        let (behind, run): (Vec<Numbered<'_>>, Vec<Numbered<'_>>) =
            run.iter().copied().partition(|(_, operation)| held.contains(operation.place()));
        if let Some(error) = left.why() {
            behind.iter().for_each(|(at, _)| left.undecide(&[*at], &error));
        }
        if is_custom {
            run_chains(links, &run, &mut left).await;
        } else {
            run_stages(links, stages(run.into_iter(), foreign, true), &mut left).await;
        }
    }
    left
}

async fn run_stages(links: &Links, mut stages: Stages, left: &mut Left) {
    run_steps(links, std::mem::take(&mut stages.write), left).await;
    let named = left.ready(std::mem::take(&mut stages.name));
    let owners: Vec<_> = named.iter().map(|step| (step.lists.clone(), step.operations.clone())).collect();
    let mut old = Vec::new();
    for ((lists, operations), known) in owners.into_iter().zip(run_steps(links, named, left).await) {
        let Ok(Some(Ok(listed))) = known.map(|answers| answers.into_iter().next()) else { continue };
        let ids = || redis::from_redis_value::<Vec<String>>(listed).unwrap_or_default();
        match lists {
            Lists::Nothing => {}
            Lists::Replaced(topic) => {
                let ids = ids();
                if !ids.is_empty() {
                    stages.remove(&topic, &ids, &operations);
                }
            }
            Lists::Old(topic) => old.push((topic, ids())),
        }
    }
    let delete = left.ready(stages.delete);
    run_steps(links, delete, left).await;
    let forget = left.ready(stages.forget);
    run_steps(links, forget, left).await;
    forget_expired(links, old).await;
}

/// Takes the names of expired messages out of the sets of their topics. What fails is looked at again another time.
async fn forget_expired(links: &Links, old: Vec<(String, Vec<String>)>) {
    let exists = |id: &String| vec![cmd("EXISTS").arg(keys::message(id)).take()];
    let asked = old.iter().flat_map(|(_, ids)| ids).map(exists).collect();
    let mut answers = links.known(asked).await.into_iter();
    let mut steps = Vec::new();
    for (topic, mut ids) in old {
        ids.retain(|_| {
            matches!(answers.next().as_ref().map(|known| known.as_deref()), Some(Ok([Ok(Value::Int(0))])))
        });
        if !ids.is_empty() {
            steps.push(forget(&topic, &ids, Vec::new()).commands);
        }
    }
    drop(links.known(steps).await);
}

/// Gives what is known of each step.
async fn run_steps(links: &Links, steps: Vec<Step>, left: &mut Left) -> Vec<Known> {
    let (mut groups, mut owners) = (Vec::with_capacity(steps.len()), Vec::with_capacity(steps.len()));
    for step in steps.into_iter().filter(|step| !step.commands.is_empty()) {
        groups.push(step.commands);
        owners.push((step.key, step.operations));
    }
    let all = links.known(groups).await;
    for (known, (key, operations)) in all.iter().zip(owners) {
        match known {
            Ok(answers) => left.note(&key, &operations, answers.iter()),
            Err(error) => left.undecide(&operations, error),
        }
    }
    all
}

/// Runs custom operations, those of one client or topic in order.
async fn run_chains(links: &Links, operations: &[Numbered<'_>], left: &mut Left) {
    let mut chains: Vec<Vec<Numbered<'_>>> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for (at, operation) in operations {
        let chain = *index.entry(operation.place()).or_insert_with(|| {
            chains.push(Vec::new());
            chains.len() - 1
        });
        if let Some(chain) = chains.get_mut(chain) {
            chain.push((*at, *operation));
        }
    }
    for found in join_all(chains.into_iter().map(|chain| run_chain(links, chain))).await {
        found.refused.iter().for_each(|(at, error)| left.refuse(&[*at], error));
        found.undecided.iter().for_each(|(at, error)| left.undecide(&[*at], error));
    }
}

async fn run_chain(links: &Links, chain: Vec<Numbered<'_>>) -> Left {
    let mut left = Left::default();
    for (at, operation) in chain {
        if let Some(error) = left.why() {
            left.undecide(&[at], &error);
            continue;
        }
        for command in custom(operation) {
            match links.known(vec![vec![command]]).await.pop() {
                Some(Ok(answers)) => left.note_custom(at, &answers),
                Some(Err(error)) => left.undecide(&[at], &error),
                None => {}
            }
            if left.refused.contains_key(&at) || left.undecided.contains_key(&at) {
                break;
            }
        }
    }
    left
}
