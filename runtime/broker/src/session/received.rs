//! The receiver's half of QoS 2: which packet ids are taken (MQTT 5 clause 4.3.3).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tidegate_event::{MsgId, RestoredReceipt};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The message is in the pipeline: PUBREC follows.
    InPipeline,
    /// The same, and the client has sent it again: on a later connection, if the first has ended.
    Resent,
    /// PUBREC was sent.
    Answered,
    /// Read back after a restart that came before it was routed: a resend is handled, again perhaps, under the same id.
    Restored,
}

/// What a QoS 2 PUBLISH is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// New: handle it under this id. `true`: the id must be recorded first.
    New(MsgId, bool),
    /// A resend of one that is being handled: its PUBREC follows.
    InPipeline,
    /// A resend of one that was answered: send PUBREC again, do not handle it twice.
    Answered,
}

/// The QoS 2 packet ids received and not released.
#[derive(Debug, Default)]
pub(crate) struct Received(HashMap<u16, (MsgId, State), RandomState>);

impl Received {
    /// Ids of an earlier life of the process.
    pub(crate) fn restore(&mut self, receipts: &[RestoredReceipt]) {
        self.0.extend(receipts.iter().map(|receipt| {
            let state = if receipt.handled { State::Answered } else { State::Restored };
            (receipt.packet_id, (receipt.message, state))
        }));
    }

    /// A PUBLISH with `packet_id` arrived; `next_id` makes an id for a message that was not known, or says why it must
    /// not be taken.
    pub(crate) fn arrive<E>(
        &mut self,
        packet_id: u16,
        next_id: impl FnOnce() -> Result<MsgId, E>,
    ) -> Result<Arrival, E> {
        Ok(match self.0.get_mut(&packet_id) {
            None => {
                let id = next_id()?;
                self.0.insert(packet_id, (id, State::InPipeline));
                Arrival::New(id, true)
            }
            Some((id, state @ State::Restored)) => {
                *state = State::InPipeline;
                Arrival::New(*id, false)
            }
            Some((_, state @ (State::InPipeline | State::Resent))) => {
                *state = State::Resent;
                Arrival::InPipeline
            }
            Some((_, State::Answered)) => Arrival::Answered,
        })
    }

    /// PUBREC with success is being sent. Gives whether the message came again while it was handled.
    pub(crate) fn answered(&mut self, packet_id: u16) -> bool {
        let Some((_, state)) = self.0.get_mut(&packet_id) else { return false };
        std::mem::replace(state, State::Answered) == State::Resent
    }

    /// The message was refused: the packet id is free and a resend is a new message. Gives whether it came again
    /// while it was handled.
    pub(crate) fn forget(&mut self, packet_id: u16) -> bool {
        self.0.remove(&packet_id).is_some_and(|(_, state)| state == State::Resent)
    }

    /// PUBREL arrived. `false`: no answered message has this packet id.
    pub(crate) fn release(&mut self, packet_id: u16) -> bool {
        match self.0.get(&packet_id) {
            Some((_, State::InPipeline | State::Resent)) | None => false,
            Some(_) => self.0.remove(&packet_id).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: MsgId = MsgId::from_bits(7);

    #[test]
    fn a_resend_is_handled_once_until_it_is_released() {
        let mut received = Received::default();
        assert_eq!(received.arrive(1, || Ok::<_, ()>(ID)), Ok(Arrival::New(ID, true)));
        assert_eq!(received.arrive(1, || Ok::<_, ()>(ID)), Ok(Arrival::InPipeline));
        assert!(!received.release(1), "nothing to release before PUBREC");
        assert!(received.answered(1), "it came again meanwhile");
        assert!(!received.answered(1));
        assert_eq!(received.arrive(1, || Ok::<_, ()>(ID)), Ok(Arrival::Answered));
        assert!(received.release(1));
        assert!(!received.release(1));
        assert_eq!(received.arrive(1, || Err("too many")), Err("too many"));
        assert_eq!(received.arrive(1, || Ok::<_, ()>(ID)), Ok(Arrival::New(ID, true)));
    }

    #[test]
    fn a_resend_after_a_restart_keeps_its_id() {
        let mut received = Received::default();
        let receipt = |packet_id, handled| RestoredReceipt { packet_id, message: ID, handled };
        received.restore(&[receipt(1, false), receipt(2, false), receipt(3, true)]);
        assert_eq!(received.arrive(1, || Ok::<_, ()>(MsgId::from_bits(9))), Ok(Arrival::New(ID, false)));
        assert!(received.release(2), "the answer may have been sent before the restart");
        assert_eq!(received.arrive(3, || Ok::<_, ()>(MsgId::from_bits(9))), Ok(Arrival::Answered));
    }
}
