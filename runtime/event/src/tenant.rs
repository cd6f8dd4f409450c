//! The name space a client lives in.

use std::fmt;
use std::sync::Arc;

/// A tenant: it owns clients, topics, connectors, rules, modules and quotas. Cheap to clone.
///
/// A server without tenant configuration has the one tenant [`Tenant::DEFAULT_NAME`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The name of the tenant that exists when nothing is configured.
    pub const DEFAULT_NAME: &'static str = "default";

    /// The tenant called `name`.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self::new(Self::DEFAULT_NAME)
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
