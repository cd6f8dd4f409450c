//! The hook table: which handlers run for an event, in which order. Immutable; a change makes a new one.

use std::sync::Arc;

use tidegate_event::hook::TopicOf;
use tidegate_event::{Access, Event, Hook, TopicFilter, TopicName};
use tidegate_module::Module;
use tidegate_store::Action;

use crate::filter_tree::{FilterTree, Matches};

/// Something that handles events.
#[derive(Clone)]
pub(crate) enum Handler {
    /// A guest.
    Module(Arc<Module>),
    /// A built-in function or custom statements on a connector.
    Action(Arc<Action>),
    /// A handler that plays a script, for the tests of this crate.
    #[cfg(test)]
    Scripted(Arc<crate::scripted::Scripted>),
}

/// The handlers of one hook: in running order, and the tree that finds those an event concerns.
#[derive(Default)]
struct Row {
    handlers: Vec<Handler>,
    tree: FilterTree,
}

/// (hook, topic filter) -> handlers, of one tenant.
pub struct HookTable {
    rows: [Row; Hook::COUNT],
}

impl Default for HookTable {
    fn default() -> Self {
        Self { rows: std::array::from_fn(|_| Row::default()) }
    }
}

impl HookTable {
    /// The table of these modules (in running order) and action lines (in the order of their numbers). Modules
    /// run before actions.
    pub fn build(modules: &[Arc<Module>], actions: &[Arc<Action>]) -> Self {
        let mut table = Self::default();
        for module in modules {
            for (hook, filters) in module.hooks() {
                table.add(*hook, filters, Handler::Module(module.clone()));
            }
        }
        for action in actions {
            let filters = action.filter().map(std::slice::from_ref).unwrap_or_default();
            table.add(action.hook(), filters, Handler::Action(action.clone()));
        }
        table
    }

    /// Appends a handler; no filters = every topic.
    pub(crate) fn add(&mut self, hook: Hook, filters: &[TopicFilter], handler: Handler) {
        let row = &mut self.rows[hook as usize];
        let position = u32::try_from(row.handlers.len()).unwrap_or(u32::MAX);
        row.handlers.push(handler);
        if filters.is_empty() || hook.row().topic == TopicOf::None {
            row.tree.insert_always(position);
            return;
        }
        for filter in filters {
            row.tree.insert(filter, position);
        }
    }

    /// Whether the hook has handlers.
    pub(crate) fn is_bound(&self, hook: Hook) -> bool {
        !self.rows[hook as usize].handlers.is_empty()
    }

    /// The positions of the handlers that `event` concerns, in running order.
    pub(crate) fn matching(&self, event: &Event) -> Matches {
        let row = &self.rows[event.hook() as usize];
        match (event.message(), event) {
            (Some(message), _) => row.tree.matching(&message.topic),
            (None, Event::SessionSubscribed { filter, .. } | Event::SessionUnsubscribed { filter, .. }) => {
                row.tree.covering(filter)
            }
            (None, Event::ClientAuthorize { access: Access::Publish(message), .. }) => {
                row.tree.guarding(&message.topic)
            }
            (
                None,
                Event::ClientAuthorize { access: Access::Subscribe(request), .. }
                | Event::ClientSubscribe { request, .. },
            ) => row.tree.overlapping(&request.filter.filter),
            _ => Matches::from_slice(row.tree.all()),
        }
    }

    /// The positions of the handlers of `hook` that a message on `topic` concerns, in running order.
    pub(crate) fn matching_topic(&self, hook: Hook, topic: &TopicName) -> Matches {
        self.rows[hook as usize].tree.matching(topic)
    }

    /// The handler at a position that [`matching`](Self::matching) gave for the same hook.
    pub(crate) fn handler(&self, hook: Hook, position: u32) -> Option<&Handler> {
        self.rows[hook as usize].handlers.get(position as usize)
    }
}

impl std::fmt::Debug for HookTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(Hook::all().map(|hook| (hook.name(), self.rows[hook as usize].handlers.len())))
            .finish()
    }
}
