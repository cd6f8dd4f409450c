//! Memory of queued operations: one budget for the process, with a share for every connector.
//!
//! Half of the budget is common, the other half is divided among the connectors. A connector whose database is
//! down can fill the common half and its own share, but never another's: the others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, TryAcquireError};

/// The common half.
#[derive(Clone)]
pub(crate) struct Budget {
    common: Arc<Semaphore>,
    share: usize,
}

/// A connector's share, and its access to the common half.
pub(crate) struct Share {
    common: Arc<Semaphore>,
    own: Semaphore,
    size: usize,
    /// What it has of the common half: given back at its end at the latest, as operations may be given up.
    borrowed: AtomicUsize,
}

/// Bytes taken by one operation. Given back by [`Share::release`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charge {
    own: usize,
    common: usize,
}

impl Charge {
    /// All of it.
    pub(crate) fn bytes(self) -> usize {
        self.own + self.common
    }
}

impl std::ops::AddAssign for Charge {
    fn add_assign(&mut self, other: Self) {
        self.own += other.own;
        self.common += other.common;
    }
}

/// The least share: a connector must be able to queue something.
const MIN_SHARE: usize = 64 * 1024;

impl Budget {
    /// A budget of `bytes` for `connectors`.
    pub(crate) fn new(bytes: usize, connectors: usize) -> Self {
        let common = Arc::new(Semaphore::new((bytes / 2).min(Semaphore::MAX_PERMITS)));
        Self { common, share: 0 }.divided(bytes, connectors)
    }

    /// The same common half; new connectors get the shares that there are when there are `connectors`.
    pub(crate) fn divided(&self, bytes: usize, connectors: usize) -> Self {
        let share = (bytes / 2 / connectors.max(1)).clamp(MIN_SHARE, u32::MAX as usize);
        Self { common: Arc::clone(&self.common), share }
    }

    /// A connector's share.
    pub(crate) fn share(&self) -> Share {
        Share {
            common: Arc::clone(&self.common),
            own: Semaphore::new(self.share),
            size: self.share,
            borrowed: AtomicUsize::new(0),
        }
    }
}

impl Share {
    /// Takes `bytes`, waiting when there are none. More than the whole share counts as the whole share: such an
    /// operation goes alone. `None`: the share was closed.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Charge> {
        let bytes = bytes.min(self.size);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.own.try_acquire_many(permits) {
            Ok(permit) => {
                permit.forget();
                return Some(Charge { own: bytes, common: 0 });
            }
            Err(TryAcquireError::Closed) => return None,
            Err(TryAcquireError::NoPermits) => {}
        }
        if let Ok(permit) = self.common.try_acquire_many(permits) {
            permit.forget();
            self.borrowed.fetch_add(bytes, Ordering::Relaxed);
            return Some(Charge { own: 0, common: bytes });
        }
        let permit = self.own.acquire_many(permits).await.ok()?;
        permit.forget();
        Some(Charge { own: bytes, common: 0 })
    }

    /// Gives back what operations took.
    pub(crate) fn release(&self, charge: Charge) {
        self.own.add_permits(charge.own);
        if charge.common > 0 {
            self.borrowed.fetch_sub(charge.common, Ordering::Relaxed);
            self.common.add_permits(charge.common);
        }
    }

    /// Nobody gets anything any more; those who wait are told.
    pub(crate) fn close(&self) {
        self.own.close();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.common.add_permits(*self.borrowed.get_mut());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_connector_cannot_take_the_share_of_another() {
        let budget = Budget::new(4 * MIN_SHARE, 2);
        let (greedy, modest) = (budget.share(), budget.share());
        let mut taken = Charge::default();
        while let Some(charge) = greedy.take(1024).now_or_never() {
            taken += charge.unwrap();
        }
        assert_eq!(taken, Charge { own: MIN_SHARE, common: 2 * MIN_SHARE });
        assert_eq!(modest.take(1024).now_or_never(), Some(Some(Charge { own: 1024, common: 0 })));

        let waiting = greedy.take(1024);
        let mut waiting = std::pin::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        greedy.release(Charge { own: 1024, common: 0 });
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn an_operation_larger_than_the_share_goes_alone() {
        let share = Budget::new(0, 1).share();
        let charge = share.take(usize::MAX).await.unwrap();
        assert_eq!(charge.own, MIN_SHARE);
        assert!(share.take(1).now_or_never().is_none());
        share.release(charge);
        share.close();
        assert_eq!(share.take(1).await, None);
    }
    /// The common half shrank for good with each connector that was given up while it had some of it.
    #[tokio::test]
    async fn a_share_that_ends_gives_back_what_it_borrowed() {
        let budget = Budget::new(4 * MIN_SHARE, 2);
        let share = budget.share();
        while let Some(Some(_)) = share.take(1024).now_or_never() {}
        assert_eq!(budget.common.available_permits(), 0);
        drop(share);
        assert_eq!(budget.common.available_permits(), 2 * MIN_SHARE);
    }
}
