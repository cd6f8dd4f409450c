//! `tidegate pub` and `tidegate sub`, with each other and with independent clients.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod node;

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use node::{Lines, Node, finish, write};

/// A subscriber that runs and has its subscription: it has printed the retained message `t/ready`.
fn subscriber(node: &Node, mut command: Command) -> (Child, Lines) {
    let marker = node.client(&["pub", "-t", "t/ready", "-m", "go", "-r", "-q", "1"]);
    assert_eq!(finish(marker).0, Some(0));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = Lines::of(child.stdout.take().unwrap());
    assert_eq!(lines.next(), "t/ready go");
    (child, lines)
}

#[test]
fn a_message_goes_round_at_every_version_and_qos() {
    let node = Node::start();
    for version in ["4", "5"] {
        for qos in ["0", "1", "2"] {
            let sub =
                node.client(&["sub", "-t", "t/#", "-v", "-q", qos, "-V", version, "-C", "4", "-W", "20"]);
            let (mut sub, lines) = subscriber(&node, sub);
            let mut publish = node.client(&["pub", "-t", "t/x", "-q", qos, "-V", version, "--stdin-lines"]);
            let mut publish = publish.stdin(Stdio::piped()).spawn().unwrap();
            publish.stdin.take().unwrap().write_all(b"one\n\nth\xc3\xa9 ree").unwrap();
            assert_eq!(publish.wait().unwrap().code(), Some(0), "version {version} qos {qos}");
            assert_eq!(lines.rest(), ["t/x one", "t/x ", "t/x th\u{e9} ree"], "version {version} qos {qos}");
            assert_eq!(sub.wait().unwrap().code(), Some(0));
        }
    }
}

#[test]
fn mosquitto_understands_us_and_we_understand_mosquitto() {
    let node = Node::start();
    let port = node.port();
    for (version, theirs) in [("4", "mqttv311"), ("5", "mqttv5")] {
        let mut sub = Command::new("mosquitto_sub");
        sub.args(["-p", &port, "-V", theirs, "-t", "t/#", "-v", "-q", "2", "-C", "2", "-W", "20"]);
        let (mut sub, lines) = subscriber(&node, sub);
        let ours = node.client(&["pub", "-t", "t/ours", "-m", "hello", "-q", "2", "-V", version]);
        assert_eq!(finish(ours).0, Some(0));
        assert_eq!(lines.rest(), ["t/ours hello"]);
        assert!(sub.wait().unwrap().success());

        let sub = node.client(&["sub", "-t", "t/#", "-v", "-q", "2", "-V", version, "-C", "2", "-W", "20"]);
        let (mut sub, lines) = subscriber(&node, sub);
        let mut theirs_pub = Command::new("mosquitto_pub");
        theirs_pub.args(["-p", &port, "-V", theirs, "-t", "t/theirs", "-m", "hello", "-q", "2"]);
        assert_eq!(finish(theirs_pub).0, Some(0));
        assert_eq!(lines.rest(), ["t/theirs hello"]);
        assert!(sub.wait().unwrap().success());
    }
}

#[test]
fn a_file_is_one_message_and_a_count_repeats_it() {
    let node = Node::start();
    write(node.dir.path(), "payload.bin", "a\nb\n");
    let sub = node.client(&["sub", "-t", "t/#", "-v", "-q", "1", "-C", "3", "-W", "20"]);
    let (mut sub, lines) = subscriber(&node, sub);
    let publish = node.client(&["pub", "-t", "t/f", "-f", "payload.bin", "-q", "1", "-n", "2"]);
    assert_eq!(finish(publish).0, Some(0));
    assert_eq!(lines.rest(), ["t/f a", "b", "", "t/f a", "b", ""]);
    assert_eq!(sub.wait().unwrap().code(), Some(0));
    let (code, _, errors) = finish(node.client(&["pub", "-t", "t", "-f", "nowhere.bin"]));
    assert_eq!(code, Some(1));
    assert!(errors.contains("nowhere.bin cannot be read"), "{errors}");
}

#[test]
fn a_persistent_subscriber_keeps_what_it_has_not_printed() {
    let node = Node::start();
    let take = |count: &str| {
        finish(node.client(&["sub", "-t", "k/#", "-q", "1", "-c", "-i", "keeper", "-C", count, "-W", "20"]))
    };
    assert_eq!(finish(node.client(&["pub", "-t", "k/0", "-m", "0", "-r", "-q", "1"])).0, Some(0));
    assert_eq!(take("1"), (Some(0), "0\n".into(), String::new()));
    assert_eq!(finish(node.client(&["pub", "-t", "k/0", "-m", "", "-r", "-q", "1"])).0, Some(0));
    for n in ["1", "2", "3", "4"] {
        assert_eq!(finish(node.client(&["pub", "-t", "k/x", "-m", n, "-q", "1"])).0, Some(0));
    }
    // The empty message that cleared the retained one was a message, too.
    assert_eq!(take("3").1, "\n1\n2\n");
    assert_eq!(take("2").1, "3\n4\n");
}

#[test]
fn a_refused_message_is_an_error_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let make = "create table short (payload text check (length(payload) < 4));";
    let made = Command::new("sqlite3").arg(dir.path().join("s.db")).arg(make).status();
    assert!(made.expect("sqlite3 is installed").success());
    write(
        dir.path(),
        "conf.d/a.conf",
        "backend.sqlite.p.path = ./s.db\n\
         backend.sqlite.hook.message.publish.1 = {\"topic\": \"s/#\", \"action\": {\"sql\": \
         [\"insert into short (payload) values (${payload})\"]}, \"pool\": \"p\"}\n",
    );
    let node = Node::start_in(dir, &[]);
    for qos in ["1", "2"] {
        let fits = node.client(&["pub", "-V", "5", "-t", "s/x", "-m", "abc", "-q", qos]);
        assert_eq!(finish(fits).0, Some(0));
        let (code, _, errors) =
            finish(node.client(&["pub", "-V", "5", "-t", "s/x", "-m", "abcd", "-q", qos, "-n", "3"]));
        assert_eq!(code, Some(1), "{errors}");
        for n in ["1", "2", "3"] {
            assert!(errors.contains(&format!("refused message {n}: ")), "{errors}");
        }
        assert!(errors.contains("(0x"), "{errors}");
        // 3.1.1 has no reason codes: what the database refuses for good is acknowledged and dropped.
        let old = node.client(&["pub", "-V", "4", "-t", "s/x", "-m", "abcd", "-q", qos]);
        assert_eq!(finish(old).0, Some(0));
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error_and_silence_is_status_27() {
    let node = Node::start();
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    for args in [["pub", "-p", &nobody, "-t", "a", "-m", "x"].as_slice(), &["sub", "-p", &nobody, "-t", "a"]]
    {
        let (code, _, errors) = finish(node.tidegate(args));
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains("Connection refused"), "{errors}");
    }
    assert_eq!(
        finish(node.client(&["sub", "-t", "silent", "-W", "1"])),
        (Some(27), String::new(), String::new())
    );
}
