//! SQLite as a back end of the suite.

use std::path::Path;

use crate::fixture;

/// A file in the directory of the test.
pub(crate) struct Factory;

impl fixture::Factory for Factory {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn pool(&self, dir: &Path) -> String {
        format!("backend.sqlite.pool1.path = {}\n", dir.join("mqtt.db").display())
    }
}
