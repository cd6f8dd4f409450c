//! The seam to the broker: finds the tenant's table and starts an event's handlers.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidegate_event::{Event, Hook, Hooks, Node, Raised, Scope, Tenant};

use crate::decide;
use crate::metrics::Metrics;
use crate::run;
use crate::table::HookTable;

type Tables = HashMap<Tenant, Arc<HookTable>, foldhash::fast::RandomState>;

/// Runs the handlers of events, by tenant.
pub struct Dispatcher {
    node: Arc<Node>,
    tables: ArcSwap<Tables>,
    metrics: Arc<Metrics>,
}

impl Dispatcher {
    /// A dispatcher without handlers. `node` is what `${node}` shows.
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self { node, tables: ArcSwap::default(), metrics: Arc::new(Metrics::register()) })
    }

    /// Makes `table` the tenant's: events raised from now on use it, events in flight finish on the old one.
    pub fn install(&self, tenant: &Tenant, table: HookTable) {
        let table = Arc::new(table);
        self.tables.rcu(|tables| {
            let mut tables = Tables::clone(tables);
            tables.insert(tenant.clone(), table.clone());
            tables
        });
    }
}

impl Hooks for Dispatcher {
    fn is_bound(&self, tenant: &Tenant, hook: Hook) -> bool {
        self.tables.load().get(tenant).is_some_and(|table| table.is_bound(hook))
    }

    fn raise(&self, event: Event) -> Raised {
        let tables = self.tables.load();
        let Some(table) = tables.get(event.tenant()) else {
            return Raised::Nothing;
        };
        let matches = table.matching(&event);
        if matches.is_empty() {
            return Raised::Nothing;
        }
        self.metrics.event(event.hook());
        let scope = Scope::new(event, self.node.clone());
        if scope.event.hook().row().decides.is_leave() {
            return Raised::Running(Box::pin(decide::run(
                table.clone(),
                self.metrics.clone(),
                matches,
                scope,
            )));
        }
        Raised::Running(Box::pin(run::run(table.clone(), self.metrics.clone(), matches, scope)))
    }
}
