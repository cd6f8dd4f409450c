//! Who may connect, publish and subscribe by the password file and the ACL, asked by clients that are not ours.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;
use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::server::{Builder, binary, free_port, own_address, text_of};
use tidegate_e2e::wire::{Connect, Wire, kind};
use tidegate_e2e::{Server, until};

const CONFIG: &str = r#"
[access]
password_file = "users"
acl_file = "acl"
anonymous = "never"
default = "deny"
login_failures = 20
"#;

const ACL: &str = "
# A device has its own topics, the operator has all.
allow user operator pubsub # $SYS/#
allow all pubsub devices/${username}/# clients/${clientid}/+
deny  client banned subscribe all/#
allow all subscribe all/#
";

/// `tidegate passwd users USER --stdin`.
fn passwd(directory: &Path, user: &str, password: &str) -> Output {
    let mut child = Command::new(binary())
        .current_dir(directory)
        .args(["passwd", "users", user, "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have refused before it read anything.
    writeln!(child.stdin.take().unwrap(), "{password}").ok();
    child.wait_with_output().unwrap()
}

fn guarded(config: &str) -> Server {
    let builder = with_users(Server::builder());
    builder.file("tidegate.toml", config).file("acl", ACL).start()
}

fn with_users(builder: Builder) -> Builder {
    for user in ["d1", "d2", "operator"] {
        let output = passwd(builder.path(), user, &format!("pass of {user}"));
        assert!(output.status.success(), "{}", text_of(&output));
    }
    builder
}

fn login(version: u8, id: &str, user: &str) -> Options {
    Options::new(version, id).with("username", user).with("password", format!("pass of {user}"))
}

fn refused(server: &Server, options: &Options) -> u64 {
    Paho::try_connect(server.port, options).1["code"].as_u64().unwrap()
}

/// A server that is reached by every address of the machine, all else as it is without configuration; and where.
fn reachable(kind: &str) -> (Server, u16) {
    let port = free_port();
    let table = format!(
        "[[broker.listener]]\nname = \"everywhere\"\naddress = \"0.0.0.0:{port}\"\nkind = \"{kind}\"\n"
    );
    (Server::builder().file("tidegate.toml", table).start(), port)
}

/// What a client without a name is answered at `address`.
fn answered(address: (Ipv4Addr, u16), version: u8) -> u8 {
    let mut wire = Wire::try_open_at(address).expect("the runtime listens there, too");
    wire.send(&Connect::new(version, "c").encode());
    wire.expect(kind::CONNACK).body[1]
}

/// Who opens a port to the network without a password file has not opened the broker.
#[test]
fn without_configuration_nobody_connects_from_elsewhere() {
    let (server, port) = reachable("mqtt");
    let own = own_address();
    for (version, refused) in [(3, 5), (4, 5), (5, 0x87)] {
        assert_eq!(answered((own, port), version), refused, "{version}, by {own}");
        assert_eq!(answered((Ipv4Addr::LOCALHOST, port), version), 0, "{version}, from this machine");
    }
    // A name that nobody checks is as good as none. The last host that mosquitto_pub is told is the one it takes.
    let named = ["-h", &own.to_string(), "-u", "d1", "-P", "x", "-t", "t", "-m", "x", "-q", "1"];
    let output = mosquitto::publish_raw(port, &named);
    assert!(!output.status.success(), "{}", text_of(&output));
    assert!(server.metric("tidegate_broker_gate_refused_total", "connect") >= 4.0);
    server.assert_no_panic();
}

/// A proxy on this machine connects from loopback for somebody who is not here, and so does a browser for any page.
#[test]
fn what_is_handed_on_over_websocket_is_not_from_this_machine() {
    let (server, port) = reachable("ws");
    for version in [4, 5] {
        let direct = Options::new(version, "c").with("transport", "websockets").with("path", "/mqtt");
        Paho::connect(port, &direct).disconnect();
        for (field, value) in [
            ("X-Forwarded-For", "10.0.0.1"),
            // Whatever it says: clients write it themselves, and proxies add to it.
            ("X-Forwarded-For", "127.0.0.1"),
            ("Origin", "https://example.com"),
        ] {
            let (_, answer) =
                Paho::try_connect(port, &direct.clone().with("headers", json!({ (field): value })));
            assert_eq!(answer["code"], 0x87, "{field}: {value}");
        }
    }
    assert!(server.metric("tidegate_broker_gate_refused_total", "connect") >= 6.0);
    server.assert_no_panic();
}

#[test]
fn a_connection_needs_a_user_and_its_password() {
    let server = guarded(CONFIG);
    for version in [4, 5] {
        Paho::connect(server.port, &login(version, "c", "d1")).disconnect();
        let wrong = login(version, "c", "d1").with("password", "pass of d2");
        assert_eq!(refused(&server, &wrong), 0x86);
        let stranger = login(version, "c", "d1").with("username", "d9");
        assert_eq!(refused(&server, &stranger), 0x86);
        assert_eq!(refused(&server, &Options::new(version, "c")), 0x87, "nobody without a name");
    }
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let device = ["-V", version, "-q", "1", "-t", "devices/d1/x", "-m", "x", "-u", "d1", "-P"];
        mosquitto::publish(server.port, &[&device[..], &["pass of d1"]].concat());
        let output = mosquitto::publish_raw(server.port, &[&device[..], &["pass of d2"]].concat());
        assert!(!output.status.success(), "{}", text_of(&output));
    }
    assert!(server.metric("tidegate_access_logins_total", "refused") >= 7.0);
    assert!(server.metric("tidegate_broker_gate_refused_total", "connect") >= 9.0);
    assert!(!server.log().contains("pass of"), "no password is logged");
    server.assert_no_panic();
}

#[test]
fn a_device_has_its_own_topics_only() {
    let server = guarded(CONFIG);
    for version in [4, 5] {
        let mut device = Paho::connect(server.port, &login(version, "c1", "d1"));
        let mut other = Paho::connect(server.port, &login(version, "c2", "d2"));
        let refused = if version == 5 { 0x87 } else { 0x80 };
        for (filter, code) in [
            ("devices/d1/#", 1),
            ("devices/+/#", refused),
            ("devices/#", refused),
            ("#", refused),
            ("$SYS/#", refused),
            ("clients/c1/+", 1),
            ("clients/c1/#", refused),
            ("$share/g/all/x", 1),
            ("$share/g/devices/d2/#", refused),
        ] {
            assert_eq!(device.subscribe(filter, 1), code, "{version}: {filter}");
        }
        // 3.1.1 has no word for it: acknowledged, and delivered to nobody.
        let refused = if version == 5 { 0x87 } else { 0 };
        for topic in ["devices/d1/x", "all/x"] {
            assert_eq!(other.publish(topic, "not allowed", 1), refused);
            // Paho goes on after a PUBREC that refuses, and tells the code of the PUBCOMP: nobody knows the packet id.
            let told = other.publish(topic, "not allowed", 2);
            assert!(told == refused || (version == 5 && told == 0x92), "{told:#x}");
        }
        assert!(other.publish("devices/d2/x", "its own", 2) < 0x80);
        let mut operator = Paho::connect(server.port, &login(version, "o", "operator"));
        assert_eq!(operator.publish("$SYS/broker/x", "forged", 1), refused, "not even the operator");
        assert!(operator.publish("devices/d1/end", "end", 1) < 0x80);
        assert!(device.take_until("end").is_empty());
        for client in [device, other, operator] {
            client.disconnect();
        }
    }
    // A client id or a name with wildcards stands for no level.
    let mut sly = Paho::connect(server.port, &login(5, "+", "d1"));
    assert_eq!(sly.subscribe("clients/+/x", 1), 0x87);
    assert_eq!(sly.publish("clients/x/x", "x", 1), 0x87);
    sly.disconnect();
    let mut banned = Paho::connect(server.port, &login(5, "banned", "d1"));
    assert_eq!((banned.subscribe("all/#", 0), banned.subscribe("devices/d1/x", 0)), (0x87, 0));
    banned.disconnect();
    server.assert_no_panic();
}

#[test]
fn a_will_is_the_clients_own_message() {
    let server = guarded(CONFIG);
    let operator = ["-u", "operator", "-P", "pass of operator", "-q", "1"];
    let mut watcher = Subscriber::start(server.port, &[&operator[..], &["-t", "#"]].concat());
    let device = ["-u", "d1", "-P", "pass of d1", "-t", "devices/d1/nothing", "--will-payload", "gone"];
    let stranger = ["-C", "1", "--will-topic", "devices/d2/will"];
    let mut refused = Subscriber::spawn(server.port, &[&device[..], &stranger].concat());
    assert!(refused.wait_log("CONNACK").contains("(5)"), "not authorised");
    let own = ["--will-topic", "devices/d1/will", "--will-qos", "1"];
    Subscriber::start(server.port, &[&device[..], &own].concat()).kill();
    assert_eq!(watcher.receive().brief(), "devices/d1/will gone");
    watcher.stop();
}

#[test]
fn files_that_change_hold_for_old_connections_and_wrong_ones_for_nobody() {
    let server = guarded(CONFIG);
    let mut device = Paho::connect(server.port, &login(5, "c1", "d1"));
    assert!(device.publish("devices/d1/x", "x", 1) < 0x80);
    std::fs::write(server.file("acl"), "allow all publish other/${username}\n").unwrap();
    until("the new rules hold", || (device.publish("devices/d1/x", "x", 1) == 0x87).then_some(()));
    assert!(device.publish("other/d1", "x", 1) < 0x80);

    let mark = server.log_mark();
    std::fs::write(server.file("acl"), "allow all\n").unwrap();
    let line =
        server.wait_log(mark, "the file is refused", |line| line.contains("acl:1:10: expected publish"));
    assert!(line.contains("ERROR"), "{line}");
    assert!(device.publish("other/d1", "x", 1) < 0x80);
    assert_eq!(server.metric("tidegate_access_file_refused", "acl"), 1.0);

    // A user that is new can log in, one that is gone can neither log in nor publish.
    assert!(passwd(server.path(), "d3", "pass of d3").status.success());
    until("the new user is known", || (refused(&server, &login(5, "c3", "d3")) == 0).then_some(()));
    assert!(server.tidegate(&["passwd", "users", "d1", "--delete"]).status.success());
    until("the user is gone", || (device.publish("other/d1", "x", 1) == 0x87).then_some(()));
    assert_eq!(refused(&server, &login(5, "c1", "d1")), 0x86);
    assert_eq!(server.metric("tidegate_access_file_refused", "password"), 0.0);
    server.assert_no_panic();
}

#[test]
fn who_guesses_passwords_has_to_wait() {
    let server = guarded(&CONFIG.replace("login_failures = 20", "login_failures = 3"));
    let wrong = login(5, "c", "d1").with("password", "guess");
    for _ in 0..4 {
        assert_eq!(refused(&server, &wrong), 0x86);
    }
    assert_eq!(server.metric("tidegate_access_logins_total", "damped"), 0.0);
    let began = std::time::Instant::now();
    assert_eq!(refused(&server, &wrong), 0x86, "it has its turn");
    assert!(began.elapsed().as_millis() > 500, "{:?}", began.elapsed());
    assert_eq!(server.metric("tidegate_access_logins_total", "damped"), 1.0);
    // Neither others at its address are held up, nor is it kept out.
    Paho::connect(server.port, &login(5, "o", "operator")).disconnect();
    assert_eq!(server.metric("tidegate_access_logins_total", "damped"), 1.0);
    assert_eq!(refused(&server, &login(5, "c", "d1")), 0);
}

#[test]
fn passwd_keeps_a_private_file_of_hashes() {
    let directory = tempfile::tempdir().unwrap();
    let (path, file) = (directory.path(), directory.path().join("users"));
    assert!(passwd(path, "u", "secret").status.success());
    let first = std::fs::read_to_string(&file).unwrap();
    assert!(first.starts_with("u:$argon2id$v=19$m=19456,t=2,p=1$") && !first.contains("secret"), "{first}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(passwd(path, "u", "secret").status.success());
    let second = std::fs::read_to_string(&file).unwrap();
    assert!(second.lines().count() == 1 && second != first, "a new salt");
    for (user, password) in [("a:b", "x"), ("u", ""), ("", "x")] {
        let output = passwd(path, user, password);
        assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), second);
    let ask = |args: &[&str]| {
        let mut command = Command::new(binary());
        text_of(&command.current_dir(path).args(args).stdin(Stdio::null()).output().unwrap())
    };
    assert!(ask(&["passwd", "users", "u"]).contains("--stdin"), "no terminal to ask on");
    assert!(ask(&["passwd", "users", "u", "--delete"]).contains("removed"));
    assert!(ask(&["passwd", "users", "u", "--delete"]).contains("no user \"u\""));
}

#[test]
fn check_reads_both_files() {
    let builder = with_users(Server::builder().file("tidegate.toml", CONFIG).file("acl", ACL));
    let check = |path: &Path| tidegate_e2e::server::tidegate(path, &["check"]);
    let output = check(builder.path());
    let text = text_of(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("users (users: 3)") && text.contains("acl (lines: 4)"), "{text}");
    let builder = builder.file("acl", "allow all pubsub a/#/b\n").file("users", "u:plain\n");
    let output = check(builder.path());
    let text = text_of(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("acl:1:18: in a filter #") && text.contains("users:1:3: no hash"), "{text}");
    let run =
        tidegate_e2e::server::tidegate(builder.path(), &["run", "--listen", "127.0.0.1:0", "--api", "off"]);
    assert!(!run.status.success(), "and the server does not start: {}", text_of(&run));
    assert!(text_of(&run).contains("acl:1:18"));
}
