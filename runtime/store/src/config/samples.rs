//! The documents' samples, as printed, and every key of every table with every kind of mistake.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use tidegate_event::Hook;

use super::*;
use crate::backend::{OptionKind, OptionRow};

macro_rules! samples {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), include_str!(concat!("../../tests/data/", stringify!($name), ".conf")))),*]
    };
}

/// The whole files.
fn files() -> [(&'static str, &'static str); 10] {
    samples![
        emqx_backend_redis,
        emqx_backend_mysql,
        emqx_backend_pgsql,
        emqx_backend_mongo,
        emqx_backend_cassa,
        emqx_backend_dynamo,
        emqx_backend_dynamo_chapter,
        emqx_backend_influxdb,
        emqx_backend_opentsdb,
        emqx_backend_timescale,
    ]
}

fn sample(name: &str) -> Vec<(String, String)> {
    let (_, text) = files().into_iter().find(|(file, _)| *file == name).unwrap();
    // The one line that is printed broken.
    vec![(format!("{name}.conf"), text.replace("\"#\", action\":", "\"#\", \"action\":"))]
}

fn loaded(name: &str) -> Loaded {
    read(&sample(name), None).unwrap_or_else(|wrong| panic!("{name}: {:#?}", wrong.errors))
}

fn words(findings: &[Diagnostic]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn every_sample_loads_as_printed() {
    for (name, pools, lines) in [
        ("emqx_backend_redis", 1, 13),
        ("emqx_backend_mysql", 1, 11),
        ("emqx_backend_pgsql", 1, 11),
        ("emqx_backend_mongo", 1, 10),
        ("emqx_backend_cassa", 1, 11),
        ("emqx_backend_dynamo", 1, 10),
        ("emqx_backend_dynamo_chapter", 1, 10),
        ("emqx_backend_influxdb", 1, 2),
        ("emqx_backend_opentsdb", 1, 1),
        ("emqx_backend_timescale", 1, 2),
    ] {
        let loaded = loaded(name);
        assert_eq!((loaded.config.pools.len(), loaded.config.hooks.len()), (pools, lines), "{name}");
        assert!(loaded.config.pools.iter().all(|pool| pool.name == "pool1"), "{name}");
        let numbers: Vec<_> = loaded.config.hooks.iter().map(|line| (line.hook, line.n)).collect();
        assert!(numbers.is_sorted(), "{name}");
    }
}

/// Document 003 prints the whole file first and single lines afterwards: a file with both repeats keys, and the
/// warnings name both lines. Nothing else is odd in any sample but one option of another driver, and that Redis looks
/// nothing up by wildcards. What is expected is counted in the texts.
#[test]
fn the_samples_give_no_warning_without_reason() {
    let mut seen = [0; 3];
    for (name, text) in files() {
        let lines =
            || text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.trim(), value));
        let keys: Vec<&str> = lines().map(|(key, _)| key).filter(|key| key.starts_with("backend.")).collect();
        let distinct: BTreeSet<&str> = keys.iter().copied().collect();
        let last_of = |key: &str| lines().rfind(|(other, _)| *other == key).map_or("", |(_, value)| value);
        let loggers =
            distinct.iter().filter(|key| key.starts_with("backend.ecql.") && key.ends_with(".logger"));
        let by_filter = distinct.iter().filter(|key| {
            let value = last_of(key);
            let looks_up = value.contains("on_message_fetch") || value.contains("on_retain_lookup");
            key.starts_with("backend.redis.") && looks_up
        });
        let expected = [keys.len() - distinct.len(), loggers.count(), by_filter.count()];
        let mut found = [0; 3];
        for warning in words(&loaded(name).warnings) {
            let reasons = [
                "the key is repeated: line",
                "pool1.logger: accepted, no effect on cassa",
                "skips subscriptions with wildcards on redis",
            ];
            let reason = reasons.iter().position(|reason| warning.contains(reason));
            found[reason.unwrap_or_else(|| panic!("{name}: {warning}"))] += 1;
        }
        assert_eq!(found, expected, "{name}: repeated keys, loggers, look-ups by wildcard");
        (0..3).for_each(|reason| seen[reason] += found[reason]);
    }
    assert!(seen.iter().all(|count| *count > 0), "each of them is in some sample: {seen:?}");
}

/// A JSON value of a hook line as TOML writes it; keys and texts have the same form in both.
fn inline(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("{key:?} = {}", inline(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The settings of a `.conf` file as the tables of a TOML file. `typed`: numbers and truths without quotes.
fn as_toml(text: &str, typed: bool) -> String {
    let mut tables: BTreeMap<String, String> = BTreeMap::new();
    let mut hooks = String::new();
    let (entries, _) = conf::parse("sample.conf", text);
    for entry in entries {
        if entry.is_hook() {
            let (before, hook) = entry.key.split_once(".hook.").unwrap();
            let (hook, n) = hook.rsplit_once('.').unwrap();
            let line: serde_json::Value = serde_json::from_str(&entry.value).unwrap();
            hooks += &format!("\n[[{before}.hook]]\nhook = {hook:?}\nn = {n}\n");
            for (key, value) in line.as_object().unwrap() {
                hooks += &format!("{key} = {}\n", inline(value));
            }
            continue;
        }
        let (table, option) = entry.key.rsplit_once('.').unwrap();
        let is_plain = entry.value.parse::<u32>().is_ok() || ["true", "false"].contains(&&*entry.value);
        let value = if typed && is_plain { entry.value } else { format!("{:?}", entry.value) };
        *tables.entry(table.to_owned()).or_default() += &format!("{option} = {value}\n");
    }
    let tables = tables.iter().map(|(table, options)| format!("[{table}]\n{options}\n"));
    tables.collect::<String>() + &hooks
}

/// What a configuration means, without the places and the words for them. Secrets are compared apart: they are not printed.
fn meaning(config: &StoreConfig) -> (Vec<String>, Vec<BTreeMap<&'static str, OptionValue>>, Vec<String>) {
    let mut pools: Vec<&PoolConfig> = config.pools.iter().collect();
    pools.sort_by_key(|pool| pool.connector());
    let names = pools.iter().map(|pool| pool.connector()).collect();
    let options = pools.iter().map(|pool| pool.options.clone()).collect();
    let line = |line: &HookLine| {
        let HookLine { kind, pool, hook, n, topic, action, options, ack, place: _ } = line;
        format!("{} {pool} {hook:?} {n} {topic:?} {action:?} {options:?} {ack:?}", kind.name)
    };
    (names, options, config.hooks.iter().map(line).collect())
}

#[test]
fn the_samples_mean_the_same_in_toml() {
    for (name, _) in files() {
        let text = sample(name).remove(0).1;
        let printed = meaning(&loaded(name).config);
        assert!(!printed.0.is_empty() && !printed.2.is_empty(), "{name}");
        for typed in [false, true] {
            let toml = as_toml(&text, typed);
            let read = read(&[], Some(("tidegate.toml", &toml)))
                .unwrap_or_else(|wrong| panic!("{name}: {:#?}\n{toml}", words(&wrong.errors)));
            assert_eq!(meaning(&read.config), printed, "{name}\n{toml}");
            assert!(read.config.pools.iter().all(|pool| pool.in_toml), "{name}");
            // A table has a key once: only the notices are left.
            let notices = |all: &[Diagnostic]| all.iter().filter(|w| !w.message.contains("repeated")).count();
            assert_eq!(
                notices(&read.warnings),
                notices(&loaded(name).warnings),
                "{name}: {:?}",
                read.warnings
            );
        }
    }
}

#[test]
fn the_values_of_the_samples_are_read() {
    let pool = |name| loaded(name).config.pools.remove(0).with_defaults();
    let redis = pool("emqx_backend_redis");
    assert_eq!(redis.connector(), "redis:pool1");
    assert_eq!((redis.text("type"), redis.text("channel")), (Some("single"), Some("mqtt_channel")));
    assert_eq!((redis.integer("pool_size"), redis.integer("database")), (Some(8), Some(0)));
    assert_eq!((redis.text("password"), redis.servers("server")), (None, vec![("127.0.0.1".into(), 6379)]));
    let mysql = pool("emqx_backend_mysql");
    assert_eq!((mysql.text("user"), mysql.text("password")), (Some("root"), Some("public")));
    assert_eq!(mysql.servers("server"), [("127.0.0.1".into(), 3306)]);
    let pgsql = pool("emqx_backend_pgsql");
    assert_eq!((pgsql.flag("ssl"), pgsql.text("keyfile")), (false, None));
    let mongo = pool("emqx_backend_mongo");
    assert_eq!((mongo.integer("c_pool_size"), mongo.text("login")), (Some(8), None));
    assert_eq!(mongo.integer("topology.heartbeat_frequency_ms"), Some(10_000));
    let cassa = pool("emqx_backend_cassa");
    assert_eq!(cassa.connector(), "cassa:pool1", "the documents call its pools ecql");
    assert_eq!((cassa.integer("size"), cassa.text("keyspace")), (Some(8), Some("mqtt")));
    for name in ["emqx_backend_dynamo", "emqx_backend_dynamo_chapter"] {
        let dynamo = pool(name);
        assert_eq!(dynamo.text("region"), Some("us-west-2"), "a key of the whole back end");
        assert_eq!(dynamo.text("server"), Some("http://localhost:8000"));
        assert_eq!(dynamo.text("aws_access_key_id"), Some("AKIAIOSFODNN7EXAMPLE"));
        assert!(!format!("{dynamo:?}").contains("EXAMPLE"), "{dynamo:?}");
    }
    assert_eq!(pool("emqx_backend_influxdb").options.get("set_timestamp"), Some(&OptionValue::Boolean(true)));
    let opentsdb = pool("emqx_backend_opentsdb");
    assert_eq!((opentsdb.integer("max_batch_size"), opentsdb.integer("sync_timeout")), (Some(20), Some(0)));
    assert_eq!((opentsdb.flag("summary"), opentsdb.flag("details")), (true, false));
    assert_eq!(pool("emqx_backend_timescale").text("database"), Some("tutorial"));
}

/// What a sample sets without a comment sign is what holds without the line.
#[test]
fn the_values_of_the_samples_are_the_defaults() {
    for (name, _) in files() {
        for pool in loaded(name).config.pools {
            for (option, value) in &pool.options {
                let row = pool.kind.row(option).unwrap();
                // An endpoint of one's own and the keys of an account: see the rows.
                if pool.kind.name == "dynamo" && row.default.is_empty() {
                    continue;
                }
                let default = value::read(row.kind, &node::Kind::Text(row.default.to_owned())).unwrap();
                assert_eq!(default.as_ref(), Some(value), "{name} {option}");
            }
        }
    }
}

#[test]
fn the_lines_of_the_samples_are_read() {
    let redis = loaded("emqx_backend_redis").config.hooks;
    let publish = redis.iter().find(|line| (line.hook, line.n) == (Hook::MessagePublish, 1)).unwrap();
    assert_eq!(publish.options.expired_time, Some(3_600));
    let del = redis.iter().find(|line| line.hook == Hook::SessionUnsubscribed).unwrap();
    let LineAction::Statements(commands) = &del.action else { panic!("commands") };
    assert_eq!(commands, &["DEL mqtt:acked:${clientid}:${topic}"]);
    let mongo = loaded("emqx_backend_mongo").config.hooks;
    let fetch = mongo.iter().find(|line| (line.hook, line.n) == (Hook::SessionSubscribed, 1)).unwrap();
    assert_eq!(fetch.options.max_returned_count, Some(500));
    assert_eq!(fetch.options.time_range_ms, Some(7_200_000));
    let cassa = loaded("emqx_backend_cassa").config.hooks;
    assert!(cassa.iter().all(|line| line.kind.name == "cassa" && line.pool == "pool1"));
}

#[test]
fn lines_with_a_comment_sign_load_without_it() {
    for (name, text) in files() {
        let text: String = text
            .replace("\"#\", action\":", "\"#\", \"action\":")
            .lines()
            .map(|line| line.trim_start_matches('#').trim_start())
            .filter(|line| line.starts_with("backend."))
            .map(|line| format!("{line}\n"))
            .collect();
        if let Err(wrong) = read(&[(name.to_owned(), text)], None) {
            panic!("{name}: {:#?}", words(&wrong.errors));
        }
    }
}

#[test]
fn the_line_that_is_printed_broken_is_refused_with_its_place() {
    let (_, text) = files().into_iter().find(|(name, _)| name.contains("cassa")).unwrap();
    let line = text.lines().position(|line| line.contains("action\": {\"cql\": [\"delete")).unwrap();
    let column = text.lines().nth(line).unwrap().find("action\"").unwrap() + 1;
    let wrong = read(&[("emqx_backend_cassa.conf".into(), text.into())], None).unwrap_err();
    assert_eq!(
        words(&wrong.errors),
        [format!(
            "emqx_backend_cassa.conf:{}:{column}: backend.cassa.hook.session.unsubscribed.1: the value is not a JSON \
             object: key must be a string",
            line + 1
        )]
    );
    assert_eq!(wrong.config.hooks.len(), 10, "the other lines are well");
}

#[test]
fn opentsdbs_lines_that_say_influxdb_need_a_pool_of_influxdb() {
    let line = "backend.influxdb.hook.message.publish.1 = {\"topic\": \"sensor/#\", \"action\": {\"function\": \
                \"on_message_publish\"}, \"pool\": \"pool1\"}\n";
    let mut files = sample("emqx_backend_opentsdb");
    files.push(("more.conf".into(), line.into()));
    let wrong = read(&files, None).unwrap_err();
    assert!(
        words(&wrong.errors).iter().all(|words| words.contains("back end influxdb has no pool \"pool1\""))
    );
    files.push(("influxdb.conf".into(), "backend.influxdb.pool1.server = 127.0.0.1:8089\n".into()));
    assert_eq!(read(&files, None).unwrap().config.hooks.len(), 2);
}

#[test]
fn a_back_end_without_driver_is_refused_after_everything_was_checked() {
    for kind in backend_without_driver() {
        let text =
            format!("backend.{kind}.p.nonsense = 1\nbackend.{kind}.hook.message.publish.1 = {{\"x\": 1}}\n");
        let all = words(&load(&[("a.conf".into(), text)], None).unwrap_err());
        assert!(all.iter().any(|words| words.contains("nonsense: unknown option")), "{all:#?}");
        assert!(all.iter().any(|words| words.contains("unknown key")), "{all:#?}");
        let last = format!("back end {kind} has no driver in this binary yet");
        assert!(all.last().unwrap().contains(&last), "{all:#?}");
    }
}

fn backend_without_driver() -> Vec<&'static str> {
    crate::backend::known().filter(|kind| kind.open.is_none()).map(|kind| kind.name).collect()
}

/// A value that the row takes, and one that it does not.
fn values(row: &OptionRow) -> (String, Option<&'static str>) {
    fn of(kind: OptionKind) -> (String, Option<&'static str>) {
        match kind {
            OptionKind::Text | OptionKind::Secret | OptionKind::Path => ("x".into(), None),
            OptionKind::Integer { min, .. } => (min.to_string(), Some("many")),
            OptionKind::Boolean => ("true".into(), Some("maybe")),
            OptionKind::Word { words, .. } => (words.first().unwrap().to_string(), Some("neither")),
            OptionKind::Server { port } => (format!("h:{port}"), Some("h:0")),
            OptionKind::Servers { port } => (format!("h:{port},i"), Some("h,,i")),
            OptionKind::Url => ("http://h".into(), Some("h")),
            OptionKind::Inert(form) => of(*form),
        }
    }
    of(row.kind)
}

/// Every key of every table in both front ends: it loads; with a letter more, less or changed it is an error that names
/// it and the key that was meant; with a wrong value it is an error that names it. What has no effect says so, once.
#[test]
fn every_key_is_known_and_every_misspelt_one_is_named() {
    for kind in crate::backend::known() {
        let own = kind.options.iter().map(|row| (row, "p."));
        for (row, pool) in own.chain(kind.shared.iter().map(|row| (row, ""))) {
            let (good, bad) = values(row);
            let check = |name: &str, value: &str| {
                let conf = format!("backend.{}.{pool}{name} = {value}\n", kind.name);
                let toml = format!("[backend.{}]\n{pool}{name} = \"{value}\"\n", kind.name);
                [read(&[("a.conf".into(), conf)], None), read(&[], Some(("t.toml", &toml)))]
            };
            let errors = |name: &str, value: &str| {
                check(name, value).map(|result| match result {
                    Ok(_) => Vec::new(),
                    Err(wrong) => words(&wrong.errors),
                })
            };
            let key = |name: &str| format!("backend.{}.{pool}{name}: ", kind.name);
            let is_inert = matches!(row.kind, OptionKind::Inert(_));
            for result in check(row.name, &good) {
                match result {
                    Ok(loaded) => {
                        let notice = format!("{}accepted, no effect on {}", key(row.name), kind.name);
                        let notices = words(&loaded.warnings);
                        assert_eq!(notices.len(), usize::from(is_inert), "{}: {notices:?}", key(row.name));
                        assert!(notices.iter().all(|words| words.contains(&notice)), "{notice}: {notices:?}");
                    }
                    // Options that need another may complain of that, and of nothing else.
                    Err(wrong) => {
                        let all = words(&wrong.errors);
                        assert!(!is_inert && !all.is_empty(), "{}: {all:?}", key(row.name));
                        assert!(
                            all.iter().all(|words| words.contains(" needs `")),
                            "{}: {all:?}",
                            key(row.name)
                        );
                    }
                }
            }
            for (all, place) in
                bad.iter().flat_map(|bad| errors(row.name, bad)).zip(["a.conf:1:", "t.toml:2:"])
            {
                assert!(
                    all.len() == 1 && all[0].starts_with(place) && all[0].contains(&key(row.name)),
                    "{}: {all:?}",
                    key(row.name)
                );
                assert!(all[0].contains("expected "), "{all:?}");
            }
            let mutations = [
                format!("{}x", row.name),
                row.name.chars().take(row.name.len() - 1).collect(),
                row.name.replacen(['e', 'i', 'a'], "o", 1),
            ];
            for wrong in mutations.iter().filter(|name| kind.row(name).is_none() && !name.is_empty()) {
                for all in errors(wrong, &good) {
                    assert!(all.len() == 1 && all[0].contains(&key(wrong)), "{wrong}: {all:?}");
                    assert!(all[0].contains("unknown"), "{all:?}");
                    // What has no effect is not advertised; short names may be near to another.
                    if !is_inert && row.name.len() > 5 {
                        assert!(all[0].contains(row.name), "{all:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn options_that_belong_together_are_checked_together() {
    for (text, expected) in [
        (
            "backend.redis.p.type = sentinel",
            "a.conf:1:24: backend.redis.p.type: type = sentinel needs `sentinel`",
        ),
        (
            "backend.redis.p.type = cluster\nbackend.redis.p.channel = c",
            "a.conf:2:27: backend.redis.p.channel: Redis Cluster",
        ),
        ("backend.mongo.p.type = rs", "needs `rs_set_name`"),
        ("backend.pgsql.p.certfile = c.pem", "needs `keyfile`"),
        ("backend.dynamo.p.aws_access_key_id = x", "needs `aws_secret_access_key`"),
    ] {
        let all = words(&read(&[("a.conf".into(), text.into())], None).unwrap_err().errors);
        assert!(all.len() == 1 && all[0].contains(expected), "{text}: {all:?}");
    }
    let whole = "backend.redis.p.type = cluster\nbackend.redis.p.server = a:1,b:2\n";
    assert!(read(&[("a.conf".into(), whole.into())], None).is_ok(), "the default of channel is no request");
}

#[test]
fn shared_options_are_all_pools_own_unless_one_has_its_own() {
    let text = "backend.dynamo.region = eu-west-1\nbackend.dynamo.a.pool_size = 1\n\
                backend.dynamo.b.region = us-east-1\nbackend.dynamo.c.pool_size = 1\n";
    let config = read(&[("a.conf".into(), text.into())], None).unwrap().config;
    let regions: Vec<_> = config.pools.iter().map(|pool| pool.text("region").unwrap()).collect();
    assert_eq!(regions, ["eu-west-1", "us-east-1", "eu-west-1"]);
    let text = "[backend.dynamo]\nregion = \"eu-west-1\"\n[backend.dynamo.a]\n\
                [backend.mongo.a]\n[backend.mongo.topology]\nsocket_timeout_ms = 7\n";
    let config = read(&[], Some(("t.toml", text))).unwrap().config;
    assert_eq!(config.pools.len(), 2, "topology is no pool: {:?}", config.pools);
    assert_eq!(config.pools.iter().find_map(|pool| pool.text("region")), Some("eu-west-1"));
    assert_eq!(config.pools.iter().find_map(|pool| pool.integer("topology.socket_timeout_ms")), Some(7));
}

#[test]
fn both_words_for_cassandra_are_one_back_end() {
    let text = "backend.ecql.p.size = 3\nbackend.cassa.p.size = 4\nbackend.cassa.p.keyspace = k\n";
    let loaded = read(&[("a.conf".into(), text.into())], None).unwrap();
    assert_eq!(loaded.config.pools.len(), 1);
    assert_eq!(loaded.config.pools[0].integer("size"), Some(4));
    assert!(
        loaded.warnings[0].message.contains("a.conf line 2 replaces a.conf line 1"),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn an_empty_password_is_none_and_an_absent_one_the_documents() {
    let text = "backend.mysql.a.password =\nbackend.mysql.b.user =\n";
    let config = read(&[("a.conf".into(), text.into())], None).unwrap().config;
    let pools: Vec<_> = config.pools.iter().map(PoolConfig::with_defaults).collect();
    let passwords: Vec<_> = pools.iter().map(|pool| pool.text("password")).collect();
    assert_eq!(passwords, [None, Some("public")]);
    assert_eq!(pools[1].text("user"), Some("root"), "an empty value is unset");
}

#[test]
fn the_schema_files_define_the_documents_tables() {
    use crate::backend::Schema;
    let tables = |name: &str| match crate::backend::find(name).unwrap().schema {
        Schema::File { text, .. } | Schema::ByItself { text, .. } => text,
        Schema::Nothing(why) => panic!("{why}"),
    };
    for name in ["mysql", "pgsql", "sqlite", "mongo", "dynamo"] {
        for table in ["mqtt_client", "mqtt_sub", "mqtt_msg", "mqtt_retain", "mqtt_acked"] {
            assert!(tables(name).contains(table), "{name} {table}");
        }
    }
    assert!(
        tables("cassa").contains("\nUSE mqtt;\n") && tables("cassa").contains("CREATE TABLE mqtt.acked (")
    );
    assert!(tables("dynamo").contains("create mqtt_topic_msg_map "));
}
