//! The password file: a user a line, `NAME:HASH`, and comments (`#`).

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use bytestring::ByteString;
use tidegate_store::config::{Diagnostic, Place};

use super::hashing::Hash;

/// The users of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Passwords {
    users: HashMap<ByteString, Hash>,
    /// All hashes; strangers are checked against one of them.
    hashes: Vec<Hash>,
}

impl Passwords {
    /// Reads `text`, the content of `file`.
    ///
    /// # Errors
    /// Every problem of the file, with line and column. Hashes are not repeated in them.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let (mut users, mut problems) = (HashMap::new(), Vec::new());
        let mut hashes = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let mut problem = |column: usize, message: String| {
                let place = Place { file: file.to_owned(), line: number + 1, column, ..Place::default() };
                problems.push(place.error(message));
            };
            let (name, hash) = match entry(line) {
                Some(Ok(found)) => found,
                Some(Err(message)) => {
                    problem(1, message.to_owned());
                    continue;
                }
                None => continue,
            };
            match Hash::parse(hash) {
                Ok(hash) => {
                    hashes.push(hash.clone());
                    if users.insert(ByteString::from(name), hash).is_some() {
                        problem(1, format!("the user {name:?} has a line already"));
                    }
                }
                Err(error) => problem(name.chars().count() + 2, error.to_string()),
            }
        }
        if problems.is_empty() { Ok(Self { users, hashes }) } else { Err(problems) }
    }

    /// How many users there are.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is a user of this name.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    /// What a password of `name` is to be checked against, and whether that is the user's hash. A stranger gets a hash of
    /// the file, always the same one, so that the time of an answer does not tell who is in it. `None`: the file has no user.
    pub(super) fn hash(&self, name: &str) -> Option<(Hash, bool)> {
        if let Some(hash) = self.users.get(name) {
            return Some((hash.clone(), true));
        }
        // The hash is keyed anew in every process.
        let count = u64::try_from(self.hashes.len()).ok().filter(|count| *count > 0)?;
        let at = usize::try_from(self.users.hasher().hash_one(name) % count).ok()?;
        self.hashes.get(at).map(|hash| (hash.clone(), false))
    }
}

/// The name and the hash in a line; `None`: it is empty or a comment.
fn entry(line: &str) -> Option<Result<(&str, &str), &'static str>> {
    if line.trim().is_empty() || line.starts_with('#') {
        return None;
    }
    Some(match line.split_once(':') {
        Some(("", _)) => Err("the name before the colon is missing"),
        Some((name, hash)) => Ok((name, hash.trim_end())),
        None => Err("expected NAME:HASH, as `tidegate passwd` writes it"),
    })
}

/// Why a user of this name cannot stand in the file.
pub(super) fn objection(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("a user name is not empty");
    }
    if name.len() > usize::from(u16::MAX) {
        return Some("a user name has at most 65535 bytes (MQTT 5 clause 1.5.4)");
    }
    if name.contains(':') || name.chars().any(char::is_control) {
        return Some("a user name in the file holds neither a colon nor control characters");
    }
    if name.starts_with('#') || name.trim().is_empty() {
        return Some("a user name in the file does not begin with # and is not only spaces");
    }
    None
}

/// The text of the file with this hash for `name`, or without the user; everything else stays as it is. `None`: there is no
/// such user to be taken out.
pub(super) fn edited(text: &str, name: &str, hash: Option<&Hash>) -> Option<String> {
    let new = hash.map(|hash| format!("{name}:{}\n", hash.text()));
    let (mut edited, mut found) = (String::with_capacity(text.len() + 128), false);
    for line in text.lines() {
        if matches!(entry(line), Some(Ok((known, _))) if known == name) {
            // A second line of the user would be an error: it goes.
            if !std::mem::replace(&mut found, true) {
                edited.extend(new.as_deref());
            }
            continue;
        }
        edited += line;
        edited.push('\n');
    }
    if !found {
        edited += new.as_deref()?;
    }
    Some(edited)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HASH: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn problems(text: &str) -> Vec<String> {
        Passwords::parse("p", text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn users_comments_and_empty_lines_are_read() {
        let text = format!("# devices\n\nd1:{HASH}\r\nzwei Wörter:{HASH}\n  \n");
        let passwords = Passwords::parse("p", &text).unwrap();
        assert_eq!(passwords.len(), 2);
        assert!(passwords.knows("d1") && passwords.knows("zwei Wörter") && !passwords.knows("d"));
        assert!(passwords.hash("d1").unwrap().1);
        assert_eq!(passwords.hash("x").unwrap(), (Hash::parse(HASH).unwrap(), false));
        assert!(Passwords::parse("p", "# nobody\n").unwrap().hash("x").is_none());
    }

    #[test]
    fn a_stranger_is_always_checked_at_the_same_cost_and_all_costs_occur() {
        let cheap = HASH.replace("m=65536", "m=8");
        let passwords = Passwords::parse("p", &format!("a:{HASH}\nb:{cheap}\n")).unwrap();
        let mut seen = std::collections::HashSet::new();
        for number in 0..100 {
            let name = format!("s{number}");
            let (hash, is_own) = passwords.hash(&name).unwrap();
            assert!(!is_own);
            assert_eq!(passwords.clone().hash(&name).unwrap().0, hash);
            seen.insert(hash.text().to_owned());
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn mistakes_name_line_and_column_and_no_hash() {
        let other = HASH.replace("argon2id", "argon2i");
        let text = format!("a:{HASH}\nno colon\n:{HASH}\na:{HASH}\nü:plain-secret\nb:{other}\n");
        let list = problems(&text);
        let starts = [
            "p:2:1: expected NAME:HASH",
            "p:3:1: the name before the colon",
            "p:4:1: the user \"a\" has a line already",
            "p:5:3: no hash in PHC form",
            "p:6:3: hashed with argon2i",
        ];
        assert_eq!(list.len(), starts.len(), "{list:?}");
        for (problem, start) in list.iter().zip(starts) {
            assert!(problem.starts_with(start), "{problem}");
            assert!(!problem.contains("plain-secret"), "{problem}");
        }
    }

    #[test]
    fn editing_keeps_everything_else() {
        let other = Hash::parse(&HASH.replace("m=65536", "m=8")).unwrap();
        let text = format!("# one\na:{HASH}\n\nb:{HASH}\na:{HASH}");
        let changed = edited(&text, "a", Some(&other)).unwrap();
        assert_eq!(changed, format!("# one\na:{}\n\nb:{HASH}\n", other.text()));
        let added = edited(&text, "c", Some(&other)).unwrap();
        assert_eq!(added, format!("{text}\nc:{}\n", other.text()));
        assert_eq!(edited(&text, "a", None).unwrap(), format!("# one\n\nb:{HASH}\n"));
        assert_eq!(edited(&text, "c", None), None);
        assert_eq!(edited("", "a", Some(&other)).unwrap(), format!("a:{}\n", other.text()));
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        for name in ["", "a:b", "a\nb", "#a", "  ", "a\0"] {
            assert!(objection(name).is_some(), "{name:?}");
        }
        for name in ["a", "a b", "é", "a#", "$x"] {
            assert_eq!(objection(name), None, "{name:?}");
        }
        assert!(objection(&"x".repeat(65_536)).is_some());
    }
}
