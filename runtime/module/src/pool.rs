//! The instances of one module version: kept warm between events, bounded, replaced when they are worn out.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_event::{Hook, Scope, TopicFilter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::error::{CallError, LoadError};
use crate::instance::{Blueprint, Instance};
use crate::manifest::{Instances, Mode};
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
}

/// An instance taken out for one event. Dropped without [`Lease::give_back`], the instance is gone.
struct Lease<'a> {
    pool: &'a Pool,
    instance: Option<Box<Instance>>,
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

    /// The hooks that a guest of the world `raw` wants.
    ///
    /// # Errors
    /// [`LoadError`] of the guest or of its instance.
    pub(crate) async fn wanted_hooks(&self) -> Result<Vec<(Hook, Vec<TopicFilter>)>, LoadError> {
        let mut lease =
            self.checkout(Instant::now()).await.map_err(|error| LoadError::Instantiate(error.to_string()))?;
        let Some(instance) = &mut lease.instance else { return Ok(Vec::new()) };
        let wanted = instance.wanted_hooks().await?;
        lease.give_back();
        Ok(wanted)
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
            Err(_) => {
                let waited = tokio::time::timeout(timeout, self.permits.acquire()).await;
                waited
                    .map_err(|_| CallError::Timeout(timeout))?
                    .map_err(|_| CallError::Instantiate("the module is closed".into()))?
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
    fn give_back(mut self) {
        let Some(instance) = self.instance.take() else { return };
        let pool = self.pool;
        let refused = if pool.is_worn(&instance) {
            Some(instance)
        } else {
            let mut idle = pool.idle.lock();
            // When the host is full, others need the place more.
            let crowded = pool.policy.mode == Mode::Warm
                && (idle.stack.len() >= pool.policy.idle || pool.slots.available_permits() == 0);
            if crowded {
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
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.pool.retire(instance);
        }
    }
}
