//! The ACL: which clients may publish and subscribe to what.
//!
//! A file of ordered lines; the first that matches decides, and when none does, the default of the configuration:
//!
//! ```text
//! allow|deny  user NAME | client ID | addr CIDR | all   publish|subscribe|pubsub   [eq] FILTER ..
//! ```

use std::collections::HashMap;

use bytestring::ByteString;
use tidegate_event::{Client, TopicFilter, TopicName};
use tidegate_store::config::{Diagnostic, Place};

use super::network::{Network, is_local};
use super::pattern::Pattern;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Publish,
    Subscribe,
    Both,
}

impl Action {
    fn publishes(self) -> bool {
        self != Self::Subscribe
    }

    fn subscribes(self) -> bool {
        self != Self::Publish
    }
}

/// Whom a line is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    User(ByteString),
    Client(ByteString),
    Address(Network),
    All,
}

/// A line.
#[derive(Clone, Debug)]
struct Rule {
    allows: bool,
    /// Where clients must come from; those about names are found by these.
    network: Option<Network>,
    action: Action,
    patterns: Box<[Pattern]>,
}

/// Lines by number, and where those about one client are.
#[derive(Clone, Debug, Default)]
pub(super) struct Acl {
    rules: Vec<Rule>,
    users: HashMap<ByteString, Vec<usize>>,
    clients: HashMap<ByteString, Vec<usize>>,
    others: Vec<usize>,
}

impl Acl {
    /// Reads `text`, the content of `file`.
    ///
    /// # Errors
    /// Every problem of the file, with line and column.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let (mut acl, mut problems) = (Self::default(), Vec::new());
        for (number, line) in text.lines().enumerate() {
            let words = match split(line) {
                Ok(words) if words.is_empty() => continue,
                Ok(words) => words,
                Err(mistake) => {
                    problems.push(mistake.at(file, number));
                    continue;
                }
            };
            match parse_line(line, &words) {
                Ok((who, rule)) => acl.push(who, rule),
                Err(mistake) => problems.push(mistake.at(file, number)),
            }
        }
        if problems.is_empty() { Ok(acl) } else { Err(problems) }
    }

    fn push(&mut self, who: Who, mut rule: Rule) {
        let number = self.rules.len();
        let list = match who {
            Who::User(name) => self.users.entry(name).or_default(),
            Who::Client(id) => self.clients.entry(id).or_default(),
            Who::Address(network) => {
                rule.network = Some(network);
                &mut self.others
            }
            Who::All => &mut self.others,
        };
        list.push(number);
        self.rules.push(rule);
    }

    /// How many lines it has.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it has lines about users.
    pub(super) fn names_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// Whether `client` may publish to `topic`; `None`: no line matches.
    pub(super) fn publish(&self, client: &Client, topic: &TopicName) -> Option<bool> {
        self.decide(client, Action::publishes, |allows, pattern| {
            if allows { pattern.allows_topic(topic, client) } else { pattern.denies_topic(topic, client) }
        })
    }

    /// Whether `client` may have all that `filter` brings; `None`: no line matches. A line that allows matches when one
    /// of its filters covers the whole, one that denies when one of them meets a part.
    pub(super) fn subscribe(&self, client: &Client, filter: &TopicFilter) -> Option<bool> {
        self.decide(client, Action::subscribes, |allows, pattern| {
            if allows { pattern.allows_filter(filter, client) } else { pattern.denies_filter(filter, client) }
        })
    }

    /// What the first line says that is about `client` and `action`, and one of whose filters `matches`.
    fn decide(
        &self,
        client: &Client,
        action: fn(Action) -> bool,
        matches: impl Fn(bool, &Pattern) -> bool,
    ) -> Option<bool> {
        let none: &[usize] = &[];
        let of_user = client.username.as_ref().and_then(|name| self.users.get(name));
        let mut lists =
            [&*self.others, of_user.map_or(none, |l| l), self.clients.get(&client.id).map_or(none, |l| l)];
        let address = client.peer.ip().to_canonical();
        // Its address is that of the proxy, or of the browser that a foreign page has it from: it is no reason to allow.
        let is_elsewhere = client.forwarded && is_local(address);
        let is_from = |rule: &Rule| {
            let is_in = |network: Network| network.contains(address) && !(rule.allows && is_elsewhere);
            rule.network.is_none_or(is_in)
        };
        loop {
            let rest = lists.iter_mut().filter(|list| !list.is_empty());
            let list = rest.min_by_key(|list| list.first().copied())?;
            let (number, rest) = list.split_first()?;
            *list = rest;
            let rule = self.rules.get(*number)?;
            if action(rule.action)
                && is_from(rule)
                && rule.patterns.iter().any(|pattern| matches(rule.allows, pattern))
            {
                return Some(rule.allows);
            }
        }
    }
}

/// A word of a line, and the character at which it begins, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    column: usize,
    text: String,
    quoted: bool,
}

/// What is wrong with a line, and where.
#[derive(Debug)]
struct Mistake {
    column: usize,
    message: String,
}

impl Mistake {
    fn new(column: usize, message: impl Into<String>) -> Self {
        Self { column, message: message.into() }
    }

    /// In the line of `file` with this number, counted from 0.
    fn at(self, file: &str, line: usize) -> Diagnostic {
        let place = Place { file: file.to_owned(), line: line + 1, column: self.column, ..Place::default() };
        place.error(self.message)
    }
}

/// Splits a line at white space. A word in double quotes may hold it; `\"` and `\\` stand for themselves there. A line that
/// begins with `#` is a comment.
fn split(line: &str) -> Result<Vec<Word>, Mistake> {
    let mut words: Vec<Word> = Vec::new();
    let mut characters = line.chars().zip(1..).peekable();
    while let Some((character, column)) = characters.next() {
        if character.is_whitespace() {
            continue;
        }
        if words.is_empty() && character == '#' {
            break;
        }
        let mut word = Word { column, text: String::new(), quoted: character == '"' };
        if word.quoted {
            let mut closed = false;
            while let Some((character, _)) = characters.next() {
                match character {
                    '"' => {
                        closed = true;
                        break;
                    }
                    '\\' => match characters.next() {
                        Some((escaped @ ('"' | '\\'), _)) => word.text.push(escaped),
                        other => {
                            let column = other.map_or(column, |(_, column)| column);
                            return Err(Mistake::new(column, "in quotes, \\ stands before \" or \\ only"));
                        }
                    },
                    other => word.text.push(other),
                }
            }
            if !closed {
                return Err(Mistake::new(column, "a quote that does not end in this line"));
            }
            if let Some((next, column)) = characters.peek()
                && !next.is_whitespace()
            {
                return Err(Mistake::new(*column, "a space is missing after the quote"));
            }
        } else {
            word.text.push(character);
            while let Some((character, _)) = characters.next_if(|(next, _)| !next.is_whitespace()) {
                word.text.push(character);
            }
        }
        words.push(word);
    }
    Ok(words)
}

/// Reads the words of `line`.
fn parse_line(line: &str, words: &[Word]) -> Result<(Who, Rule), Mistake> {
    let end = line.trim_end().chars().count() + 1;
    let mut words = words.iter();
    let mut next = |expected: &str| {
        words
            .next()
            .ok_or_else(|| Mistake::new(end, format!("expected {expected}, found the end of the line")))
    };
    let unexpected = |word: &Word, expected: &str| {
        Mistake::new(word.column, format!("expected {expected}, found {:?}", word.text))
    };
    let word = next("allow or deny")?;
    let allows = match &*word.text {
        "allow" => true,
        "deny" => false,
        _ => return Err(unexpected(word, "allow or deny")),
    };
    let word = next(WHO)?;
    let who = match &*word.text {
        "all" => Who::All,
        "user" => Who::User(next("the name of a user")?.text.as_str().into()),
        "client" => Who::Client(next("a client id")?.text.as_str().into()),
        "addr" => {
            let word = next(NETWORK)?;
            Who::Address(Network::parse(&word.text).ok_or_else(|| unexpected(word, NETWORK))?)
        }
        _ => return Err(unexpected(word, WHO)),
    };
    let word = next(ACTION)?;
    let action = match &*word.text {
        "publish" => Action::Publish,
        "subscribe" => Action::Subscribe,
        "pubsub" => Action::Both,
        _ => return Err(unexpected(word, ACTION)),
    };
    let mut patterns = Vec::new();
    let mut word = next("a topic filter (# for all)")?;
    loop {
        let literal = word.text == "eq" && !word.quoted;
        if literal {
            word = next("the filter that eq stands before")?;
        }
        let pattern = Pattern::parse(&word.text, literal);
        patterns.push(pattern.map_err(|error| Mistake::new(word.column, error.to_string()))?);
        match next("") {
            Ok(more) => word = more,
            Err(_) => break,
        }
    }
    Ok((who, Rule { allows, network: None, action, patterns: patterns.into() }))
}

const WHO: &str = "user NAME, client ID, addr NETWORK or all";
const NETWORK: &str = "an address or a network such as 10.0.0.0/8 or fd00::/8";
const ACTION: &str = "publish, subscribe or pubsub";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::test_client;
    use super::*;

    fn acl(text: &str) -> Acl {
        Acl::parse("acl", text).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    fn problems(text: &str) -> Vec<String> {
        Acl::parse("a.acl", text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    fn from(address: &str, client: Client) -> Client {
        Client { peer: format!("{address}:1").parse().unwrap(), ..client }
    }

    #[test]
    fn the_first_line_that_matches_decides() {
        let acl = acl("
            # Comments and empty lines do not count.
            deny   client c2  publish  shared/#
            allow  user u1    pubsub   shared/# eq #
            allow  all        subscribe public/#
            deny   all        pubsub   shared/# private/#
            allow  addr 10.0.0.0/8 publish private/#
        ");
        let (one, two, three) =
            (test_client("c1", Some("u1")), test_client("c2", Some("u1")), test_client("c3", None));
        for (client, topic, expected) in [
            (&one, "shared/x", Some(true)),
            (&two, "shared/x", Some(false)),
            (&three, "shared/x", Some(false)),
            (&one, "private/x", Some(false)),
            (&one, "public/x", None),
            (&one, "other", None),
        ] {
            assert_eq!(acl.publish(client, &topic.parse().unwrap()), expected, "{} {topic}", client.id);
        }
        let near = from("10.1.2.3", test_client("c4", None));
        assert_eq!(acl.publish(&near, &"private/x".parse().unwrap()), Some(false), "the line before it");
        for (client, filter, expected) in [
            (&two, "shared/#", Some(true)),
            (&three, "shared/+/x", Some(false)),
            (&three, "+/x", Some(false)),
            (&three, "public/+", Some(true)),
            (&one, "#", Some(true)),
            (&three, "#", Some(false)),
            (&three, "other/#", None),
        ] {
            assert_eq!(acl.subscribe(client, &filter.parse().unwrap()), expected, "{} {filter}", client.id);
        }
    }

    #[test]
    fn a_subscription_needs_one_line_that_covers_it_before_one_that_meets_it() {
        let acl = acl("allow all subscribe a/b c/#\ndeny all subscribe a/+ c/d\nallow all subscribe #");
        let client = test_client("c", None);
        for (filter, expected) in [
            ("a/b", Some(true)),
            ("a/c", Some(false)),
            ("a/+", Some(false)),
            ("a/#", Some(false)),
            ("c/#", Some(true)),
            ("c/d", Some(true)),
            ("+/d", Some(false)),
            ("b/#", Some(true)),
            ("$SYS/#", None),
        ] {
            assert_eq!(acl.subscribe(&client, &filter.parse().unwrap()), expected, "{filter}");
        }
    }

    #[test]
    fn networks_are_those_of_the_peer() {
        let acl = acl(
            "allow addr 192.168.1.0/24 publish #\nallow addr fd00::/8 publish #\nallow addr 10.0.0.7 publish #",
        );
        let topic = "t".parse().unwrap();
        for (address, expected) in [
            ("192.168.1.200", Some(true)),
            ("192.168.2.1", None),
            ("[::ffff:192.168.1.1]", Some(true)),
            ("[fd12::1]", Some(true)),
            ("[fe80::1]", None),
            ("10.0.0.7", Some(true)),
            ("10.0.0.8", None),
        ] {
            let client = from(address, test_client("c", None));
            assert_eq!(acl.publish(&client, &topic), expected, "{address}");
        }
    }

    /// Whom a proxy on this machine handed on had what was meant for this machine.
    #[test]
    fn who_is_handed_on_by_a_local_proxy_is_allowed_nothing_for_its_address() {
        let acl = acl("deny addr 127.0.0.0/8 publish secret\nallow addr 127.0.0.1 pubsub #\n\
                       allow addr ::1 pubsub #\nallow addr 10.0.0.7 pubsub #\nallow all publish open");
        for (address, forwarded, topic, expected) in [
            ("127.0.0.1", false, "t", Some(true)),
            ("127.0.0.1", true, "t", None),
            ("127.0.0.1", true, "open", Some(true)),
            ("127.0.0.1", true, "secret", Some(false)),
            ("[::1]", false, "t", Some(true)),
            ("[::1]", true, "t", None),
            ("[::ffff:127.0.0.1]", true, "t", None),
            // A proxy on another machine is whom the line names.
            ("10.0.0.7", true, "t", Some(true)),
        ] {
            let client = from(address, Client { forwarded, ..test_client("c", None) });
            assert_eq!(acl.publish(&client, &topic.parse().unwrap()), expected, "{address} {topic}");
            let filter = acl.subscribe(&client, &topic.parse().unwrap());
            assert_eq!(filter, expected.filter(|_| topic == "t"), "{address} {topic}");
        }
    }

    #[test]
    fn names_with_spaces_are_quoted() {
        let acl = acl(r#"allow user "two words" publish "a b/#" "eq"
            allow client "say \"hi\" \\" publish x"#);
        let client = test_client("c", Some("two words"));
        assert_eq!(acl.publish(&client, &"a b/c".parse().unwrap()), Some(true));
        assert_eq!(acl.publish(&client, &"eq".parse().unwrap()), Some(true));
        let client = test_client(r#"say "hi" \"#, None);
        assert_eq!(acl.publish(&client, &"x".parse().unwrap()), Some(true));
    }

    #[test]
    fn mistakes_name_line_and_column() {
        assert_eq!(
            problems("allow all publish a\n  alow all publish a\n"),
            ["a.acl:2:3: expected allow or deny, found \"alow\""]
        );
        assert_eq!(problems("allow"), [format!("a.acl:1:6: expected {WHO}, found the end of the line")]);
        assert_eq!(
            problems("allow user"),
            ["a.acl:1:11: expected the name of a user, found the end of the line"]
        );
        assert_eq!(
            problems("allow addr 10.0.0.0/33 publish a"),
            [format!("a.acl:1:12: expected {NETWORK}, found \"10.0.0.0/33\"")]
        );
        assert_eq!(problems("deny all write a"), [format!("a.acl:1:10: expected {ACTION}, found \"write\"")]);
        assert_eq!(
            problems("deny all publish  "),
            ["a.acl:1:17: expected a topic filter (# for all), found the end of the line"]
        );
        assert!(problems("deny all publish a eq")[0].starts_with("a.acl:1:22: expected the filter that eq"));
        assert!(problems("deny all publish a/#/b")[0].starts_with("a.acl:1:18: in a filter # must be"));
        assert!(
            problems("deny all publish é ${user}")[0].starts_with("a.acl:1:20: no such placeholder: ${user}")
        );
        assert!(problems("deny user \"a publish a")[0].starts_with("a.acl:1:11: a quote that does not end"));
        assert!(problems("deny user \"a\"b publish a")[0].starts_with("a.acl:1:14: a space is missing"));
        assert!(problems(r#"deny user "a\n" publish a"#)[0].starts_with("a.acl:1:14: in quotes"));
        assert_eq!(problems("x\ny\n").len(), 2, "all mistakes are reported");
    }

    #[test]
    fn many_lines_about_others_cost_a_client_nothing() {
        let mut text = String::new();
        for number in 0..10_000 {
            text += &format!("allow user u{number} pubsub d/{number}/#\n");
        }
        let acl = acl(&text);
        assert_eq!(acl.len(), 10_000);
        let client = test_client("c", Some("u9999"));
        assert_eq!(acl.publish(&client, &"d/9999/x".parse().unwrap()), Some(true));
        assert_eq!(acl.users.get("u9999").map(Vec::len), Some(1));
        assert!(acl.others.is_empty());
    }
}
