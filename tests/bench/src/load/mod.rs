//! The load generator: closed loop here (throughput with a window), open loop in [`paced`].

mod connection;
mod flow;
pub mod light;
pub mod paced;
mod publisher;
mod subscriber;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

pub use connection::Connection;
pub use flow::Flow;
pub use transport::Transport;

use crate::process::CpuTime;
use crate::wire::{Connect, Payload, PublishTemplate, Session, Version};

/// A server to load.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The process whose processor time is measured.
    pub pid: u32,
    /// How clients reach it.
    pub transport: Transport,
}

/// What clients do in a closed-loop run.
#[derive(Clone, Debug)]
pub struct Load {
    /// Protocol version of every client.
    pub version: Version,
    /// QoS of the publishers and of the subscriptions.
    pub qos: u8,
    /// Payloads.
    pub payload: Payload,
    /// How many publishers, each with a topic of its own.
    pub publishers: usize,
    /// How many subscribers each of those topics has.
    pub fan_out: usize,
    /// Whether one subscriber takes the topics of all publishers instead, by a wildcard. Numbered payloads only: the
    /// number tells the publisher.
    pub fan_in: bool,
    /// How long the sessions of subscribers live.
    pub session: Session,
    /// Unacknowledged messages of one publisher at QoS 1 and 2.
    pub window: u64,
    /// How many messages a publisher may be ahead of its subscribers. Without subscribers: no limit.
    pub lead: u64,
    /// The topic prefix; the publisher's number follows.
    pub topic: String,
    /// What the clients' identifiers begin with: two loads at once need two names.
    pub name: String,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            version: Version::V311,
            qos: 0,
            payload: Payload::Sequenced(64),
            publishers: 1,
            fan_out: 1,
            fan_in: false,
            session: Session::Clean,
            window: 100,
            lead: 10_000,
            topic: "bench/load".into(),
            name: String::new(),
        }
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Throughput {
    /// Deliveries (without subscribers: acknowledged messages) a second in the measured interval.
    pub per_second: f64,
    /// Processor time of the server in the measured interval, microseconds a delivery.
    pub server_us: f64,
    /// Processor time of the load generator itself, microseconds a delivery.
    pub generator_us: f64,
    /// Messages sent in the whole run.
    pub sent: u64,
    /// Messages acknowledged to their publisher in the whole run.
    pub acknowledged: u64,
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries that were not the next one of their subscriber.
    pub misordered: u64,
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Load before the measured interval.
    pub warm_up: Duration,
    /// The measured interval.
    pub measure: Duration,
}

/// How long the last acknowledgements may take.
const SETTLE: Duration = Duration::from_secs(30);

/// How long nothing may arrive at the end before what is missing counts as lost.
const QUIET: Duration = Duration::from_secs(2);

impl Load {
    /// Runs the load against `server`.
    ///
    /// # Errors
    /// When a client cannot connect, is disconnected or gets what it cannot expect. Lost messages are a
    /// result, not an error.
    pub async fn run(&self, server: Endpoint, span: Span) -> anyhow::Result<Throughput> {
        let lead = if self.fan_out == 0 { u64::MAX / 2 } else { self.lead };
        let flows: Vec<_> =
            (0..self.publishers).map(|_| Arc::new(Flow::new(self.fan_out.max(1), lead))).collect();
        let mut subscribers = JoinSet::new();
        if self.fan_in {
            let connection = self.subscriber(&server, "sub", &format!("{}/+", self.topic)).await?;
            subscribers.spawn(subscriber::receive(connection, flows.clone(), self.payload.clone()));
        }
        let mut publishers = Vec::new();
        for (number, flow) in flows.iter().enumerate() {
            let topic = format!("{}/{number}", self.topic);
            for member in (0..self.fan_out).filter(|_| !self.fan_in) {
                let connection = self.subscriber(&server, &format!("sub-{number}-{member}"), &topic).await?;
                subscribers.spawn(subscriber::receive(connection, vec![flow.clone()], self.payload.clone()));
            }
            let id = format!("{}pub-{number}", self.name);
            let connect = Connect::new(self.version, &id);
            let connection = Connection::open_as(&server.transport, server.address, &connect).await?;
            let template = PublishTemplate::new(self.version, &topic, self.qos, &self.payload);
            let source = if self.fan_in { number } else { 0 };
            publishers.push((connection, flow.clone(), template, source));
        }
        let mut running = JoinSet::new();
        for (connection, flow, template, source) in publishers {
            running.spawn(publisher::publish(connection, flow, template, source, self.qos, self.window));
        }

        let measured = tokio::select! {
            measured = self.measure(&flows, server.pid, span) => measured?,
            ended = running.join_next() => bail!("a publisher ended early: {:?}", ended.map(|e| e.map(|c| c.map(drop)))),
            Some(ended) = subscribers.join_next() => bail!("a subscriber ended early: {ended:?}"),
        };

        for flow in &flows {
            flow.finish();
        }
        let mut connections = Vec::new();
        let ending = async {
            while let Some(ended) = running.join_next().await {
                connections.push(ended?.context("a publisher")?);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(SETTLE, ending).await.context("acknowledgements are missing")??;
        if self.fan_out > 0 {
            drain(&flows).await;
        }
        subscribers.shutdown().await;
        for connection in connections {
            connection.close().await;
        }

        let total = |of: fn(&Flow) -> u64| flows.iter().map(|flow| of(flow)).sum::<u64>();
        let lost =
            if self.fan_out == 0 { 0 } else { total(Flow::expected).saturating_sub(total(Flow::received)) };
        Ok(Throughput {
            sent: total(Flow::sent),
            acknowledged: total(Flow::acknowledged),
            lost,
            misordered: total(Flow::misordered),
            ..measured
        })
    }

    /// Connects a subscriber to `filter`.
    async fn subscriber(&self, server: &Endpoint, id: &str, filter: &str) -> anyhow::Result<Connection> {
        let id = format!("{}{id}", self.name);
        let connect = Connect { session: self.session, ..Connect::new(self.version, &id) };
        let mut connection = Connection::open_as(&server.transport, server.address, &connect).await?;
        connection.subscribe(filter, self.qos).await?;
        Ok(connection)
    }

    async fn measure(&self, flows: &[Arc<Flow>], pid: u32, span: Span) -> anyhow::Result<Throughput> {
        let done = || -> u64 {
            let of = if self.fan_out == 0 { Flow::acknowledged } else { Flow::received };
            flows.iter().map(|flow| of(flow)).sum()
        };
        tokio::time::sleep(span.warm_up).await;
        let (start, count, cpu) = (Instant::now(), done(), CpuTime::of(pid)?);
        let own = CpuTime::of(std::process::id())?;
        tokio::time::sleep(span.measure).await;
        let (elapsed, count) = (start.elapsed(), done() - count);
        let cpu = CpuTime::of(pid)?.since(cpu);
        let own = CpuTime::of(std::process::id())?.since(own);
        if count == 0 {
            bail!("nothing came through in {elapsed:?}");
        }
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        Ok(Throughput {
            per_second: count as f64 / elapsed.as_secs_f64(),
            server_us: each(cpu),
            generator_us: each(own),
            sent: 0,
            acknowledged: 0,
            lost: 0,
            misordered: 0,
        })
    }
}

/// Waits until everything that was sent has arrived, or nothing has for [`QUIET`].
async fn drain(flows: &[Arc<Flow>]) {
    let missing =
        || -> u64 { flows.iter().map(|flow| flow.expected().saturating_sub(flow.received())).sum() };
    let (mut last, mut since) = (missing(), Instant::now());
    while last > 0 && since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = missing();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// Waits until a server accepts connections on `address` over `transport` and answers a CONNECT.
///
/// # Errors
/// When it does not within `deadline`.
pub async fn wait_until_up(
    transport: &Transport,
    address: SocketAddr,
    version: Version,
    deadline: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    loop {
        match Connection::open_as(transport, address, &Connect::new(version, "probe")).await {
            Ok(connection) => {
                connection.close().await;
                return Ok(());
            }
            Err(error) if Instant::now() >= end => return Err(error.context("the server did not come up")),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
