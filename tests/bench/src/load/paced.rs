//! Open loop: a fixed rate, latency from the moment a message was meant to be sent.
//!
//! Measuring from the intended moment counts the waiting of messages behind a slow one, which a closed loop
//! hides. Two plain threads with blocking sockets, because tokio's timer counts milliseconds and the
//! interval here is a tenth of one.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;

use super::{Connection, Endpoint, Span};
use crate::process::CpuTime;
use crate::wire::{self, Payload, PublishTemplate, Version, kind};

/// One publisher at a fixed rate, one subscriber.
#[derive(Clone, Debug)]
pub struct Paced {
    /// QoS of both, 0 or 1.
    pub qos: u8,
    /// Payloads.
    pub payload: Payload,
    /// The topic.
    pub topic: String,
    /// Messages a second.
    pub rate: u32,
    /// What the clients' identifiers begin with: two pairs at once need two names.
    pub name: String,
}

/// What came of an open-loop run.
#[derive(Clone, Debug)]
pub struct Latency {
    /// From the intended moment of sending to the moment of receiving, nanoseconds.
    pub histogram: Histogram<u64>,
    /// Processor time of the server, microseconds a message.
    pub server_us: f64,
    /// Messages that never came. Latencies of a run that lost some are of the wrong messages.
    pub lost: u64,
    /// Messages that were not the next one.
    pub misordered: u64,
}

impl Latency {
    /// The latency, in microseconds, that `percent` of the messages did not exceed.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        self.histogram.value_at_percentile(percent) as f64 / 1_000.0
    }
}

/// How long the subscriber waits for the next message before it counts what is missing as lost.
const QUIET: Duration = Duration::from_secs(2);

/// How many messages are sent between looks at the acknowledgements.
const ACKS_EVERY: u64 = 32;

impl Paced {
    /// Runs against `server`.
    ///
    /// # Errors
    /// When a client cannot connect, is disconnected or gets what it cannot expect.
    pub async fn run(&self, server: Endpoint, span: Span) -> anyhow::Result<Latency> {
        let open = async |id: &str| {
            Connection::open(server.address, Version::V311, &format!("{}{id}", self.name)).await
        };
        let mut subscriber = open("paced-sub").await?;
        subscriber.subscribe(&self.topic, self.qos).await?;
        let publisher = open("paced-pub").await?;
        let (subscriber, publisher) = (subscriber.into_std()?, publisher.into_std()?);
        let schedule = Schedule::new(self.rate, span);
        let template = PublishTemplate::new(Version::V311, &self.topic, self.qos, &self.payload);
        let (qos, pid, payload) = (self.qos, server.pid, self.payload.clone());
        tokio::task::spawn_blocking(move || {
            std::thread::scope(|scope| {
                let receiving = scope.spawn(|| receive(subscriber, &schedule, &payload));
                let cpu = send(publisher, &schedule, &template, qos, pid)?;
                let received =
                    receiving.join().map_err(|_| anyhow::anyhow!("the subscriber's thread panicked"))?;
                let received = received.context("the subscriber")?;
                let server_us = cpu.as_secs_f64() * 1e6 / schedule.measured() as f64;
                Ok(Latency { server_us, ..received })
            })
        })
        .await?
    }
}

/// When each message is to be sent.
#[derive(Debug)]
struct Schedule {
    start: Instant,
    interval: Duration,
    warm_up: u64,
    total: u64,
}

impl Schedule {
    fn new(rate: u32, span: Span) -> Self {
        let count = |time: Duration| (time.as_secs_f64() * f64::from(rate)) as u64;
        let warm_up = count(span.warm_up);
        Self {
            // Late enough for both threads to be there.
            start: Instant::now() + Duration::from_millis(20),
            interval: Duration::from_secs(1) / rate,
            warm_up,
            total: warm_up + count(span.measure),
        }
    }

    fn moment(&self, sequence: u64) -> Instant {
        self.start + Duration::from_nanos(self.interval.as_nanos() as u64 * sequence)
    }

    fn measured(&self) -> u64 {
        self.total - self.warm_up
    }
}

/// Sends every message at its moment; gives the server's processor time over the measured ones.
fn send(
    mut socket: TcpStream,
    schedule: &Schedule,
    template: &PublishTemplate,
    qos: u8,
    pid: u32,
) -> anyhow::Result<Duration> {
    // The default slack of 50 us is half an interval.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    socket.set_nonblocking(true)?;
    let mut acks = Acks::default();
    let mut buffer = Vec::new();
    let mut cpu = CpuTime::of(pid)?;
    let mut sequence = 0;
    while sequence < schedule.total {
        let now = Instant::now();
        let due = schedule.moment(sequence);
        if due > now {
            std::thread::sleep(due - now);
            continue;
        }
        buffer.clear();
        while sequence < schedule.total && schedule.moment(sequence) <= now {
            if sequence == schedule.warm_up {
                cpu = CpuTime::of(pid)?;
            }
            template.append(&mut buffer, wire::packet_id_of(sequence), sequence);
            sequence += 1;
            if sequence.is_multiple_of(ACKS_EVERY) {
                acks.read_available(&mut socket)?;
            }
        }
        write_all(&mut socket, &buffer)?;
    }
    let end = Instant::now() + QUIET;
    while qos > 0 && acks.count < schedule.total {
        acks.read_available(&mut socket)?;
        if Instant::now() > end {
            bail!("{} of {} messages were acknowledged", acks.count, schedule.total);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(CpuTime::of(pid)?.since(cpu))
}

fn write_all(socket: &mut TcpStream, mut bytes: &[u8]) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error).context("publishing"),
        }
    }
    Ok(())
}

/// The acknowledgements that have come back to the publisher.
#[derive(Default)]
struct Acks {
    count: u64,
    pending: Vec<u8>,
}

impl Acks {
    fn read_available(&mut self, socket: &mut TcpStream) -> anyhow::Result<()> {
        let mut space = [0; 4096];
        loop {
            match socket.read(&mut space) {
                Ok(0) => bail!("the broker closed the publisher's connection"),
                Ok(read) => self.pending.extend_from_slice(space.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("reading acknowledgements"),
            }
        }
        let mut at = 0;
        while let Some((frame, used)) = wire::next_frame(self.pending.get(at..).unwrap_or_default())? {
            if frame.kind() != kind::PUBACK || frame.reason() >= 0x80 {
                bail!("the publisher was sent packet type {} ({:02x?})", frame.kind(), frame.body());
            }
            self.count += 1;
            at += used;
        }
        self.pending.drain(..at);
        Ok(())
    }
}

/// Takes the time of every message; gives the latencies of the measured ones, how many were lost and how many
/// were not the next one.
fn receive(mut socket: TcpStream, schedule: &Schedule, payload: &Payload) -> anyhow::Result<Latency> {
    let mut histogram = Histogram::new(3)?;
    let patience = schedule.moment(0).saturating_duration_since(Instant::now()) + QUIET;
    socket.set_read_timeout(Some(patience))?;
    let mut space = vec![0; 64 * 1024];
    let (mut filled, mut sequence) = (0, 0_u64);
    let (mut next, mut misordered) = (0_u64, 0);
    let mut acks = Vec::new();
    while sequence < schedule.total {
        match socket.read(space.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => bail!("the broker closed the subscriber's connection"),
            Ok(read) => filled += read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => return Err(error).context("reading"),
        }
        let now = Instant::now();
        let mut at = 0;
        acks.clear();
        while let Some((frame, used)) = wire::next_frame(space.get(at..filled).unwrap_or_default())? {
            at += used;
            if frame.kind() != kind::PUBLISH {
                bail!("the subscriber was sent packet type {}", frame.kind());
            }
            let publish = frame.publish(Version::V311)?;
            if let Some(found) = payload.sequence_of(publish.payload) {
                misordered += u64::from(found != next);
                next = found.wrapping_add(1);
            }
            if publish.qos > 0 {
                wire::acknowledge(&mut acks, kind::PUBACK, publish.packet_id);
            }
            if sequence >= schedule.warm_up {
                histogram
                    .record(now.saturating_duration_since(schedule.moment(sequence)).as_nanos() as u64)?;
            }
            sequence += 1;
        }
        space.copy_within(at..filled, 0);
        filled -= at;
        socket.write_all(&acks)?;
    }
    Ok(Latency { histogram, server_us: f64::NAN, lost: schedule.total - sequence, misordered })
}
