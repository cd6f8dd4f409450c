//! The seam between broker and dispatch: raise an event, get a verdict, then wait for the stores.

use crate::{BoxFuture, Event, Hook, Scope, Tenant, Verdict};

/// An event whose modules and rules have run and whose actions have been enqueued.
#[derive(Debug)]
pub struct Admitted {
    /// What to do with the message ([`Verdict::Pass`] for hooks that decide nothing).
    pub verdict: Verdict,
    /// Await `scope.acks` before acknowledging; then take `scope.take_effects()`.
    pub scope: Scope,
}

/// What raising an event led to.
pub enum Raised {
    /// No handler matches: go on at once with the message as it is.
    Nothing,
    /// Handlers run. Await the future before raising the client's next event: it ends when modules and
    /// rules have run and every action has been enqueued (a full writer delays it: back-pressure). The
    /// joined acks then complete concurrently with later events. Dropping the future half-way is allowed
    /// only at process exit.
    Running(BoxFuture<'static, Admitted>),
}

impl std::fmt::Debug for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Running(_) => "Running",
        })
    }
}

/// Runs the handlers of events. Implemented by dispatch, called by the broker.
pub trait Hooks: Send + Sync + 'static {
    /// Whether any handler is bound to `hook` in `tenant`, whatever its topic: a cheap test that lets the
    /// broker skip building events.
    fn is_bound(&self, tenant: &Tenant, hook: Hook) -> bool;

    /// Finds the handlers of `event` and starts them. Finding is synchronous and does not allocate when
    /// nothing matches.
    fn raise(&self, event: Event) -> Raised;
}

/// No handlers at all: a plain broker.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn is_bound(&self, _: &Tenant, _: Hook) -> bool {
        false
    }

    fn raise(&self, _: Event) -> Raised {
        Raised::Nothing
    }
}
