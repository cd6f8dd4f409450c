//! The instances of one module version: kept warm between events, bounded, replaced when they are worn out.

mod gathered;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate_event::{Hook, Scope, TopicFilter};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use crate::batch::Batcher;
use crate::error::{CallError, LoadError};
use crate::instance::{Blueprint, Instance};
use crate::manifest::{Instances, Mode};
use crate::meters;
use crate::module::Answer;
use crate::slots::{Shelf, Slots};
use crate::state::Shared;

/// Counts instances of the process, so that no two events have the same number.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// The instances of a module version.
pub(crate) struct Pool {
    blueprint: Blueprint,
    policy: Instances,
    /// Events in flight.
    permits: Semaphore,
    /// Places for instances in the whole host.
    slots: Arc<Slots>,
    shelf: Arc<Shelf>,
    /// Present when published messages are handed over in batches.
    batcher: Option<Arc<Batcher>>,
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
        slots: Arc<Slots>,
    ) -> Result<Self, LoadError> {
        let in_flight = if policy.mode == Mode::Single { 1 } else { policy.max };
        let batcher =
            blueprint.exports.takes_batches().then(|| Batcher::new(blueprint.shared.limits.cpu, in_flight));
        let permits = Semaphore::new(in_flight);
        let pool = Self { blueprint, policy, permits, slots, shelf: Arc::default(), batcher };
        let timeout = pool.blueprint.shared.limits.timeout;
        let first = pool.make(timeout).await?;
        // What the first instance of a single module knows must not make room for others.
        if pool.policy.mode == Mode::Warm {
            pool.slots.add(&pool.shelf);
        }
        let unwanted = match pool.policy.mode {
            Mode::Fresh => Some(first),
            Mode::Warm | Mode::Single => pool.shelf.put(first, pool.most_idle().max(1)),
        };
        if let Some(unwanted) = unwanted {
            pool.shelf.retire(unwanted);
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
        self.shelf.count()
    }

    /// How instances are kept.
    pub(crate) fn policy(&self) -> &Instances {
        &self.policy
    }

    /// Bytes of memory of the largest idle instance.
    pub(crate) fn memory(&self) -> Option<usize> {
        self.shelf.most_memory()
    }

    /// Handles the event of `scope`, in a warm instance if there is one.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn call(&self, scope: &Scope, started: Instant) -> Result<Answer, CallError> {
        if let Some(batcher) = &self.batcher
            && scope.event.hook() == Hook::MessagePublish
        {
            // On the heap, so that calls with one event do not carry its state.
            return Box::pin(self.gathered(batcher, scope, started)).await;
        }
        pin!(self.call_one(scope, started)).await
    }

    /// As [`Self::call`], never together with other events: for those that failed before.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn call_alone(&self, scope: &Scope, started: Instant) -> Result<Answer, CallError> {
        match &self.batcher {
            Some(batcher) if scope.event.hook() == Hook::MessagePublish => self.alone(batcher, scope).await,
            _ => self.call_one(scope, started).await,
        }
    }

    async fn call_one(&self, scope: &Scope, started: Instant) -> Result<Answer, CallError> {
        let (mut lease, started) = self.lease(started).await?;
        let instance = lease.instance()?;
        let outcome = pin!(instance.call(scope, started)).await;
        if matches!(
            outcome,
            Ok(_) | Err(CallError::Guest(_) | CallError::Answer(_) | CallError::NotHandled(_))
        ) {
            lease.give_back();
        }
        outcome
    }

    /// Tells an instance that time has passed.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn tick(&self) -> Result<(), CallError> {
        let (mut lease, started) = self.lease(Instant::now()).await?;
        let outcome = lease.instance()?.tick(started).await;
        if matches!(outcome, Ok(()) | Err(CallError::Guest(_) | CallError::NotHandled(_))) {
            lease.give_back();
        }
        outcome
    }

    /// An instance for a call that began at `started`, warm if there is one; and when the guest's time begins. What the
    /// event has waited is not the guest's: an instance that is well must not end for it.
    async fn lease(&self, started: Instant) -> Result<(Lease<'_>, Instant), CallError> {
        match self.warm() {
            Some(lease) => Ok((lease, started)),
            // On the heap: making an instance has a large state, and few calls need it.
            None => Ok((Box::pin(self.checkout(started)).await?, Instant::now())),
        }
    }

    /// A warm instance, when there is one and nobody waits before us.
    fn warm(&self) -> Option<Lease<'_>> {
        if self.policy.mode == Mode::Fresh {
            return None;
        }
        let permit = self.permits.try_acquire().ok()?;
        let instance = self.shelf.take()?;
        Some(Lease { pool: self, instance: Some(instance), _permit: permit })
    }

    async fn checkout(&self, started: Instant) -> Result<Lease<'_>, CallError> {
        let timeout = self.blueprint.shared.limits.timeout;
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(CallError::Replaced),
            Err(TryAcquireError::NoPermits) => {
                let waited = tokio::time::timeout(timeout, self.permits.acquire()).await;
                waited.map_err(|_| CallError::Busy(timeout))?.map_err(|_| CallError::Replaced)?
            }
        };
        let warm = match self.policy.mode {
            Mode::Fresh => None,
            Mode::Warm | Mode::Single => self.shelf.take(),
        };
        let instance = match warm {
            Some(instance) => instance,
            None => match self.make(timeout.saturating_sub(started.elapsed())).await {
                Ok(instance) => instance,
                Err(_) if self.blueprint.shared.interrupt.is_cancelled() => return Err(CallError::Replaced),
                Err(LoadError::NoPlace(_)) => return Err(CallError::Busy(timeout)),
                Err(LoadError::NoRoom(what)) => return Err(CallError::NoRoom(what)),
                Err(error) => return Err(CallError::Instantiate(error.to_string())),
            },
        };
        Ok(Lease { pool: self, instance: Some(instance), _permit: permit })
    }

    /// How many idle instances are kept.
    fn most_idle(&self) -> usize {
        match self.policy.mode {
            Mode::Fresh => 0,
            Mode::Single => 1,
            Mode::Warm => self.policy.idle,
        }
    }

    async fn make(&self, patience: Duration) -> Result<Box<Instance>, LoadError> {
        let until = tokio::time::Instant::now() + patience;
        let mut again = true;
        loop {
            let slot = self.slots.take(until).await?;
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            match Instance::new(&self.blueprint, slot, serial).await {
                // What it lacked may have come back meanwhile: there is an attempt after the last wait.
                Err(LoadError::NoRoom(_)) if again => again = self.slots.make_room(until).await,
                Err(error) => return Err(error),
                Ok(instance) => {
                    self.shelf.born();
                    return Ok(Box::new(instance));
                }
            }
        }
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
        Some(Lease { pool: self, instance: self.shelf.take(), _permit: permit })
    }

    /// Takes no further event: who waits or comes is told [`CallError::Replaced`].
    pub(crate) fn close(&self) {
        self.permits.close();
    }

    /// Another version serves: instances go as soon as they are idle. Events in flight finish, and late ones of a
    /// handler table from before get an instance of their own.
    pub(crate) fn retire_idle(&self) {
        for instance in self.shelf.close() {
            self.shelf.retire(instance);
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
        for instance in self.shelf.take_unneeded() {
            self.shelf.retire(instance);
        }
    }
}

impl Lease<'_> {
    /// The instance.
    ///
    /// # Errors
    /// [`CallError::Instantiate`] when there is none, which is so only after a [`Pool::pause`].
    pub(crate) fn instance(&mut self) -> Result<&mut Instance, CallError> {
        self.instance.as_deref_mut().ok_or_else(|| CallError::Instantiate("it was taken twice".into()))
    }

    /// Puts the instance back for the next event.
    pub(crate) fn give_back(mut self) {
        let Some(instance) = self.instance.take() else { return };
        let pool = self.pool;
        // When somebody waits for a place, he needs it more.
        let crowded = pool.policy.mode == Mode::Warm && pool.slots.are_wanted();
        let refused = if crowded || pool.is_worn(&instance) {
            Some(instance)
        } else {
            pool.shelf.put(instance, pool.most_idle())
        };
        if let Some(instance) = refused {
            pool.shelf.retire(instance);
        } else if pool.policy.mode == Mode::Warm
            && pool.slots.are_wanted()
            && let Some(instance) = pool.shelf.take()
        {
            // Somebody began to wait, and looked for idle instances before this one was.
            pool.shelf.retire(instance);
        }
    }

    /// Drops the instance, whose state another version has or nobody wants.
    pub(crate) fn discard(mut self) {
        if let Some(instance) = self.instance.take() {
            self.pool.shelf.retire(instance);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.pool.shelf.retire(instance);
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
