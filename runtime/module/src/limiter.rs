//! Memory and tables of one instance, summed over all of them.

use wasmtime::ResourceLimiter;

use crate::error::Limit;

/// Grants growth up to the module's limits and remembers a refusal: the guest only sees a failed grow and
/// aborts, and the abort must be reported as what it is.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory: Account,
    tables: Account,
    denied: Option<Limit>,
}

#[derive(Debug)]
struct Account {
    used: usize,
    limit: usize,
}

impl Account {
    /// Whether the growth is granted. One beyond the `maximum` of the memory itself fails in the engine
    /// whatever is said here, and is not counted.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return true;
        }
        match self.used.checked_add(desired.saturating_sub(current)) {
            Some(used) if used <= self.limit => {
                self.used = used;
                true
            }
            _ => false,
        }
    }
}

impl Limiter {
    /// Limits in bytes and elements.
    pub(crate) fn new(memory: usize, table_elements: usize) -> Self {
        Self {
            memory: Account { used: 0, limit: memory },
            tables: Account { used: 0, limit: table_elements },
            denied: None,
        }
    }

    /// Bytes of all memories.
    pub(crate) fn memory(&self) -> usize {
        self.memory.used
    }

    /// A new call begins: refusals before it are none of it.
    pub(crate) fn forget_denied(&mut self) {
        self.denied = None;
    }

    /// The limit that was hit since the last call of this function.
    pub(crate) fn take_denied(&mut self) -> Option<Limit> {
        self.denied.take()
    }
}

/// The most core instances, memories and tables of an instance. The pool has such bounds of its own; instances that are
/// allocated on demand have these, because each memory reserves address space even when it is empty.
pub(crate) const MAX_CORE_INSTANCES: usize = 100;
pub(crate) const MAX_MEMORIES: usize = 40;
pub(crate) const MAX_TABLES: usize = 60;

impl ResourceLimiter for Limiter {
    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = self.memory.grow(current, desired, maximum);
        if !granted {
            self.denied = Some(Limit::Memory(self.memory.limit));
        }
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = self.tables.grow(current, desired, maximum);
        if !granted {
            self.denied = Some(Limit::TableElements(self.tables.limit));
        }
        Ok(granted)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn memories_are_summed() {
        let mut limiter = Limiter::new(100, 10);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert_eq!(limiter.take_denied(), None);
        assert!(!limiter.memory_growing(40, 41, None).unwrap());
        assert_eq!(limiter.take_denied(), Some(Limit::Memory(100)));
        assert_eq!(limiter.take_denied(), None);
        assert_eq!(limiter.memory(), 100);
    }

    #[test]
    fn a_growth_beyond_the_maximum_of_the_memory_is_not_counted() {
        let mut limiter = Limiter::new(100, 10);
        for _ in 0..10 {
            assert!(limiter.memory_growing(10, 80, Some(70)).unwrap());
        }
        assert_eq!((limiter.memory(), limiter.take_denied()), (0, None));
    }

    #[test]
    fn tables_have_their_own_limit() {
        let mut limiter = Limiter::new(100, 10);
        assert!(limiter.table_growing(0, 10, None).unwrap());
        assert!(!limiter.table_growing(10, 11, None).unwrap());
        assert_eq!(limiter.take_denied(), Some(Limit::TableElements(10)));
    }
}
