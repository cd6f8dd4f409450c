//! Bounds that several parts of the broker share.
//!
//! | module | what it bounds |
//! | --- | --- |
//! | [`accepted`] | the memory of what clients have sent and handlers are not done with |
//! | [`budget`] | the memory of all queues of the process |
//! | [`eviction`] | how a connection learns that it has to go |
//! | [`partial`] | the memory of packets that are not whole |
//! | [`rate`] | how fast one client may publish |

pub(crate) mod accepted;
pub(crate) mod budget;
pub(crate) mod eviction;
pub(crate) mod partial;
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
