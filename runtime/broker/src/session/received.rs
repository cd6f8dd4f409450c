//! The receiver's half of QoS 2: which packet ids are taken (MQTT 5 clause 4.3.3).
//!
//! They count in the memory of all queues: a client that never releases what it sends could take 65,535 of them.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tidegate_event::{MsgId, QoS, RestoredReceipt};

use crate::limits::budget::{Account, Budget};

/// Memory of one packet id.
const ID: usize = 96;
/// So many are taken whatever the memory of all queues.
const ALWAYS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The message is in the pipeline: PUBREC follows.
    InPipeline(Meanwhile),
    /// It was routed, and that could not be made durable in time: PUBREC waits until it is.
    Routed,
    /// PUBREC was sent.
    Answered,
    /// Read back after a restart that came before it was routed: a resend is handled, again perhaps, under the same id.
    Restored,
}

/// What has come under a packet id while its message was handled: on a later connection, if the first has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meanwhile {
    /// How often the message came again: each copy is acknowledged (MQTT 5 clause 4.3.3, "MQTT-4.3.3-10"). Their connection
    /// takes no more than its read-ahead.
    pub(crate) resent: u32,
    /// PUBREL came, before PUBREC was sent: PUBCOMP follows that.
    pub(crate) released: bool,
}

impl Meanwhile {
    /// Whether the client waits for an answer on account of it.
    pub(crate) fn is_any(self) -> bool {
        self != Self::default()
    }
}

/// What a PUBREL meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The packet id is free now: send PUBCOMP.
    Done,
    /// Its message is being handled: PUBCOMP follows PUBREC.
    Early,
    /// No message has this packet id.
    Unknown,
}

/// What a QoS 2 PUBLISH is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// New: handle it under this id. `true`: the id must be recorded first.
    New(MsgId, bool),
    /// A resend of one that is being handled: its PUBREC follows.
    InPipeline,
    /// A resend of one that was routed: send PUBREC when that is durable, do not handle it twice.
    Routed,
    /// A resend of one that was answered: send PUBREC again, do not handle it twice.
    Answered,
}

/// The QoS 2 packet ids received and not released.
#[derive(Debug, Default)]
pub(crate) struct Received {
    ids: HashMap<u16, (MsgId, State), RandomState>,
    account: Account,
}

impl Received {
    /// Ids of an earlier life of the process.
    pub(crate) fn restore(&mut self, receipts: &[RestoredReceipt], budget: &Arc<Budget>) {
        self.ids.extend(receipts.iter().map(|receipt| {
            let state = if receipt.handled { State::Answered } else { State::Restored };
            (receipt.packet_id, (receipt.message, state))
        }));
        self.settle(budget);
    }

    /// Whether one more packet id may be taken when `taken` are, of at most `most`.
    pub(crate) fn has_room(taken: usize, most: usize, budget: &Budget) -> bool {
        taken < ALWAYS || taken < most && budget.admits(taken * ID, Some(0), QoS::ExactlyOnce)
    }

    /// Counts them in the memory of all queues.
    pub(crate) fn settle(&mut self, budget: &Arc<Budget>) {
        if self.ids.is_empty() {
            self.account.rest(0);
            if self.ids.capacity() > ALWAYS {
                self.ids = HashMap::default();
            }
        } else {
            self.account.settle(budget, self.ids.len() * ID);
        }
    }

    /// The client has gone, perhaps for long: no more stays reserved than what they take now.
    pub(crate) fn rest(&mut self) {
        self.account.rest(self.ids.len() * ID);
    }

    /// A PUBLISH with `packet_id` arrived; `next_id` makes an id for a message that was not known, or says why it must
    /// not be taken when so many are.
    pub(crate) fn arrive<E>(
        &mut self,
        packet_id: u16,
        next_id: impl FnOnce(usize) -> Result<MsgId, E>,
    ) -> Result<Arrival, E> {
        Ok(match self.ids.get_mut(&packet_id) {
            None => {
                let id = next_id(self.ids.len())?;
                self.ids.insert(packet_id, (id, State::InPipeline(Meanwhile::default())));
                Arrival::New(id, true)
            }
            Some((id, state @ State::Restored)) => {
                *state = State::InPipeline(Meanwhile::default());
                Arrival::New(*id, false)
            }
            Some((_, State::InPipeline(meanwhile))) => {
                meanwhile.resent = meanwhile.resent.saturating_add(1);
                Arrival::InPipeline
            }
            Some((_, State::Routed)) => Arrival::Routed,
            Some((_, State::Answered)) => Arrival::Answered,
        })
    }

    /// A new connection: what an earlier one has sent again is not answered on this one, unless it comes once more.
    pub(crate) fn reconnect(&mut self) {
        for (_, state) in self.ids.values_mut() {
            if let State::InPipeline(meanwhile) = state {
                *meanwhile = Meanwhile::default();
            }
        }
    }

    /// The message was routed, but the client cannot be told that it is safe. Gives what came while it was handled.
    pub(crate) fn routed(&mut self, packet_id: u16) -> Meanwhile {
        let Some((_, state)) = self.ids.get_mut(&packet_id) else { return Meanwhile::default() };
        std::mem::replace(state, State::Routed).meanwhile()
    }

    /// PUBREC with success is being sent. Gives what came while the message was handled.
    pub(crate) fn answered(&mut self, packet_id: u16) -> Meanwhile {
        let Some((_, state)) = self.ids.get_mut(&packet_id) else { return Meanwhile::default() };
        std::mem::replace(state, State::Answered).meanwhile()
    }

    /// The message was refused: the packet id is free and a resend is a new message. Gives what came while it was
    /// handled.
    pub(crate) fn forget(&mut self, packet_id: u16) -> Meanwhile {
        self.ids.remove(&packet_id).map(|(_, state)| state.meanwhile()).unwrap_or_default()
    }

    /// PUBREL arrived.
    pub(crate) fn release(&mut self, packet_id: u16) -> Release {
        match self.ids.get_mut(&packet_id) {
            Some((_, State::InPipeline(meanwhile))) => {
                meanwhile.released = true;
                Release::Early
            }
            Some(_) => {
                self.ids.remove(&packet_id);
                Release::Done
            }
            None => Release::Unknown,
        }
    }
}

impl State {
    fn meanwhile(self) -> Meanwhile {
        match self {
            Self::InPipeline(meanwhile) => meanwhile,
            Self::Routed | Self::Answered | Self::Restored => Meanwhile::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const ID_OF: MsgId = MsgId::from_bits(7);

    #[test]
    fn a_resend_is_handled_once_until_it_is_released() {
        let mut received = Received::default();
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::New(ID_OF, true)));
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::InPipeline));
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::InPipeline));
        assert_eq!(received.release(1), Release::Early, "nothing to release before PUBREC");
        assert_eq!(received.answered(1), Meanwhile { resent: 2, released: true }, "it came again meanwhile");
        assert_eq!(received.answered(1), Meanwhile::default());
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::Answered));
        assert_eq!(received.release(1), Release::Done);
        assert_eq!(received.release(1), Release::Unknown);
        assert_eq!(received.arrive(1, |_| Err("too many")), Err("too many"));
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::New(ID_OF, true)));
    }

    #[test]
    fn what_was_routed_is_not_handled_again_although_it_is_not_answered() {
        let mut received = Received::default();
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::New(ID_OF, true)));
        assert_eq!(received.routed(1), Meanwhile::default());
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::Routed));
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::Routed), "until PUBREL");
        assert_eq!(received.release(1), Release::Done);
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(ID_OF)), Ok(Arrival::New(ID_OF, true)));
    }

    #[test]
    fn a_resend_after_a_restart_keeps_its_id() {
        let mut received = Received::default();
        let receipt = |packet_id, handled| RestoredReceipt { packet_id, message: ID_OF, handled };
        let budget = Arc::new(Budget::new(1 << 20));
        received.restore(&[receipt(1, false), receipt(2, false), receipt(3, true)], &budget);
        assert_eq!(received.arrive(1, |_| Ok::<_, ()>(MsgId::from_bits(9))), Ok(Arrival::New(ID_OF, false)));
        assert_eq!(received.release(2), Release::Done, "the answer may have been sent before the restart");
        assert_eq!(received.arrive(3, |_| Ok::<_, ()>(MsgId::from_bits(9))), Ok(Arrival::Answered));
    }

    /// As much as 8 KiB stayed reserved for a client that had left one of many without PUBREL.
    #[test]
    fn ids_that_are_free_are_not_reserved_for_a_client_that_has_gone() {
        let (mut received, budget) = (Received::default(), Arc::new(Budget::new(1 << 20)));
        for packet_id in 1..=80 {
            received.arrive(packet_id, |_| Ok::<_, ()>(ID_OF)).unwrap();
            received.settle(&budget);
        }
        for packet_id in 2..=80 {
            received.answered(packet_id);
            received.release(packet_id);
            received.settle(&budget);
        }
        assert!(budget.used() > 0);
        received.rest();
        assert_eq!(budget.used(), 0);
    }

    /// A client that sent PUBLISH and never PUBREL took 6 MB, in no budget.
    #[test]
    fn ids_are_bounded_and_count_in_the_budget() {
        let budget = Arc::new(Budget::new(1_000 * ID));
        let mut received = Received::default();
        let mut taken = 0_u16;
        let room = |taken: u16, most| Received::has_room(usize::from(taken), most, &budget);
        while room(taken, 200) {
            taken += 1;
            received.arrive(taken, |_| Ok::<_, ()>(ID_OF)).unwrap();
            received.settle(&budget);
        }
        assert_eq!(taken, 200);
        while room(taken, 65_535) {
            taken += 1;
            received.arrive(taken, |_| Ok::<_, ()>(ID_OF)).unwrap();
            received.settle(&budget);
        }
        assert!((900..1_200).contains(&taken), "{taken}");
        assert!(room(1, 65_535), "others are not refused");
        for packet_id in 1..=taken {
            received.answered(packet_id);
            received.release(packet_id);
            received.settle(&budget);
        }
        assert_eq!((budget.used(), received.ids.capacity()), (0, 0));
    }
}
