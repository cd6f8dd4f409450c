//! Connections: opened when they are needed, lent to many at once, thrown away when they fail.
//!
//! A pool has `pool_size` of them. Each carries many commands at a time, so a connection is picked in turn and shared,
//! not borrowed. Whoever sees a connection fail, or the server behind it change its role, throws it away, with all that
//! are older than that: they lead to the same server. The next one to need one opens it anew, which finds the master of
//! the day.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError, Value, cmd,
};
use tidegate_event::Seldom;
use tokio::sync::Mutex;

use super::error::{Answer, Fault, answer, at_first, fault, unanswered};
use super::script;
use super::sentinel;
use super::settings::{Form, Settings};
use crate::backend::BackendError;

/// Commands on one key, in order.
pub(super) type Group = Vec<Cmd>;

/// What is known of a group: the answers to its commands, or why there are none.
pub(super) type Known = Result<Vec<Answer>, BackendError>;

/// Host and port.
pub(super) type Address = (String, u16);

/// How long the error of a failed attempt to connect answers for the next ones.
const FAILURE_HOLDS: Duration = Duration::from_millis(200);
/// How long a `WAIT` holds a connection, which others share, before it is asked again.
const WAIT_STEP: Duration = Duration::from_millis(200);

/// A server that takes writes.
pub(super) struct Master {
    pub(super) client: Client,
    link: MultiplexedConnection,
    address: Address,
}

/// An open connection.
#[derive(Clone)]
enum Connection {
    /// To the one server, or the master, with its address.
    Node(MultiplexedConnection, Address),
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
    /// How many were opened, ever: their numbers.
    opened: AtomicU64,
    /// Those with smaller numbers are not used any more.
    stale: AtomicU64,
    wait_line: Seldom,
    /// A stored message that cannot be delivered.
    pub(super) skip_line: Seldom,
}

/// A connection in use: where it came from, to throw it away.
struct Lent {
    slot: usize,
    number: u64,
    /// How many had been opened by then.
    opened: u64,
    connection: Connection,
}

/// The answers, when all groups have some and none of them may be another one later.
///
/// # Errors
/// The first reason why not.
pub(super) fn all(known: Vec<Known>) -> Result<Vec<Vec<Answer>>, BackendError> {
    let answers = known.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut faults = answers.iter().flatten().filter_map(|answer| answer.as_ref().err());
    match faults.find(|fault| fault.is_passing()).cloned() {
        Some(fault) => Err(fault.into_backend("")),
        None => Ok(answers),
    }
}

impl Links {
    pub(super) fn new(settings: Settings) -> Self {
        let slots = (0..settings.connections).map(|_| Mutex::default()).collect();
        Self {
            settings,
            slots,
            next: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            wait_line: Seldom::default(),
            skip_line: Seldom::default(),
        }
    }

    /// Whether keys are spread over several servers.
    pub(super) fn is_cluster(&self) -> bool {
        self.settings.form == Form::Cluster
    }

    /// Runs groups that do not depend on each other. The answers are in their order. On a server they are one
    /// pipeline; on a cluster each group goes to the node of its key, all at the same time.
    ///
    /// # Errors
    /// At least one of them has no answer, or one that may be another later: [`BackendError::Unavailable`]. Refusals are
    /// answers.
    pub(super) async fn each(&self, groups: Vec<Group>) -> Result<Vec<Vec<Answer>>, BackendError> {
        all(self.known(groups).await)
    }

    /// The same; what is known of each group, in their order.
    pub(super) async fn known(&self, groups: Vec<Group>) -> Vec<Known> {
        if groups.is_empty() {
            return Vec::new();
        }
        let lent = match self.lend().await {
            Ok(lent) => lent,
            Err(error) => return unknown(&error, groups.len()),
        };
        let owners = owners(&groups);
        let known = match &lent.connection {
            Connection::Node(node, _) => {
                let lengths: Vec<usize> = groups.iter().map(Vec::len).collect();
                match pipeline(node.clone(), groups.into_iter().flatten()).await {
                    Ok(replies) => {
                        let mut answers = replies.into_iter().map(answer);
                        lengths.iter().map(|length| Ok(answers.by_ref().take(*length).collect())).collect()
                    }
                    Err(error) => unknown(&error, lengths.len()),
                }
            }
            Connection::Cluster(cluster) => {
                join_all(groups.into_iter().map(|group| on_cluster(cluster.clone(), group))).await
            }
        };
        let known = owned(known, owners);
        self.settle(&lent, &known).await;
        known
    }

    /// Runs each group as a transaction on the server, all in one pipeline, in order. Not on a cluster. A group that was not
    /// executed has the same fault for each of its commands.
    ///
    /// With `wait_replicas`, the answers come when so many replicas have what was written; after `patience`, should there
    /// be a limit, it counts as not known. Nothing is written again meanwhile: the server is only asked again.
    pub(super) async fn transactions(&self, groups: Vec<Group>, patience: Option<Duration>) -> Vec<Known> {
        if groups.is_empty() {
            return Vec::new();
        }
        let lent = match self.lend().await {
            Ok(lent) => lent,
            Err(error) => return unknown(&error, groups.len()),
        };
        let Connection::Node(node, address) = &lent.connection else {
            let error = BackendError::Invalid("a cluster has no transactions over several keys".into());
            return unknown(&error, groups.len());
        };
        let owners = owners(&groups);
        let lengths: Vec<usize> = groups.iter().map(Vec::len).collect();
        let wrapped = groups
            .into_iter()
            .flat_map(|group| std::iter::once(cmd("MULTI")).chain(group).chain(std::iter::once(cmd("EXEC"))));
        let known = match pipeline(node.clone(), wrapped).await {
            Ok(replies) => {
                let mut replies = replies.into_iter();
                lengths.iter().map(|length| Ok(executed(&mut replies, *length))).collect()
            }
            Err(error) => unknown(&error, lengths.len()),
        };
        let mut known = owned(known, owners);
        let has_written = |known: &Known| known.iter().flatten().any(Result::is_ok);
        if known.iter().any(has_written)
            && let Err(error) = self.replicated(node, address, patience).await
        {
            for one in known.iter_mut().filter(|known| has_written(known)) {
                *one = Err(error.clone());
            }
        }
        self.settle(&lent, &known).await;
        known
    }

    /// Waits until as many replicas as are wanted have what was written on this connection.
    ///
    /// # Errors
    /// The connection ended, the server does not say, sentinels name another master by now: what was written may be lost.
    /// Or `patience` is over.
    async fn replicated(
        &self,
        node: &MultiplexedConnection,
        address: &Address,
        patience: Option<Duration>,
    ) -> Result<(), BackendError> {
        let Settings { wait_replicas: wanted, query_timeout, connector, .. } = &self.settings;
        if *wanted == 0 {
            return Ok(());
        }
        let step = WAIT_STEP.min(*query_timeout / 4).max(Duration::from_millis(1));
        let (began, mut looked) = (Instant::now(), Instant::now());
        loop {
            let reply = pipeline(node.clone(), [wait(*wanted, step)]).await?.pop().map(answer);
            let reached = reached(reply)?;
            if reached >= *wanted {
                return Ok(());
            }
            if patience.is_some_and(|patience| began.elapsed() >= patience) {
                let words = format!("{reached} of {wanted} replicas have the batch");
                return Err(BackendError::Unavailable(words));
            }
            if let Some(left_out) = self.wait_line.turn() {
                tracing::warn!(
                    %connector, reached, wanted, left_out,
                    "a batch is not stored before so many replicas have it, waiting for them"
                );
            }
            tokio::time::sleep(step).await;
            // A master that is cut off from its replicas may have been replaced; it would never know.
            if looked.elapsed() >= *query_timeout {
                looked = Instant::now();
                if let Form::Sentinel(name) = &self.settings.form
                    && let Some(other) = sentinel::other_than(&self.settings, name, address).await
                {
                    let words = format!("the master is {}:{} now", other.0, other.1);
                    return Err(BackendError::Unavailable(words));
                }
            }
        }
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
        let lent = |number, connection: &Connection| {
            let opened = self.opened.load(Ordering::Relaxed);
            Lent { slot: index, number, opened, connection: connection.clone() }
        };
        if let Some((number, connection)) = &slot.live
            && *number >= self.stale.load(Ordering::Relaxed)
        {
            return Ok(lent(*number, connection));
        }
        slot.live = None;
        if let Some((when, error)) = &slot.failed
            && when.elapsed() < FAILURE_HOLDS
        {
            return Err(error.clone());
        }
        match self.open().await {
            Ok(connection) => {
                let number = self.opened.fetch_add(1, Ordering::Relaxed);
                let lent = lent(number, &connection);
                *slot = Slot { live: Some((number, connection)), failed: None };
                Ok(lent)
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Throws the connection away if it is spoilt.
    async fn settle(&self, lent: &Lent, known: &[Known]) {
        let faults = || known.iter().flatten().flatten().filter_map(|answer| answer.as_ref().err());
        // A cluster's connection of which some nodes answer is none that leads nowhere.
        let is_spoilt = known.iter().all(Result::is_err)
            || !self.is_cluster() && known.iter().any(Result::is_err)
            || faults().any(Fault::spoils_connection);
        if !is_spoilt {
            return;
        }
        if !self.is_cluster() {
            // A host that is gone says nothing: found out for each connection by itself, that would take each a timeout.
            self.stale.fetch_max(lent.opened, Ordering::Relaxed);
            return;
        }
        // The others may do without the node that is lost.
        if let Some(slot) = self.slots.get(lent.slot) {
            let mut slot = slot.lock().await;
            if slot.live.as_ref().is_some_and(|(number, _)| *number == lent.number) {
                slot.live = None;
            }
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
        let Master { link, address, .. } = self.master().await?;
        Ok(Connection::Node(link, address))
    }

    /// The server that takes writes.
    ///
    /// # Errors
    /// There is none now. A sentinel may not have heard yet that the master is another: what each one names is tried.
    pub(super) async fn master(&self) -> Result<Master, BackendError> {
        let settings = &self.settings;
        let Form::Sentinel(name) = &settings.form else {
            let address = settings.servers.first();
            let address = address.ok_or_else(|| BackendError::Unavailable("server is empty".into()))?;
            return self.connect(address).await;
        };
        let mut tried: Vec<Address> = Vec::new();
        let mut last = None;
        for at in &settings.servers {
            let at_words = || format!("sentinel {}:{}", at.0, at.1);
            match sentinel::ask(settings, at, name).await {
                Ok(named) if tried.contains(&named) => {}
                Ok(named) => match self.connect(&named).await {
                    Ok(master) => return Ok(master),
                    Err(error) => {
                        last = Some(format!("master {}:{} of {}: {error}", named.0, named.1, at_words()));
                        tried.push(named);
                    }
                },
                // What a master said is better to know.
                Err(error) if tried.is_empty() => last = Some(format!("{}: {error}", at_words())),
                Err(_) => {}
            }
        }
        Err(BackendError::Unavailable(last.unwrap_or_else(|| "no sentinels are configured".into())))
    }

    /// Connects to a server, which has to take writes.
    async fn connect(&self, address: &Address) -> Result<Master, BackendError> {
        let settings = &self.settings;
        let client = client(settings, settings.info(address)?)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.query_timeout));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let link = connection.map_err(|error| at_first(&error))?;
        // Whoever may not wait for replicas learns it before anything is written.
        let waits = (settings.wait_replicas > 0).then(|| wait(0, Duration::from_millis(1)));
        let prelude = script::loads().into_iter().chain(waits).chain(std::iter::once(cmd("ROLE")));
        let (mut replies, _) = exchange(link.clone(), prelude).await.map_err(|error| at_first(&error))?;
        let role = replies.pop().map(answer);
        // Who is not let in is told that first.
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
        Ok(Master { client, link, address: address.clone() })
    }
}

/// `WAIT` for so many replicas.
fn wait(replicas: u64, limit: Duration) -> Cmd {
    let mut wait = cmd("WAIT");
    wait.arg(replicas).arg(u64::try_from(limit.as_millis()).unwrap_or(1));
    wait
}

/// How many replicas have what was written: what `WAIT` says. Anything but a number says that they have not.
fn reached(reply: Option<Answer>) -> Result<u64, BackendError> {
    let words = match reply {
        Some(Ok(Value::Int(count))) => return Ok(u64::try_from(count).unwrap_or(0)),
        Some(Err(fault)) => format!("{} {}", fault.code, fault.message),
        other => format!("{other:?}"),
    };
    Err(BackendError::Unavailable(format!("WAIT does not say how many replicas have the batch: {words}")))
}

/// Nothing is known of `count` groups.
fn unknown(error: &BackendError, count: usize) -> Vec<Known> {
    vec![Err(error.clone()); count]
}

/// Which of the commands are our own.
fn owners(groups: &[Group]) -> Vec<Vec<bool>> {
    groups.iter().map(|group| group.iter().map(script::is_call).collect()).collect()
}

/// The same, with faults of commands of others marked as theirs.
fn owned(known: Vec<Known>, owners: Vec<Vec<bool>>) -> Vec<Known> {
    let one = |(known, ours): (Known, Vec<bool>)| {
        let answers = known?.into_iter().zip(ours);
        Ok(answers.map(|(a, ours)| if ours { a } else { a.map_err(Fault::of_others) }).collect())
    };
    known.into_iter().zip(owners).map(one).collect()
}

/// A client of one server.
pub(super) fn client(settings: &Settings, info: ConnectionInfo) -> Result<Client, BackendError> {
    let client = match &settings.tls {
        Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        None => Client::open(info),
    };
    client.map_err(|error| BackendError::Unavailable(error.to_string()))
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
    let client = builder.build().map_err(|error| BackendError::Unavailable(error.to_string()))?;
    let cluster = client.get_async_connection().await.map_err(|error| unanswered(&error))?;
    let loads = script::loads().into_iter().map(|load| {
        let mut cluster = cluster.clone();
        async move { cluster.req_packed_command(&load).await }
    });
    for loaded in join_all(loads).await {
        match loaded {
            // The others work; when that node is back, it says that it has no scripts.
            Err(error) if misses_node(&error) => {}
            loaded => drop(loaded.map_err(|error| unanswered(&error))?),
        }
    }
    Ok(cluster)
}

/// Whether a node could not be reached, of those that a command is for.
fn misses_node(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.kind() == ErrorKind::ClusterConnectionNotFound
}

/// One pipeline to one server, whose replies are in the order of the commands.
async fn pipeline(
    node: MultiplexedConnection,
    commands: impl IntoIterator<Item = Cmd>,
) -> Result<Vec<Value>, BackendError> {
    let (replies, count) = exchange(node, commands).await.map_err(|error| unanswered(&error))?;
    if replies.len() == count {
        Ok(replies)
    } else {
        Err(BackendError::Unavailable(format!("{} replies to {count} commands", replies.len())))
    }
}

/// Sends commands; gives the replies, and how many there should be.
async fn exchange(
    mut node: MultiplexedConnection,
    commands: impl IntoIterator<Item = Cmd>,
) -> Result<(Vec<Value>, usize), RedisError> {
    let mut pipeline = Pipeline::new();
    for command in commands {
        pipeline.add_command(command);
    }
    let count = pipeline.len();
    let replies = node.req_packed_commands(&pipeline, 0, count).await?;
    Ok((replies, count))
}

/// The commands of one key, on its node: as a transaction when there are several.
async fn on_cluster(mut cluster: ClusterConnection, group: Group) -> Known {
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
            let fault = first
                .or_else(|| other.and_then(Result::err))
                .unwrap_or_else(|| Fault::new("EXECABORT", "the transaction was not executed"));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_a_number_of_replicas_counts_as_an_answer_to_wait() {
        assert_eq!(reached(Some(Ok(Value::Int(2)))), Ok(2));
        for no_number in [
            Some(Err(Fault::new("NOPERM", "no permission"))),
            Some(Err(Fault::new("ERR", "WAIT cannot be used with replica instances"))),
            Some(Ok(Value::Nil)),
            Some(Ok(Value::Okay)),
            None,
        ] {
            let error = reached(no_number).unwrap_err();
            assert!(error.is_retryable() && error.to_string().contains("WAIT"), "{error}");
        }
    }
}
