//! Configuration: the documents' `.conf` files and the table `backend` of `tidegate.toml`, one model.
//!
//! [`load`] is all or nothing: it reports every error of every file, or gives a configuration in which every pool,
//! hook, function, filter and variable exists.

pub mod conf;
mod diagnostic;
mod duration;
mod hook_line;
mod lines;
mod model;
mod node;
mod resolve;
mod secret;
mod source;

pub(crate) use diagnostic::suggestion;
pub use diagnostic::{Diagnostic, Place, Severity};
pub use lines::{Lines, Position};
pub use model::{HookLine, LineAction, Loaded, OptionValue, PoolConfig, StoreConfig};
pub use secret::Secret;

/// Reads `.conf` sources, as (file name, text), and the `backend` table of `tidegate.toml`, as (file name, whole
/// text of the file) so that lines count from its beginning.
///
/// # Errors
/// Every error of every source, in the order of the sources.
pub fn load(conf: &[(String, String)], toml: Option<(&str, &str)>) -> Result<Loaded, Vec<Diagnostic>> {
    let mut sources = source::Sources::default();
    for (file, text) in conf {
        sources.add_conf(file, text);
    }
    if let Some((file, text)) = toml {
        sources.add_toml(file, text);
    }
    sources.drop_repeated();
    resolve::resolve(sources)
}

#[cfg(test)]
mod tests;
