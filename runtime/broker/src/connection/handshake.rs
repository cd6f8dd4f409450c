//! From an accepted socket to a connected client: CONNECT, its checks, the session, CONNACK.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use tidegate_event::{Client, DisconnectReason, Hook, Protocol, ReasonCode, StoredWill, now_ms};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::Connection;
use super::authenticate::{self, Asked};
use crate::broker::Shared;
use crate::codec::{CodecError, ConnAck, ConnAckProperties, Connect, Decoder, Incoming, Outgoing, encode};
use crate::listener::Counted;
use crate::metrics::Limited;
use crate::reason;
use crate::registry::Attached;
use crate::session::RecordedWill;
use crate::session::delivery::detached_text;
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
    /// The bytes are no CONNECT this server takes.
    Malformed(CodecError),
}

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve<S>(shared: Arc<Shared>, mut stream: S, peer: SocketAddr, count: Counted)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut decoder = Decoder::new(shared.config.codec_limits());
    let mut input = BytesMut::new();
    // Until then the client must be connected, or be told why it is not.
    let deadline = after(shared.config.connect_timeout);
    let connect = tokio::select! {
        connect = read_connect(&mut stream, &mut decoder, &mut input, deadline) => connect,
        () = shared.stopping.cancelled() => Err(Refused::Gone),
    };
    match connect {
        Ok(connect) => {
            // On the heap, so that a connection that never sends CONNECT costs little.
            if let Some(connection) =
                Box::pin(welcome(&shared, stream, peer, decoder, input, *connect, deadline, count)).await
            {
                connection.run().await;
            }
        }
        Err(Refused::Gone) => tracing::debug!(%peer, "closed before CONNECT"),
        Err(Refused::TooLate) => {
            shared.metrics.connect_timeouts.increment(1);
            tracing::info!(%peer, timeout = ?shared.config.connect_timeout, "no CONNECT in time");
        }
        Err(Refused::Malformed(error)) => {
            shared.metrics.malformed(error.reason());
            tracing::info!(%peer, %error, "CONNECT refused");
            if let Some(protocol) = answer_version(&error, &decoder) {
                let refusal = refusal(error.reason());
                farewell(&shared, stream, &refusal, protocol).await;
            }
        }
    }
}

/// When `timeout` from now is over. One that is longer than the clock goes ends never.
fn after(timeout: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or(now + NEVER)
}

async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    decoder: &mut Decoder,
    input: &mut BytesMut,
    deadline: Instant,
) -> Result<Box<Connect>, Refused> {
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
            match stream.read_buf(input).await {
                Ok(0) | Err(_) => return Err(Refused::Gone),
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout_at(deadline, reading).await.unwrap_or(Err(Refused::TooLate))
}

/// In which version a refused CONNECT is answered; `None`: not at all (MQTT 5 clause 3.1.4, 4.13.1).
fn answer_version(error: &CodecError, decoder: &Decoder) -> Option<Protocol> {
    match error {
        CodecError::UnsupportedVersion { answer, .. } => Some(*answer),
        CodecError::ClientId => decoder.protocol(),
        _ => decoder.protocol().filter(|protocol| protocol.is_v5()),
    }
}

fn refusal(code: ReasonCode) -> Outgoing {
    Outgoing::ConnAck(Box::new(ConnAck {
        session_present: false,
        reason: code,
        properties: ConnAckProperties::default(),
    }))
}

/// Sends a last packet and closes.
async fn farewell<S: AsyncWrite + Unpin>(
    shared: &Shared,
    mut stream: S,
    packet: &Outgoing,
    protocol: Protocol,
) {
    let mut output = BytesMut::new();
    encode(packet, protocol, &mut output);
    let write = async {
        stream.write_all(&output).await?;
        stream.shutdown().await
    };
    // The peer may not read; the socket is closed either way.
    tokio::time::timeout(shared.config.flush_timeout, write).await.ok();
}

/// Gives the client its session and CONNACK. `None`: it was refused, or taken over at once.
#[expect(clippy::too_many_arguments, reason = "the parts of a connection that is yet to be")]
async fn welcome<S>(
    shared: &Arc<Shared>,
    mut stream: S,
    peer: SocketAddr,
    decoder: Decoder,
    mut input: BytesMut,
    connect: Connect,
    deadline: Instant,
    count: Counted,
) -> Option<Box<Connection<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let protocol = connect.protocol;
    if connect.properties.authentication_method.is_some() {
        // Enhanced authentication (clause 4.12): there is no method this server knows.
        shared.metrics.connect_refused(reason::BAD_AUTHENTICATION_METHOD);
        tracing::info!(%peer, client = %connect.client_id, "enhanced authentication is not supported");
        farewell(shared, stream, &refusal(reason::BAD_AUTHENTICATION_METHOD), protocol).await;
        return None;
    }
    let assigned = connect.client_id.is_empty();
    let id = if assigned {
        ByteString::from(format!("auto-{}", shared.ids.next_id()))
    } else {
        detached_text(&connect.client_id)
    };
    let expiry = session_expiry(shared, &connect);
    let next_number = || shared.connection_numbers.fetch_add(1, Ordering::Relaxed);
    let mut client = Arc::new(Client {
        id,
        username: connect.username.as_ref().map(detached_text),
        peer,
        protocol,
        tenant: shared.tenant_of(connect.username.as_ref(), peer),
        keep_alive: connect.keep_alive,
        clean_start: connect.clean_start,
        connected_at_ms: now_ms(),
        connection: next_number(),
    });
    if let Some(question) = authenticate::question(shared, &client, &connect) {
        match authenticate::ask(shared, question, &mut stream, &mut input, deadline).await {
            // Numbered anew: a connection that was asked about for longer may have become the older one.
            Asked::Welcome => {
                client = Arc::new(Client { connection: next_number(), ..Client::clone(&client) })
            }
            Asked::Refused(code) => {
                turn_away(shared, stream, &client, code, "client.authenticate refused").await;
                return None;
            }
            Asked::Unanswered(question) => {
                let code = Hook::ClientAuthenticate.failure();
                turn_away(shared, stream, &client, code, "client.authenticate gave no answer in time").await;
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
    if expiry > 0
        && let Err(error) = shared.store.health()
    {
        let why = format!("its session could not be kept: {error}");
        turn_away(shared, stream, &client, reason::SERVER_UNAVAILABLE, &why).await;
        return None;
    }
    let realm = shared.realm(&client.tenant);
    let unfinished = realm.registry.unfinished(&client.id);
    if unfinished >= ENDED_BYTES * shared.config.read_ahead() {
        shared.metrics.connect_refused(reason::SERVER_BUSY);
        tracing::warn!(
            client = %client.id, %peer, unfinished,
            "refused: too much of what the client has sent before waits for its handlers"
        );
        farewell(shared, stream, &refusal(reason::SERVER_BUSY), protocol).await;
        return None;
    }
    if realm.registry.is_full(&client.id, shared.config.max_sessions) {
        shared.metrics.limited(Limited::Sessions);
        turn_away(
            shared,
            stream,
            &client,
            ReasonCode::QUOTA_EXCEEDED,
            "there are as many sessions as may be",
        )
        .await;
        return None;
    }
    if connect.will.as_ref().is_some_and(|will| will.topic.as_str().len() > shared.config.max_topic_bytes) {
        shared.metrics.limited(Limited::TopicBytes);
        turn_away(shared, stream, &client, reason::TOPIC_NAME_INVALID, "the topic of its will is too long")
            .await;
        return None;
    }
    let attached =
        realm.registry.attach(&realm, &client.id, client.connection, connect.clean_start, expiry).await;
    let Some(Attached { session, seat, resumed, handover }) = attached else {
        shared.metrics.disconnected(DisconnectReason::TakenOver);
        tracing::debug!(client = %client.id, %peer, "taken over before CONNACK");
        return None;
    };
    if resumed {
        session.change_expiry(&realm, expiry);
    }
    let will = connect.will.as_ref().filter(|_| session.is_recorded(&realm));
    let will = will.map(|will| StoredWill {
        message: Arc::new(will::message(shared, will.clone(), &client)),
        delay: will.delay,
    });
    let recorded_will =
        will.as_ref().map(|will| RecordedWill { session: session.number, will: will.message.id });
    session.opened(&realm, will);
    tracing::debug!(client = %client.id, %peer, ?protocol, resumed, "connected");

    let mut connection =
        Connection::new(realm, stream, decoder, input, client, session, seat, handover, &connect, count);
    connection.send(&Outgoing::ConnAck(Box::new(ConnAck {
        session_present: resumed,
        reason: ReasonCode::SUCCESS,
        properties: connack_properties(shared, &connect, expiry, assigned.then(|| connection.client_id())),
    })));
    connection.recorded_will = recorded_will;
    connection.open(resumed);
    Some(connection)
}

/// Refuses the connection of `client` with `code`, because of `why`.
async fn turn_away<S: AsyncWrite + Unpin>(
    shared: &Shared,
    stream: S,
    client: &Client,
    code: ReasonCode,
    why: &str,
) {
    shared.metrics.connect_refused(code);
    let (id, peer, code_text) = (&client.id, client.peer, format!("{:#04x}", code.0));
    tracing::info!(client = %id, %peer, code = code_text, "refused: {why}");
    farewell(shared, stream, &refusal(code), client.protocol).await;
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

fn connack_properties(
    shared: &Shared,
    connect: &Connect,
    expiry: u32,
    assigned: Option<ByteString>,
) -> ConnAckProperties {
    if !connect.protocol.is_v5() {
        return ConnAckProperties::default();
    }
    let config = &shared.config;
    let asked = connect.properties.session_expiry.unwrap_or(0);
    ConnAckProperties {
        session_expiry: (expiry != asked).then_some(expiry),
        receive_maximum: Some(config.window()),
        maximum_packet_size: Some(config.max_packet_bytes),
        assigned_client_id: assigned,
        topic_alias_maximum: (config.max_topic_alias > 0).then_some(config.max_topic_alias),
        reason_string: None,
        server_keep_alive: None,
    }
}
