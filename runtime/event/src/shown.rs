//! What clients write, in log lines: it neither makes lines of its own nor fills the log.

use std::fmt;

/// How much of a text is shown, characters.
const MOST: usize = 128;

/// A text that a client has chosen (its id, a topic, a filter), for a log line: control characters are escaped, and what
/// is long is cut.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(MOST) {
            match character.is_control() {
                true => write!(f, "{}", character.escape_default())?,
                false => f.write_char(character)?,
            }
        }
        match characters.as_str() {
            "" => Ok(()),
            rest => write!(f, "… ({} bytes more)", rest.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_long_texts_are_cut() {
        for (text, shown) in [
            ("sensor-7 ü", "sensor-7 ü"),
            ("a\nERROR b\r\t", "a\\nERROR b\\r\\t"),
            ("\u{1b}[31m\u{85}", "\\u{1b}[31m\\u{85}"),
            ("", ""),
        ] {
            assert_eq!(Shown(text).to_string(), shown);
        }
        assert_eq!(Shown(&"é".repeat(128)).to_string(), "é".repeat(128));
        assert_eq!(Shown(&"é".repeat(130)).to_string(), format!("{}… (4 bytes more)", "é".repeat(128)));
    }
}
