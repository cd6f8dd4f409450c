//! A disk without room and a directory that is damaged: what cannot be kept is refused, and what was promised is there.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::server::{Builder, binary, free_port, text_of};
use tidegate_e2e::wait::PATIENCE;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, mosquitto, until};

/// Writes to a file until its disk has no room.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4_096, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
}

/// The CONNACK code of a session that is to be kept.
fn connect_code(port: u16, version: u8, id: &str) -> u8 {
    let mut wire = Wire::open(port);
    wire.send(&Connect::new(version, id).persistent().encode());
    wire.expect(kind::CONNACK).body[1]
}

/// Publishes numbers at QoS 1 until one is refused; gives how many were acknowledged.
fn publish_until_refused(port: u16, version: u8) -> u64 {
    let (mut wire, _) = Wire::connect(port, &Connect::new(version, &format!("publisher-{version}")));
    for number in 0_u64.. {
        let payload = format!("{version} {number:<2000}");
        wire.send(&wire::publish(version, "kept", payload.as_bytes(), 1, 1));
        match (version, wire.read()) {
            // Clause 3.4.2.1: an unspecified error.
            (5, Ok(packet)) if packet.reason() >= 0x80 => {
                assert_eq!((packet.kind(), packet.reason()), (kind::PUBACK, 0x80));
                return number;
            }
            // 3.1.1 has no such answer, and no other than to close.
            (4, Err(_)) => return number,
            (_, Ok(packet)) => assert_eq!((packet.kind(), packet.id()), (kind::PUBACK, 1)),
            (_, Err(error)) => panic!("closed although PUBACK could have said why: {error}"),
        }
    }
    unreachable!("a disk that is full refuses")
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing_that_it_promised() {
    let server = Server::builder().small_disk(48 << 20).start();
    let port = server.port;
    let options = Options::new(5, "keeper").with("clean", false).with("session_expiry", 3_600);
    let mut keeper = Paho::connect(port, &options);
    keeper.subscribe("kept", 1);
    keeper.disconnect();
    mosquitto::publish(port, &["-t", "kept", "-m", "before 0", "-q", "1"]);

    let (filler, mark) = (server.on_disk("filler"), server.log_mark());
    fill(&filler);
    let promised = [5, 4].map(|version| (version, publish_until_refused(port, version)));
    server.wait_log(mark, "the reason", |line| line.contains("No space left on device"));
    // Nothing of a session could be kept.
    assert_eq!(connect_code(port, 5, "new"), 0x88);
    assert_eq!(connect_code(port, 4, "new"), 3);
    let (_, answer) = Paho::try_connect(port, &options);
    assert_eq!(answer["code"], 0x88);
    // Who asks for nothing that outlives the connection is served as ever.
    let mut plain = Paho::connect(port, &Options::new(5, "plain"));
    plain.subscribe("other", 1);
    mosquitto::publish(port, &["-t", "other", "-m", "served", "-q", "1"]);
    assert_eq!(plain.receive().payload, "served");

    std::fs::remove_file(filler).unwrap();
    until("sessions are kept again", || (connect_code(port, 5, "new") == 0).then_some(()));
    mosquitto::publish(port, &["-t", "kept", "-m", "after 0", "-q", "1"]);
    let mut keeper = Paho::connect(port, &options);
    let mut found = Vec::new();
    while found.last().is_none_or(|last| last != "after 0") {
        found.push(keeper.receive().payload.trim_end().to_owned());
    }
    let promised =
        promised.into_iter().flat_map(|(version, count)| (0..count).map(move |n| format!("{version} {n}")));
    for payload in ["before 0".to_owned(), "after 0".to_owned()].into_iter().chain(promised) {
        assert_eq!(found.iter().filter(|found| **found == payload).count(), 1, "{payload} in {found:?}");
    }
    server.assert_no_panic();
}

/// Ends `server` as `kill -9` does; gives a directory for another with the state that its small disk has then.
fn killed_with_its_state(server: Server) -> Builder {
    let builder = Server::builder();
    let data = builder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // The disk is gone with the process, which does nothing more while it is copied.
    let stopped = Command::new("kill").args(["-STOP", &server.pid().to_string()]).status().unwrap();
    assert!(stopped.success());
    let copied = Command::new("cp").arg("-r").args([&server.on_disk("state"), &data]).status().unwrap();
    assert!(copied.success());
    drop(server);
    builder
}

/// The value that was refused may be there: it was on its way when the disk had no more room. An older one may not.
#[test]
fn of_retained_messages_on_a_full_disk_the_last_that_was_acknowledged_is_there_after_a_kill() {
    let server = Server::builder().small_disk(48 << 20).start();
    mosquitto::publish(server.port, &["-t", "last", "-m", "before", "-q", "1", "-r"]);
    let (filler, mark) = (server.on_disk("filler"), server.log_mark());
    fill(&filler);
    // Room for some hundreds.
    let file = std::fs::OpenOptions::new().write(true).open(&filler).unwrap();
    file.set_len(file.metadata().unwrap().len() - (1 << 20)).unwrap();
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "publisher"));
    let mut next = 0_u64;
    let reason = loop {
        let payload = format!("{next:<2000}");
        wire.send(&wire::publish_with(5, "last", payload.as_bytes(), 0b011, 1, &[]));
        let answer = wire.expect(kind::PUBACK);
        if answer.reason() >= 0x80 {
            break answer.reason();
        }
        next += 1;
    };
    assert_eq!(reason, 0x80);
    assert!(next > 0, "there was room");
    server.wait_log(mark, "the reason", |line| line.contains("No space left on device"));
    server.assert_no_panic();

    let server = killed_with_its_state(server).start();
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "reader"));
    wire.send(&wire::subscribe(5, 1, "last", 1));
    wire.expect(kind::SUBACK);
    let (_, _, payload) = wire.expect(kind::PUBLISH).publish(5);
    let found = String::from_utf8(payload).unwrap();
    let found: u64 = found.trim_end().parse().unwrap_or_else(|_| panic!("an older one: {found}"));
    assert!((next - 1..=next).contains(&found), "{found}, and {} was acknowledged", next - 1);
    server.assert_no_panic();
}

#[test]
fn a_disk_that_was_full_before_anything_was_kept_leaves_nothing_half_made() {
    let server = Server::builder().small_disk(48 << 20).start();
    let filler = server.on_disk("filler");
    fill(&filler);
    until("a session is refused", || (connect_code(server.port, 5, "first") == 0x88).then_some(()));
    // It is tried again meanwhile.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(connect_code(server.port, 5, "second"), 0x88);
    std::fs::remove_file(filler).unwrap();
    until("a session is kept", || (connect_code(server.port, 5, "third") == 0).then_some(()));
    let names = std::fs::read_dir(server.on_disk("")).unwrap().map(|entry| entry.unwrap().file_name());
    let beginnings: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("state")).collect();
    assert_eq!(beginnings, ["state"]);
}

/// What a start says that fails, and nothing else is waited for.
fn refusal(server: &Server) -> String {
    let child = Command::new(binary())
        .current_dir(server.path())
        .args(["run", "--listen", &format!("127.0.0.1:{}", free_port()), "--api", "off"])
        .env("NO_COLOR", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tidegate starts");
    let pid = child.id();
    let (sender, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else {
        drop(Command::new("kill").args(["-KILL", &pid.to_string()]).status());
        panic!("it serves although its state is damaged");
    };
    assert!(!output.status.success());
    text_of(&output)
}

#[test]
fn a_damaged_state_is_a_refusal_to_start_and_goes_on_when_it_is_moved_aside_or_put_back() {
    let mut server = Server::plain();
    let options = Options::new(5, "keeper").with("clean", false).with("session_expiry", 3_600);
    let mut keeper = Paho::connect(server.port, &options);
    keeper.subscribe("kept", 1);
    keeper.disconnect();
    mosquitto::publish(server.port, &["-t", "kept", "-m", "x", "-q", "1", "-r"]);
    assert!(server.stop());
    let (state, copy) = (server.file("data/state"), server.file("copy"));
    assert!(Command::new("cp").args(["-r"]).args([&state, &copy]).status().unwrap().success());

    for damaged in ["version", "keyspaces/0/current", "keyspaces/1/current"] {
        let file = state.join(damaged);
        let whole = std::fs::read(&file).unwrap();
        for content in [Some(vec![0xA5; whole.len()]), None] {
            match &content {
                Some(content) => std::fs::write(&file, content).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            // An empty tree without a pointer is one that was never finished.
            if content.is_some() || damaged != "keyspaces/1/current" {
                let said = refusal(&server);
                assert!(said.contains("data/state") && said.contains("move it away"), "{damaged}: {said}");
            }
            std::fs::write(&file, &whole).unwrap();
        }
    }

    // Without it the server begins with nothing.
    std::fs::rename(&state, server.file("data/aside")).unwrap();
    server.start();
    let (_, answer) = Paho::try_connect(server.port, &Options::new(5, "keeper").with("clean", false));
    assert_eq!(answer["session"], false);
    assert!(server.stop());
    // With a copy it has what the copy has.
    std::fs::remove_dir_all(&state).ok();
    std::fs::rename(copy, &state).unwrap();
    server.start();
    let (mut keeper, answer) = Paho::try_connect(server.port, &options);
    assert_eq!(answer["session"], true);
    assert_eq!(keeper.receive().payload, "x");
    let mut reader = mosquitto::Subscriber::start(server.port, &["-t", "kept"]);
    let retained = reader.try_receive(Duration::from_secs(10)).expect("a retained message");
    assert!(retained.retain && retained.payload == "x", "{retained:?}");
    server.assert_no_panic();
}
