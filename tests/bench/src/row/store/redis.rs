//! Redis: a server of the bench's own, and the bare peer: the same driver and the same commands, and no broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tidegate_event::{IdSource, Node};
use tidegate_servers::Place;
use tidegate_servers::redis::{Options, Redis as Server};
use tokio::task::JoinSet;

use super::Work;

/// The runtime's `pool_size`: so many batches are written at once, each of other topics.
const CONNECTIONS: usize = 8;

/// A running server.
pub(super) struct Redis {
    server: Server,
}

impl Redis {
    /// Starts it: what is answered is in its file, as far as `appendfsync everysec` goes.
    pub(super) fn open() -> anyhow::Result<Self> {
        // A rewrite of the file in the background would fall into some round or other.
        let options = Options::new("bench").durable().line("auto-aof-rewrite-percentage 0");
        Ok(Self { server: options.start(&Place::temporary()?)? })
    }

    pub(super) fn pool(&self) -> String {
        let address = self.server.server().address();
        format!("backend.redis.pool1.server = {address}\nbackend.redis.pool1.pool_size = {CONNECTIONS}\n")
    }

    /// How many messages these topics have, each with a hash of its own.
    pub(super) fn stored(&self, topics: &[String]) -> anyhow::Result<u64> {
        let number = |arguments: &[&str]| -> anyhow::Result<u64> {
            let answer = self.server.run(arguments)?;
            answer.parse().with_context(|| format!("{arguments:?} answers {answer:?}"))
        };
        let (mut ids, mut sets) = (0, 0);
        for topic in topics {
            let found = number(&["ZCARD", &format!("mqtt:msg:{topic}")])?;
            ids += found;
            sets += u64::from(found > 0);
        }
        let hashes = number(&["DBSIZE"])? - sets;
        ensure!(ids == hashes, "{ids} ids of messages have {hashes} hashes");
        Ok(ids)
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.server.server_mut().kill();
    }

    /// Starts it again, with what its file holds.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        Ok(self.server.start()?)
    }

    pub(super) fn empty(&self) -> anyhow::Result<()> {
        self.server.run(&["FLUSHALL"])?;
        Ok(())
    }

    /// Messages a second: each connection writes batches of its own topics, one after the other, a transaction each.
    pub(super) async fn rate(&self, work: &Work) -> anyhow::Result<f64> {
        let client = redis::Client::open(format!("redis://{}/", self.server.server().address()))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        let count = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for number in 0..work.topics.len().min(CONNECTIONS) {
            let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let topics = work.topics.iter().skip(number).step_by(CONNECTIONS).cloned().collect();
            let writer = Writer { connection, topics, batch: work.batch, payload: work.payload.clone() };
            writers.spawn(writer.run(count.clone()));
        }
        let measured = async {
            tokio::time::sleep(work.span.warm_up).await;
            let (start, before) = (std::time::Instant::now(), count.load(Ordering::Relaxed));
            tokio::time::sleep(work.span.measure).await;
            (count.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64()
        };
        tokio::select! {
            rate = measured => Ok(rate),
            Some(ended) = writers.join_next() => bail!("a writer ended: {ended:?}"),
        }
    }
}

/// A connection of the peer and what it writes.
struct Writer {
    connection: MultiplexedConnection,
    topics: Vec<String>,
    batch: usize,
    payload: Vec<u8>,
}

impl Writer {
    async fn run(mut self, count: Arc<AtomicU64>) -> redis::RedisResult<()> {
        let ids = IdSource::new(&Node::default());
        for turn in 0_usize.. {
            let Some(topic) = self.topics.get(turn % self.topics.len().max(1)) else { break };
            let mut pipeline = redis::pipe();
            pipeline.atomic();
            let mut add = redis::cmd("ZADD");
            add.arg(format!("mqtt:msg:{topic}"));
            for _ in 0..self.batch {
                let id = ids.next_id().to_string();
                pipeline.cmd("HSET").arg(format!("mqtt:msg:{id}"));
                pipeline
                    .arg("id")
                    .arg(&id)
                    .arg("from")
                    .arg("pub-0")
                    .arg("qos")
                    .arg(1)
                    .arg("topic")
                    .arg(topic);
                pipeline.arg("retain").arg("false").arg("payload").arg(&self.payload);
                pipeline.arg("ts").arg(1_767_225_600_u32).ignore();
                add.arg(1).arg(id);
            }
            pipeline.add_command(add).ignore();
            pipeline.query_async::<()>(&mut self.connection).await?;
            count.fetch_add(self.batch as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}
