//! The life of clients' connections: several clients of a whole broker, in simulated time, with crashes in between; what
//! the broker sends is judged by the standard. An input is a [`Scenario`] (see `README.md`).
#![no_main]

#[path = "connection/mod.rs"]
#[allow(dead_code, reason = "the seeds are made by the tests")]
mod connection;

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use connection::mutate::{crossed, mutated};
use connection::play::play;
use connection::scenario::Scenario;
use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target, fuzzer_mutate};
use parking_lot::Mutex;

/// Plays scenarios on a thread of their own: its time is simulated, libFuzzer's is not.
struct Stage {
    inputs: SyncSender<Vec<u8>>,
    ends: Receiver<()>,
}

fn open() -> Mutex<Stage> {
    let (inputs, scenarios) = sync_channel::<Vec<u8>>(0);
    let (ended, ends) = sync_channel(0);
    let shows = std::env::var_os("TIDEGATE_FUZZ_SHOW").is_some();
    std::thread::spawn(move || {
        for input in scenarios {
            let scenario = Scenario::read(&input);
            if shows {
                eprintln!("{scenario:#?}");
            }
            if let Err(fault) = play(&scenario) {
                panic!("{fault}\n{scenario:?}");
            }
            drop((scenario, input));
            ended.send(()).expect("the fuzzer waits");
        }
    });
    Mutex::new(Stage { inputs, ends })
}

fuzz_target!(|input: &[u8]| {
    static STAGE: OnceLock<Mutex<Stage>> = OnceLock::new();
    let stage = STAGE.get_or_init(open).lock();
    stage.inputs.send(input.to_vec()).expect("the stage is open");
    stage.ends.recv().expect("the scenario was played to its end");
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    // Bytes are changed, too: what a scenario is made of is more than what its steps show.
    if seed % 4 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let changed = mutated(data.get(..size).unwrap_or_default(), seed);
    match data.get_mut(..changed.len()).filter(|_| changed.len() <= max_size) {
        Some(place) => {
            place.copy_from_slice(&changed);
            changed.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});

fuzz_crossover!(|one: &[u8], other: &[u8], out: &mut [u8], seed: u32| {
    let crossed = crossed(one, other, seed);
    // What does not fit is cut off.
    let length = crossed.len().min(out.len());
    out[..length].copy_from_slice(&crossed[..length]);
    length
});
