//! State that goes from one version of a module to the next.

/// What the one instance of a module with `mode = "single"` hands to the next version: `export!(state: TYPE)`.
///
/// ```no_run
/// use std::cell::Cell;
/// use tidegate_sdk::{Event, State, export, info};
///
/// export!(state: Counter, tick: count);
///
/// thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });
///
/// fn count(_: Event) -> Result<(), String> {
///     COUNT.set(COUNT.get() + 1);
///     Ok(())
/// }
///
/// struct Counter;
///
/// impl State for Counter {
///     fn drain() -> Vec<u8> {
///         COUNT.get().to_le_bytes().to_vec()
///     }
///
///     fn restore(state: Vec<u8>) -> Result<(), String> {
///         let bytes = state.try_into().map_err(|_| "not a count")?;
///         COUNT.set(u64::from_le_bytes(bytes));
///         Ok(())
///     }
/// }
/// # fn main() {}
/// ```
pub trait State {
    /// What the next version is to know, at most 16 MiB. Called between two events; the instance goes on serving when the
    /// next version does not take it.
    fn drain() -> Vec<u8>;

    /// Takes what the version before gave, after `init` and before the first event.
    ///
    /// # Errors
    /// Refuses the new version: the old one goes on serving.
    fn restore(state: Vec<u8>) -> Result<(), String>;
}
