//! A question to handlers: may the client do what it asks for?

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tidegate_event::{
    AckError, AckJoin, Admitted, BoxFuture, Event, Hook, Raised, ReasonCode, Requested, Verdict,
};

use crate::broker::Shared;
use crate::metrics::{Metrics, NoLeave};

/// The answer.
#[derive(Debug)]
pub(crate) enum Leave {
    /// It may.
    Given,
    /// It gets this subscription instead.
    Changed(Arc<Requested>),
    /// It may not, with this code.
    Refused(ReasonCode),
    /// It is not known whether it may, so it may not, with this code.
    Unknown(ReasonCode),
}

impl Leave {
    /// Counts a refusal under the hook that was asked.
    pub(crate) fn count(&self, hook: Hook, metrics: &Metrics) {
        match self {
            Self::Given | Self::Changed(_) => {}
            Self::Refused(_) => metrics.no_leave(hook, NoLeave::Refused),
            Self::Unknown(_) => metrics.no_leave(hook, NoLeave::Failed),
        }
    }
}

/// Handlers that have been asked. Await it to its end, as what raising gives: only the end of the process may cut
/// handlers short.
pub(crate) struct Question {
    hook: Hook,
    state: State,
}

enum State {
    /// The handlers run.
    Running(BoxFuture<'static, Admitted>),
    /// They have decided, and what they store is awaited: an answer counts when its record is safe.
    Storing(Verdict, AckJoin),
}

impl Question {
    /// Raises `event`; `None`: no handler matches.
    pub(crate) fn ask(shared: &Shared, event: Event) -> Option<Self> {
        let hook = event.hook();
        match shared.hooks.raise(event) {
            Raised::Nothing => None,
            Raised::Running(handlers) => Some(Self { hook, state: State::Running(handlers) }),
        }
    }

    /// The hook that it is of.
    pub(crate) fn hook(&self) -> Hook {
        self.hook
    }
}

impl Future for Question {
    type Output = Leave;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Leave> {
        let hook = self.hook;
        loop {
            match &mut self.state {
                State::Running(handlers) => {
                    let Admitted { verdict, scope } = ready!(handlers.as_mut().poll(cx));
                    self.state = State::Storing(verdict, scope.acks);
                }
                State::Storing(verdict, acks) => {
                    let stored = ready!(Pin::new(acks).poll(cx));
                    let verdict = std::mem::replace(verdict, Verdict::Drop);
                    return Poll::Ready(leave(hook, verdict, stored));
                }
            }
        }
    }
}

/// What `verdict` on an event of `hook` means when its record was `stored`, or could not be.
fn leave(hook: Hook, verdict: Verdict, stored: Result<(), AckError>) -> Leave {
    match (verdict, stored) {
        (Verdict::Reject(code), _) => Leave::Refused(code),
        (Verdict::Fail(code), _) => Leave::Unknown(code),
        (_, Err(error)) => {
            tracing::warn!(hook = hook.name(), %error, "an answer was not stored");
            Leave::Unknown(hook.failure())
        }
        (Verdict::Pass | Verdict::Allow, Ok(())) => Leave::Given,
        (Verdict::Change(request), Ok(())) if hook == Hook::ClientSubscribe => Leave::Changed(request),
        // No answer to this question.
        (Verdict::Drop | Verdict::Replace(_) | Verdict::FanOut(_) | Verdict::Change(_), Ok(())) => {
            Leave::Unknown(hook.failure())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::QoS;

    use super::*;

    #[test]
    fn what_is_no_answer_gives_no_leave() {
        let change = || Verdict::Change(Arc::new(Requested::parse("a".into(), QoS::AtMostOnce).unwrap()));
        for (hook, verdict, stored, is_given) in [
            (Hook::ClientAuthorize, Verdict::Pass, Ok(()), true),
            (Hook::ClientAuthorize, Verdict::Allow, Ok(()), true),
            (Hook::ClientAuthorize, Verdict::Allow, Err(AckError::Abandoned), false),
            (Hook::ClientAuthorize, Verdict::Drop, Ok(()), false),
            (Hook::ClientAuthorize, Verdict::FanOut(Vec::new()), Ok(()), false),
            (Hook::ClientAuthorize, change(), Ok(()), false),
            (Hook::ClientSubscribe, change(), Ok(()), true),
            (Hook::ClientSubscribe, change(), Err(AckError::Abandoned), false),
        ] {
            let leave = leave(hook, verdict, stored);
            match leave {
                Leave::Given | Leave::Changed(_) => assert!(is_given, "{leave:?}"),
                Leave::Unknown(code) => assert!(!is_given && code == hook.failure(), "{leave:?}"),
                Leave::Refused(_) => panic!("{leave:?}"),
            }
        }
        let refused =
            leave(Hook::ClientAuthenticate, Verdict::Reject(ReasonCode(0x86)), Err(AckError::Abandoned));
        assert!(matches!(refused, Leave::Refused(ReasonCode(0x86))), "{refused:?}");
    }
}
