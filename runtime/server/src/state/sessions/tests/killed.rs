//! `kill -9` at any moment: of what every thread recorded the first so many changes are found, groups are found whole, and
//! whatever was promised is there.
//!
//! The process that is killed is this test program again, told by a variable to be that.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;

const DIRECTORY: &str = "TIDEGATE_TEST_DIRECTORY";
const DURABILITY: &str = "TIDEGATE_TEST_DURABILITY";
const THREADS: u64 = 3;

/// Each thread queues messages for two sessions of its own, both or none, finishes them later, and says what was promised.
fn record_for_ever(dir: &Path) {
    let durability = match std::env::var(DURABILITY).as_deref() {
        Ok("written") => SessionDurability::Written,
        _ => SessionDurability::Synced,
    };
    let (store, restored) = Store::open_with(dir, durability);
    let last = |session: SessionNumber| {
        let session = restored.sessions.iter().find(|found| found.number == session);
        session.and_then(|session| session.queue.last()).map_or(0, |delivery| delivery.delivery.number)
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, from) = (&store, last(2 * thread + 1) + 1);
            scope.spawn(move || {
                let pair = [2 * thread + 1, 2 * thread + 2];
                pair.iter().for_each(|session| store.record(opened(*session, &format!("c{session}"))));
                for number in from.. {
                    let news = message("t", &format!("{number} {}", "x".repeat(200)));
                    store.sessions.together(&mut || {
                        for session in pair {
                            store.record(queued(session, number, &news));
                            if number > 20 {
                                store.record(Change::Finished { session, number: number - 20 });
                            }
                        }
                    });
                    if number % 7 == thread {
                        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                            store.durable().await.unwrap();
                        });
                        println!("promised {thread} {number}");
                    }
                }
            });
        }
    });
}

fn kill_again_and_again(durability: &str) {
    // The harness calls its threads by their tests.
    let test = std::thread::current().name().unwrap().to_owned();
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        record_for_ever(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut promised = [0; THREADS as usize];
    for round in 0..5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &test, "--nocapture"])
            .env(DIRECTORY, dir.path())
            .env(DURABILITY, durability)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, begun) = std::sync::mpsc::sync_channel(1);
        let reader = std::thread::spawn(move || {
            let mut promised = [0; THREADS as usize];
            for line in lines.map_while(Result::ok) {
                // Lines of the test harness go between.
                let Some((_, line)) = line.split_once("promised ") else { continue };
                let Some((thread, number)) = line.split_once(' ') else { continue };
                let (Ok(thread), Ok(number)) = (thread.parse::<usize>(), number.parse::<u64>()) else {
                    continue;
                };
                promised[thread] = promised[thread].max(number);
                // Once is enough.
                sender.try_send(()).ok();
            }
            promised
        });
        begun.recv_timeout(Duration::from_secs(60)).unwrap();
        std::thread::sleep(Duration::from_millis(20 + 83 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = reader.join().unwrap();
        for (promised, now) in promised.iter_mut().zip(now) {
            *promised = now.max(*promised);
        }
        let (store, restored) = Store::open(dir.path());
        for (thread, promised) in promised.iter().enumerate() {
            let queue = |session: usize| {
                let session = restored.sessions.iter().find(|found| found.number == session as u64);
                let numbers = |session: &RestoredSession| {
                    let mut numbers = Vec::new();
                    for delivery in &session.queue {
                        let text = std::str::from_utf8(&delivery.delivery.message.payload).unwrap();
                        assert!(text.starts_with(&format!("{} ", delivery.delivery.number)), "{text}");
                        numbers.push(delivery.delivery.number);
                    }
                    numbers
                };
                session.map(numbers).unwrap_or_default()
            };
            let (one, other) = (queue(2 * thread + 1), queue(2 * thread + 2));
            assert_eq!(one, other, "round {round}: a group is found whole");
            let last = one.last().copied().unwrap_or_default();
            assert!(last >= *promised, "round {round}: {promised} was promised, {last} is the last");
            let all: Vec<u64> = (last.saturating_sub(19).max(1)..=last).collect();
            assert_eq!(one, all, "round {round}: the first so many changes");
        }
        // It lets go of the files in its own time.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(store.close());
    }
    assert!(promised.iter().all(|number| *number > 20), "{promised:?}");
}

#[test]
fn a_process_that_is_killed_has_kept_what_it_promised() {
    kill_again_and_again("synced");
}

#[test]
fn a_killed_process_has_kept_what_the_operating_system_had() {
    kill_again_and_again("written");
}
