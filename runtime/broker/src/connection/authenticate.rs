//! Whether a client may connect, asked before anything is done for it: the gate first, then the handlers of
//! client.authenticate.

use std::sync::Arc;

use bytes::BytesMut;
use tidegate_event::{Client, Decision, Event, Hook, Password, ReasonCode};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::Instant;

use crate::broker::Shared;
use crate::codec::Connect;
use crate::leave::{Leave, Question};
use crate::listener::Counted;
use crate::reason;
use crate::reconnects::Turn;

/// What a client may send while its CONNECT is not answered, bytes (MQTT 5 clause 3.1.4): it is looked at later. With
/// that the socket is not read any more, so its end is not seen either, until there is an answer.
const READ_AHEAD: usize = 8 * 1024;
/// Room made before a read.
const READ: usize = 512;

/// What came of something that a client has to wait for before CONNACK.
enum Watched<T> {
    /// It is there.
    Ready(T),
    /// Not in the time a CONNECT may take, or the broker stops.
    Late,
    /// The client has gone.
    Gone,
}

/// Awaits `answer`, until `deadline`, and watches the client meanwhile. What it sends goes to `input`.
async fn watch<S: AsyncRead + Unpin, T>(
    shared: &Shared,
    mut answer: impl Future<Output = T> + Unpin,
    stream: &mut S,
    input: &mut BytesMut,
    deadline: Instant,
) -> Watched<T> {
    loop {
        let may_read = input.len() < READ_AHEAD;
        let read = async {
            input.reserve(READ);
            stream.read_buf(input).await
        };
        tokio::select! {
            biased;
            answer = &mut answer => return Watched::Ready(answer),
            () = tokio::time::sleep_until(deadline) => return Watched::Late,
            () = shared.stopping.cancelled() => return Watched::Late,
            read = read, if may_read => {
                if !matches!(read, Ok(1..)) {
                    return Watched::Gone;
                }
            }
        }
    }
}

/// What came of the gate.
pub(super) enum Passed {
    /// The client may go on; `after_waiting`: others may have come meanwhile.
    Through { after_waiting: bool },
    /// It is told this code, because of that.
    Refused(ReasonCode, &'static str),
    /// It has gone.
    Gone,
}

/// Lets `client` through if it does not come too often and the gate allows it and the topic of its will. Nothing is left to be done otherwise:
/// whatever was begun for its answer ends with it.
pub(super) async fn pass<S: AsyncRead + Unpin>(
    shared: &Shared,
    client: &Arc<Client>,
    connect: &Connect,
    stream: &mut S,
    input: &mut BytesMut,
    deadline: Instant,
) -> Passed {
    let mut after_waiting = false;
    loop {
        let wait = match shared.reconnects.turn(&client.tenant, &client.id) {
            Turn::Now => break,
            Turn::After(wait) => wait,
            Turn::Refused => {
                return Passed::Refused(ReasonCode::CONNECTION_RATE_EXCEEDED, "it connects too often");
            }
        };
        after_waiting = true;
        let over = Box::pin(tokio::time::sleep(wait));
        match watch(shared, over, stream, input, deadline).await {
            Watched::Ready(()) => {}
            Watched::Late => return Passed::Refused(reason::SERVER_BUSY, "its turn did not come in time"),
            Watched::Gone => return Passed::Gone,
        }
    }
    let refused = |code, why| {
        shared.guard.refused_connect();
        Passed::Refused(code, why)
    };
    if let Some(answer) = shared.guard.ask_connect(client, connect.password.as_ref()) {
        after_waiting = true;
        match watch(shared, answer, stream, input, deadline).await {
            Watched::Ready(Decision::Allow) => {}
            Watched::Ready(Decision::Refuse(code)) => return refused(code, "the gate does not let it in"),
            Watched::Late => {
                return refused(ReasonCode::SERVER_UNAVAILABLE, "the gate gave no answer in time");
            }
            Watched::Gone => return Passed::Gone,
        }
    }
    match &connect.will {
        Some(will) if !shared.guard.may_have_will(client, &will.topic) => {
            refused(ReasonCode::NOT_AUTHORIZED, "it may not publish its will")
        }
        _ => Passed::Through { after_waiting },
    }
}

/// What came of asking handlers.
pub(super) enum Asked {
    /// The client may connect.
    Welcome,
    /// It is told this code.
    Refused(ReasonCode),
    /// There was no answer in the time a CONNECT may take, or the broker stops. The handlers are still at it.
    Unanswered(Question),
    /// The client has gone. The handlers are still at it.
    Gone(Question),
}

/// The question about `client`, which sent `connect`; `None`: nobody is to be asked.
pub(super) fn question(shared: &Shared, client: &Arc<Client>, connect: &Connect) -> Option<Question> {
    if !shared.hooks.is_bound(&client.tenant, Hook::ClientAuthenticate) {
        return None;
    }
    let password = connect.password.clone().map(Password::new);
    Question::ask(shared, Event::ClientAuthenticate { client: Arc::clone(client), password })
}

/// Awaits the answer to `question`, until `deadline`, and watches the client meanwhile. What it sends goes to `input`.
pub(super) async fn ask<S: AsyncRead + Unpin>(
    shared: &Shared,
    mut question: Question,
    stream: &mut S,
    input: &mut BytesMut,
    deadline: Instant,
) -> Asked {
    match watch(shared, &mut question, stream, input, deadline).await {
        Watched::Ready(leave) => {
            leave.count(Hook::ClientAuthenticate, &shared.metrics);
            match leave {
                Leave::Given | Leave::Changed(_) => Asked::Welcome,
                Leave::Refused(code) | Leave::Unknown(code) => Asked::Refused(code),
            }
        }
        Watched::Late => {
            let leave = Leave::Unknown(Hook::ClientAuthenticate.failure());
            leave.count(Hook::ClientAuthenticate, &shared.metrics);
            Asked::Unanswered(question)
        }
        Watched::Gone => Asked::Gone(question),
    }
}

/// Lets the handlers come to their end, although nobody waits for their answer. Until then they count as the
/// connection they were asked for: who comes and goes cannot have more of them at work than connections are allowed.
pub(super) async fn abandon(shared: &Shared, question: Question, count: Counted) {
    tokio::select! {
        _ = question => {}
        () = shared.closing.cancelled() => {}
    }
    drop(count);
}
