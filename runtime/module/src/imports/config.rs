//! `wasi:config/store`: the manifest's `[config]` table.

use crate::bindings::wasi::config::store::{Error, Host};
use crate::state::State;

impl Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        let found = self.shared.config.iter().find(|(name, _)| *name == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.shared.config.clone()))
    }
}
