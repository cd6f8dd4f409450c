//! What the person sees: headings, and colour where there is a terminal.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

fn colour() -> bool {
    static COLOUR: OnceLock<bool> = OnceLock::new();
    *COLOUR.get_or_init(|| std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
}

fn painted(code: &str, text: &str) -> String {
    if colour() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Less important.
pub(crate) fn faint(text: &str) -> String {
    painted("2", text)
}

/// What to look at.
pub(crate) fn strong(text: &str) -> String {
    painted("1", text)
}

/// It holds.
pub(crate) fn good(text: &str) -> String {
    painted("32", text)
}

/// It does not.
pub(crate) fn bad(text: &str) -> String {
    painted("1;31", text)
}

/// Starts a section.
pub(crate) fn heading(text: &str) {
    println!("\n{}", painted("1;36", &format!("== {text}")));
}

/// One `name   value` line of a section.
pub(crate) fn field(name: &str, value: &str) {
    println!("  {} {value}", faint(&format!("{name:<14}")));
}
