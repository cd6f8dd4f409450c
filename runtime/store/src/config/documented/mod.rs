//! Back ends that the documents define and that have no driver in this binary yet: their options, so that a
//! configuration can be checked, and their tables, so that `tidegate schema print` has them.
//!
//! A driver's own `KIND` takes the place of the one here as soon as it is in the list of
//! [`crate::backend::built_in`]; then the word here goes, and its file moves to the driver's folder.

use crate::backend::{BackendKind, OptionKind, OptionRow};

/// Declares the modules and the list of their `KIND`s.
macro_rules! without_driver {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*

        /// The list.
        pub(crate) static WITHOUT_DRIVER: &[&BackendKind] = &[$(&$module::KIND),*];
    };
}

without_driver! { mysql, pgsql, mongo, cassa, dynamo, influxdb, opentsdb, timescale }

/// A row of a table of options.
pub(crate) const fn row(
    name: &'static str,
    kind: OptionKind,
    default: &'static str,
    doc: &'static str,
) -> OptionRow {
    OptionRow { name, kind, default, doc }
}

/// One of `words`.
pub(crate) const fn word(words: &'static [&'static str]) -> OptionKind {
    OptionKind::Word { words, synonyms: &[] }
}

/// Connections of a pool.
pub(crate) const CONNECTIONS: OptionKind = OptionKind::Integer { min: 1, max: 1_024 };

/// Milliseconds, up to a day.
pub(crate) const MILLISECONDS: OptionKind = OptionKind::Integer { min: 0, max: 86_400_000 };

/// What back ends that write through templates do at message.publish.
pub(crate) const TEMPLATE_FUNCTIONS: &[&str] = &["on_message_publish", "on_message_store"];
