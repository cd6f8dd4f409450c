//! Whose turn it is when a connector takes the place of another: what the old one has queued is written first.

use tokio::sync::watch;

/// Whether what stood in one's place is done.
#[derive(Clone, Debug)]
pub(crate) struct Turn(Option<watch::Receiver<()>>);

/// Whoever has it goes first: dropping it, however that comes about, gives the turn to the next.
#[derive(Debug)]
pub(crate) struct Predecessor(#[expect(dead_code, reason = "it is there to be dropped")] watch::Sender<()>);

impl Turn {
    /// Nothing stood there.
    #[cfg(test)]
    pub(crate) const fn now() -> Self {
        Self(None)
    }

    /// After the predecessor is dropped.
    pub(crate) fn after() -> (Predecessor, Self) {
        let (sender, receiver) = watch::channel(());
        (Predecessor(sender), Self(Some(receiver)))
    }

    /// Ends when it is one's turn.
    pub(crate) async fn comes(&self) {
        let Some(receiver) = &self.0 else { return };
        let mut receiver = receiver.clone();
        // Nothing is ever sent: an error says that the predecessor is gone.
        while receiver.changed().await.is_ok() {}
    }

    /// Whether it is one's turn.
    pub(crate) fn has_come(&self) -> bool {
        self.0.as_ref().is_none_or(|receiver| receiver.has_changed().is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn the_turn_comes_when_the_predecessor_is_gone() {
        assert!(Turn::now().has_come());
        let (predecessor, turn) = Turn::after();
        assert!(!turn.has_come() && turn.comes().now_or_never().is_none());
        drop(predecessor);
        turn.comes().await;
        assert!(turn.has_come());
    }
}
