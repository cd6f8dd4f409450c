//! One network connection: one task that reads, writes and watches the clock.
//!
//! Every part is a `poll_` method that does what can be done now and registers the task for the rest; nothing
//! here awaits, so no part can hold up another. [`Connection::turn`] calls them in the order in which data flows:
//!
//! ```text
//! commands -> socket -> packets -> pipeline -> replies -> output <- deliveries <- outbox
//!                                                          '-> socket
//! ```

mod aliases;
mod authenticate;
mod close;
mod connack;
mod deliver;
mod feed;
pub(crate) mod handshake;
mod keep_alive;
mod output;
mod packets;
mod pause;
mod replies;
mod stall;
mod withhold;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use bytestring::ByteString;
use tidegate_event::{Client, DisconnectReason, Protocol, ReasonCode, Shown, TopicName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::Sleep;

use self::aliases::Aliases;
use self::deliver::Deliveries;
use self::keep_alive::KeepAlive;
use self::output::Output;
use self::pause::Pause;
use self::stall::Stall;
use self::withhold::Withheld;
use crate::broker::{Phase, Shared};
use crate::codec::{Connect, Decoder, Outgoing, Terms, Will, encode_within};
use crate::limits::accepted::FREE;
use crate::limits::budget::Account;
use crate::limits::rate::Rate;
use crate::listener::Counted;
use crate::metrics::{Limited, Tally};
use crate::pipeline::{Job, Pipeline, Reply, shrink};
use crate::realm::Realm;
use crate::reason;
use crate::registry::Handover;
use crate::session::{RecordedWill, Seated, Session};

/// Bytes of output from which on no more deliveries are encoded until some are written.
const OUTPUT_ENOUGH: usize = 64 * 1024;
/// Bytes of output from which on nothing is read: the client does not take its acknowledgements.
const OUTPUT_FULL: usize = 256 * 1024;
/// Bytes of output that a client may have not taken, from which on the same holds while the memory of all queues is nearly
/// used up.
const OUTPUT_LEAST: usize = 4 * 1024;
/// What a stream may keep of what was written to it and is not flushed: see [`crate::listener::TLS_BUFFER`].
const UNFLUSHED: usize = crate::listener::TLS_BUFFER;
/// Room made in the input buffer before a read, at least and at most; between them it follows the traffic.
const READ_LEAST: usize = 4 * 1024;
const READ_MOST: usize = 64 * 1024;
/// Packets decoded between rests when subscribers are crowded, and in one turn when each may have handlers that are done at once.
const PACKETS_PER_SLICE: usize = 64;
/// Turns before other tasks get the processor.
const TURNS: usize = 16;
/// Time after which they get it after the turn that goes on.
const SLICE: Duration = Duration::from_millis(1);
/// Packets decoded in one turn, so that no turn is long: what is read at once may be thousands. A window that a client sends
/// at once should fit: whatever answers it is then one write.
const PACKETS_PER_TURN: usize = 256;
/// Topic filters in one turn: one packet may have a thousand.
const FILTERS_PER_TURN: usize = 250;
/// How long the rest of a large packet waits, at least, while others have too much waiting.
const HELD_UP: Duration = Duration::from_millis(50);
/// Buffers larger than this are given back while the connection is idle.
const IDLE_BUFFER: usize = 4 * 1024;

/// Why a connection ends.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) reason: DisconnectReason,
    /// What an MQTT 5 client is told in DISCONNECT; `None`: nothing.
    pub(crate) code: Option<ReasonCode>,
    /// Why, in words, when there is more to say than the code does.
    text: Option<ByteString>,
    /// Whether the will is published.
    pub(crate) will: bool,
}

impl End {
    fn new(reason: DisconnectReason, code: Option<ReasonCode>) -> Self {
        Self { reason, code, text: None, will: true }
    }

    /// The same, explained.
    fn because(self, text: impl Into<ByteString>) -> Self {
        Self { text: Some(text.into()), ..self }
    }
}

/// What a turn came to.
enum Turn {
    /// Something was done: more may be possible.
    Moved,
    /// Everything waits, and the task is registered for it.
    Idle,
    /// Others should run first.
    Yield,
}

/// A connected client.
pub(crate) struct Connection<S> {
    stream: S,
    shared: Arc<Shared>,
    realm: Arc<Realm>,
    session: Arc<Session>,
    seat: Seated,
    client: Arc<Client>,
    protocol: Protocol,
    decoder: Decoder,
    input: BytesMut,
    /// Bytes of all the memory that there ever was for it.
    allocated: u64,
    output: Output,
    stall: Stall,
    /// Whether the stream may keep something that was written to it: TLS and WebSocket do.
    unflushed: bool,
    /// Room to make before the next read.
    read_size: usize,
    /// Whether the socket was not looked at because no more packets may be taken.
    read_blocked: bool,
    /// Whether the rest of a large packet is not read because others have too much waiting.
    held_up: Option<Pin<Box<Sleep>>>,
    /// Bytes of input that came and may not be taken.
    unread: usize,
    /// Whether more packets may be whole in the input than the last turn took.
    has_more: bool,
    /// In which phase the pipeline was polled last.
    polled_in: Phase,
    pipeline: Pipeline,
    replies: VecDeque<Reply>,
    deliveries: Deliveries,
    keep_alive: Option<KeepAlive>,
    pause: Pause,
    /// How fast the client may send, when there is a limit.
    rate: Option<Box<Rate>>,
    /// On the heap: few clients have one.
    will: Option<Box<Will>>,
    /// Its part of the memory of all queues.
    will_account: Account,
    /// What the session store knows the will by.
    recorded_will: Option<RecordedWill>,
    withheld: Withheld,
    /// What the client takes of what it is sent.
    terms: Terms,
    /// Whether it had to be sent something that is larger than it takes.
    unsendable: bool,
    /// How much was looked up in vain for the client, once something was.
    look_ups: Option<Box<Rate>>,
    /// The session expiry that CONNECT asked for, seconds, whatever was granted.
    asked_expiry: u32,
    /// Topics by alias, the first at 1 (MQTT 5 clause 3.3.2.3.4).
    aliases: Vec<Option<TopicName>>,
    /// Bytes of these.
    alias_bytes: usize,
    /// Those of what is sent.
    aliases_out: Aliases,
    /// QoS 1 and 2 PUBLISH of this connection without PUBACK or PUBCOMP (clause 4.9).
    unacked: usize,
    /// When the packets that are being taken arrived, microseconds: the clock is read once for all that are
    /// decoded together.
    clock: Option<u64>,
    tally: Tally,
    count: Counted,
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// A connection whose client has got `session` and its seat.
    #[expect(clippy::too_many_arguments, reason = "the parts come from one place, the handshake")]
    fn new(
        realm: Arc<Realm>,
        stream: S,
        decoder: Decoder,
        input: BytesMut,
        client: Arc<Client>,
        session: Arc<Session>,
        seat: Seated,
        handover: Option<Handover>,
        connect: &Connect,
        count: Counted,
    ) -> Box<Self> {
        let pipeline = Pipeline::new(Arc::clone(&realm), Arc::clone(&session), Arc::clone(&client), handover);
        let shared = Arc::clone(&realm.broker);
        Box::new(Self {
            stream,
            protocol: client.protocol,
            decoder,
            allocated: input.capacity() as u64,
            input,
            output: Output::default(),
            stall: Stall::new(shared.config.write_timeout),
            unflushed: false,
            read_size: READ_LEAST,
            read_blocked: false,
            held_up: None,
            unread: 0,
            has_more: false,
            polled_in: Phase::Running,
            pipeline,
            replies: VecDeque::new(),
            deliveries: Deliveries::new(&shared.config, connect),
            keep_alive: KeepAlive::new(client.keep_alive),
            pause: Pause::new(client.connection),
            rate: Rate::new(&shared.config),
            will: connect.will.clone().map(Box::new),
            will_account: Account::default(),
            recorded_will: None,
            withheld: Withheld::default(),
            terms: connack::terms(&shared, connect),
            unsendable: false,
            look_ups: None,
            asked_expiry: connect.properties.session_expiry.unwrap_or(0),
            aliases: Vec::new(),
            alias_bytes: 0,
            aliases_out: connack::aliases(&shared, connect),
            unacked: 0,
            clock: None,
            tally: Tally::default(),
            count,
            shared,
            realm,
            session,
            seat,
            client,
        })
    }

    fn client_id(&self) -> ByteString {
        self.client.id.clone()
    }

    /// Appends `packet` to the output. If it is larger than the client takes (MQTT 5 clause 3.1.2-24), the connection
    /// ends after this turn: an acknowledgement cannot be left out.
    fn send(&mut self, packet: &Outgoing) {
        self.unsendable |= !encode_within(packet, self.protocol, self.terms, self.output.encoded());
    }

    /// The client is connected: CONNACK is in the output.
    fn open(&mut self, resumed: bool) {
        self.session.connect(&self.realm);
        self.session.received().reconnect();
        self.seat.inflight.reconnect();
        self.pipeline.push(Job::Connected);
        if !resumed {
            self.pipeline.push(Job::Created);
        }
        self.resume_joins();
    }

    /// Serves the client until the connection ends, then completes what it had begun.
    async fn run(mut self: Box<Self>) {
        let end = poll_fn(|cx| self.poll(cx)).await;
        // On the heap, so that a connection has no room for its end as long as it lives.
        Box::pin(self.close(end)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let started = Instant::now();
        self.pause.busy(started.into());
        for _ in 0..TURNS {
            let turn = self.turn(cx, started);
            self.pipeline.flush();
            match turn {
                // Handlers that are done at once (a circuit that is open) make a flood long: others have their turn.
                Ok(Turn::Moved) if started.elapsed() > SLICE => break,
                // The task woken last waits for this worker alone: no other one takes it over.
                Ok(Turn::Moved) if self.pipeline.fanout.has_woken() => break,
                Ok(Turn::Moved) => {}
                Ok(Turn::Idle) => {
                    self.tally.flush(&self.shared.metrics, &self.realm.statistics);
                    return Poll::Pending;
                }
                Ok(Turn::Yield) => break,
                Err(end) => {
                    self.tally.flush(&self.shared.metrics, &self.realm.statistics);
                    return Poll::Ready(end);
                }
            }
        }
        self.tally.flush(&self.shared.metrics, &self.realm.statistics);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does once what every part can do now, in a poll that was `started` then.
    fn turn(&mut self, cx: &mut Context<'_>, started: Instant) -> Result<Turn, End> {
        self.check_claims()?;
        self.refresh_hooks();
        let mut moved = self.poll_commands()?;
        if self.session.take_changed() {
            self.follow_earlier();
        }
        moved |= self.pause.poll(cx, self.shared.queue_limits());
        moved |= self.rate.as_mut().is_some_and(|rate| rate.poll(cx));
        moved |= self.poll_read(cx, started)?;
        moved |= self.poll_pipeline(cx)?;
        moved |= self.poll_feeds(cx);
        moved |= self.poll_deliveries(cx);
        moved |= self.poll_withheld(cx)?;
        // Subscribers do not wait until the publisher's answers are written.
        self.pipeline.flush();
        moved |= self.poll_write(cx)?;
        if self.unsendable {
            let what = "an answer is larger than the client's maximum packet size (clause 3.1.2.11.4)";
            return Err(self.protocol_error(reason::PACKET_TOO_LARGE, what));
        }
        if let Some(crowded) = self.pipeline.fanout.crowded.take()
            && self.has_input()
            && !self.pause.begin(crowded)
        {
            return Ok(Turn::Yield);
        }
        if moved {
            return Ok(Turn::Moved);
        }
        self.poll_keep_alive(cx)?;
        self.rest(cx)
    }

    /// Whether the connection may go on at all.
    fn check_claims(&self) -> Result<(), End> {
        if !self.session.is_claimed_by(self.client.connection) {
            return Err(End::new(DisconnectReason::TakenOver, Some(reason::SESSION_TAKEN_OVER)));
        }
        if self.count.is_evicted() {
            return Err(self.gives_way());
        }
        match self.shared.phase() {
            Phase::Running => Ok(()),
            // What was taken is completed first, and what it leaves to send is written.
            Phase::Draining
                if !self.pipeline.is_empty()
                    || !self.withheld.is_empty()
                    || !self.output.is_empty()
                    || self.unflushed =>
            {
                Ok(())
            }
            Phase::Draining | Phase::Closing => {
                Err(End::new(DisconnectReason::Shutdown, Some(reason::SERVER_SHUTTING_DOWN)))
            }
        }
    }

    /// Its packet has been incomplete for longest, and others need the memory.
    fn gives_way(&self) -> End {
        self.shared.metrics.limited(Limited::PartialPackets);
        let (client, peer) = (Shown(&self.client.id), self.client.peer);
        tracing::info!(%client, %peer, "closed: its packet was incomplete for longest, and all of them take too much memory");
        End::new(DisconnectReason::Kicked, Some(ReasonCode::QUOTA_EXCEEDED))
    }

    /// It has taken nothing of what it was sent for too long.
    fn takes_nothing(&self) -> End {
        self.shared.metrics.limited(Limited::WriteStall);
        let (client, peer, unsent) = (Shown(&self.client.id), self.client.peer, self.output.len());
        tracing::info!(%client, %peer, unsent, "closed: the client takes nothing of what it is sent");
        End::new(DisconnectReason::Kicked, Some(ReasonCode::QUOTA_EXCEEDED))
    }

    /// Whether more packets may be taken from the client.
    fn may_read(&self) -> bool {
        self.shared.phase() == Phase::Running
            && !self.pause.is_active()
            && !self.rate.as_ref().is_some_and(|rate| rate.is_stopped())
            && self.takes_output(OUTPUT_FULL)
            && !self.withheld.is_full()
            && self.pipeline.waiting_bytes() < self.shared.config.read_ahead()
            && self.count.may_accept(self.pipeline.accepted_bytes())
    }

    /// Whether the client has less than `most` bytes of output, or as little as anybody may have.
    fn takes_output(&self, most: usize) -> bool {
        let waiting = self.output.len();
        waiting < OUTPUT_LEAST || (waiting < most && !self.shared.budget.is_tight())
    }

    /// Whether the client has sent more than was taken: a publisher that waits for its answers has not, and is not to
    /// wait for others besides.
    fn has_input(&self) -> bool {
        self.has_more || !self.input.is_empty()
    }

    /// Reads and decodes what can be now, and tells what is kept of it.
    fn poll_read(&mut self, cx: &mut Context<'_>, started: Instant) -> Result<bool, End> {
        let moved = self.read(cx, started)?;
        // A client that takes no answers is not read from for a reason of its own.
        let waits = !self.has_more && (!self.read_blocked || !self.takes_output(OUTPUT_FULL));
        self.count.waits_for_the_rest(if waits { self.input.len() } else { 0 });
        self.unread = if waits { 0 } else { self.input.len() };
        Ok(moved)
    }

    fn read(&mut self, cx: &mut Context<'_>, started: Instant) -> Result<bool, End> {
        let mut moved = self.decode(started)?;
        self.read_blocked = !self.may_read();
        // What is there comes before what can be read: the input must not grow faster than it is taken.
        if self.read_blocked || self.has_more || self.pipeline.fanout.crowded.is_some() {
            return Ok(moved);
        }
        if self.decoder.packet_bytes() > FREE && !self.count.has_room() {
            self.poll_held_up(cx);
            return Ok(moved);
        }
        self.held_up = None;
        let room = self.decoder.missing(self.input.len()).clamp(self.read_size, READ_MOST);
        if self.input.capacity() - self.input.len() < room.min(READ_LEAST) {
            self.input.reserve(room);
            // What is there of a packet moves along.
            self.allocated += (self.input.capacity() - self.input.len()) as u64;
            self.pipeline.fanout.read_at.buffer = self.input.capacity();
        }
        let space = self.input.capacity() - self.input.len();
        match pin!(self.stream.read_buf(&mut self.input)).poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => return Err(End::new(DisconnectReason::SocketClosed, None)),
            Poll::Ready(Ok(bytes)) => {
                self.tally.bytes_received(bytes);
                if let Some(why) = self.rate.as_mut().and_then(|rate| rate.bytes(bytes)) {
                    self.too_fast(why)?;
                }
                if bytes == space {
                    self.read_size = (self.read_size * 2).min(READ_MOST);
                } else if bytes < self.read_size / 4 {
                    self.read_size = (self.read_size / 2).max(READ_LEAST);
                }
                self.decode(started)?;
                moved = true;
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(client = %self.client.id, peer = %self.client.peer, %error, "socket failed");
                return Err(End::new(DisconnectReason::SocketClosed, None));
            }
        }
        Ok(moved)
    }

    /// Looks again a little later, not all of those that wait at once.
    fn poll_held_up(&mut self, cx: &mut Context<'_>) {
        let later = HELD_UP + Duration::from_millis(self.client.connection * 37 % 400);
        let timer = self.held_up.get_or_insert_with(|| Box::pin(tokio::time::sleep(later)));
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(tokio::time::Instant::now() + later);
        }
    }

    /// Takes the packets that are whole, as many as may be taken now, in a poll that was `started` then.
    fn decode(&mut self, started: Instant) -> Result<bool, End> {
        let (mut taken, mut filters) = (0, 0);
        self.clock = None;
        self.has_more = false;
        self.pipeline.fanout.begin_turn();
        let most = match self.pipeline.has_handlers() {
            true => PACKETS_PER_SLICE,
            // Subscribers are woken after the turn: it brings them no more than a part of a queue.
            false => PACKETS_PER_TURN.min(self.shared.config.max_queued / 4).max(PACKETS_PER_SLICE),
        };
        while self.may_read() {
            let is_enough = self.pipeline.fanout.is_enough();
            // One PUBLISH may take long to find a few of many subscribers.
            let is_late = || taken > 0 && taken % PACKETS_PER_SLICE == 0 && started.elapsed() > SLICE;
            if taken == most || filters >= FILTERS_PER_TURN || is_enough || is_late() {
                self.has_more = true;
                break;
            }
            // Without an allowance to pause, go on for a while, so that the rest is not paid for every packet.
            if self.pipeline.fanout.crowded.is_some()
                && (self.pause.is_allowed() || taken % PACKETS_PER_SLICE == PACKETS_PER_SLICE - 1)
            {
                break;
            }
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => {
                    filters += packet.filters();
                    self.take(packet)?;
                }
                Ok(None) => break,
                Err(error) => {
                    self.shared.metrics.malformed(error.reason());
                    self.broke_protocol(&error);
                    let reason = if error.reason() == reason::PROTOCOL_ERROR {
                        DisconnectReason::ProtocolError
                    } else {
                        DisconnectReason::MalformedPacket
                    };
                    return Err(End::new(reason, Some(error.reason())).because(error.to_string()));
                }
            }
            taken += 1;
        }
        if taken > 0
            && let Some(keep_alive) = &mut self.keep_alive
        {
            keep_alive.heard();
        }
        self.pause.sent(taken);
        Ok(taken > 0)
    }

    fn poll_pipeline(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.pipeline.is_about_to_subscribe() {
            // What is not sent yet may have to wait behind stored messages.
            self.session.outbox().put_back(self.deliveries.batch.drain(..));
            let (allowed, bringing) = (self.may_join(), self.may_bring());
            self.pipeline.allow_joins(allowed, bringing);
        }
        self.polled_in = self.shared.phase();
        self.pipeline.fanout.begin_turn();
        let mut moved = self.pipeline.poll(cx, &mut self.replies);
        moved |= self.send_replies()?;
        self.count.has_accepted(self.pipeline.accepted_bytes() + self.unread);
        Ok(moved)
    }

    /// Does what the pipeline has said so far. Gives whether there was anything.
    fn send_replies(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while let Some(reply) = self.replies.pop_front() {
            moved = true;
            self.reply(reply)?;
        }
        Ok(moved)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        while !self.output.is_empty() {
            match self.output.poll_write(Pin::new(&mut self.stream), cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(0) | Err(_)) => return Err(End::new(DisconnectReason::SocketClosed, None)),
                Poll::Ready(Ok(bytes)) => {
                    self.tally.bytes_sent(bytes);
                    self.stall.moved();
                    self.unflushed = true;
                    moved = true;
                    // A client that takes data while nothing is read from it is alive.
                    if !self.may_read()
                        && let Some(keep_alive) = &mut self.keep_alive
                    {
                        keep_alive.excuse();
                    }
                }
            }
        }
        if moved {
            // All is written: encode the next from the start of the buffer.
            self.output.restart();
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(End::new(DisconnectReason::SocketClosed, None)),
            }
        }
        Ok(moved)
    }

    /// Everything waits. Registers for what other tasks do, and gives back memory that an idle client needs not.
    fn rest(&mut self, cx: &mut Context<'_>) -> Result<Turn, End> {
        // Only what can be done now may keep the task awake.
        let can_deliver =
            self.seat.inflight.is_resent() && self.may_deliver() && !self.pipeline.is_bringing();
        let wants_messages = can_deliver && self.deliveries.wants_messages() && self.may_encode();
        // Earlier connections may have had less to do since the socket was looked at: register, then look again.
        self.pipeline.await_earlier(cx.waker());
        if self.read_blocked && self.may_read() {
            return Ok(Turn::Moved);
        }
        let may_enqueue = self.may_enqueue();
        let mut outbox = self.session.outbox();
        if (wants_messages && outbox.len() > 0) || outbox.has_commands(may_enqueue) {
            return Ok(Turn::Moved);
        }
        self.session.window_is_full(!self.has_window());
        outbox.sleep(cx.waker(), wants_messages, self.deliveries.taken());
        outbox.flies(self.seat.inflight.weight());
        drop(outbox);
        self.seat.inflight.rest();
        // A claim or a change of phase before the waker was there has woken nobody; that it is evicted will.
        if self.count.poll_evicted(cx).is_ready() {
            return Err(self.gives_way());
        }
        self.check_claims()?;
        if self.shared.phase() != self.polled_in {
            return Ok(Turn::Moved);
        }
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
        self.output.shrink(IDLE_BUFFER);
        self.output.charge(&self.shared.budget, if self.unflushed { UNFLUSHED } else { 0 });
        if self.output.is_empty() && !self.unflushed {
            self.stall.rest();
        } else if self.stall.poll_expired(cx).is_ready() {
            return Err(self.takes_nothing());
        }
        self.deliveries.rest();
        shrink(&mut self.replies);
        self.pipeline.rest();
        self.pause.idle();
        Ok(Turn::Idle)
    }

    fn poll_keep_alive(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let listening = (self.may_read() && self.held_up.is_none()) || !self.takes_output(OUTPUT_FULL);
        let Some(keep_alive) = &mut self.keep_alive else { return Ok(()) };
        if !listening {
            // Nothing is read because our handlers are slow: the client is not to blame.
            keep_alive.excuse();
        }
        let whole = if self.input.is_empty() { 0 } else { self.decoder.packet_bytes() };
        match keep_alive.poll_expired(cx, self.input.len(), whole) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                let (client, peer) = (Shown(&self.client.id), self.client.peer);
                tracing::info!(%client, %peer, keep_alive = self.client.keep_alive, "keep-alive timeout");
                Err(End::new(DisconnectReason::KeepAliveTimeout, Some(reason::KEEP_ALIVE_TIMEOUT)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It lives on the heap, whose next class is larger by a quarter: half a kibibyte for each idle client.
    #[test]
    fn a_connection_fits_a_class_of_the_allocator() {
        assert!(size_of::<Connection<tokio::net::TcpStream>>() <= 2_048);
    }
}
