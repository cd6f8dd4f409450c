//! Topic names and topic filters (MQTT 5 clause 4.7), checked once at the edge and trusted after.

use std::fmt;

use bytestring::ByteString;

/// The longest topic the protocol can carry, in bytes.
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// Why a text is no topic name or filter.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TopicError {
    /// Clause 4.7.3: at least one character.
    #[error("a topic must not be empty")]
    Empty,
    /// Longer than [`MAX_TOPIC_BYTES`].
    #[error("a topic has at most 65535 bytes")]
    TooLong,
    /// Clause 1.5.4.
    #[error("a topic must not contain the null character")]
    Null,
    /// Clause 3.3.2.1: `+` and `#` are for filters.
    #[error("a topic name must not contain the wildcards + and #")]
    Wildcard,
    /// Clause 4.7.1.3.
    #[error("in a filter + must fill a whole level")]
    Plus,
    /// Clause 4.7.1.2.
    #[error("in a filter # must be the whole last level")]
    Hash,
    /// Clause 4.8.2: `$share/NAME/FILTER`, name without wildcards.
    #[error("a shared subscription is written $share/NAME/FILTER")]
    Share,
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(TopicError::TooLong);
    }
    if text.as_bytes().contains(&0) {
        return Err(TopicError::Null);
    }
    Ok(())
}

/// A topic name: not empty, no wildcard, no NUL. Cheap to clone; may share memory with a network buffer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

impl TopicName {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`TopicError`] naming the rule that `text` breaks.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        // Once a message: pieces of a fixed size become vector code. Which rule is broken is found out only when
        // one is.
        let check = |found: bool, &b: &u8| found | (b == 0) | (b == b'+') | (b == b'#');
        let (pieces, rest) = text.as_bytes().as_chunks::<16>();
        let forbidden =
            pieces.iter().any(|piece| piece.iter().fold(false, check)) | rest.iter().fold(false, check);
        if forbidden || text.is_empty() || text.len() > MAX_TOPIC_BYTES {
            check_text(&text)?;
            return Err(TopicError::Wildcard);
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text with its shared memory.
    pub fn as_byte_string(&self) -> &ByteString {
        &self.0
    }

    /// The levels, split at `/`.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether root wildcards do not match it (clause 4.7.2).
    pub fn is_dollar(&self) -> bool {
        self.0.as_bytes().first() == Some(&b'$')
    }
}

/// A topic filter without a `$share/` prefix. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(ByteString);

impl TopicFilter {
    /// Checks `text`. A `$share/...` text is taken literally; see [`SharedFilter::parse`].
    ///
    /// # Errors
    /// [`TopicError`] naming the rule that `text` breaks.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        Self::check(&text)?;
        Ok(Self(text))
    }

    /// Whether `text` is a filter, as [`Self::new`] would find, without keeping it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn check(text: &str) -> Result<(), TopicError> {
        check_text(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(TopicError::Hash);
            }
            if level.contains('+') && level != "+" {
                return Err(TopicError::Plus);
            }
        }
        Ok(())
    }

    /// The filter `#`.
    pub fn all() -> Self {
        Self(ByteString::from_static("#"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text with its shared memory.
    pub fn as_byte_string(&self) -> &ByteString {
        &self.0
    }

    /// The levels, split at `/`.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether it has a wildcard.
    pub fn is_wildcard(&self) -> bool {
        self.0.bytes().any(|b| b == b'+' || b == b'#')
    }

    /// The topic name it is, when it has no wildcard.
    pub fn as_topic(&self) -> Option<TopicName> {
        (!self.is_wildcard()).then(|| TopicName(self.0.clone()))
    }

    /// Whether `topic` matches (clause 4.7.1, 4.7.2).
    pub fn matches(&self, topic: &TopicName) -> bool {
        let mut names = topic.levels();
        for (depth, level) in self.levels().enumerate() {
            if depth == 0 && topic.is_dollar() && (level == "#" || level == "+") {
                return false;
            }
            if level == "#" {
                return true;
            }
            match names.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether every topic that `other` matches is also matched by `self`: `queue/#` covers `queue/+`,
    /// `#` covers `a/b` but nothing that begins with `$`.
    pub fn covers(&self, other: &Self) -> bool {
        let mut theirs = other.levels();
        for (depth, mine) in self.levels().enumerate() {
            if depth == 0 && (mine == "#" || mine == "+") && other.0.starts_with('$') {
                return false;
            }
            if mine == "#" {
                return true;
            }
            match theirs.next() {
                Some("#") => return false,
                Some(level) if mine == "+" || mine == level => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether some topic matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let wild = |level: &str| level == "+" || level == "#";
        let (mut mine, mut theirs) = (self.levels(), other.levels());
        let mut first = true;
        loop {
            let pair = (mine.next(), theirs.next());
            if std::mem::take(&mut first)
                && let (Some(one), Some(other)) = pair
                && (wild(one) && other.starts_with('$') || wild(other) && one.starts_with('$'))
            {
                return false;
            }
            match pair {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(one), Some(other)) if one == other || one == "+" || other == "+" => {}
                _ => return false,
            }
        }
    }

    /// Whether who guards this filter guards `topic`. Unlike in [`Self::matches`] a wildcard at the root stands for `$`
    /// levels too: what clause 4.7.2 hides from a subscriber it does not take from a guard.
    pub fn guards(&self, topic: &TopicName) -> bool {
        let mut names = topic.levels();
        for level in self.levels() {
            if level == "#" {
                return true;
            }
            match names.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether who guards this filter guards a part of what a subscription to `asked` brings: some topic that `asked`
    /// matches and `self` guards.
    pub fn guards_part_of(&self, asked: &Self) -> bool {
        let (mut mine, mut theirs) = (self.levels(), asked.levels());
        let mut first = true;
        loop {
            match (mine.next(), theirs.next()) {
                (Some("#"), _) | (None, None) => return true,
                // The root wildcards of a subscription bring nothing that begins with `$`.
                (Some(level), Some("#" | "+")) if first && level.starts_with('$') => return false,
                // `a/#` also has its parent `a`.
                (_, Some("#")) => return true,
                (Some(mine), Some(theirs)) if mine == "+" || theirs == "+" || mine == theirs => {}
                _ => return false,
            }
            first = false;
        }
    }
}

/// A filter as SUBSCRIBE names it: perhaps shared (clause 4.8.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedFilter {
    /// Share name of `$share/NAME/FILTER`.
    pub group: Option<ByteString>,
    /// The filter proper.
    pub filter: TopicFilter,
}

impl SharedFilter {
    /// Splits a `$share/` prefix off and checks the rest.
    ///
    /// # Errors
    /// [`TopicError`] naming the rule that `text` breaks.
    pub fn parse(text: &ByteString) -> Result<Self, TopicError> {
        match Self::split(text)? {
            None => Ok(Self { group: None, filter: TopicFilter::new(text.clone())? }),
            Some((name, filter)) => {
                Ok(Self { group: Some(ByteString::from(name)), filter: TopicFilter::new(filter)? })
            }
        }
    }

    /// Whether `text` is a filter, perhaps shared, as [`Self::parse`] would find, without keeping it.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn check(text: &str) -> Result<(), TopicError> {
        TopicFilter::check(Self::split(text)?.map_or(text, |(_, filter)| filter))
    }

    /// Share name and filter of a text that begins with `$share/`.
    fn split(text: &str) -> Result<Option<(&str, &str)>, TopicError> {
        let Some(rest) = text.strip_prefix("$share/") else { return Ok(None) };
        let (name, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
        if name.is_empty() || name.contains(['+', '#', '\0']) {
            return Err(TopicError::Share);
        }
        Ok(Some((name, filter)))
    }
}

macro_rules! text_form {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = TopicError;

            fn from_str(text: &str) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }
    )*};
}
text_form!(TopicName, TopicFilter);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn name(text: &str) -> TopicName {
        text.parse().unwrap()
    }

    fn filter(text: &str) -> TopicFilter {
        text.parse().unwrap()
    }

    #[test]
    fn names_and_filters_are_checked() {
        assert_eq!(TopicName::new(""), Err(TopicError::Empty));
        assert_eq!(TopicName::new("a/+"), Err(TopicError::Wildcard));
        assert_eq!(TopicName::new("a\0b"), Err(TopicError::Null));
        assert_eq!(TopicName::new("x".repeat(65_536)), Err(TopicError::TooLong));
        assert_eq!(TopicFilter::new("a/#/b"), Err(TopicError::Hash));
        assert_eq!(TopicFilter::new("a#"), Err(TopicError::Hash));
        assert_eq!(TopicFilter::new("a+/b"), Err(TopicError::Plus));
        for good in ["#", "+", "/", "//", "+/+/#", "é/x", "$SYS/#"] {
            filter(good);
        }
    }

    #[test]
    fn a_forbidden_character_is_found_wherever_it_stands() {
        for len in [1, 15, 16, 17, 40] {
            for at in 0..len {
                for (c, error) in
                    [('+', TopicError::Wildcard), ('#', TopicError::Wildcard), ('\0', TopicError::Null)]
                {
                    let text: String = (0..len).map(|i| if i == at { c } else { 'x' }).collect();
                    assert_eq!(TopicName::new(text), Err(error), "{c:?} at {at} of {len}");
                }
            }
            name(&"x".repeat(len));
        }
    }

    #[test]
    fn matching_follows_the_clauses() {
        for (f, t, expected) in [
            ("#", "a", true),
            ("#", "a/b", true),
            ("a/#", "a", true),
            ("a/#", "ab", false),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/b", true),
            ("/+", "/b", true),
            ("+", "/b", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("é/+", "é/x", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(filter(f).matches(&name(t)), expected, "{f} ~ {t}");
        }
    }

    #[test]
    fn covering_is_matching_of_filters() {
        for (f, other, expected) in [
            ("queue/#", "queue/+", true),
            ("queue/#", "#", false),
            ("queue/#", "queue", true),
            ("queue/#", "queue/#", true),
            ("queue/+", "queue/#", false),
            ("#", "a/+/#", true),
            ("#", "$SYS/a", false),
            ("+/a", "+/a", true),
            ("a/+", "a/b", true),
            ("a/b", "a/+", false),
        ] {
            assert_eq!(filter(f).covers(&filter(other)), expected, "{f} covers {other}");
        }
    }

    #[test]
    fn filters_overlap_when_a_topic_matches_both() {
        for (a, b, expected) in [
            ("#", "a", true),
            ("a/+", "+/b", true),
            ("a/+", "b/+", false),
            ("a/#", "a", true),
            ("a/b", "a", false),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/+", true),
            ("a/+/c", "a/b/#", true),
        ] {
            assert_eq!(filter(a).overlaps(&filter(b)), expected, "{a} {b}");
            assert_eq!(filter(b).overlaps(&filter(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn a_guard_is_not_blind_to_dollar_topics() {
        for (f, t, expected) in [
            ("#", "$SYS/x", true),
            ("+/x", "$SYS/x", true),
            ("+/y", "$SYS/x", false),
            ("+", "$SYS", true),
            ("$SYS/#", "$SYS", true),
            ("a/#", "a/b", true),
            ("a/#", "ab", false),
            ("a/+", "a", false),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(filter(f).guards(&name(t)), expected, "{f} guards {t}");
        }
    }

    #[test]
    fn a_guard_overlaps_what_brings_one_of_its_topics() {
        for (f, asked, expected) in [
            ("a/b", "a/#", true),
            ("a/b", "a/+", true),
            ("a/b", "+/b/#", true),
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/b", "a", false),
            ("a/b", "+/+/+", false),
            ("a/#", "a", true),
            ("a", "a/#", true),
            ("a/+", "a", false),
            ("a/#", "+/b", true),
            ("+/x/#", "a/+/y", true),
            // A guard is asked about `$` topics, and a subscription to `#` does not bring them.
            ("#", "$SYS/#", true),
            ("#", "$SYS/x", true),
            ("+/#", "$SYS/x", true),
            ("+/x", "$SYS/+", true),
            ("+", "$SYS/x", false),
            ("$SYS/#", "#", false),
            ("$SYS/#", "+/x", false),
            ("$SYS/#", "$SYS/+", true),
            ("a/$x", "a/+", true),
            ("a/$x", "a/#", true),
        ] {
            assert_eq!(filter(f).guards_part_of(&filter(asked)), expected, "{f} of {asked}");
        }
    }

    #[test]
    fn shared_filters_are_split() {
        let shared = SharedFilter::parse(&"$share/g/a/+".into()).unwrap();
        assert_eq!(shared.group.as_deref(), Some("g"));
        assert_eq!(shared.filter.as_str(), "a/+");
        for bad in ["$share/g", "$share//a", "$share/+/a", "$share/g/"] {
            assert!(SharedFilter::parse(&bad.into()).is_err(), "{bad}");
        }
    }
}
