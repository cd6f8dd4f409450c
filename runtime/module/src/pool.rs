//! The instances of one module version: kept warm between events, bounded, replaced when they are worn out.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_event::Scope;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError};

use crate::error::{CallError, LoadError};
use crate::instance::{Blueprint, Instance};
use crate::manifest::{Instances, Mode};
use crate::meters;
use crate::module::Answer;
use crate::state::Shared;

/// Counts instances of the process, so that no two events have the same number.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// The instances of a module version.
pub(crate) struct Pool {
    blueprint: Blueprint,
    policy: Instances,
    /// Events in flight.
    permits: Semaphore,
    /// Instances alive in the whole host.
    slots: Arc<Semaphore>,
    idle: Mutex<Idle>,
    live: AtomicUsize,
}

#[derive(Default)]
struct Idle {
    /// The one used last is used next: its memory is in the caches.
    #[expect(
        clippy::vec_box,
        reason = "it moves between here and a lease for every event: a pointer is cheaper"
    )]
    stack: Vec<Box<Instance>>,
    /// The fewest that were idle since the last [`Pool::trim`]: so many nobody needs.
    spare: usize,
    /// Whether another version serves: nobody will need an instance again.
    retired: bool,
}

/// An instance taken out for one event. Dropped without [`Lease::give_back`], the instance is gone.
pub(crate) struct Lease<'a> {
    pool: &'a Pool,
    pub(crate) instance: Option<Box<Instance>>,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    /// A pool with one instance, which proves that the version works.
    ///
    /// # Errors
    /// [`LoadError`] of the first instance.
    pub(crate) async fn open(
        blueprint: Blueprint,
        policy: Instances,
        slots: Arc<Semaphore>,
    ) -> Result<Self, LoadError> {
        let in_flight = if policy.mode == Mode::Single { 1 } else { policy.max };
        let pool = Self {
            blueprint,
            policy,
            permits: Semaphore::new(in_flight),
            slots,
            idle: Mutex::default(),
            live: AtomicUsize::new(0),
        };
        let timeout = pool.blueprint.shared.limits.timeout;
        let first = pool.make(timeout).await?;
        if pool.policy.mode != Mode::Fresh {
            pool.idle.lock().stack.push(first);
        } else {
            pool.retire(first);
        }
        Ok(pool)
    }

    /// What its instances share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.blueprint.shared
    }

    /// Instances alive, and how many of them are idle.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.live.load(Ordering::Relaxed), self.idle.lock().stack.len())
    }

    /// Handles the event of `scope`, in a warm instance if there is one.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn call(&self, scope: &Scope, started: Instant) -> Result<Answer, CallError> {
        let mut lease = match self.warm() {
            Some(lease) => lease,
            // On the heap: making an instance has a large state, and few calls need it.
            None => Box::pin(self.checkout(started)).await?,
        };
        let Some(instance) = lease.instance.as_deref_mut() else {
            return Err(CallError::Instantiate("it was taken twice".into()));
        };
        let outcome = pin!(instance.call(scope, started)).await;
        if matches!(
            outcome,
            Ok(_) | Err(CallError::Guest(_) | CallError::Answer(_) | CallError::NotHandled(_))
        ) {
            lease.give_back();
        }
        outcome
    }

    /// A warm instance, when there is one and nobody waits before us.
    fn warm(&self) -> Option<Lease<'_>> {
        if self.policy.mode == Mode::Fresh {
            return None;
        }
        let permit = self.permits.try_acquire().ok()?;
        let instance = self.take_idle()?;
        Some(Lease { pool: self, instance: Some(instance), _permit: permit })
    }

    async fn checkout(&self, started: Instant) -> Result<Lease<'_>, CallError> {
        let timeout = self.blueprint.shared.limits.timeout;
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(CallError::Replaced),
            Err(TryAcquireError::NoPermits) => {
                let waited = tokio::time::timeout(timeout, self.permits.acquire()).await;
                waited.map_err(|_| CallError::Timeout(timeout))?.map_err(|_| CallError::Replaced)?
            }
        };
        let warm = match self.policy.mode {
            Mode::Fresh => None,
            Mode::Warm | Mode::Single => self.take_idle(),
        };
        let instance = match warm {
            Some(instance) => instance,
            None => self
                .make(timeout.saturating_sub(started.elapsed()))
                .await
                .map_err(|error| CallError::Instantiate(error.to_string()))?,
        };
        Ok(Lease { pool: self, instance: Some(instance), _permit: permit })
    }

    fn take_idle(&self) -> Option<Box<Instance>> {
        let mut idle = self.idle.lock();
        let instance = idle.stack.pop();
        idle.spare = idle.spare.min(idle.stack.len());
        instance
    }

    async fn make(&self, patience: Duration) -> Result<Box<Instance>, LoadError> {
        let slot = self.slot(patience).await?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let instance = Instance::new(&self.blueprint, slot, serial).await?;
        self.live.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(instance))
    }

    /// Waits for a place among the host's instances rather than failing at its limit.
    async fn slot(&self, patience: Duration) -> Result<OwnedSemaphorePermit, LoadError> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Ok(slot);
        }
        match tokio::time::timeout(patience, self.slots.clone().acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(LoadError::Instantiate("the host has as many instances as it may have".into())),
        }
    }

    fn retire(&self, instance: Box<Instance>) {
        drop(instance);
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether an instance has served long enough.
    fn is_worn(&self, instance: &Instance) -> bool {
        match self.policy.mode {
            Mode::Fresh => true,
            // Its state is what it is kept for.
            Mode::Single => false,
            Mode::Warm => {
                let limit = self.blueprint.shared.limits.memory;
                let bound = self.policy.recycle_memory.unwrap_or((instance.baseline() + limit) / 2);
                instance.calls() >= self.policy.recycle_calls || instance.memory() > bound
            }
        }
    }

    /// Whether its one instance has a state that the next version can be given.
    pub(crate) fn keeps_state(&self) -> bool {
        self.policy.mode == Mode::Single && self.blueprint.exports.has_state()
    }

    /// Waits until no event is in flight in a pool of one, and keeps others waiting as long as the lease is held. It
    /// has no instance when the last one is gone. `None`: not before `deadline`.
    pub(crate) async fn pause(&self, deadline: tokio::time::Instant) -> Option<Lease<'_>> {
        let permit = tokio::time::timeout_at(deadline, self.permits.acquire()).await.ok()?.ok()?;
        Some(Lease { pool: self, instance: self.take_idle(), _permit: permit })
    }

    /// Takes no further event: who waits or comes is told [`CallError::Replaced`].
    pub(crate) fn close(&self) {
        self.permits.close();
    }

    /// Another version serves: instances go as soon as they are idle. Events in flight finish, and late ones of a
    /// handler table from before get an instance of their own.
    pub(crate) fn retire_idle(&self) {
        let unneeded = {
            let mut idle = self.idle.lock();
            idle.retired = true;
            std::mem::take(&mut idle.stack)
        };
        for instance in unneeded {
            self.retire(instance);
        }
    }

    /// The end of a version that was replaced: events still in flight are interrupted.
    pub(crate) fn interrupt(&self) {
        self.close();
        self.blueprint.shared.interrupt.cancel();
    }

    /// Drops the instances that nobody needed since the last time. Call it now and then.
    pub(crate) fn trim(&self) {
        if self.policy.mode != Mode::Warm {
            return;
        }
        let unneeded: Vec<_> = {
            let mut idle = self.idle.lock();
            let spare = idle.spare.min(idle.stack.len());
            idle.spare = idle.stack.len() - spare;
            idle.stack.drain(..spare).collect()
        };
        for instance in unneeded {
            self.retire(instance);
        }
    }
}

impl Lease<'_> {
    /// Puts the instance back for the next event.
    pub(crate) fn give_back(mut self) {
        let Some(instance) = self.instance.take() else { return };
        let pool = self.pool;
        let refused = if pool.is_worn(&instance) {
            Some(instance)
        } else {
            let mut idle = pool.idle.lock();
            // When the host is full, others need the place more.
            let crowded = pool.policy.mode == Mode::Warm
                && (idle.stack.len() >= pool.policy.idle || pool.slots.available_permits() == 0);
            if crowded || idle.retired {
                Some(instance)
            } else {
                idle.stack.push(instance);
                None
            }
        };
        if let Some(instance) = refused {
            pool.retire(instance);
        }
    }

    /// Drops the instance, whose state another version has or nobody wants.
    pub(crate) fn discard(mut self) {
        if let Some(instance) = self.instance.take() {
            self.pool.retire(instance);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.pool.retire(instance);
            if self.pool.keeps_state() {
                let shared = &self.pool.blueprint.shared;
                meters::state_lost(&shared.name);
                tracing::error!(
                    module = &*shared.name,
                    "the module's one instance failed and its state is lost: the next event finds a new one"
                );
            }
        }
    }
}
