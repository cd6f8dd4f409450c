//! Writing a batch until the database has decided about each of its operations, or is found to be down.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_event::{AckError, AckPart, ReasonCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Backoff, Charge, WriterParts};
use crate::backend::{BackendError, WriteError};
use crate::health::Failing;
use crate::operation::Operation;

/// Operations written together, and who waits for them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) operations: Vec<Operation>,
    pub(super) parts: Vec<Option<AckPart>>,
    pub(super) charge: Charge,
}

impl Batch {
    /// Everybody who waits is told that it is done.
    pub(super) fn done(&mut self) {
        self.operations.clear();
        self.parts.drain(..).flatten().for_each(AckPart::done);
    }

    /// How many wait for an answer.
    pub(super) fn awaited(&self) -> usize {
        self.parts.iter().flatten().count()
    }

    /// Takes out what is decided: all but `undecided`.
    pub(super) fn keep(&mut self, undecided: &Undecided) {
        let mut index = 0..;
        self.operations.retain(|_| index.next().is_some_and(|index| undecided.has(index)));
        let mut index = 0..;
        self.parts.retain(|_| index.next().is_some_and(|index| undecided.has(index)));
    }
}

/// Operations of a batch that are not decided, as ranges of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Undecided(Vec<(usize, usize)>);

impl Undecided {
    /// Whether the operation at `index` is one of them.
    pub(super) fn has(&self, index: usize) -> bool {
        self.0.iter().any(|(from, to)| (*from..*to).contains(&index))
    }

    /// The same ones among those of which the places are `places`.
    fn of(&self, places: &[usize]) -> Self {
        let own = places.iter().enumerate().filter(|(index, _)| self.has(*index));
        Self(own.map(|(_, at)| (*at, at + 1)).collect())
    }
}

/// How long a database that is down is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Until it answers: there is nowhere else to put the operations.
    Endless,
    /// For so long, and no longer when the writer closes.
    Only(Duration),
}

/// What becomes of an operation that is refused and cannot be kept as a dead letter either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unkept {
    /// Nobody was told that it is stored: its publisher sends it again.
    Abandon,
    /// It counts as stored: keeping it is tried again.
    TryAgain,
}

/// How a batch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Committed {
    /// Everything is decided.
    Decided,
    /// The database is down.
    Down(Undecided),
    /// The writer was told to give up.
    Abandoned(Undecided),
}

impl Committed {
    /// What is not decided.
    pub(super) fn undecided(self) -> Undecided {
        match self {
            Self::Decided => Undecided::default(),
            Self::Down(undecided) | Self::Abandoned(undecided) => undecided,
        }
    }
}

/// How writing some operations ended.
enum Outcome {
    Stored,
    Refused(WriteError),
    /// Some are decided, some not.
    Partly(WriteError),
    Down,
    Abandoned,
}

/// Writes batches of one worker.
pub(super) struct Committer {
    pub(super) parts: Arc<WriterParts>,
    pub(super) closing: CancellationToken,
    pub(super) abort: CancellationToken,
    pub(super) unkept: Unkept,
}

impl Committer {
    /// Writes `operations` and tells `parts`, who wait for them; when the database refuses them, divides them until the
    /// refused ones stand alone.
    pub(super) async fn commit(
        &self,
        operations: &[Operation],
        parts: &mut [Option<AckPart>],
        patience: Patience,
    ) -> Committed {
        let until = match patience {
            Patience::Endless => None,
            Patience::Only(time) => Some(Instant::now() + time),
        };
        let (mut failing, mut backoff) = (None, Backoff::default());
        let mut ended = self.divide(operations, parts, until, &mut failing).await;
        loop {
            let undecided = match ended {
                Ok(committed) => return committed,
                Err(undecided) => undecided,
            };
            if self.is_over(until) {
                return Committed::Down(undecided);
            }
            if !self.pause(&mut backoff, until).await {
                return Committed::Abandoned(undecided);
            }
            let left: Vec<usize> = (0..operations.len()).filter(|at| undecided.has(*at)).collect();
            let rest: Vec<Operation> = left.iter().filter_map(|at| operations.get(*at).cloned()).collect();
            let mut waiting: Vec<Option<AckPart>> =
                left.iter().map(|at| parts.get_mut(*at).and_then(Option::take)).collect();
            let again = self.divide(&rest, &mut waiting, until, &mut failing).await;
            for (at, part) in left.iter().zip(waiting) {
                if let Some(place) = parts.get_mut(*at) {
                    *place = part;
                }
            }
            ended = match again {
                Ok(Committed::Decided) => Ok(Committed::Decided),
                Ok(Committed::Down(some)) => Ok(Committed::Down(some.of(&left))),
                Ok(Committed::Abandoned(some)) => Ok(Committed::Abandoned(some.of(&left))),
                Err(some) => Err(some.of(&left)),
            };
        }
    }

    /// Writes `operations`, and parts of them, until each is decided or the database does not answer.
    ///
    /// # Errors
    /// Some were decided, and these are to be written again.
    async fn divide<'a>(
        &'a self,
        operations: &[Operation],
        parts: &mut [Option<AckPart>],
        until: Option<Instant>,
        failing: &mut Option<Failing<'a>>,
    ) -> Result<Committed, Undecided> {
        let metrics = &self.parts.metrics;
        let mut ranges = vec![(0, operations.len())];
        while let Some((from, to)) = ranges.pop() {
            let some = operations.get(from..to).unwrap_or_default();
            let is_down = match self.write(some, until, failing).await {
                Outcome::Stored => {
                    metrics.stored.increment(some.len() as u64);
                    let parts = parts.get_mut(from..to).unwrap_or_default();
                    parts.iter_mut().filter_map(Option::take).for_each(AckPart::done);
                    continue;
                }
                Outcome::Refused(error) if !error.refused.is_empty() => {
                    let parts = parts.get_mut(from..to).unwrap_or_default();
                    let left = self.all_but(some, parts, &error).await;
                    if left.is_empty() {
                        continue;
                    }
                    // Only those that could not be kept: the others are written.
                    ranges.extend(left.into_iter().map(|at| (from + at, from + at + 1)));
                    return Ok(Committed::Abandoned(Undecided(ranges)));
                }
                Outcome::Partly(error) => {
                    let parts = parts.get_mut(from..to).unwrap_or_default();
                    let left = self.all_but(some, parts, &error).await;
                    ranges.extend(left.into_iter().map(|at| (from + at, from + at + 1)));
                    return Err(Undecided(ranges));
                }
                Outcome::Refused(WriteError { error, operation: at, .. }) => {
                    if let [operation] = some {
                        let part = parts.get_mut(from).and_then(Option::take);
                        if self.refuse(operation, part, &error).await {
                            continue;
                        }
                        false
                    } else {
                        // The last pushed is the next written: order is kept.
                        match at {
                            Some(at) => ranges.extend([
                                (from + at + 1, to),
                                (from + at, from + at + 1),
                                (from, from + at),
                            ]),
                            None => {
                                let middle = from + (to - from) / 2;
                                ranges.extend([(middle, to), (from, middle)]);
                            }
                        }
                        ranges.retain(|(from, to)| from < to);
                        continue;
                    }
                }
                Outcome::Down => true,
                Outcome::Abandoned => false,
            };
            ranges.push((from, to));
            let undecided = Undecided(ranges);
            return Ok(if is_down { Committed::Down(undecided) } else { Committed::Abandoned(undecided) });
        }
        Ok(Committed::Decided)
    }

    /// Tells who waits for `operations`, of which the database has decided all but the undecided ones, and written all but
    /// the refused ones. Gives the places of those that are to be decided again: the undecided ones, and refused ones
    /// that could not be kept.
    async fn all_but(
        &self,
        operations: &[Operation],
        parts: &mut [Option<AckPart>],
        error: &WriteError,
    ) -> Vec<usize> {
        let WriteError { refused, undecided, .. } = error;
        let (mut left, mut stored) = (Vec::new(), 0);
        for (index, (operation, part)) in operations.iter().zip(parts).enumerate() {
            if undecided.binary_search(&index).is_ok() {
                left.push(index);
                continue;
            }
            match refused.iter().find(|(at, _)| *at == index) {
                None => {
                    stored += 1;
                    part.take().into_iter().for_each(AckPart::done);
                }
                Some((_, error)) => {
                    if !self.refuse(operation, part.take(), error).await {
                        left.push(index);
                    }
                }
            }
        }
        self.parts.metrics.stored.increment(stored);
        left
    }

    /// Whether a database that is down is not asked again.
    fn is_over(&self, until: Option<Instant>) -> bool {
        until.is_some_and(|until| Instant::now() >= until || self.closing.is_cancelled())
    }

    /// Waits before a database that is down is asked again. False: the writer was told to give up.
    async fn pause(&self, backoff: &mut Backoff, until: Option<Instant>) -> bool {
        tokio::select! {
            () = backoff.wait() => true,
            () = self.parts.knock.notified() => true,
            () = self.closing.cancelled(), if until.is_some() => true,
            () = self.abort.cancelled() => false,
        }
    }

    /// Writes until the database has decided; while it is down until `until`, and for ever without. `failing`: whether this
    /// batch is one that the database does not take.
    async fn write<'a>(
        &'a self,
        operations: &[Operation],
        until: Option<Instant>,
        failing: &mut Option<Failing<'a>>,
    ) -> Outcome {
        let WriterParts { connector, backend, metrics, .. } = &*self.parts;
        let mut backoff = Backoff::default();
        loop {
            // A panic in a driver is an answer too: the operation that causes it must not stop the others.
            let attempt = AssertUnwindSafe(backend.write(operations)).catch_unwind();
            let result = tokio::select! {
                result = attempt => result.unwrap_or_else(|_| {
                    Err(BackendError::Refused { code: "panic".into(), message: "the driver panicked".into() }.into())
                }),
                () = self.abort.cancelled() => return Outcome::Abandoned,
            };
            match result {
                Err(failed) if failed.error.is_retryable() => {
                    let error = &failed.error;
                    metrics.write_retries.increment(1);
                    metrics.failed(error);
                    failing.get_or_insert_with(|| metrics.health.fails());
                    if metrics.health.set_down() {
                        tracing::warn!(%connector, %error, "store is down: operations wait and are tried again");
                    }
                    if (1..operations.len()).contains(&failed.undecided.len()) {
                        return Outcome::Partly(failed);
                    }
                    if self.is_over(until) {
                        return Outcome::Down;
                    }
                    if !self.pause(&mut backoff, until).await {
                        return Outcome::Abandoned;
                    }
                }
                decided => {
                    if failing.take().is_some() {
                        // The others need not wait for the end of their pauses.
                        self.parts.knock.notify_waiters();
                    }
                    if metrics.health.set_up() {
                        tracing::info!(%connector, "store is up");
                    }
                    return decided.map_or_else(Outcome::Refused, |()| Outcome::Stored);
                }
            }
        }
    }

    /// Makes `operation` a dead letter. False: it could not be kept, and is not decided.
    async fn refuse(&self, operation: &Operation, part: Option<AckPart>, error: &BackendError) -> bool {
        let WriterParts { connector, metrics, dead_letters, .. } = &*self.parts;
        let reason = error.to_string();
        metrics.failed(&reason);
        tracing::warn!(%connector, operation = operation.name(), error = %reason, "operation refused");
        let mut backoff = Backoff::default();
        while !dead_letters.keep(connector, operation, &reason).await {
            if self.unkept == Unkept::Abandon {
                // Neither stored nor kept: without an ack, which dropping the part says, the publisher sends it again.
                metrics.abandoned.increment(1);
                return true;
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.closing.cancelled() => return false,
            }
        }
        metrics.refused.increment(1);
        if let Some(part) = part {
            part.fail(AckError::Refused {
                connector: connector.clone(),
                reason,
                code: ReasonCode::IMPLEMENTATION_SPECIFIC,
            });
        }
        true
    }
}

#[cfg(test)]
mod tests;
