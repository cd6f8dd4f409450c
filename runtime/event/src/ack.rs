//! The join of acks: one event, many handlers, one moment at which all of them have reached their level.
//!
//! Dispatch makes an [`AckJoin`] for an event; every handler whose level is `stored` takes an [`AckPart`]
//! and gives it to the writer, which completes it when the store (or the durable buffer) has the data. The
//! session awaits the join and then acknowledges. A part that is dropped without an answer counts as a
//! failure, so a lost operation can never look like a stored one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::ReasonCode;

/// Why an event could not reach its acknowledgement level.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AckError {
    /// The store refuses this message for good (too long, wrong type ...): sending it again cannot help.
    #[error("{connector}: {reason}")]
    Refused {
        /// The connector that refused, as `kind:pool`.
        connector: String,
        /// What it said.
        reason: String,
        /// What an MQTT 5 publisher is told.
        code: ReasonCode,
    },
    /// The operation was given up before the store answered (shutdown): the publisher must send it again.
    #[error("the operation was abandoned before the store answered")]
    Abandoned,
}

#[derive(Default)]
struct Shared {
    pending: AtomicUsize,
    waker: AtomicWaker,
    failure: Mutex<Option<AckError>>,
}

/// Waits for every [`AckPart`] taken from it. A future: await it once all parts have been taken.
#[derive(Clone, Default)]
pub struct AckJoin(Arc<Shared>);

impl AckJoin {
    /// A join without parts: ready at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one part: the join now also waits for it.
    pub fn part(&self) -> AckPart {
        self.0.pending.fetch_add(1, Ordering::AcqRel);
        AckPart(Some(self.0.clone()))
    }

    /// Whether nothing is outstanding and nothing failed.
    pub fn is_clear(&self) -> bool {
        self.0.pending.load(Ordering::Acquire) == 0 && self.0.failure.lock().is_none()
    }
}

impl std::fmt::Debug for AckJoin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AckJoin").field(&self.0.pending.load(Ordering::Relaxed)).finish()
    }
}

impl Future for AckJoin {
    type Output = Result<(), AckError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0.pending.load(Ordering::Acquire) > 0 {
            self.0.waker.register(cx.waker());
            // The last part may have finished between the load and the registration.
            if self.0.pending.load(Ordering::Acquire) > 0 {
                return Poll::Pending;
            }
        }
        Poll::Ready(match self.0.failure.lock().take() {
            None => Ok(()),
            Some(error) => Err(error),
        })
    }
}

/// One handler's share of a join. Complete it with [`done`](Self::done) or [`fail`](Self::fail).
#[must_use = "dropping a part fails the event"]
pub struct AckPart(Option<Arc<Shared>>);

impl AckPart {
    /// A part nobody waits for: the handler's level is `accepted`.
    pub fn detached() -> Self {
        Self(None)
    }

    /// Whether somebody waits for this part.
    pub fn is_awaited(&self) -> bool {
        self.0.is_some()
    }

    /// The handler's work has reached its level.
    pub fn done(mut self) {
        if let Some(shared) = self.0.take() {
            shared.finish();
        }
    }

    /// The handler's work cannot reach its level. The first failure of a join is the one reported.
    pub fn fail(mut self, error: AckError) {
        if let Some(shared) = self.0.take() {
            shared.failure.lock().get_or_insert(error);
            shared.finish();
        }
    }
}

impl std::fmt::Debug for AckPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AckPart").field("awaited", &self.0.is_some()).finish()
    }
}

impl Drop for AckPart {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.failure.lock().get_or_insert(AckError::Abandoned);
            shared.finish();
        }
    }
}

impl Shared {
    fn finish(&self) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn a_join_without_parts_is_ready() {
        assert_eq!(AckJoin::new().now_or_never(), Some(Ok(())));
    }

    #[test]
    fn a_join_waits_for_every_part() {
        let join = AckJoin::new();
        let (first, second) = (join.part(), join.part());
        first.done();
        assert_eq!(join.clone().now_or_never(), None);
        second.done();
        assert_eq!(join.now_or_never(), Some(Ok(())));
    }

    #[test]
    fn a_dropped_part_is_a_failure() {
        let join = AckJoin::new();
        drop(join.part());
        assert!(!join.is_clear());
        assert_eq!(join.now_or_never(), Some(Err(AckError::Abandoned)));
    }

    #[test]
    fn the_first_failure_is_reported() {
        let join = AckJoin::new();
        let (first, second) = (join.part(), join.part());
        let refused = AckError::Refused {
            connector: "sqlite:pool1".into(),
            reason: "too long".into(),
            code: ReasonCode::IMPLEMENTATION_SPECIFIC,
        };
        first.fail(refused.clone());
        drop(second);
        assert_eq!(join.now_or_never(), Some(Err(refused)));
    }
}
