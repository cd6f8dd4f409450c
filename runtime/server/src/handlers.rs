//! The hook table's two sources, modules and hook lines: whichever changes, the table is made and put in place here.

use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_dispatch::{Dispatcher, HookTable};
use tidegate_event::Tenant;
use tidegate_module::Module;
use tidegate_store::Action;

/// Modules in running order, and actions of hook lines in theirs.
#[derive(Default)]
struct Sources {
    modules: Vec<Arc<Module>>,
    actions: Vec<Arc<Action>>,
}

/// What the dispatcher of a tenant runs.
pub(crate) struct Handlers {
    dispatcher: Arc<Dispatcher>,
    tenant: Tenant,
    /// Held while a table is made, so that an older one is never put in the place of a newer.
    sources: Mutex<Sources>,
}

impl Handlers {
    /// No handlers.
    pub(crate) fn new(dispatcher: Arc<Dispatcher>, tenant: Tenant) -> Self {
        Self { dispatcher, tenant, sources: Mutex::default() }
    }

    /// These modules from now on.
    pub(crate) fn set_modules(&self, modules: &[Arc<Module>]) {
        self.change(|sources| sources.modules = modules.to_vec());
    }

    /// These actions from now on.
    pub(crate) fn set_actions(&self, actions: Vec<Arc<Action>>) {
        self.change(|sources| sources.actions = actions);
    }

    fn change(&self, change: impl FnOnce(&mut Sources)) {
        let mut sources = self.sources.lock();
        change(&mut sources);
        self.dispatcher.install(&self.tenant, HookTable::build(&sources.modules, &sources.actions));
    }
}
