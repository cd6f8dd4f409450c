//! The members of a shared subscription's group: found by their session, and kept in two lists, so that a message does
//! not pass by the thousands that are away to find the one that is there.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tidegate_event::{Message, Origin, SubscriptionOptions};

use crate::session::Session;
use crate::session::delivery::{Delivery, Rank, Source};
use crate::tree::Subscriber;

/// A member of a group.
pub(super) struct Member {
    pub(super) session: Arc<Session>,
    options: SubscriptionOptions,
    ids: Option<Arc<[u32]>>,
}

impl Member {
    fn new(Subscriber { session, options }: Subscriber) -> Self {
        Self { session, options, ids: (options.id != 0).then(|| Arc::from([options.id])) }
    }

    /// Whether it is seen to have to acknowledge others before it is sent `message`: its queue's lock is not taken.
    pub(super) fn would_wait(&self, message: &Message) -> bool {
        self.session.would_wait(self.options.qos.min(message.qos))
    }

    pub(super) fn delivery(&self, group: u32, message: &Arc<Message>) -> Delivery {
        Delivery {
            message: Arc::clone(message),
            subscription_ids: self.ids.clone(),
            qos: self.options.qos.min(message.qos),
            retain: self.options.retain_as_published && message.retain,
            number: None,
            // A shared subscription is joined to nothing, so its messages are held back by nothing. What the broker
            // says itself moves no position and need not reach another.
            source: if message.origin == Origin::Broker { Source::Direct } else { Source::Shared(group) },
            rank: Rank::default(),
            pins_buffer: false,
        }
    }
}

/// In which list a member is, and where there.
#[derive(Clone, Copy)]
struct Place {
    connected: bool,
    index: usize,
}

/// The members of a group.
///
/// In which list a member is, is renewed after it has come or gone, so it may be wrong for a moment: only its session
/// tells.
#[derive(Default)]
pub(super) struct Members {
    connected: Vec<Member>,
    away: Vec<Member>,
    places: HashMap<u64, Place, RandomState>,
}

impl Members {
    /// Adds a member, or changes its options. Gives whether it is new.
    pub(super) fn insert(&mut self, subscriber: Subscriber) -> bool {
        let fresh = !self.remove(subscriber.session.number);
        self.add(Member::new(subscriber));
        fresh
    }

    /// Removes the session `number`. Gives whether it was a member.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let removed = self.take(number).is_some();
        if removed {
            shrink(&mut self.connected);
            shrink(&mut self.away);
            if self.places.len() * 4 < self.places.capacity() {
                let kept = self.places.len() * 2;
                self.places.shrink_to(kept);
            }
        }
        removed
    }

    /// The session `number` has come or gone.
    pub(super) fn renew(&mut self, number: u64) {
        if let Some(member) = self.take(number) {
            self.add(member);
        }
    }

    fn add(&mut self, member: Member) {
        let (number, connected) = (member.session.number, member.session.is_connected());
        let list = if connected { &mut self.connected } else { &mut self.away };
        self.places.insert(number, Place { connected, index: list.len() });
        list.push(member);
    }

    fn take(&mut self, number: u64) -> Option<Member> {
        let Place { connected, index } = self.places.remove(&number)?;
        let list = if connected { &mut self.connected } else { &mut self.away };
        let member = list.swap_remove(index);
        if let Some(moved) = list.get(index)
            && let Some(place) = self.places.get_mut(&moved.session.number)
        {
            place.index = index;
        }
        Some(member)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// All of them, those that are connected first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.connected.iter().chain(&self.away)
    }

    /// Those that are connected, from the one on whose `turn` it is.
    pub(super) fn connected_from(&self, turn: usize) -> impl Iterator<Item = &Member> {
        from(&self.connected, turn)
    }

    /// Those that are away, from the one on whose `turn` it is.
    pub(super) fn away_from(&self, turn: usize) -> impl Iterator<Item = &Member> {
        let just_gone = self.connected.iter().filter(|member| !member.session.is_connected());
        from(&self.away, turn).chain(just_gone)
    }
}

fn from(members: &[Member], turn: usize) -> impl Iterator<Item = &Member> {
    let (before, from) = members.split_at_checked(turn % members.len().max(1)).unwrap_or_default();
    from.iter().chain(before)
}

fn shrink(members: &mut Vec<Member>) {
    if members.len() * 4 < members.capacity() {
        members.shrink_to(members.len() * 2);
    }
}
