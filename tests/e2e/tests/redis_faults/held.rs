//! What the runtime holds while Redis is away: its buffer on disk, and its memory.

use std::collections::HashSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use tidegate_e2e::Server;
use tidegate_e2e::load::Load;
use tidegate_e2e::redis::Redis;
use tidegate_e2e::wait::{tell, until_within};
use tidegate_servers::Place;
use tidegate_servers::redis::Options;

use crate::scene::{self, BUDGET, FAULT, LINE, Memory, RECOVERY, SLACK, Scene};

#[test]
fn a_full_buffer_makes_publishers_wait_and_loses_nothing() {
    let place = Place::temporary().unwrap();
    let mut server = Options::new("buffered").durable().start(&place).unwrap();
    let redis = Redis::at(server.cli(), &server.server().address());
    let scene = Scene::start(redis, "buffer_bytes = \"1MiB\"");
    server.server_mut().kill();
    scene.wait_down();
    // Full: nobody is acknowledged any more, and nobody is cut off.
    let acknowledged = scene.wait_still();
    let held = scene.server.metric("tidegate_store_buffered_bytes", "redis:pool1");
    assert!(held > 0.0 && held <= f64::from(1 << 20), "{held} bytes are held");
    assert!(scene.server.metric("tidegate_store_buffer_refused_total", "redis:pool1") > 0.0);
    tell(&format!("full with {acknowledged} messages acknowledged"));
    server.start().unwrap();
    scene.wait_recovered("the buffer was full");
    scene.assert_all_stored();
}

#[test]
fn a_full_disk_makes_publishers_wait_and_loses_nothing() {
    let place = Place::temporary().unwrap();
    let mut server = Options::new("disk-full").durable().start(&place).unwrap();
    let redis = Redis::at(server.cli(), &server.server().address());
    let scene = Scene::on_small_disk(redis, 32 << 20);
    server.server_mut().kill();
    scene.wait_down();
    scene.load.wait_more(1_000);
    let filler = scene.server.on_disk("filler");
    let mark = scene.server.log_mark();
    fill(&filler);
    let acknowledged = scene.wait_still();
    tell(&format!("the disk is full with {acknowledged} messages acknowledged"));
    scene.server.wait_log(mark, "the reason", |line| line.contains("No space left on device"));
    assert!(scene.server.metric("tidegate_store_buffer_refused_total", "redis:pool1") > 0.0);
    // What is stored now cannot leave the buffer, as that is a write, too.
    server.start().unwrap();
    std::thread::sleep(FAULT);
    std::fs::remove_file(filler).unwrap();
    scene.wait_recovered("the disk was full");
    scene.assert_all_stored();
}

/// Writes to a file until its disk has no room.
fn fill(path: &std::path::Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4_096, 1] {
        let block = vec![0; size];
        let error = loop {
            if let Err(error) = file.write_all(&block) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }
}

#[test]
fn what_the_buffer_holds_survives_kill_9_of_the_runtime() {
    let place = Place::temporary().unwrap();
    let mut redis_server = Options::new("away").durable().start(&place).unwrap();
    let mut scene = Scene::start(Redis::at(redis_server.cli(), &redis_server.server().address()), "");
    redis_server.server_mut().kill();
    scene.wait_down();
    scene.load.wait_more(5_000);
    scene.server.kill();
    let mut promised = scene.load.join();
    // It starts while the store is still down, and takes more.
    scene.server.start();
    let memory = Memory::watch(scene.server.pid());
    let load = Load::start(scene.server.port, "after", 10, 20, scene::PAUSE);
    load.wait_more(2_000);
    let topics: Vec<String> = scene.topics.iter().chain(load.topics()).cloned().collect();
    let listed = scene::buffers(&scene.server, &["list"]);
    assert!(listed.contains("redis:pool1"), "{listed}");
    redis_server.start().unwrap();
    let start = Instant::now();
    promised.extend(load.finish());
    until_within(Duration::from_secs(90), "the buffer is empty", || {
        (scene.server.metric("tidegate_store_buffered", "redis:pool1") == 0.0).then_some(())
    });
    tell(&format!(
        "{} messages acknowledged; the buffer was empty {:.1} s after Redis came back; memory of the second process \
         grew by {} MiB",
        promised.len(),
        start.elapsed().as_secs_f64(),
        memory.grown() >> 20
    ));
    memory.assert_within(BUDGET + SLACK);
    let stored: HashSet<String> = scene.redis.payloads(&topics).into_iter().collect();
    scene::assert_none_missing(&promised, &stored);
    scene.server.assert_no_panic();
}

/// Bytes of a payload of the flood.
const LARGE: usize = 16 << 10;
/// Messages that each of ten publishers of the flood wants to have in flight: together more than 160 MB.
const WINDOW: u16 = 1_100;
/// What the flooded process may grow by besides its budget: a mebibyte that is read ahead for each publisher, batches on
/// their way, what the allocator keeps.
const FLOODED: u64 = 48 << 20;
/// What the embedded state needs to write so much and to take it out again: recent writes in memory, those being written
/// into a table, tables that are merged, its cache. More when the buffer is larger, but no part of what is in it.
const STATE: u64 = 72 << 20;

#[test]
fn memory_stays_within_the_budget_while_publishers_flood_and_nothing_is_buffered() {
    flood("0", BUDGET + FLOODED);
}

#[test]
fn memory_stays_within_the_budget_while_publishers_flood_and_fill_the_buffer() {
    flood("\"64MiB\"", BUDGET + FLOODED + STATE);
}

/// Redis is away, and ten publishers send ten times as much as the budget, as fast as they can; memory may grow by `most`
/// bytes.
fn flood(buffer_bytes: &str, most: u64) {
    let place = Place::temporary().unwrap();
    let mut redis_server = Options::new("flooded").durable().start(&place).unwrap();
    let redis = Redis::at(redis_server.cli(), &redis_server.server().address());
    let toml = format!("[store]\nmemory_budget_bytes = {BUDGET}\nbuffer_bytes = {buffer_bytes}\n");
    let server =
        Server::builder().file("tidegate.toml", toml).file("conf.d/redis.conf", redis.only(LINE)).start();
    // What every process needs once, connections and code, is there before memory is looked at.
    let warm = Load::start(server.port, "warm", 10, 20, Duration::ZERO);
    warm.wait_more(1_000);
    drop(warm.finish());
    redis_server.server_mut().kill();
    let memory = Memory::watch(server.pid());
    let load = Load::of_size(server.port, "flood", 10, WINDOW, Duration::ZERO, LARGE);
    let acknowledged = wait_stalled(&server, &load);
    let (demand, held) = (10 * usize::from(WINDOW) * LARGE, acknowledged * LARGE);
    assert!(demand > 160_000_000, "{demand}");
    let stalled = memory.grown();
    memory.assert_within(most);
    redis_server.start().unwrap();
    // All that was wanted at the beginning, so that the store has taken as much.
    let wanted = 10 * usize::from(WINDOW);
    until_within(RECOVERY, "what waited is acknowledged", || (load.acknowledged() >= wanted).then_some(()));
    let topics = load.topics().to_vec();
    let promised = load.finish();
    until_within(RECOVERY, "the buffer is empty", || {
        (server.metric("tidegate_store_buffered", "redis:pool1") == 0.0).then_some(())
    });
    tell(&format!(
        "buffer_bytes = {buffer_bytes}: of {} MB wanted {} MB were acknowledged while Redis was away; memory grew by {} \
         MiB until then and by {} MiB until all was stored",
        demand / 1_000_000,
        held / 1_000_000,
        stalled >> 20,
        memory.grown() >> 20
    ));
    let stored: HashSet<String> = redis.payloads(&topics).into_iter().collect();
    scene::assert_none_missing(&promised, &stored);
    memory.assert_within(most);
    server.assert_no_panic();
}

/// Waits until neither a byte is taken nor a message acknowledged for a while; gives how many messages were.
fn wait_stalled(server: &Server, load: &Load) -> usize {
    let state = || (server.metric("tidegate_broker_received_bytes_total", ""), load.acknowledged());
    let mut last = (state(), Instant::now());
    until_within(RECOVERY, "publishers wait", || {
        let now = state();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now.0 > LARGE as f64 && last.1.elapsed() > FAULT).then_some(now.1)
    })
}
