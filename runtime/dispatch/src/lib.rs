//! From an event to its handlers: the hook table, verdicts and the join of acks.
//!
//! [`Dispatcher`] implements [`tidegate_event::Hooks`]. For each tenant it holds a [`HookTable`]: (hook, topic
//! filter) -> handlers in their order, immutable and swapped whole. Raising an event walks the filter tree of its
//! hook once; thousands of handlers cost only those that match. Modules run first, one after the other, each on
//! what the previous one left of the message; then the action lines enqueue into their writers; the verdict and
//! the join of acks go back to the session as values. Of the handlers that a client needs leave from, the first with an
//! opinion decides.
//!
//! Map: `filter_tree` matches, `table` orders handlers and binds them to filters, `run` takes an event
//! through them, `decide` one that asks for leave, `dispatcher` finds the table of a tenant. Rules take their place between modules and actions.

mod decide;
mod dispatcher;
mod filter_tree;
mod metrics;
mod run;
#[cfg(test)]
mod scripted;
mod table;

pub use dispatcher::Dispatcher;
pub use table::HookTable;
