//! Files of back ends' configuration while the server runs: changes under load, and the commands about them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod node;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use node::{Node, PATIENCE, finish, tidegate, write};
use serde_json::Value;

const FILE: &str = "conf.d/emqx_backend_sqlite.conf";

fn pool(size: u32) -> String {
    format!("backend.sqlite.p.path = p.db\nbackend.sqlite.p.pool_size = {size}\n")
}

fn line(n: u32, function: &str) -> String {
    format!(
        "backend.sqlite.hook.message.publish.{n} = {{\"topic\": \"t/#\", \"action\": {{\"function\": \
         \"{function}\"}}, \"pool\": \"p\"}}\n"
    )
}

fn start(content: &str) -> Node {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), FILE, content);
    Node::start_in(dir, &[])
}

fn run(node: &Node, args: &[&str]) -> (Option<i32>, String, String) {
    finish(node.tidegate(args))
}

fn json(node: &Node, args: &[&str]) -> Value {
    let (code, out, errors) = run(node, &[args, &["--json"]].concat());
    assert_eq!(code, Some(0), "{errors}");
    serde_json::from_str(&out).unwrap()
}

/// Waits until `is_so`.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn names(node: &Node) -> Vec<String> {
    let list = json(node, &["connectors", "list"]);
    list["connectors"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
}

fn refused(node: &Node) -> Vec<String> {
    let list = json(node, &["plugins", "list"]);
    let lines = list["refused"].as_array().cloned().unwrap_or_default();
    lines.iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

fn metric(node: &Node, name: &str) -> f64 {
    let text = node.get("/metrics").1;
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn rows(dir: &Path, file: &str, statement: &str) -> Vec<String> {
    let (code, out, errors) = finish(tidegate(dir, &["sql", file, statement]));
    assert_eq!(code, Some(0), "{errors}");
    out.lines().map(str::to_owned).collect()
}

/// A publisher of numbered QoS 1 messages, fed as long as `feed` runs.
struct Publisher {
    child: Child,
    sent: u32,
}

impl Publisher {
    fn start(node: &Node) -> Self {
        let mut command: Command = node.client(&["pub", "-t", "t/a", "-q", "1", "--stdin-lines"]);
        let child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, sent: 0 }
    }

    /// Publishes for `span`, about 1,000 messages a second.
    fn feed(&mut self, span: Duration) {
        let end = Instant::now() + span;
        let mut input = self.child.stdin.as_ref().unwrap();
        while Instant::now() < end {
            for _ in 0..10 {
                self.sent += 1;
                writeln!(input, "{}", self.sent).unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until every message is acknowledged; gives how many there were.
    fn finish(mut self) -> u32 {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "not every message was acknowledged: {errors}");
        self.sent
    }
}

#[test]
fn changes_under_load_lose_no_acknowledged_message_and_keep_the_order() {
    let node = start(&(pool(4) + &line(1, "on_message_publish")));
    let mut publisher = Publisher::start(&node);
    let span = Duration::from_millis(700);
    publisher.feed(span);

    // A line more.
    write(node.dir.path(), FILE, pool(4) + &line(1, "on_message_publish") + &line(2, "on_message_retain"));
    publisher.feed(span);
    until("a line more", || json(&node, &["plugins", "list"])["plugins"][0]["hook_lines"] == 2);

    // Another pool in the place of the old one, twice in a row.
    for size in [5, 6] {
        write(node.dir.path(), FILE, pool(size) + &line(1, "on_message_publish"));
        publisher.feed(span);
    }
    until("a line less", || json(&node, &["plugins", "list"])["plugins"][0]["hook_lines"] == 1);

    // A file that is wrong changes nothing, and says so.
    write(node.dir.path(), FILE, "backend.sqlite.p.pth = p.db\n");
    publisher.feed(span);
    until("it is refused", || refused(&node).iter().any(|line| line.contains("did you mean \"path\"?")));
    assert!(names(&node).contains(&"sqlite:p".to_owned()));
    assert_eq!(metric(&node, "tidegate_config_refused"), 1.0);
    publisher.feed(span);

    // By a rename over it, it is well again.
    write(node.dir.path(), "next", pool(7) + &line(1, "on_message_publish"));
    std::fs::rename(node.dir.path().join("next"), node.dir.path().join(FILE)).unwrap();
    publisher.feed(span);
    until("it is well again", || refused(&node).is_empty());
    assert_eq!(metric(&node, "tidegate_config_refused"), 0.0);

    let sent = publisher.finish();
    let stored = rows(node.dir.path(), "p.db", "select payload from mqtt_msg order by id");
    let expected: Vec<String> = (1..=sent).map(|n| n.to_string()).collect();
    assert_eq!(stored.len(), expected.len(), "messages are missing or twice there");
    assert_eq!(stored, expected, "the order is another");
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log:#?}");
}

#[test]
fn a_directory_that_vanishes_is_told_and_changes_nothing() {
    let node = start(&(pool(4) + &line(1, "on_message_publish")));
    let mut publisher = Publisher::start(&node);
    let span = Duration::from_millis(500);
    publisher.feed(span);
    let (dir, away) = (node.dir.path().join("conf.d"), node.dir.path().join("away"));
    std::fs::rename(&dir, &away).unwrap();
    publisher.feed(span);
    until("it is told", || refused(&node).iter().any(|line| line.contains("conf.d: the directory is gone")));
    assert_eq!(metric(&node, "tidegate_config_refused"), 1.0);
    assert_eq!(names(&node), ["sqlite:default", "sqlite:p"]);
    publisher.feed(span);
    // It is well again when it comes back.
    std::fs::rename(&away, &dir).unwrap();
    publisher.feed(span);
    until("it is well again", || refused(&node).is_empty());
    assert_eq!(metric(&node, "tidegate_config_refused"), 0.0);
    let sent = publisher.finish();
    let stored = rows(node.dir.path(), "p.db", "select payload from mqtt_msg order by id");
    let expected: Vec<String> = (1..=sent).map(|n| n.to_string()).collect();
    assert_eq!(stored, expected, "messages are missing, twice there or out of order");
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("the directory is gone")), "{log:#?}");
}

#[test]
fn what_was_accepted_before_its_connector_went_is_stored() {
    let node = start(&(pool(4) + &line(1, "on_message_publish")));
    let mut publisher = Publisher::start(&node);
    publisher.feed(Duration::from_secs(1));
    let (code, out, errors) = run(&node, &["plugins", "unload", "emqx_backend_sqlite"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("unloaded") && out.contains("connectors closed: sqlite:p"), "{out}");
    assert_eq!(names(&node), ["sqlite:default"]);
    publisher.feed(Duration::from_millis(500));
    let sent = publisher.finish();
    let (code, log) = node.stop_keeping();
    assert_eq!(code, Some(0), "{:#?}", log.1);
    let stored = rows(log.0.path(), "p.db", "select payload from mqtt_msg order by id");
    assert!(!stored.is_empty() && stored.len() < sent as usize, "{} of {sent}", stored.len());
    let expected: Vec<String> = (1..=stored.len()).map(|n| n.to_string()).collect();
    assert_eq!(stored, expected, "there is a gap before the end");
}

#[test]
fn plugins_are_unloaded_over_restarts_and_brought_back() {
    let node = start(&(pool(4) + &line(1, "on_message_publish")));
    let listed = json(&node, &["plugins", "list"]);
    assert_eq!(listed["plugins"][0]["name"], "emqx_backend_sqlite");
    assert_eq!(listed["plugins"][0]["state"], "loaded");
    assert_eq!(listed["plugins"][0]["connectors"], serde_json::json!(["sqlite:p"]));
    let (code, _, errors) = run(&node, &["plugins", "unload", "emqx_backend_sqlite"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(!node.dir.path().join(FILE).exists());
    assert!(node.dir.path().join(format!("{FILE}.disabled")).exists());

    let (code, (dir, _)) = node.stop_keeping();
    assert_eq!(code, Some(0));
    let node = Node::start_in(dir, &[]);
    assert_eq!(names(&node), ["sqlite:default"]);
    assert!(run(&node, &["plugins", "list"]).1.contains("emqx_backend_sqlite  unloaded"));
    let (code, out, errors) = run(&node, &["plugins", "load", "emqx_backend_sqlite"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("connectors opened: sqlite:p"), "{out}");
    assert_eq!(names(&node), ["sqlite:default", "sqlite:p"]);
    for (args, words) in [
        (["plugins", "load", "emqx_backend_sqlite"], "is not unloaded"),
        (["plugins", "load", "nothing"], "no plugin \"nothing\""),
        (["plugins", "unload", "nothing"], "is not there"),
        (["plugins", "unload", "../x"], "is no plugin's name"),
        (["plugins", "load", "nothing.conf"], "nothing.conf"),
    ] {
        let (code, _, errors) = run(&node, &args);
        assert_eq!(code, Some(1), "{args:?}");
        assert!(errors.contains(words), "{args:?}: {errors}");
    }
}

#[test]
fn a_file_is_checked_before_it_is_copied_in() {
    let node = start(&pool(4));
    let dir = node.dir.path();
    write(dir, "emqx_backend_mysql.conf", "backend.mysql.pool1.servr = x\n");
    let (code, _, errors) = run(&node, &["plugins", "load", "emqx_backend_mysql.conf"]);
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("nothing has changed") && errors.contains("did you mean \"server\"?"),
        "{errors}"
    );
    assert!(!dir.join("conf.d/emqx_backend_mysql.conf").exists());
    assert!(refused(&node).is_empty(), "a command that is refused is no broken configuration");

    write(dir, "more.conf", "backend.sqlite.q.path = q.db\n");
    let (code, out, errors) = run(&node, &["plugins", "load", "more.conf"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("more: loaded after") && out.contains("connectors opened: sqlite:q"), "{out}");
    let (code, _, errors) = run(&node, &["plugins", "load", "more.conf"]);
    assert!(code == Some(1) && errors.contains("say --replace"), "{errors}");
    write(dir, "more.conf", "backend.sqlite.q.path = q2.db\n");
    let (code, out, errors) = run(&node, &["plugins", "load", "--replace", "more.conf"]);
    assert!(code == Some(0) && out.contains("connectors changed: sqlite:q"), "{out}{errors}");

    // Another file's line needs the pool of this one.
    write(dir, "line.conf", line(1, "on_message_publish"));
    assert_eq!(run(&node, &["plugins", "load", "line.conf"]).0, Some(0));
    let (code, _, errors) = run(&node, &["plugins", "unload", "emqx_backend_sqlite"]);
    assert!(code == Some(1) && errors.contains("has no pool \"p\""), "{errors}");
    assert!(dir.join(FILE).exists());
    assert!(names(&node).contains(&"sqlite:p".to_owned()));
}

#[test]
fn connectors_are_tested_and_schemas_applied() {
    let node = start(&pool(4));
    let (code, out, errors) = run(&node, &["connectors", "list"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.starts_with("NAME") && out.contains("sqlite:p") && out.contains("up"), "{out}");
    let (code, out, _) = run(&node, &["connectors", "test", "p"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.starts_with("ok       sqlite:p: it answers"), "{out}");
    assert_eq!(json(&node, &["connectors", "test"]).as_array().unwrap().len(), 2);
    let (code, _, errors) = run(&node, &["connectors", "test", "nothing"]);
    assert!(
        code == Some(1) && errors.contains("no connector \"nothing\"; there are sqlite:default, sqlite:p")
    );
    let (code, out, _) = run(&node, &["schema", "apply", "sqlite"]);
    assert!(
        code == Some(0) && out.matches("the tables of emqx_backend_sqlite.sql are there").count() == 2,
        "{out}"
    );

    // A database that is no longer one.
    let broken = node.dir.path().join("p.db");
    for file in ["p.db-wal", "p.db-shm"] {
        std::fs::remove_file(node.dir.path().join(file)).ok();
    }
    std::fs::remove_file(&broken).ok();
    std::fs::create_dir(&broken).unwrap();
    write(node.dir.path(), FILE, pool(5));
    until("it is refused", || {
        refused(&node).iter().any(|line| line.contains("p.db cannot be used as a database"))
    });
}

#[test]
fn schemas_are_printed_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let print = |name: &str| finish(tidegate(dir.path(), &["schema", "print", name]));
    for (name, words) in [
        ("mysql", "CREATE TABLE `mqtt_acked` ("),
        ("pgsql", "CREATE TABLE mqtt_client("),
        ("cassa", "USE mqtt;"),
        ("ecql:pool1", "CREATE TABLE mqtt.acked ("),
        ("dynamo", "create mqtt_topic_msg_map"),
        ("mongo", "db.createCollection(\"mqtt_msg\")"),
        ("sqlite", "CREATE TABLE IF NOT EXISTS mqtt_msg ("),
    ] {
        let (code, out, errors) = print(name);
        assert!(code == Some(0) && out.contains(words), "{name}: {out}{errors}");
    }
    let (code, out, errors) = print("redis");
    assert!(code == Some(0) && out.is_empty() && errors.contains("has no tables"), "{out}{errors}");
    let (code, _, errors) = print("oracle");
    assert!(code == Some(1) && errors.contains("no back end \"oracle\""), "{errors}");
    let (code, out, _) = finish(tidegate(dir.path(), &["schema", "print"]));
    assert!(code == Some(0) && out.contains("mysql      emqx_backend_mysql.sql"), "{out}");
}

#[test]
fn a_back_end_without_a_driver_is_checked_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "conf.d/emqx_backend_mysql.conf",
        include_str!("../../store/tests/data/emqx_backend_mysql.conf"),
    );
    let (code, out, _) = finish(tidegate(dir.path(), &["check"]));
    assert_eq!(code, Some(1));
    let errors: Vec<&str> = out.lines().filter(|line| line.starts_with("error")).collect();
    assert!(
        errors.len() == 1 && errors[0].contains("back end mysql has no driver in this binary yet"),
        "{out}"
    );
    let (code, _, errors) = finish(tidegate(dir.path(), &["run", "--api", "off", "--listen", "127.0.0.1:0"]));
    assert!(
        code == Some(1) && errors.contains("back end mysql has no driver in this binary yet"),
        "{errors}"
    );
}
