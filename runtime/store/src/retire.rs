//! The end of a connector that another configuration has changed or left out.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::actions::Action;
use crate::connector::Connector;
use crate::turn::Predecessor;

/// How long it may take, in all: a database that is down for longer takes nothing more.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long calls of guests that have begun may take to queue what they have.
const CALLS: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until no event uses the connector, has it write what it has and closes it; `predecessor` then gives the turn
/// to the one in its place. What cannot be written goes to the buffer, which the next one empties. What finds no place there
/// until the deadline is given up: it was not acknowledged, so its publishers send it again.
pub(crate) async fn retire(
    connector: Arc<Connector>,
    users: Vec<Weak<Action>>,
    predecessor: Predecessor,
    stopping: CancellationToken,
) {
    connector.end_listening();
    let end = Instant::now() + DEADLINE;
    let unused = async {
        while users.iter().any(|user| user.strong_count() > 0) {
            sleep(LOOK).await;
        }
        // A subscriber's backlog holds it for as long as it is slow, and only reads: that need not be waited for.
        let calls = async {
            while Arc::strong_count(&connector) > 1 {
                sleep(LOOK).await;
            }
        };
        timeout(CALLS, calls).await.ok();
    };
    tokio::select! {
        _ = timeout(DEADLINE, unused) => {}
        () = stopping.cancelled() => {}
    }
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let abandoned = connector.writer.close(left).await;
    connector.backend.close().await;
    // What stood in its own place may have something left to do, which comes first for whoever is next, too.
    connector.turn.comes().await;
    drop(predecessor);
    let name = &connector.name;
    if abandoned == 0 {
        let buffered = connector.writer.spill().held().records;
        tracing::info!(connector = %name, buffered, "connector closed: everything it had is stored, or in the buffer");
    } else {
        tracing::error!(connector = %name, abandoned, "connector closed: operations were given up");
    }
}
