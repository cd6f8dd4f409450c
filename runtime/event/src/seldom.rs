//! Log lines that could come with every event: at most one a second, which says how many were left out.

use std::sync::atomic::{AtomicU64, Ordering};

/// A log line's right to be written.
#[derive(Debug, Default)]
pub struct Seldom {
    /// The second, since the epoch, in which it was last written.
    second: AtomicU64,
    left_out: AtomicU64,
}

impl Seldom {
    /// Whether the line may be written now: with how many were left out since the last one.
    pub fn turn(&self) -> Option<u64> {
        self.turn_in(crate::now_ms() / 1_000)
    }

    fn turn_in(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Ordering::Relaxed) == second {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_were_left_out() {
        let line = Seldom::default();
        assert_eq!(line.turn_in(7), Some(0));
        assert_eq!([(); 3].map(|()| line.turn_in(7)), [None; 3]);
        assert_eq!(line.turn_in(8), Some(3));
        assert_eq!(line.turn_in(9), Some(0));
    }
}
