//! Executes a batch: one pipeline on a server, stage after stage on a cluster.

use std::collections::{BTreeMap, HashMap};

use futures_util::future::join_all;
use redis::Cmd;

use super::batch::{Stages, Step, stages};
use super::error::{Answer, Fault};
use super::link::{Group, Links};
use super::message::ForeignIds;
use crate::backend::{BackendError, WriteError};
use crate::operation::Operation;
use crate::statement::{Bound, Template};

/// Refused operations, by index; the first reason counts.
type Refused = BTreeMap<usize, BackendError>;

/// A stretch of a batch.
enum Part {
    BuiltIn(Stages),
    /// The commands of one action.
    Custom {
        operation: usize,
        commands: Group,
        chain: String,
    },
}

/// Writes `operations`. Refused ones do not keep the others from being written.
pub(super) async fn execute(
    links: &Links,
    operations: &[Operation],
    foreign: &ForeignIds,
) -> Result<(), WriteError> {
    let parts = parts(operations, foreign, links.is_cluster());
    let refused =
        if links.is_cluster() { on_cluster(links, parts).await? } else { on_server(links, parts).await? };
    if refused.is_empty() { Ok(()) } else { Err(WriteError::all_but(refused.into_iter().collect())) }
}

fn parts(operations: &[Operation], foreign: &ForeignIds, cluster: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    let numbered: Vec<(usize, &Operation)> = operations.iter().enumerate().collect();
    let is_custom = |operation: &Operation| matches!(operation, Operation::Execute { .. });
    for run in numbered.chunk_by(|a, b| !is_custom(a.1) && !is_custom(b.1)) {
        match run {
            [(operation, Operation::Execute { statements, values, subject })] => {
                let commands = statements.iter().zip(values).map(|(s, v)| custom(s, v)).collect();
                let topic = subject.message.as_ref().map(|message| message.topic.as_str());
                let chain = topic.or(subject.client.as_deref()).unwrap_or_default().to_owned();
                parts.push(Part::Custom { operation: *operation, commands, chain });
            }
            run => parts.push(Part::BuiltIn(stages(run.iter().copied(), foreign, cluster))),
        }
    }
    parts
}

/// A custom command with its values.
fn custom(statement: &Template, values: &[Bound]) -> Cmd {
    let mut command = Cmd::new();
    for word in statement.words(values) {
        command.arg(word);
    }
    command
}

/// All in one pipeline: the built-in operations between custom ones are one transaction, each action's commands too.
async fn on_server(links: &Links, parts: Vec<Part>) -> Result<Refused, BackendError> {
    let (mut groups, mut owners) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::BuiltIn(stages) => {
                let steps: Vec<Step> = stages.into_steps().filter(|step| !step.commands.is_empty()).collect();
                if steps.is_empty() {
                    continue;
                }
                let mut group = Vec::new();
                let mut owner = Vec::new();
                for step in steps {
                    owner.push(((step.key, step.operations), step.commands.len()));
                    group.extend(step.commands);
                }
                groups.push(group);
                owners.push(owner);
            }
            Part::Custom { operation, commands, .. } => {
                owners.push(vec![((String::new(), vec![operation]), commands.len())]);
                groups.push(commands);
            }
        }
    }
    let mut refused = Refused::new();
    for (answers, owner) in links.transactions(groups).await?.into_iter().zip(owners) {
        let mut answers = answers.into_iter();
        for ((key, operations), count) in owner {
            note(&mut refused, &key, &operations, answers.by_ref().take(count));
        }
    }
    Ok(refused)
}

/// Stage after stage; within a stage every step goes to the node of its key. Custom actions of different topics and
/// clients run at the same time, each command by command.
async fn on_cluster(links: &Links, parts: Vec<Part>) -> Result<Refused, BackendError> {
    let mut refused = Refused::new();
    let mut chains: Vec<Vec<(usize, Group)>> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for part in parts {
        match part {
            Part::Custom { operation, commands, chain } => {
                let at = *index.entry(chain).or_insert_with(|| {
                    chains.push(Vec::new());
                    chains.len() - 1
                });
                if let Some(chain) = chains.get_mut(at) {
                    chain.push((operation, commands));
                }
            }
            Part::BuiltIn(stages) => {
                index.clear();
                run_chains(links, std::mem::take(&mut chains), &mut refused).await?;
                run_stages(links, stages, &mut refused).await?;
            }
        }
    }
    run_chains(links, chains, &mut refused).await?;
    Ok(refused)
}

async fn run_stages(links: &Links, mut stages: Stages, refused: &mut Refused) -> Result<(), BackendError> {
    run_steps(links, std::mem::take(&mut stages.write), refused).await?;
    // What could not be written must not be named.
    let mut named = std::mem::take(&mut stages.name);
    named.retain(|step| !step.operations.iter().all(|operation| refused.contains_key(operation)));
    let owners: Vec<_> = named.iter().map(|step| (step.replaces.clone(), step.operations.clone())).collect();
    let answers = run_steps(links, named, refused).await?;
    for ((topic, operations), answers) in owners.into_iter().zip(answers) {
        if let (Some(topic), Some(Ok(replaced))) = (topic, answers.into_iter().last()) {
            let ids: Vec<String> = redis::from_redis_value(replaced).unwrap_or_default();
            if !ids.is_empty() {
                stages.remove(&topic, &ids, &operations);
            }
        }
    }
    run_steps(links, stages.delete, refused).await?;
    run_steps(links, stages.forget, refused).await.map(drop)
}

async fn run_steps(
    links: &Links,
    steps: Vec<Step>,
    refused: &mut Refused,
) -> Result<Vec<Vec<Answer>>, BackendError> {
    let (mut groups, mut owners) = (Vec::with_capacity(steps.len()), Vec::with_capacity(steps.len()));
    for step in steps.into_iter().filter(|step| !step.commands.is_empty()) {
        groups.push(step.commands);
        owners.push((step.key, step.operations));
    }
    let answers = links.each(groups).await?;
    for (answers, (key, operations)) in answers.iter().zip(owners) {
        note(refused, &key, &operations, answers.iter().cloned());
    }
    Ok(answers)
}

async fn run_chains(
    links: &Links,
    chains: Vec<Vec<(usize, Group)>>,
    refused: &mut Refused,
) -> Result<(), BackendError> {
    let run = async |chain: Vec<(usize, Group)>| {
        let mut faults: Vec<(usize, Fault)> = Vec::new();
        for (operation, commands) in chain {
            for command in commands {
                let answers = links.each(vec![vec![command]]).await?;
                if let Some(Err(fault)) = answers.into_iter().flatten().next() {
                    faults.push((operation, fault));
                    break;
                }
            }
        }
        Ok::<_, BackendError>(faults)
    };
    for faults in join_all(chains.into_iter().map(run)).await {
        for (operation, fault) in faults? {
            refused.entry(operation).or_insert_with(|| fault.into_backend(""));
        }
    }
    Ok(())
}

/// Notes the operations whose commands on `key` were refused.
fn note(refused: &mut Refused, key: &str, operations: &[usize], mut answers: impl Iterator<Item = Answer>) {
    if let Some(Err(fault)) = answers.find(Result::is_err) {
        let error = fault.into_backend(key);
        for operation in operations {
            refused.entry(*operation).or_insert_with(|| error.clone());
        }
    }
}
