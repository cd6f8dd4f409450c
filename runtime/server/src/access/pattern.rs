//! The filters of an ACL: topic filters whose levels may hold `${clientid}` and `${username}`.
//!
//! A placeholder stands for a piece of one level. A client chooses its own id and perhaps its name, so a value that is
//! empty, begins with `$` or holds `/`, `+`, `#` or NUL stands for nothing: a line that allows does not match then, and
//! one that denies matches everything from that level on. So a client can never widen what it may do.

use tidegate_event::{Client, TopicError, TopicFilter, TopicName};

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    ClientId,
    Username,
}

/// How placeholders are written.
const PLACEHOLDERS: [(&str, Field); 2] = [("${clientid}", Field::ClientId), ("${username}", Field::Username)];

impl Field {
    /// The client's value, if it can stand in a level.
    fn of(self, client: &Client) -> Option<&str> {
        let value: &str = match self {
            Self::ClientId => &client.id,
            Self::Username => client.username.as_ref()?,
        };
        let is_literal =
            !value.is_empty() && !value.starts_with('$') && !value.contains(['/', '+', '#', '\0']);
        is_literal.then_some(value)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Field(Field),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Text(Box<str>),
    Parts(Box<[Part]>),
    Plus,
    Hash,
}

/// What comparing a level has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Same {
    Yes,
    No,
    /// A placeholder stands for nothing.
    Unknown,
}

impl Level {
    /// Whether it begins with `$`. A placeholder never does.
    fn is_dollar(&self) -> bool {
        match self {
            Self::Text(text) => text.starts_with('$'),
            Self::Parts(parts) => matches!(parts.first(), Some(Part::Text(text)) if text.starts_with('$')),
            Self::Plus | Self::Hash => false,
        }
    }

    /// Whether the level, which is no wildcard, is the text `level` for `client`.
    fn is(&self, level: &str, client: &Client) -> Same {
        let yes = |yes| if yes { Same::Yes } else { Same::No };
        match self {
            Self::Text(text) => yes(**text == *level),
            Self::Parts(parts) => {
                let mut rest = Some(level);
                for part in parts {
                    let text = match part {
                        Part::Text(text) => &**text,
                        Part::Field(field) => match field.of(client) {
                            Some(value) => value,
                            None => return Same::Unknown,
                        },
                    };
                    rest = rest.and_then(|rest| rest.strip_prefix(text));
                }
                yes(rest == Some(""))
            }
            Self::Plus | Self::Hash => Same::No,
        }
    }
}

/// A filter of an ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    levels: Box<[Level]>,
    /// Matches only the filter that is written like it (`eq`).
    literal: bool,
}

/// Why a text is no filter of an ACL.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum PatternError {
    /// Not a topic filter.
    #[error("{0} (MQTT 5 clause 4.7)")]
    Topic(#[from] TopicError),
    /// `${...}` that is none of ours.
    #[error("no such placeholder: {0}; there are ${{clientid}} and ${{username}}")]
    Placeholder(String),
    /// The rules of a shared subscription are those of its filter.
    #[error("a shared subscription is checked by its filter: leave $share/GROUP/ out")]
    Share,
}

impl Pattern {
    /// Reads a filter; `literal`: it is to be found in a SUBSCRIBE as it is written.
    ///
    /// # Errors
    /// [`PatternError`] naming what is wrong.
    pub(super) fn parse(text: &str, literal: bool) -> Result<Self, PatternError> {
        if text.starts_with("$share/") {
            return Err(PatternError::Share);
        }
        let levels: Box<[Level]> = text.split('/').map(level).collect::<Result<_, _>>()?;
        // With something harmless for the placeholders it must be a filter.
        let mut plain = text.to_owned();
        for (name, _) in PLACEHOLDERS {
            plain = plain.replace(name, "x");
        }
        TopicFilter::new(plain)?;
        Ok(Self { levels, literal })
    }

    /// Whether it allows `client` to publish to `topic`. As in MQTT, wildcards at the root do not stand for `$` levels
    /// (MQTT 5 clause 4.7.2).
    pub(super) fn allows_topic(&self, topic: &TopicName, client: &Client) -> bool {
        self.matches(topic, client, topic.is_dollar(), Same::No)
    }

    /// Whether it denies `client` to publish to `topic`: wildcards at the root stand for `$` levels, too.
    pub(super) fn denies_topic(&self, topic: &TopicName, client: &Client) -> bool {
        self.matches(topic, client, false, Same::Yes)
    }

    /// `dollar`: wildcards do not match the first level. `unknown`: what a placeholder without a value is taken for, then
    /// and for all levels after it.
    fn matches(&self, topic: &TopicName, client: &Client, dollar: bool, unknown: Same) -> bool {
        let mut names = topic.levels();
        for (depth, level) in self.levels.iter().enumerate() {
            let name = names.next();
            let same = match (level, name) {
                (Level::Plus | Level::Hash, Some(_)) if self.literal || (dollar && depth == 0) => {
                    return false;
                }
                (Level::Hash, _) => return !self.literal,
                (_, None) => return false,
                (Level::Plus, Some(_)) => Same::Yes,
                (level, Some(name)) => level.is(name, client),
            };
            match same {
                Same::Yes => {}
                Same::No => return false,
                Same::Unknown => return unknown == Same::Yes,
            }
        }
        names.next().is_none()
    }

    /// Whether it allows `client` all that a subscription to `filter` brings.
    pub(super) fn allows_filter(&self, filter: &TopicFilter, client: &Client) -> bool {
        if self.literal {
            return self.is_written(filter, client) == Same::Yes;
        }
        let mut theirs = filter.levels();
        for (depth, mine) in self.levels.iter().enumerate() {
            let level = theirs.next();
            match (mine, level) {
                (Level::Plus | Level::Hash, Some(level)) if depth == 0 && level.starts_with('$') => {
                    return false;
                }
                (Level::Hash, _) => return true,
                (_, None | Some("#")) => return false,
                (Level::Plus, Some(_)) => {}
                (mine, Some(level)) if level != "+" && mine.is(level, client) == Same::Yes => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether it denies `client` a part of what a subscription to `filter` brings.
    pub(super) fn denies_filter(&self, filter: &TopicFilter, client: &Client) -> bool {
        if self.literal {
            return self.is_written(filter, client) != Same::No;
        }
        let mut theirs = filter.levels();
        for (depth, mine) in self.levels.iter().enumerate() {
            let level = theirs.next();
            match (mine, level) {
                (Level::Hash, _) => return true,
                // Wildcards at the root of a subscription bring nothing that begins with `$`.
                (mine, Some("#" | "+")) if depth == 0 && mine.is_dollar() => return false,
                // `a/#` has its parent `a`, too.
                (_, Some("#")) => return true,
                (_, None) => return false,
                (Level::Plus, Some(_)) | (_, Some("+")) => {}
                (mine, Some(level)) => match mine.is(level, client) {
                    Same::Yes => {}
                    Same::No => return false,
                    Same::Unknown => return true,
                },
            }
        }
        matches!(theirs.next(), None | Some("#"))
    }

    /// Whether `filter` is written as this.
    fn is_written(&self, filter: &TopicFilter, client: &Client) -> Same {
        let mut theirs = filter.levels();
        for mine in &self.levels {
            let Some(level) = theirs.next() else { return Same::No };
            let same = match mine {
                Level::Plus if level == "+" => Same::Yes,
                Level::Hash if level == "#" => Same::Yes,
                mine => mine.is(level, client),
            };
            if same != Same::Yes {
                return same;
            }
        }
        if theirs.next().is_none() { Same::Yes } else { Same::No }
    }
}

/// Reads one level.
fn level(text: &str) -> Result<Level, PatternError> {
    match text {
        "+" => return Ok(Level::Plus),
        "#" => return Ok(Level::Hash),
        _ => {}
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, found) = rest.split_at(start);
        let known = PLACEHOLDERS.iter().find_map(|(name, field)| Some((found.strip_prefix(name)?, *field)));
        let Some((after, field)) = known else {
            let end = found.find('}').map_or(found.len(), |end| end + 1);
            return Err(PatternError::Placeholder(found.get(..end).unwrap_or(found).to_owned()));
        };
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        parts.push(Part::Field(field));
        rest = after;
    }
    if parts.is_empty() {
        return Ok(Level::Text(text.into()));
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    Ok(Level::Parts(parts.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::test_client;
    use super::*;

    fn pattern(text: &str) -> Pattern {
        match text.strip_prefix("eq ") {
            Some(rest) => Pattern::parse(rest, true).unwrap(),
            None => Pattern::parse(text, false).unwrap(),
        }
    }

    #[test]
    fn topics_are_allowed_as_filters_match_and_denied_as_guards_do() {
        let client = test_client("c1", Some("u1"));
        for (text, topic, allows, denies) in [
            ("a/b", "a/b", true, true),
            ("a/+", "a/b", true, true),
            ("a/+", "a", false, false),
            ("a/#", "a", true, true),
            ("a/#", "a/b/c", true, true),
            ("a/#", "ab", false, false),
            ("#", "$SYS/x", false, true),
            ("+/x", "$SYS/x", false, true),
            ("$SYS/#", "$SYS/x", true, true),
            ("d/${clientid}/x", "d/c1/x", true, true),
            ("d/${clientid}/x", "d/c2/x", false, false),
            ("d/${clientid}", "d/c1/x", false, false),
            ("d/dev-${clientid}.${username}!", "d/dev-c1.u1!", true, true),
            ("d/dev-${clientid}.${username}!", "d/dev-c1.u1", false, false),
            ("${username}/#", "u1/a/b", true, true),
            ("eq a/b", "a/b", true, true),
            ("eq a/+", "a/b", false, false),
            ("eq #", "a", false, false),
            ("eq a/#", "a", false, false),
        ] {
            let (pattern, topic) = (pattern(text), topic.parse().unwrap());
            assert_eq!(pattern.allows_topic(&topic, &client), allows, "{text} allows {topic}");
            assert_eq!(pattern.denies_topic(&topic, &client), denies, "{text} denies {topic}");
        }
    }

    #[test]
    fn a_filter_is_allowed_when_it_is_covered_and_denied_when_it_is_touched() {
        let client = test_client("c1", Some("u1"));
        for (text, filter, allows, denies) in [
            ("a/#", "a/#", true, true),
            ("a/#", "a/+/b", true, true),
            ("a/#", "a", true, true),
            ("a/#", "#", false, true),
            ("a/#", "+/b", false, true),
            ("a/#", "b/#", false, false),
            ("a/+", "a/#", false, true),
            ("a/+", "a/+", true, true),
            ("a/b", "a/+", false, true),
            ("a/b", "a/b/#", false, true),
            ("a/b", "a/b/c", false, false),
            ("a/b", "a", false, false),
            ("a/b/c", "a/b", false, false),
            ("#", "$SYS/#", false, true),
            ("#", "#", true, true),
            ("+/x", "$SYS/x", false, true),
            ("$SYS/#", "#", false, false),
            ("$SYS/#", "+/x", false, false),
            ("$SYS/#", "$SYS/+", true, true),
            ("d/${clientid}/#", "d/c1/#", true, true),
            ("d/${clientid}/#", "d/c1", true, true),
            ("d/${clientid}/#", "d/+/#", false, true),
            ("d/${clientid}/#", "d/#", false, true),
            ("d/${clientid}/#", "d/c2/#", false, false),
            ("eq #", "#", true, true),
            ("eq #", "a/#", false, false),
            ("eq a/+", "a/+", true, true),
            ("eq a/+", "a/b", false, false),
            ("eq ${clientid}/#", "c1/#", true, true),
            ("$dev-${clientid}/#", "#", false, false),
        ] {
            let (pattern, filter) = (pattern(text), filter.parse().unwrap());
            assert_eq!(pattern.allows_filter(&filter, &client), allows, "{text} allows {filter}");
            assert_eq!(pattern.denies_filter(&filter, &client), denies, "{text} denies {filter}");
        }
    }

    #[test]
    fn a_value_that_is_no_piece_of_a_level_never_widens_what_a_client_may_do() {
        for id in ["+", "#", "a/b", "a+", "$SYS", "x\0y", "/", "c/#"] {
            let client = test_client(id, None);
            for text in ["${clientid}/#", "${username}/#", "eq ${clientid}/#"] {
                let pattern = pattern(text);
                for topic in ["a/b", "$SYS/x", "x"] {
                    assert!(!pattern.allows_topic(&topic.parse().unwrap(), &client), "{id}: {text} {topic}");
                }
                for filter in ["+/#", "#", "a/b/#", "$SYS/#", "x/#"] {
                    let filter = filter.parse().unwrap();
                    assert!(!pattern.allows_filter(&filter, &client), "{id}: {text} {filter}");
                }
            }
            // What is denied to it under its own name stays denied, however the name is written.
            let pattern = pattern("private/${clientid}/#");
            for topic in ["private/a/b", "private/x"] {
                assert!(pattern.denies_topic(&topic.parse().unwrap(), &client), "{id}: {topic}");
            }
            for filter in ["private/#", "private/a/b/+", "private/+"] {
                assert!(pattern.denies_filter(&filter.parse().unwrap(), &client), "{id}: {filter}");
            }
            assert!(!pattern.denies_topic(&"public/x".parse().unwrap(), &client), "{id}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let error = |text| Pattern::parse(text, false).unwrap_err();
        assert_eq!(error("a/#/b"), PatternError::Topic(TopicError::Hash));
        assert_eq!(error("a+/${clientid}"), PatternError::Topic(TopicError::Plus));
        assert_eq!(error("a/${clientid}+"), PatternError::Topic(TopicError::Plus));
        assert_eq!(error(""), PatternError::Topic(TopicError::Empty));
        assert_eq!(error("a/${user}/b"), PatternError::Placeholder("${user}".into()));
        assert_eq!(error("a/${clientid"), PatternError::Placeholder("${clientid".into()));
        assert_eq!(error("$share/g/a"), PatternError::Share);
        assert!(Pattern::parse("$SYS/#", false).is_ok());
    }
}
