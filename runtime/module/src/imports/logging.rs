//! `wasi:logging/logging`: log lines of a guest, with the module's name and the event they belong to.

use tidegate_event::Hook;

use crate::bindings::wasi::logging::logging::{Host, Level};
use crate::state::State;

impl Host for State {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        if !self.output.admit(context.len() + message.len()) {
            return Ok(());
        }
        let module = &*self.shared.name;
        let hook = self.hook().map(Hook::name);
        match level {
            Level::Trace => tracing::trace!(module, hook, context, "{message}"),
            Level::Debug => tracing::debug!(module, hook, context, "{message}"),
            Level::Info => tracing::info!(module, hook, context, "{message}"),
            Level::Warn => tracing::warn!(module, hook, context, "{message}"),
            Level::Error => tracing::error!(module, hook, context, "{message}"),
            Level::Critical => tracing::error!(module, hook, context, critical = true, "{message}"),
        }
        Ok(())
    }
}
