//! client.authenticate: handlers are asked whether a client may connect, before anything is done for it.

use std::sync::Arc;

use bytes::BytesMut;
use tidegate_event::{Client, Event, Hook, Password, ReasonCode};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::Instant;

use crate::broker::Shared;
use crate::codec::Connect;
use crate::leave::{Leave, Question};
use crate::listener::Counted;

/// What a client may send while its CONNECT is not answered, bytes (MQTT 5 clause 3.1.4): it is looked at later. With
/// that the socket is not read any more, so its end is not seen either, until there is an answer.
const READ_AHEAD: usize = 64 * 1024;
/// Room made before a read.
const READ: usize = 512;

/// What came of asking.
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
    loop {
        let may_read = input.len() < READ_AHEAD;
        let read = async {
            input.reserve(READ);
            stream.read_buf(input).await
        };
        tokio::select! {
            biased;
            leave = &mut question => {
                leave.count(Hook::ClientAuthenticate, &shared.metrics);
                return match leave {
                    Leave::Given | Leave::Changed(_) => Asked::Welcome,
                    Leave::Refused(code) | Leave::Unknown(code) => Asked::Refused(code),
                };
            }
            () = tokio::time::sleep_until(deadline) => return unanswered(shared, question),
            () = shared.stopping.cancelled() => return unanswered(shared, question),
            read = read, if may_read => {
                if !matches!(read, Ok(1..)) {
                    return Asked::Gone(question);
                }
            }
        }
    }
}

fn unanswered(shared: &Shared, question: Question) -> Asked {
    Leave::Unknown(Hook::ClientAuthenticate.failure()).count(Hook::ClientAuthenticate, &shared.metrics);
    Asked::Unanswered(question)
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
