//! Tests of loading: every kind of mistake, in both front ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use tidegate_event::{AckLevel, Hook};

use super::*;

fn conf(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    load(&[("a.conf".to_owned(), text.to_owned())], None)
}

fn errors(result: Result<Loaded, Vec<Diagnostic>>) -> Vec<String> {
    result.unwrap_err().iter().map(ToString::to_string).collect()
}

/// One error, with these words in it.
fn only_error(text: &str) -> String {
    let all = errors(conf(text));
    assert_eq!(all.len(), 1, "{all:#?}");
    all.into_iter().next().unwrap()
}

const POOL: &str = "backend.sqlite.pool1.path = x.db\n";

#[test]
fn a_line_of_every_kind_loads() {
    let loaded = conf(&format!(
        "{POOL}{}",
        r##"
backend.sqlite.pool1.pool_size = 3
backend.sqlite.hook.message.publish.2 = {"topic": "a/#", "action": {"function": "on_message_publish"}, "pool": "pool1", "ack": "accepted"}
backend.sqlite.hook.message.publish.1 = {"action": {"sql": ["delete from t where a = ${topic}", "delete from u"]}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.1= {"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 500, "time_range": "2h"}, "pool": "pool1"}
backend.sqlite.hook.client.connected.1 = {"topic": "ignored/#", "action": {"function": "on_client_connected"}, "pool": "pool1"}
"##
    ))
    .unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert!(config.has_pool("sqlite", "pool1") && !config.has_pool("sqlite", "default"));
    assert_eq!(config.pools.first().unwrap().integer("pool_size"), Some(3));
    let hooks: Vec<_> = config.hooks.iter().map(|line| (line.hook, line.n)).collect();
    assert_eq!(
        hooks,
        [
            (Hook::ClientConnected, 1),
            (Hook::SessionSubscribed, 1),
            (Hook::MessagePublish, 1),
            (Hook::MessagePublish, 2)
        ]
    );
    let [connected, subscribed, custom, publish] = &*config.hooks else { panic!("four lines") };
    assert!(connected.topic.is_none(), "a hook without a topic ignores the filter");
    assert_eq!(subscribed.options.max_returned_count, Some(500));
    assert_eq!(subscribed.options.time_range_ms, Some(7_200_000));
    assert!(matches!(&custom.action, LineAction::Statements(s) if s.len() == 2));
    assert_eq!((custom.ack, publish.ack), (AckLevel::Stored, AckLevel::Accepted));
    assert_eq!(publish.topic.as_ref().unwrap().as_str(), "a/#");
}

#[test]
fn the_same_in_toml_with_lines_of_the_whole_file() {
    let text = r##"[node]
name = "x@y"

[backend.sqlite.pool1]
path = "./data/mqtt.db"
pool_size = 4

[[backend.sqlite.hook]]
hook = "message.publish"
topic = "#"
action = { function = "on_message_publish" }
pool = "pool1"

[[backend.sqlite.hook]]
hook = "message.publish"
n = 1
topic = "#"
action = { function = "on_mesage_retain" }
pool = "pool1"
"##;
    let all = errors(load(&[], Some(("tidegate.toml", text))));
    let expected = "tidegate.toml:18:23: backend.sqlite.hook[1]: action.function: unknown function \
                    \"on_mesage_retain\"; did you mean \"on_message_retain\"?";
    assert_eq!(all, [expected]);
    let text = text.replace("on_mesage_retain", "on_message_retain");
    let loaded = load(&[], Some(("tidegate.toml", &text))).unwrap();
    assert_eq!(loaded.config.hooks.iter().map(|l| l.n).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(loaded.config.pools.first().unwrap().text("path"), Some("./data/mqtt.db"));
}

#[test]
fn an_empty_table_is_a_pool_with_defaults() {
    let loaded = load(&[], Some(("t.toml", "[backend.sqlite.pool1]"))).unwrap();
    assert!(loaded.config.has_pool("sqlite", "pool1"));
}

#[test]
fn mistakes_in_toml_have_places() {
    for (text, expected) in [
        ("a = [", "t.toml:1:"),
        ("backend = 5", "t.toml:1:11: backend: expected a table"),
        ("[backend]\nsqlite = 1", "t.toml:2:1: backend.sqlite: expected a table"),
        (
            "[backend.sqlite.p]\npth = \"x\"",
            "t.toml:2:1: backend.sqlite.p.pth: unknown option of sqlite; did you mean \"path\"?",
        ),
        (
            "[backend.sqlite.p]\npath = 5",
            "t.toml:2:1: backend.sqlite.p.path: expected a string, not an integer",
        ),
        (
            "[backend.sqlite.p]\npool_size = \"many\"",
            "t.toml:2:1: backend.sqlite.p.pool_size: expected a number from 1 to 64",
        ),
        ("[backend.sqlite.hook]\nx = 1", "expected a list of tables, written [[backend.sqlite.hook]]"),
        ("[[backend.sqlite.hook]]\npool = \"p\"", "the line has no `hook`"),
        (
            "[backend.mysql.pool1]\nserver = \"x\"",
            "t.toml:1:16: backend.mysql.pool1: back end mysql has no driver in this binary yet (it has: ",
        ),
        ("[backend.tablestore.pool1]\nx = 1", "back end tablestore is not in this binary yet"),
        ("[backend.sqllite.p]\npath = \"x\"", "unknown back end \"sqllite\"; did you mean \"sqlite\"?"),
    ] {
        let all = errors(load(&[], Some(("t.toml", text))));
        assert!(all.len() == 1 && all.iter().all(|e| e.contains(expected)), "{text}: {all:#?}");
    }
}

#[test]
fn every_mistake_in_a_hook_line_has_its_column() {
    let hook = |value: &str| format!("{POOL}backend.sqlite.hook.message.publish.1 = {value}");
    for (value, at, expected) in [
        (
            r#"{"action": {"function": "on_retain_lookup"}, "pool": "pool1"}"#,
            "\"on_retain",
            "it belongs to session.subscribed",
        ),
        (
            r#"{"action": {"function": "on_message_publsh"}, "pool": "pool1"}"#,
            "\"on_message",
            "did you mean \"on_message_publish\"?",
        ),
        (r#"{"action": {"function": 5}, "pool": "pool1"}"#, "5", "expected a string, not an integer"),
        (
            r#"{"action": {"function": "on_message_publish"}, "pool": "pool2"}"#,
            "\"pool2",
            "back end sqlite has no pool \"pool2\"; did you mean \"pool1\"?",
        ),
        (
            r#"{"action": {"function": "on_message_publish"}, "pol": "pool1", "pool": "pool1"}"#,
            "\"pol\"",
            "unknown key; did you mean \"pool\"?",
        ),
        (
            r#"{"action": {"commands": ["DEL x"]}, "pool": "pool1"}"#,
            "[\"DEL",
            "back end sqlite takes `sql`, not `commands`",
        ),
        (r#"{"action": {}, "pool": "pool1"}"#, "{}", "expected one of `function` and `sql`"),
        (
            r#"{"action": {"sql": "delete from t"}, "pool": "pool1"}"#,
            "\"delete",
            "expected a list of strings, not a string",
        ),
        (r#"{"action": {"sql": []}, "pool": "pool1"}"#, "[]", "expected at least one statement"),
        (
            r#"{"action": {"sql": ["delete from t", "delete from t where a = ${clientId}"]}, "pool": "pool1"}"#,
            "\"delete from t where",
            "did you mean \"clientid\"?",
        ),
        (
            r#"{"action": {"sql": ["delete from t where a = '${topic}'"]}, "pool": "pool1"}"#,
            "\"delete",
            "inside quotes",
        ),
        (
            r#"{"action": {"sql": ["delete from ${topic}"]}, "pool": "pool1"}"#,
            "\"delete",
            "in the place of a name",
        ),
        (
            r#"{"topic": "a/#/b", "action": {"function": "on_message_publish"}, "pool": "pool1"}"#,
            "\"a/#/b",
            "no topic filter",
        ),
        (
            r#"{"action": {"function": "on_message_publish"}, "pool": "pool1", "ack": "soon"}"#,
            "\"soon",
            "expected \"stored\" or \"accepted\"",
        ),
        (
            r#"{"action": {"function": "on_message_publish"}, "pool": "pool1", "offline_opts": {"time_range": "2w"}}"#,
            "\"2w",
            "expected a number and s, m, h or d",
        ),
        (
            r#"{"action": {"function": "on_message_publish"}, "pool": "pool1", "offline_opts": {"max_returned_count": 0}}"#,
            "0}",
            "expected a number above 0",
        ),
        (
            r#"{"pool": "pool1", "pool": "pool1", "action": {"function": "on_message_publish"}}"#,
            "\"pool\": \"pool1\", \"action",
            "the key is repeated within the line",
        ),
        (r#"{"pool": "pool1"}"#, "{", "the line has no `action`"),
        (r#"{"action": {"function": "on_message_publish"}}"#, "{", "the line has no `pool`"),
        (r#"{"topic": "x", action": {"function": "on_message_publish"}}"#, "action", "key must be a string"),
    ] {
        let line = hook(value);
        let error = only_error(&line);
        let column = "backend.sqlite.hook.message.publish.1 = ".len() + value.find(at).unwrap() + 1;
        // An unknown or repeated key is pointed at itself, everything else at the value.
        assert!(
            error.starts_with(&format!("a.conf:2:{column}: ")),
            "{value}\n{error} (wanted column {column})"
        );
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn mistakes_in_keys_are_explained() {
    for (text, expected) in [
        ("sqlite.pool1.path = x", "expected `backend.KIND. ...`"),
        ("backend.sqlite.hook.message.publish = {}", "ends in a number"),
        (
            "backend.sqlite.hook.message.publsh.1 = {}",
            "unknown hook \"message.publsh\"; did you mean \"message.publish\"?",
        ),
        (
            "backend.sqlite.hook.client.authorize.1 = {}",
            "client.authorize asks whether a client may do something: only modules can answer, no action can stand on it",
        ),
        ("backend.sqlite.path = x", "expected backend.sqlite.POOL.OPTION"),
        ("backend.sqlite.pool1.pool_size = x", "expected a number from 1 to 64"),
        ("backend.sqlite.pool1.pool_size = 65", "expected a number from 1 to 64"),
        ("backend.sqlite.pool1.path = env:TIDEGATE_NO_SUCH_VARIABLE", "environment variable"),
        ("backend.sqlit.pool1.path = x", "unknown back end \"sqlit\"; did you mean \"sqlite\"?"),
        ("hello", "expected `key = value`"),
    ] {
        let error = only_error(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn all_errors_are_reported_together() {
    let all = errors(conf(
        "backend.sqlite.p.pth = 1\nbackend.mysql.p.server = x\nnonsense\n\
         backend.sqlite.hook.message.publish.1 = {\"action\": {\"function\": \"f\"}, \"pool\": \"q\", \"x\": 1}",
    ));
    assert_eq!(all.len(), 6, "{all:#?}");
}

#[test]
fn options_of_another_back_end_are_accepted_with_a_word() {
    let loaded = conf(&format!("{POOL}backend.sqlite.pool1.server = 127.0.0.1:3306")).unwrap();
    assert_eq!(
        loaded.warnings.first().unwrap().to_string(),
        "a.conf:2:31: backend.sqlite.pool1.server: accepted, no effect on sqlite: the database is the file named by `path`"
    );
}

#[test]
fn a_key_of_two_files_is_the_last_ones() {
    let files = [
        ("a.conf".to_owned(), "backend.sqlite.pool1.path = a.db".to_owned()),
        ("b.conf".to_owned(), "\nbackend.sqlite.pool1.path = b.db".to_owned()),
    ];
    let loaded = load(&files, None).unwrap();
    assert_eq!(loaded.config.pools.first().unwrap().text("path"), Some("b.db"));
    assert!(loaded.warnings.first().unwrap().message.contains("b.conf line 2 replaces a.conf line 1"));
}

#[test]
fn publish_and_store_on_the_same_topics_is_warned_of() {
    let line = |n: u32, topic: &str, function: &str| {
        format!(
            "backend.sqlite.hook.message.publish.{n} = {{\"topic\": \"{topic}\", \"action\": {{\"function\": \"{function}\"}}, \"pool\": \"pool1\"}}\n"
        )
    };
    let both = format!("{POOL}{}{}", line(1, "#", "on_message_publish"), line(4, "a/+", "on_message_store"));
    let warnings = conf(&both).unwrap().warnings;
    assert!(
        warnings.len() == 1 && warnings.iter().all(|w| w.message.contains("stored once")),
        "{warnings:?}"
    );
    let apart =
        format!("{POOL}{}{}", line(1, "b/#", "on_message_publish"), line(4, "a/+", "on_message_store"));
    assert_eq!(conf(&apart).unwrap().warnings, []);
}

#[test]
fn secrets_are_resolved_and_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "/very/secret.db\n").unwrap();
    let loaded = conf(&format!("backend.sqlite.pool1.path = file:{}", file.display())).unwrap();
    assert_eq!(loaded.config.pools.first().unwrap().text("path"), Some("/very/secret.db"));
    assert!(!format!("{loaded:?}").contains("very/secret"));
}

/// Every hook line had its own copy of the whole file and found its positions by reading it from the beginning:
/// 6,000 lines took half a minute.
#[test]
fn reading_hook_lines_is_not_quadratic() {
    let text = |count: usize, separator: &str| {
        let line = |n: usize| {
            format!(
                "{{ hook = \"message.publish\", topic = \"site/{n}/#\", pool = \"p\",{separator}\
                 action = {{ function = \"on_message_{}\" }} }},{separator}",
                if n.is_multiple_of(2) { "publish" } else { "retain" }
            )
        };
        let lines: String = (0..count).map(line).collect();
        format!("[backend.sqlite]\np = {{ path = \"p.db\" }}\nhook = [{separator}{lines}]\n")
    };
    let time = |text: &str, count: usize| {
        let started = std::time::Instant::now();
        let loaded = load(&[], Some(("t.toml", text))).unwrap();
        let took = started.elapsed();
        assert_eq!(loaded.config.hooks.len(), count);
        took
    };
    // What is read to find positions does not depend on who else uses the processor.
    let reads = |text: &str, count: usize| {
        let before = lines::READ.get();
        time(text, count);
        lines::READ.get() - before
    };
    // All in one line is the harder case: columns are counted from its beginning.
    for separator in ["\n", ""] {
        let (few, many) = (text(500, separator), text(4_000, separator));
        for (text, count) in [(&few, 500), (&many, 4_000)] {
            // A line has a dozen positions, and each is found from a mark in its neighbourhood.
            let (read, length) = (reads(text, count), text.len());
            assert!(read > length && read < 40 * length, "{count} lines, {length} bytes: {read} were read");
        }
        // Only now: what is quadratic would fill the memory here. One after the other, so that whatever else runs slows both;
        // the middle of five each.
        let (few, many) = (text(2_000, separator), text(16_000, separator));
        let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            of_few.push(time(&few, 2_000));
            of_many.push(time(&many, 16_000));
        }
        of_few.sort();
        of_many.sort();
        println!("lines separated by {separator:?}: 2,000 {of_few:?}, 16,000 {of_many:?}");
        // 8 times the lines would take 64 times as long.
        let (few, many) = (of_few.remove(2), of_many.remove(2));
        assert!(many < few * 28, "8 times the lines took {few:?} -> {many:?}");
    }
}

/// The name was looked for at the header of its table, one line early, and so were `n` and a misspelt `hook`.
#[test]
fn a_wrong_hook_name_in_toml_is_reported_where_it_stands() {
    let table = |first: &str| {
        format!(
            "[backend.sqlite.p]\npath = \"p.db\"\n\n[[backend.sqlite.hook]]\n{first}\npool = \"p\"\n\
             action = {{ function = \"on_message_publish\" }}\n"
        )
    };
    for (first, expected) in [
        (
            "hook = \"message.publsh\"",
            "t.toml:5:8: backend.sqlite.hook[0]: hook: unknown hook \"message.publsh\"; did you mean \"message.publish\"?",
        ),
        (
            "n = 3\n  hook   =   \"message.publsh\"",
            "t.toml:6:14: backend.sqlite.hook[0]: hook: unknown hook \"message.publsh\"; did you mean \"message.publish\"?",
        ),
        ("hook = 5", "t.toml:5:8: backend.sqlite.hook[0]: hook: expected a string, not an integer"),
        (
            "hok = \"message.publish\"",
            "t.toml:5:1: backend.sqlite.hook[0]: hok: unknown key; did you mean \"hook\"?",
        ),
        (
            "# nothing",
            "t.toml:4:1: backend.sqlite.hook[0]: the line has no `hook`, for instance \"message.publish\"",
        ),
        (
            "n = -1\nhook = \"message.publish\"",
            "t.toml:5:5: backend.sqlite.hook[0]: n: expected a number that is not negative",
        ),
    ] {
        assert_eq!(errors(load(&[], Some(("t.toml", &table(first))))), [expected], "{first}");
    }
    let inline = "backend.sqlite.p.path = \"p.db\"\nbackend.sqlite.hook = [{ pool = \"p\", hook = \"x\" }]\n";
    let all = errors(load(&[], Some(("t.toml", inline))));
    assert!(all.len() == 1 && all.iter().all(|e| e.starts_with("t.toml:2:45: ")), "{all:?}");
}
