//! From an accepted socket to a connected client: CONNECT, its checks, the session, CONNACK.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use tidegate_event::{
    Change, Client, DisconnectReason, Hook, Message, ReasonCode, Shown, StoredWill, now_ms,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::authenticate::{self, Asked, Passed};
use super::close::hang_up;
use super::output::Output;
use super::{Connection, connack};
use crate::broker::Shared;
use crate::codec::{CodecError, Connect, Decoder, Incoming, Terms, Will};
use crate::listener::{Arrival, Counted};
use crate::metrics::{Limited, Turned};
use crate::realm::Realm;
use crate::reason;
use crate::registry::{Attached, Handover, NotAttached};
use crate::session::delivery::detached_text;
use crate::session::{LateWill, RecordedWill, Seat, Session};
use crate::will;

/// Bytes read at first: CONNECT is small.
const FIRST_READ: usize = 512;

/// How many times the read-ahead the ended connections of a client may hold before it is refused a new one.
const ENDED_BYTES: usize = 2;

/// Why a connection ended before its client was connected.
enum Refused {
    /// Nothing, or not enough, came in time.
    TooLate,
    /// The socket closed or failed.
    Gone,
    /// There are too many like it.
    Crowded,
    /// The bytes are no CONNECT this server takes.
    Malformed(CodecError),
}

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve<S>(shared: Arc<Shared>, mut stream: S, arrival: Arrival, mut count: Counted)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut decoder = Decoder::new(shared.config.codec_limits());
    let mut input = BytesMut::new();
    let peer = arrival.peer;
    let evicted = count.evicted();
    let connect = tokio::select! {
        connect = read_connect(&mut stream, &mut decoder, &mut input, &mut count) => connect,
        () = evicted => Err(Refused::Crowded),
        () = shared.stopping.cancelled() => Err(Refused::Gone),
    };
    match connect {
        Ok(_) if !count.heard() => {
            shared.turned_away(
                peer,
                Turned::Connections,
                "another came for its place before its CONNECT did",
            );
        }
        Ok(connect) => {
            // On the heap, so that a connection that never sends CONNECT costs little.
            if let Some(connection) =
                Box::pin(welcome(&shared, stream, arrival, decoder, input, *connect, count)).await
            {
                connection.run().await;
            }
        }
        Err(Refused::Gone) => {
            tracing::debug!(%peer, "closed before CONNECT");
            // TLS and WebSocket have a last word, too.
            tokio::time::timeout(shared.config.flush_timeout, stream.shutdown()).await.ok();
        }
        Err(Refused::TooLate) => {
            shared.too_late(peer);
            Box::pin(hang_up(&shared, stream, Output::default(), true)).await;
        }
        Err(Refused::Crowded) => {
            let why = "others came after it who wait for their CONNECT too, or too much is kept of packets that are not whole";
            shared.turned_away(peer, Turned::Handshakes, why);
        }
        Err(Refused::Malformed(error)) => {
            shared.metrics.malformed(error.reason());
            if let Some(left_out) = shared.lines.malformed.turn() {
                tracing::info!(%peer, %error, left_out, "CONNECT refused");
            }
            match connack::answer_version(&error, &decoder) {
                Some(protocol) => {
                    let refusal = connack::refusal(error.reason(), Some(error.to_string().into()));
                    let terms = connack::terms_so_far(&shared, &decoder);
                    Box::pin(connack::farewell(&shared, stream, &refusal, protocol, terms)).await;
                }
                None => Box::pin(hang_up(&shared, stream, Output::default(), true)).await,
            }
        }
    }
}

async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    decoder: &mut Decoder,
    input: &mut BytesMut,
    count: &mut Counted,
) -> Result<Box<Connect>, Refused> {
    let deadline = count.deadline();
    let reading = async {
        loop {
            match decoder.decode(input) {
                Ok(Some(Incoming::Connect(connect))) => return Ok(connect),
                // The decoder lets nothing else come first.
                Ok(Some(_)) => return Err(Refused::Gone),
                Ok(None) => {}
                Err(error) => return Err(Refused::Malformed(error)),
            }
            input.reserve(decoder.missing(input.len()).clamp(FIRST_READ, 64 * 1024));
            count.waits_for_the_rest(input.len());
            match stream.read_buf(input).await {
                Ok(0) | Err(_) => return Err(Refused::Gone),
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout_at(deadline, reading).await.unwrap_or(Err(Refused::TooLate))
}

/// Gives the client its session and CONNACK. `None`: it was refused, or taken over at once.
async fn welcome<S>(
    shared: &Arc<Shared>,
    mut stream: S,
    arrival: Arrival,
    decoder: Decoder,
    mut input: BytesMut,
    mut connect: Connect,
    mut count: Counted,
) -> Option<Box<Connection<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Arrival { peer, listener, server_name, certificate, username, forwarded, only_v31 } = arrival;
    let protocol = connect.protocol;
    let terms = connack::terms(shared, &connect);
    if let Some((code, why)) = connack::objection(&shared.config, &connect, only_v31) {
        shared.metrics.connect_refused(code);
        if let Some(left_out) = shared.lines.refused.turn() {
            tracing::info!(%peer, client = %Shown(&connect.client_id), left_out, "refused: {why}");
        }
        let refusal = connack::refusal(code, Some(ByteString::from_static(why)));
        connack::farewell(shared, stream, &refusal, protocol, terms).await;
        return None;
    }
    let id = if connect.client_id.is_empty() {
        match connack::new_client_id() {
            Ok(id) => id,
            Err(error) => {
                shared.metrics.connect_refused(ReasonCode::UNSPECIFIED);
                tracing::error!(%peer, %error, "no random bits for a client id");
                let refusal = connack::refusal(ReasonCode::UNSPECIFIED, None);
                connack::farewell(shared, stream, &refusal, protocol, terms).await;
                return None;
            }
        }
    } else {
        detached_text(&connect.client_id)
    };
    let expiry = session_expiry(shared, &connect);
    let next_number = || shared.connection_numbers.fetch_add(1, Ordering::Relaxed);
    let certified = username.is_some();
    let username = username.or_else(|| connect.username.as_ref().map(detached_text));
    let tenant = shared.tenant_of(username.as_ref(), peer);
    let mut client = Arc::new(Client {
        id,
        username,
        peer,
        protocol,
        tenant,
        keep_alive: connack::keep_alive(&shared.config, &connect),
        clean_start: connect.clean_start,
        connected_at_ms: now_ms(),
        connection: next_number(),
        listener,
        server_name,
        certificate,
        certified,
        forwarded,
    });
    // Numbered anew: a connection that was asked about for longer may have become the older one.
    let renumbered = |client: &Client| Arc::new(Client { connection: next_number(), ..client.clone() });
    if !count.takes_connect(connect.size()) {
        let why = "too much waits for handlers, and its CONNECT is large";
        turn_away(shared, stream, &client, reason::SERVER_BUSY, terms, why).await;
        return None;
    }
    match authenticate::pass(shared, &client, &connect, &mut stream, &mut input, count.deadline()).await {
        Passed::Through { after_waiting: true } => client = renumbered(&client),
        Passed::Through { .. } => {}
        Passed::Refused(code, why) => {
            turn_away(shared, stream, &client, code, terms, why).await;
            return None;
        }
        Passed::Gone => {
            tracing::debug!(client = %client.id, %peer, "closed before CONNACK");
            return None;
        }
    }
    if let Some(question) = authenticate::question(shared, &client, &connect) {
        match authenticate::ask(shared, question, &mut stream, &mut input, count.deadline()).await {
            Asked::Welcome => client = renumbered(&client),
            Asked::Refused(code) => {
                turn_away(shared, stream, &client, code, terms, "client.authenticate refused").await;
                return None;
            }
            Asked::Unanswered(question) => {
                let code = Hook::ClientAuthenticate.failure();
                let why = "client.authenticate gave no answer in time";
                turn_away(shared, stream, &client, code, terms, why).await;
                drop((connect, input));
                authenticate::abandon(shared, question, count).await;
                return None;
            }
            Asked::Gone(question) => {
                tracing::debug!(client = %client.id, %peer, "closed before CONNACK");
                drop((stream, input, connect));
                authenticate::abandon(shared, question, count).await;
                return None;
            }
        }
    }
    let realm = shared.realm(&client.tenant);
    let has_kept = || realm.registry.find(&client.id).is_some_and(|session| session.is_durable());
    if let Err(error) = shared.store.health()
        && (expiry > 0 || has_kept())
    {
        let why = format!("its session could not be kept: {error}");
        turn_away(shared, stream, &client, reason::SERVER_UNAVAILABLE, terms, &why).await;
        return None;
    }
    if !connack::fits(&connack::accepted(&shared.config, &connect, &client.id, expiry, true), protocol, terms)
    {
        // 0x95 is about the packet that a client sent. This CONNECT is "valid but is not accepted" (table 3-1).
        let why = "the client takes no packet as large as CONNACK";
        turn_away(shared, stream, &client, reason::IMPLEMENTATION_SPECIFIC, terms, why).await;
        return None;
    }
    let unfinished = realm.registry.unfinished(&client.id);
    if unfinished >= ENDED_BYTES * shared.config.read_ahead() {
        shared.metrics.connect_refused(reason::SERVER_BUSY);
        tracing::warn!(
            client = %Shown(&client.id), %peer, unfinished,
            "refused: too much of what the client has sent before waits for its handlers"
        );
        connack::farewell(shared, stream, &connack::refusal(reason::SERVER_BUSY, None), protocol, terms)
            .await;
        return None;
    }
    if realm.registry.is_full(&client.id, shared.config.max_sessions) {
        shared.metrics.limited(Limited::Sessions);
        if !realm.end_longest_away() {
            let why = "there are as many sessions as may be, and all their clients are here";
            turn_away(shared, stream, &client, ReasonCode::QUOTA_EXCEEDED, terms, why).await;
            return None;
        }
    }
    let will_bytes = connect.will.as_ref().map_or(0, Will::size);
    if !shared.budget.admits_will(will_bytes) {
        shared.metrics.limited(Limited::Wills);
        let why = "the memory of all queues is used up, and its will is large";
        turn_away(shared, stream, &client, ReasonCode::QUOTA_EXCEEDED, terms, why).await;
        return None;
    }
    connect.will = connect.will.as_ref().map(will::detached);
    if connect.will.as_ref().is_some_and(|will| will.topic.as_str().len() > shared.config.max_topic_bytes) {
        shared.metrics.limited(Limited::TopicBytes);
        let why = "the topic of its will is too long";
        turn_away(shared, stream, &client, reason::TOPIC_NAME_INVALID, terms, why).await;
        return None;
    }
    let attached = realm.registry.attach(&realm, &client, connect.clean_start, expiry).await;
    if !matches!(attached, Err(NotAttached::Foreign)) {
        shared.reconnects.note(&client.tenant, &client.id);
    }
    let Attached { session, mut seat, resumed, handover } = match attached {
        Ok(attached) => attached,
        Err(NotAttached::TakenOver) => {
            shared.metrics.disconnected(DisconnectReason::TakenOver);
            tracing::debug!(client = %client.id, %peer, "taken over before CONNACK");
            return None;
        }
        Err(NotAttached::Foreign) => {
            shared.guard.refused_connect();
            let why = "the client id is another user's";
            turn_away(shared, stream, &client, reason::CLIENT_ID_NOT_VALID, terms, why).await;
            return None;
        }
    };
    let expired_before = session.expiry();
    if resumed {
        session.keep_allowed(&realm, &mut seat, &client).await;
        if expiry > 0 {
            session.change_expiry(&realm, expiry);
        }
    }
    let will = connect.will.as_ref().filter(|_| session.is_recorded(&realm));
    let mut will = will.map(|will| StoredWill {
        message: Arc::new(will::message(shared, will.clone(), &client)),
        delay: will.delay,
    });
    let recorded_will =
        will.as_ref().map(|will| RecordedWill { session: session.number, will: will.message.id });
    // Together: after a crash it is the last connection's will that is found, or this one's.
    let mut aside = None;
    shared.store.together(&mut || {
        session.opened(&realm, will.take());
        aside = session.put_will_aside(&realm);
    });
    // CONNACK promises that the session is there, or that none is of those before, and that the will is known.
    if shared.keeps
        && (resumed || session.is_durable() || realm.ended.contains(&client.id))
        && let Err(why) = recorded(shared).await
    {
        recorded_will.inspect(|will| realm.record(will.gone()));
        session.change_expiry(&realm, expired_before);
        let_go(&realm, &session, &mut seat, resumed, handover, aside);
        drop(seat);
        turn_away(shared, stream, &client, reason::SERVER_UNAVAILABLE, terms, &why).await;
        return None;
    }
    if expiry == 0 {
        // Not before: whoever is refused keeps the session that it has.
        session.change_expiry(&realm, 0);
        // A crash must not bring it back to a client that was told of a new one. It is too late to refuse for that.
        if shared.keeps && expired_before > 0 {
            recorded(shared).await.ok();
        }
    }
    tracing::debug!(client = %client.id, %peer, ?protocol, resumed, "connected");

    let mut connection =
        Connection::new(realm, stream, decoder, input, client, session, seat, handover, &connect, count);
    let client_id = connection.client_id();
    connection.send(&connack::accepted(&shared.config, &connect, &client_id, expiry, resumed));
    connection.recorded_will = recorded_will;
    connection.will_account.settle(&shared.budget, will_bytes);
    connection.open(resumed);
    Some(connection)
}

/// Waits until what was recorded so far is durable.
///
/// # Errors
/// Why it is not.
async fn recorded(shared: &Shared) -> Result<(), String> {
    tokio::select! {
        kept = shared.store.durable() => kept.map_err(|error| format!("its session was not recorded: {error}")),
        () = shared.closing.cancelled() => Err("the server stops".into()),
    }
}

/// The client is not there after all: its `will` is sent when it is `due`.
fn bring_will_back(realm: &Arc<Realm>, session: &Arc<Session>, will: LateWill, due: Option<Instant>) {
    let left = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
    if let Some(recorded) = will.recorded {
        // Rounded up: it is sent too late after a crash rather than too early.
        let delay = u32::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
        let message = Arc::new(Message { id: recorded.will, ..will.message.clone() });
        session.opened(realm, Some(StoredWill { message, delay }));
    }
    realm.start_will(session, will, left);
}

/// The client is not told of `session` after all: as if it had gone at once, and its earlier `will` not been touched.
fn let_go(
    realm: &Arc<Realm>,
    session: &Arc<Session>,
    seat: &mut Seat,
    resumed: bool,
    handover: Option<Handover>,
    will: Option<(LateWill, Option<Instant>)>,
) {
    if let Some(handover) = handover {
        realm.registry.leave_again(&session.client_id, handover);
    }
    session.stop_timers(realm);
    if let Some((will, due)) = will {
        bring_will_back(realm, session, will, due);
    }
    if !resumed || !session.is_durable() {
        realm.end_session(session, seat);
        return;
    }
    realm.member_left(session, seat);
    if session.is_recorded(realm) {
        realm.record(Change::Disconnected { session: session.number, at_ms: now_ms() });
    }
    realm.start_expiry(session, Duration::ZERO);
}

/// Refuses the connection of `client` with `code`, because of `why`.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: S,
    client: &Client,
    code: ReasonCode,
    terms: Terms,
    why: &str,
) {
    shared.metrics.connect_refused(code);
    // Before its password was looked at anybody can have such a line written, so not every one is.
    if let Some(left_out) = shared.lines.refused.turn() {
        let (id, peer, code) = (Shown(&client.id), client.peer, format!("{:#04x}", code.0));
        tracing::info!(client = %id, %peer, code, left_out, "refused: {why}");
    }
    connack::farewell(shared, stream, &connack::refusal(code, None), client.protocol, terms).await;
}

/// How long the session outlives the connection, seconds. 3.1 and 3.1.1 know only "not" and "for ever", which
/// the configuration bounds.
fn session_expiry(shared: &Shared, connect: &Connect) -> u32 {
    let most = shared.config.max_session_expiry;
    match (connect.protocol.is_v5(), connect.clean_start) {
        (true, _) => connect.properties.session_expiry.unwrap_or(0).min(most),
        (false, true) => 0,
        (false, false) => most,
    }
}
