//! State from one version of a module to the next, between two events.
//!
//! The old version's only permit is held from the end of one event to the moment the new version has the state; events
//! that come meanwhile wait for that permit. Then the old version is closed, and whoever waited or still comes to it is
//! sent on. So no event reaches the old instance after its drain, and none is lost.
//!
//! While a version is on trial the version before keeps its state: it serves, or will again after a rollback. A version on
//! trial has none, for `mode = "single"` has no trials. So the state goes from the version before to the one that ends the
//! trial by taking both their places; when the one on trial is promoted it is lost, and that is said then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::LoadError;
use crate::meters;
use crate::module::Module;

/// The largest state, in bytes.
const MAX_STATE: usize = 16 << 20;

/// Hands the state that there is when `serving` serves to `new`, which was loaded to take its place.
///
/// # Errors
/// As [`hand_over`].
pub(crate) async fn keep_state(
    serving: &Arc<Module>,
    new: &Arc<Module>,
    patience: Duration,
) -> Result<(), LoadError> {
    // A new trial begins: whoever has the state keeps it.
    if new.rollout.is_trial() {
        return Ok(());
    }
    match serving.trial.before() {
        None => hand_over(serving, new, patience).await,
        // It is the version before itself that serves again.
        Some(before) if before.version == new.version => Ok(()),
        Some(before) => hand_over(&before, new, patience).await,
    }
}

/// Whether `module` has a state that no other version was handed.
pub(crate) fn has_state(module: &Module) -> bool {
    module.pool.keeps_state() && module.successor.get().is_none()
}

/// Says that the state of `old` is lost with it, if it still has one: `new`, which was on trial, has none.
pub(crate) fn leave_state(old: &Module, new: &Module) {
    if has_state(old) {
        meters::state_lost(old.name());
        tracing::warn!(
            module = old.name(),
            version = old.short_hash(),
            by = new.short_hash(),
            "the version that was on trial takes no state: what the one before it has is lost"
        );
    }
}

/// Makes `new`, which nobody calls yet, the successor of `old` with its state, when both keep one. `patience` is for the
/// event in flight to end, and as much again for drain and restore: a slow event must not take their time.
///
/// # Errors
/// [`LoadError::Busy`], [`LoadError::Handover`], [`LoadError::Restore`]: `old` goes on serving with its state.
async fn hand_over(old: &Module, new: &Arc<Module>, patience: Duration) -> Result<(), LoadError> {
    if !old.pool.keeps_state() {
        return Ok(());
    }
    if !new.pool.keeps_state() {
        meters::state_lost(old.name());
        tracing::warn!(
            module = old.name(),
            "the new version takes no state (it exports no tidegate:module/state, or its mode is not single): what the \
             old one has is lost"
        );
        return Ok(());
    }
    let Some(mut held) = old.pool.pause(Instant::now() + patience).await else {
        return Err(LoadError::Busy(patience));
    };
    let deadline = Instant::now() + patience;
    let left = || deadline.saturating_duration_since(Instant::now());
    if let Some(instance) = held.instance.as_deref_mut() {
        match instance.drain(left()).await {
            Ok(Some(state)) if state.len() > MAX_STATE => {
                held.give_back();
                return Err(LoadError::Handover(format!(
                    "drain gave {} bytes, more than the {MAX_STATE} that are accepted",
                    state.len()
                )));
            }
            Ok(state) => {
                if let Err(error) = restore(new, &state.unwrap_or_default(), left()).await {
                    held.give_back();
                    return Err(error);
                }
            }
            // Its instance is gone, and the state with it, whichever version goes on: the new one may be the cure.
            Err(error) => {
                meters::state_lost(old.name());
                tracing::error!(
                    module = old.name(),
                    version = old.short_hash(),
                    "drain failed, the state is lost and the new version begins without: {error}"
                );
            }
        }
    }
    old.succeed(new);
    old.pool.close();
    held.discard();
    Ok(())
}

/// Gives `state` to the first instance of `new`.
async fn restore(new: &Module, state: &[u8], timeout: Duration) -> Result<(), LoadError> {
    let Some(mut lease) = new.pool.pause(Instant::now() + timeout).await else {
        return Err(LoadError::Restore("there was no time left for it".into()));
    };
    let Some(instance) = lease.instance.as_deref_mut() else {
        return Err(LoadError::Restore("its instance is gone".into()));
    };
    match instance.restore(state, timeout).await {
        Ok(()) => {
            lease.give_back();
            Ok(())
        }
        Err(error) => {
            lease.discard();
            Err(LoadError::Restore(error))
        }
    }
}
