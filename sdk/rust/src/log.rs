//! Lines in the broker's log, with the module's name.
//!
//! The macros take what [`format!`] takes. The source module they stand in goes along as the context.
//!
//! ```no_run
//! tidegate_sdk::warn!("{} bytes are too many", 4_096);
//! ```

use crate::bindings::imports::wasi::logging::logging;

pub use logging::Level;

/// Writes one line. `context` says where in the guest it comes from.
pub fn log(level: Level, context: &str, message: &str) {
    logging::log(level, context, message);
}

/// Writes to the log at level trace.
#[macro_export]
macro_rules! trace {
    ($($format:tt)+) => { $crate::__log!(Trace, $($format)+) };
}

/// Writes to the log at level debug.
#[macro_export]
macro_rules! debug {
    ($($format:tt)+) => { $crate::__log!(Debug, $($format)+) };
}

/// Writes to the log at level info.
#[macro_export]
macro_rules! info {
    ($($format:tt)+) => { $crate::__log!(Info, $($format)+) };
}

/// Writes to the log at level warn.
#[macro_export]
macro_rules! warn {
    ($($format:tt)+) => { $crate::__log!(Warn, $($format)+) };
}

/// Writes to the log at level error.
#[macro_export]
macro_rules! error {
    ($($format:tt)+) => { $crate::__log!(Error, $($format)+) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($format:tt)+) => {
        $crate::log::log($crate::log::Level::$level, ::core::module_path!(), &::std::format!($($format)+))
    };
}
