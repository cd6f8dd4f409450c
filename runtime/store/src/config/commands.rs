//! Redis commands in a hook line: what can be wrong with one before any server has seen it.

use tidegate_event::Hook;

use super::diagnostic::suggestion;

/// Checks a command: words divided by single spaces, the first of them literal, variables that `hook` offers.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(text: &str, hook: Hook) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("the command is empty".into());
    }
    for (index, argument) in text.split(' ').enumerate() {
        if argument.is_empty() {
            return Err("arguments are divided by exactly one space: found an empty one".into());
        }
        if index == 0 && argument.contains("${") {
            return Err("the command itself cannot be a variable".into());
        }
        variables(argument, hook)?;
    }
    Ok(())
}

fn variables(argument: &str, hook: Hook) -> Result<(), String> {
    let mut rest = argument;
    while let Some(at) = rest.find("${") {
        let after = rest.get(at + 2..).unwrap_or_default();
        let Some((name, behind)) = after.split_once('}') else {
            return Err("a `${` is not closed".into());
        };
        let fields = hook.row().fields;
        if !fields.iter().any(|field| field.name() == name) {
            let near = suggestion(name, fields.iter().map(|field| field.name()));
            return Err(format!("{} has no variable ${{{name}}}{near}", hook.name()));
        }
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_of_the_documents_are_well() {
        for (hook, text) in [
            (Hook::ClientConnected, "SET conn:${clientid} ${clientid}"),
            (Hook::ClientDisconnected, "SET disconn:${clientid} ${clientid}"),
            (Hook::SessionSubscribed, "HSET sub:${clientid} ${topic} ${qos}"),
            (Hook::SessionUnsubscribed, "SET unsub:${clientid} ${topic}"),
            (Hook::SessionUnsubscribed, "DEL mqtt:acked:${clientid}:${topic}"),
            (Hook::MessagePublish, "RPUSH pub:${topic} ${msgid}"),
            (Hook::MessagePublish, "SET last ${message}"),
            (Hook::MessageAcked, "HSET ack:${clientid} ${topic} ${msgid}"),
            (Hook::MessageDeliver, "HSET deliver:${clientid} ${topic} ${msgid}"),
        ] {
            assert_eq!(check(text, hook), Ok(()), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("", "is empty"),
            ("SET a  b", "exactly one space"),
            (" SET a b", "exactly one space"),
            ("SET a b ", "exactly one space"),
            ("${clientid} a", "cannot be a variable"),
            ("SET a ${clientid", "is not closed"),
            ("SET a ${topic}", "client.connected has no variable ${topic}"),
            ("SET a ${clientId}", "did you mean \"clientid\"?"),
        ] {
            let result = check(text, Hook::ClientConnected);
            assert!(result.as_ref().is_err_and(|error| error.contains(words)), "{text}: {result:?}");
        }
    }
}
