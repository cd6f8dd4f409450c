//! Rule SQL: the stage between modules and storage actions.
//!
//! A rule is a statement over events (`SELECT ... FROM topic or event WHERE ...`). Dispatch will hand it an event,
//! with the message as the modules left it, and take the rows it selects, which go on to sinks. The stage is pure:
//! lexer, parser and evaluation do no I/O and know neither guests nor databases; functions that modules export and
//! key-value state come in through traits.
//!
//! ```text
//! dispatch --Event--> modules --Event--> rules --rows--> actions and sinks --> writer
//! ```
//!
//! There is no rule SQL yet, and [`Rule`] says so in a way the compiler understands.

/// A compiled rule of a tenant: takes a [`tidegate_event::Event`], gives rows for its sinks.
///
/// Uninhabited until rule SQL exists: code can name a rule's place in the flow, but nothing can pretend to be one.
#[derive(Clone, Copy, Debug)]
pub enum Rule {}
