//! Connections: opened when they are needed, lent to many at once, thrown away when they fail.
//!
//! A pool has `pool_size` of them. Each carries many commands at a time, so a connection is picked in turn and shared,
//! not borrowed. Whoever sees a connection fail, or the server behind it change its role, throws it away; the next one
//! to need it opens it anew, which finds the master of the day.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, RedisError, Value, cmd};
use tokio::sync::Mutex;

use super::error::{Answer, Fault, answer, fault, unanswered};
use super::script;
use super::sentinel;
use super::settings::{Form, Settings};
use crate::backend::BackendError;

/// Commands on one key, in order.
pub(super) type Group = Vec<Cmd>;

/// How long the error of a failed attempt to connect answers for the next ones.
const FAILURE_HOLDS: Duration = Duration::from_millis(200);

/// An open connection.
#[derive(Clone)]
enum Connection {
    /// To the one server, or the master.
    Node(MultiplexedConnection),
    /// To all masters of a cluster.
    Cluster(ClusterConnection),
}

#[derive(Default)]
struct Slot {
    live: Option<(u64, Connection)>,
    failed: Option<(Instant, BackendError)>,
}

/// The connections of a pool.
pub(super) struct Links {
    pub(super) settings: Settings,
    slots: Vec<Mutex<Slot>>,
    next: AtomicUsize,
    opened: AtomicU64,
}

/// A connection in use: where it came from, to throw it away.
struct Lent {
    slot: usize,
    number: u64,
    connection: Connection,
}

impl Links {
    pub(super) fn new(settings: Settings) -> Self {
        let slots = (0..settings.connections).map(|_| Mutex::default()).collect();
        Self { settings, slots, next: AtomicUsize::new(0), opened: AtomicU64::new(0) }
    }

    /// Whether keys are spread over several servers.
    pub(super) fn is_cluster(&self) -> bool {
        self.settings.form == Form::Cluster
    }

    /// Runs groups that do not depend on each other. The answers are in their order. On a server they are one
    /// pipeline; on a cluster each group goes to the node of its key, all at the same time.
    ///
    /// # Errors
    /// Nothing is known about any of them: [`BackendError::Unavailable`]. Refusals are answers.
    pub(super) async fn each(&self, groups: Vec<Group>) -> Result<Vec<Vec<Answer>>, BackendError> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let lent = self.lend().await?;
        let result = Self::run(&lent, groups).await;
        self.settle(lent, result).await
    }

    /// As [`each`](Self::each), for commands of guests: every refusal is an answer, also one that will pass, because the
    /// others of the call may have run, and a guest's own unknown script is no reason to connect anew.
    ///
    /// # Errors
    /// Nothing is known about any of them: [`BackendError::Unavailable`].
    pub(super) async fn each_as_told(&self, groups: Vec<Group>) -> Result<Vec<Vec<Answer>>, BackendError> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let lent = self.lend().await?;
        let result = Self::run(&lent, groups).await;
        let spoilt = match &result {
            Err(_) => true,
            Ok(answers) => faults(answers).any(Fault::spoils_connection),
        };
        if spoilt {
            self.throw_away(&lent).await;
        }
        result
    }

    /// Groups that do not depend on each other, on a connection.
    async fn run(lent: &Lent, groups: Vec<Group>) -> Result<Vec<Vec<Answer>>, BackendError> {
        match &lent.connection {
            Connection::Node(node) => {
                let lengths: Vec<usize> = groups.iter().map(Vec::len).collect();
                let answers = pipeline(node.clone(), groups.into_iter().flatten()).await;
                answers.map(|answers| {
                    let mut answers = answers.into_iter().map(answer);
                    lengths.into_iter().map(|length| answers.by_ref().take(length).collect()).collect()
                })
            }
            Connection::Cluster(cluster) => {
                join_all(groups.into_iter().map(|group| on_cluster(cluster.clone(), group)))
                    .await
                    .into_iter()
                    .collect()
            }
        }
    }

    /// Runs each group as a transaction on the server, all in one pipeline, in order. Not on a cluster. With
    /// `wait_replicas`, the answer comes when so many replicas have them.
    ///
    /// # Errors
    /// As [`each`](Self::each); a group that was not executed has the same fault for each of its commands.
    pub(super) async fn transactions(&self, groups: Vec<Group>) -> Result<Vec<Vec<Answer>>, BackendError> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let lent = self.lend().await?;
        let Connection::Node(node) = &lent.connection else {
            return Err(BackendError::Invalid("a cluster has no transactions over several keys".into()));
        };
        let lengths: Vec<usize> = groups.iter().map(Vec::len).collect();
        let wrapped = groups
            .into_iter()
            .flat_map(|group| std::iter::once(cmd("MULTI")).chain(group).chain(std::iter::once(cmd("EXEC"))));
        let wanted = self.settings.wait_replicas;
        let wait = (wanted > 0).then(|| {
            let mut wait = cmd("WAIT");
            wait.arg(wanted).arg(u64::try_from(self.settings.query_timeout.as_millis() / 2).unwrap_or(1_000));
            wait
        });
        let result = match pipeline(node.clone(), wrapped.chain(wait)).await {
            Ok(mut replies) => {
                let reached = if wanted > 0 { replies.pop() } else { None };
                match reached {
                    Some(Value::Int(reached)) if u64::try_from(reached).unwrap_or(0) < wanted => {
                        let words = format!("{reached} of {wanted} replicas have the batch");
                        Err(BackendError::Unavailable(words))
                    }
                    _ => {
                        let mut replies = replies.into_iter();
                        Ok(lengths.into_iter().map(|length| executed(&mut replies, length)).collect())
                    }
                }
            }
            Err(error) => Err(error),
        };
        self.settle(lent, result).await
    }

    /// Asks whether the servers can serve.
    pub(super) async fn check(&self) -> Result<(), BackendError> {
        if !self.is_cluster() {
            return one(self.each(vec![vec![cmd("PING")]]).await?, "").map(drop);
        }
        let mut info = cmd("CLUSTER");
        info.arg("INFO");
        let text = one(self.each(vec![vec![info]]).await?, "")?;
        let text: String = redis::from_redis_value(text).unwrap_or_default();
        match text.lines().find_map(|line| line.strip_prefix("cluster_state:")) {
            None | Some("ok") => Ok(()),
            Some(state) => Err(BackendError::Unavailable(format!("the cluster's state is {state}"))),
        }
    }

    /// Closes all connections; the next call opens them anew.
    pub(super) async fn close(&self) {
        for slot in &self.slots {
            *slot.lock().await = Slot::default();
        }
    }

    async fn lend(&self) -> Result<Lent, BackendError> {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len().max(1);
        let Some(slot) = self.slots.get(index) else {
            return Err(BackendError::Unavailable("the pool has no connections".into()));
        };
        let mut slot = slot.lock().await;
        if let Some((number, connection)) = &slot.live {
            return Ok(Lent { slot: index, number: *number, connection: connection.clone() });
        }
        if let Some((when, error)) = &slot.failed
            && when.elapsed() < FAILURE_HOLDS
        {
            return Err(error.clone());
        }
        match self.open().await {
            Ok(connection) => {
                let number = self.opened.fetch_add(1, Ordering::Relaxed);
                *slot = Slot { live: Some((number, connection.clone())), failed: None };
                Ok(Lent { slot: index, number, connection })
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Throws the connection away if it is spoilt, and makes passing faults the call's error.
    async fn settle(
        &self,
        lent: Lent,
        result: Result<Vec<Vec<Answer>>, BackendError>,
    ) -> Result<Vec<Vec<Answer>>, BackendError> {
        let (spoilt, result) = match result {
            Err(error) => (true, Err(error)),
            Ok(answers) => {
                let spoilt = faults(&answers).any(|fault| fault.spoils_connection() || fault.lacks_script());
                let passing = faults(&answers).find(|fault| fault.is_passing()).cloned();
                match passing {
                    Some(fault) => (spoilt, Err(fault.into_backend(""))),
                    None => (spoilt, Ok(answers)),
                }
            }
        };
        if spoilt {
            self.throw_away(&lent).await;
        }
        result
    }

    /// Whoever needs this connection next opens it anew.
    async fn throw_away(&self, lent: &Lent) {
        let Some(slot) = self.slots.get(lent.slot) else { return };
        let mut slot = slot.lock().await;
        if slot.live.as_ref().is_some_and(|(number, _)| *number == lent.number) {
            slot.live = None;
        }
    }

    async fn open(&self) -> Result<Connection, BackendError> {
        let settings = &self.settings;
        if settings.form == Form::Cluster {
            // Nodes are asked one after the other.
            let limit = settings.connect_timeout * 2;
            return match tokio::time::timeout(limit, open_cluster(settings)).await {
                Ok(cluster) => cluster.map(Connection::Cluster),
                Err(_) => {
                    Err(BackendError::Unavailable(format!("no connection to the cluster within {limit:?}")))
                }
            };
        }
        let client = self.master().await?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.query_timeout));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let node = connection.map_err(|error| unanswered(&error))?;
        let prelude = script::loads().into_iter().chain(std::iter::once(cmd("ROLE")));
        let mut replies = pipeline(node.clone(), prelude).await?;
        let role = replies.pop().map(answer);
        if let Some(Err(fault)) = replies.into_iter().map(answer).find(Result::is_err) {
            return Err(BackendError::Unavailable(format!("{} {}", fault.code, fault.message)));
        }
        // Sentinels may still name a server that was demoted, or is not promoted yet.
        if matches!(settings.form, Form::Sentinel(_))
            && !matches!(&role, Some(Ok(Value::Array(parts))) if parts.first().is_some_and(is_master))
        {
            return Err(BackendError::Unavailable(
                "the server that the sentinels name is no master now".into(),
            ));
        }
        Ok(Connection::Node(node))
    }

    /// A client of the server that takes writes.
    pub(super) async fn master(&self) -> Result<Client, BackendError> {
        let settings = &self.settings;
        let address = match (&settings.form, settings.servers.first()) {
            (Form::Sentinel(name), _) => sentinel::master(settings, name).await?,
            (_, Some(address)) => address.clone(),
            (_, None) => return Err(BackendError::Invalid("server is empty".into())),
        };
        client(settings, settings.info(&address)?)
    }
}

/// What was refused.
fn faults(answers: &[Vec<Answer>]) -> impl Iterator<Item = &Fault> {
    answers.iter().flatten().filter_map(|answer| answer.as_ref().err())
}

/// A client of one server.
pub(super) fn client(settings: &Settings, info: ConnectionInfo) -> Result<Client, BackendError> {
    let client = match &settings.tls {
        Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        None => Client::open(info),
    };
    client.map_err(|error| BackendError::Invalid(error.to_string()))
}

fn is_master(role: &Value) -> bool {
    matches!(role, Value::BulkString(name) if name == b"master")
}

/// The cluster, with its nodes as they are now.
async fn open_cluster(settings: &Settings) -> Result<ClusterConnection, BackendError> {
    let nodes: Vec<ConnectionInfo> =
        settings.servers.iter().map(|address| settings.info(address)).collect::<Result<_, _>>()?;
    let mut builder = ClusterClient::builder(nodes)
        .use_protocol(redis::ProtocolVersion::RESP2)
        .connection_timeout(settings.connect_timeout)
        .response_timeout(settings.query_timeout)
        .overall_response_timeout(Some(settings.query_timeout))
        .tcp_settings(settings.tcp())
        .retries(4)
        .min_retry_wait(10)
        .max_retry_wait(500);
    let (user, password) = settings.credentials();
    if let Some(user) = user {
        builder = builder.username(user);
    }
    if let Some(password) = password {
        builder = builder.password(password);
    }
    if let Some(certificates) = &settings.tls {
        builder = builder.certs(certificates.clone());
    }
    let client = builder.build().map_err(|error| BackendError::Invalid(error.to_string()))?;
    let mut cluster = client.get_async_connection().await.map_err(|error| unanswered(&error))?;
    for load in script::loads() {
        cluster.req_packed_command(&load).await.map_err(|error| unanswered(&error))?;
    }
    Ok(cluster)
}

/// One pipeline to one server, whose replies are in the order of the commands.
async fn pipeline(
    mut node: MultiplexedConnection,
    commands: impl IntoIterator<Item = Cmd>,
) -> Result<Vec<Value>, BackendError> {
    let mut pipeline = Pipeline::new();
    for command in commands {
        pipeline.add_command(command);
    }
    let count = pipeline.len();
    let replies = node.req_packed_commands(&pipeline, 0, count).await.map_err(|error| unanswered(&error))?;
    if replies.len() == count {
        Ok(replies)
    } else {
        Err(BackendError::Unavailable(format!("{} replies to {count} commands", replies.len())))
    }
}

/// The commands of one key, on its node: as a transaction when there are several.
async fn on_cluster(mut cluster: ClusterConnection, group: Group) -> Result<Vec<Answer>, BackendError> {
    let refused = |error: RedisError, count| fault(error).map(|fault| vec![Err(fault); count]);
    match &*group {
        [command] => match cluster.req_packed_command(command).await {
            Ok(value) => Ok(vec![answer(value)]),
            Err(error) => refused(error, 1),
        },
        commands => {
            let count = commands.len();
            let mut pipeline = Pipeline::new();
            pipeline.add_command(cmd("MULTI"));
            commands.iter().for_each(|command| {
                pipeline.add_command(command.clone());
            });
            pipeline.add_command(cmd("EXEC"));
            match cluster.req_packed_commands(&pipeline, 0, count + 2).await {
                Ok(replies) => Ok(executed(&mut replies.into_iter(), count)),
                Err(error) => refused(error, count),
            }
        }
    }
}

/// The answers of a transaction of `count` commands, from the replies to MULTI, to each command and to EXEC.
fn executed(replies: &mut impl Iterator<Item = Value>, count: usize) -> Vec<Answer> {
    let queued: Vec<Answer> = replies.by_ref().take(count + 1).map(answer).collect();
    match replies.next().map(answer) {
        Some(Ok(Value::Array(values))) if values.len() == count => values.into_iter().map(answer).collect(),
        other => {
            // The command that could not be queued says why nothing was executed.
            let first = queued.into_iter().find_map(Result::err);
            let fault = first.or_else(|| other.and_then(Result::err)).unwrap_or_else(|| Fault {
                code: "EXECABORT".into(),
                message: "the transaction was not executed".into(),
            });
            vec![Err(fault); count]
        }
    }
}

/// The only answer to one command on `key`.
pub(super) fn one(answers: Vec<Vec<Answer>>, key: &str) -> Result<Value, BackendError> {
    match answers.into_iter().flatten().next() {
        Some(Ok(value)) => Ok(value),
        Some(Err(fault)) => Err(fault.into_backend(key)),
        None => Err(BackendError::Unavailable("no reply".into())),
    }
}
