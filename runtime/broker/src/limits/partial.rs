//! Memory of packets that are not whole, of all connections together.
//!
//! Whether the rest of a packet comes is up to its sender. One that means harm begins a large packet on every connection
//! and stops; so when there is too much, the packet that has been incomplete for longest ends its connection, and not the
//! newest, which is whole in a moment. Of small ones as many have to go as make room for what has come.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::eviction::Eviction;

/// What a connection may have without being counted, bytes: the packets of most clients are smaller.
const FREE: usize = 8 * 1024;

/// All packets that are not whole.
pub(crate) struct Partials {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    bytes: usize,
    /// In the order in which they were begun.
    by_number: BTreeMap<u64, (usize, Arc<Eviction>)>,
}

/// One connection's part of them.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    number: Option<u64>,
    bytes: usize,
}

impl Partial {
    /// Whether the connection may have to go because of it.
    pub(crate) fn is_counted(&self) -> bool {
        self.number.is_some()
    }
}

impl Partials {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// The connection that is ended by `eviction` has `bytes` of a packet that is not whole; 0: it is whole, or nothing
    /// waits for it.
    #[inline]
    pub(crate) fn settle(&self, partial: &mut Partial, eviction: &Arc<Eviction>, bytes: usize) {
        if bytes >= FREE || partial.number.is_some() {
            self.change(partial, eviction, bytes);
        }
    }

    #[cold]
    fn change(&self, partial: &mut Partial, eviction: &Arc<Eviction>, bytes: usize) {
        let bytes = if bytes < FREE { 0 } else { bytes };
        if bytes == partial.bytes {
            return;
        }
        let grew = bytes > partial.bytes;
        partial.bytes = bytes;
        let mut oldest = SmallVec::<[Arc<Eviction>; 4]>::new();
        let mut state = self.state.lock();
        match partial.number {
            Some(number) if bytes == 0 => {
                partial.number = None;
                state.remove(number);
            }
            Some(number) => state.resize(number, bytes),
            None => partial.number = Some(state.insert(bytes, eviction)),
        }
        while grew
            && state.bytes > self.limit
            && let Some((_, (bytes, eviction))) = state.by_number.pop_first()
        {
            state.bytes -= bytes;
            oldest.push(eviction);
        }
        drop(state);
        oldest.iter().for_each(|eviction| eviction.evict());
    }
}

impl State {
    fn insert(&mut self, bytes: usize, eviction: &Arc<Eviction>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.by_number.insert(number, (bytes, Arc::clone(eviction)));
        number
    }

    fn remove(&mut self, number: u64) {
        // One that had to go counts no more.
        let bytes = self.by_number.remove(&number).map_or(0, |(bytes, _)| bytes);
        self.bytes -= bytes;
    }

    fn resize(&mut self, number: u64, bytes: usize) {
        if let Some((before, _)) = self.by_number.get_mut(&number) {
            self.bytes = self.bytes + bytes - *before;
            *before = bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Connection {
        partial: Partial,
        eviction: Arc<Eviction>,
    }

    impl Connection {
        fn new() -> Self {
            Self { partial: Partial::default(), eviction: Arc::default() }
        }

        fn has(&mut self, partials: &Partials, bytes: usize) {
            partials.settle(&mut self.partial, &self.eviction, bytes);
        }
    }

    #[test]
    fn the_packet_that_was_begun_first_has_to_go() {
        let partials = Partials::new(100 * 1024);
        let mut stalled = [(); 3].map(|()| Connection::new());
        for connection in &mut stalled {
            connection.has(&partials, 10_000);
            connection.has(&partials, 30 * 1024);
        }
        let mut good = Connection::new();
        good.has(&partials, 10 * 1024);
        assert!(!stalled.iter().any(|connection| connection.eviction.has_happened()));
        good.has(&partials, 0);
        good.has(&partials, 20 * 1024);
        assert!(stalled[0].eviction.has_happened(), "110 KiB are too much");
        assert!(!stalled[1].eviction.has_happened() && !good.eviction.has_happened());
        // It ends: it counted no more already.
        stalled[0].has(&partials, 0);
        assert_eq!(partials.state.lock().bytes, 80 * 1024);
        for connection in stalled.iter_mut().chain([&mut good]) {
            connection.has(&partials, 0);
        }
        let state = partials.state.lock();
        assert_eq!((state.bytes, state.by_number.len()), (0, 0));
    }

    /// One had to go for each that grew: of the oldest, which were small, so that all had eight times as much as they may.
    #[test]
    fn as_many_have_to_go_as_make_room() {
        let partials = Partials::new(100 * 1024);
        let mut stalled = [(); 12].map(|()| Connection::new());
        for connection in &mut stalled {
            connection.has(&partials, FREE);
        }
        let mut large = Connection::new();
        large.has(&partials, 64 * 1024);
        assert!(partials.state.lock().bytes <= 100 * 1024);
        let gone = stalled.iter().filter(|connection| connection.eviction.has_happened()).count();
        assert_eq!((gone, stalled[7].eviction.has_happened()), (8, true), "60 KiB were too much");
        assert!(!large.eviction.has_happened());
        large.has(&partials, 200 * 1024);
        assert!(large.eviction.has_happened(), "alone it is too much");
        for connection in stalled.iter_mut().chain([&mut large]) {
            connection.has(&partials, 0);
        }
        let state = partials.state.lock();
        assert_eq!((state.bytes, state.by_number.len()), (0, 0));
    }

    #[test]
    fn small_packets_are_not_counted() {
        let partials = Partials::new(1);
        let mut connection = Connection::new();
        connection.has(&partials, FREE - 1);
        assert_eq!(partials.state.lock().next, 0);
        connection.has(&partials, FREE);
        assert!(connection.eviction.has_happened(), "alone it is too much");
        connection.has(&partials, 1);
        assert_eq!(partials.state.lock().bytes, 0);
    }
}
