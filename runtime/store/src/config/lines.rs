//! Where a byte of a text is: line and column, without reading the text from its beginning each time.

use std::sync::Arc;

/// A line and a column, both counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Bytes of a line after which another mark is set: a whole file may be one line.
const STRIDE: usize = 256;

/// A text with marks at the beginning of every line, and within long lines: made once, asked for many positions.
#[derive(Clone, Debug)]
pub struct Lines {
    text: Arc<str>,
    /// Byte offsets, ascending, with their positions.
    marks: Vec<(usize, Position)>,
}

#[cfg(test)]
thread_local! {
    /// Bytes of texts that this thread has read to find positions: a test holds them against the length of the texts.
    pub(super) static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Notes that so many bytes are read.
#[cfg(test)]
fn note(bytes: usize) {
    READ.set(READ.get() + bytes);
}

/// Only a test wants to know.
#[cfg(not(test))]
const fn note(_: usize) {}

impl Lines {
    /// Reads `text` once.
    pub fn new(text: &str) -> Self {
        note(text.len());
        let mut here = Position { line: 1, column: 1 };
        let mut marks = vec![(0, here)];
        let mut last = 0;
        for (offset, character) in text.char_indices() {
            if offset - last >= STRIDE {
                marks.push((offset, here));
                last = offset;
            }
            here.column += 1;
            if character == '\n' {
                here = Position { line: here.line + 1, column: 1 };
                last = offset + 1;
                marks.push((last, here));
            }
        }
        Self { text: text.into(), marks }
    }

    /// Where byte `offset` is; the end of the text when it is behind it or within a character.
    pub fn position(&self, offset: usize) -> Position {
        let offset = if self.text.is_char_boundary(offset) { offset } else { self.text.len() };
        let after = self.marks.partition_point(|(at, _)| *at <= offset);
        // The first mark is at 0: there is always one before.
        let (at, mark) = self.marks.get(after.saturating_sub(1)).copied().unwrap_or_default();
        note(offset - at);
        let between = self.text.get(at..offset).map_or(0, |text| text.chars().count());
        Position { column: mark.column + between, ..mark }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn positions_count_characters_not_bytes() {
        let text = "é = 1\nüb = x";
        let position = Lines::new(text).position(text.find('x').unwrap());
        assert_eq!(position, Position { line: 2, column: 6 });
    }

    /// Every offset against counting from the beginning.
    #[test]
    fn marks_change_no_position() {
        let long = "é".repeat(3 * STRIDE) + "x";
        for text in ["", "\n", "a", "a\n", "a\r\nb\n\nc", &long, &format!("{long}\n{long}\n")] {
            let lines = Lines::new(text);
            for (offset, _) in text.char_indices().chain([(text.len(), ' ')]) {
                let before = text.get(..offset).unwrap();
                let expected = Position {
                    line: before.matches('\n').count() + 1,
                    column: before.rsplit('\n').next().unwrap().chars().count() + 1,
                };
                assert_eq!(lines.position(offset), expected, "offset {offset} of {text:?}");
            }
            let end = lines.position(text.len());
            assert_eq!(lines.position(usize::MAX), end, "behind the end");
        }
        assert_eq!(Lines::new("é").position(1), Position { line: 1, column: 2 }, "within a character");
    }
}
