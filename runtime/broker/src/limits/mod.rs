//! Bounds that several parts of the broker share.
//!
//! | module | what it bounds |
//! | --- | --- |
//! | [`budget`] | the memory of all queues of the process |
//! | [`rate`] | how fast one client may publish |

pub(crate) mod budget;
pub(crate) mod rate;

use std::sync::Arc;

use self::budget::Budget;

/// What one session's queue may hold.
#[derive(Clone, Copy)]
pub(crate) struct QueueLimits<'a> {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// What all queues may hold together.
    pub(crate) budget: &'a Arc<Budget>,
}
