//! Changes scenarios as scenarios. libFuzzer changes bytes, and a byte more or less makes another packet of everything that
//! comes behind it: what goes deep is lost. Here steps come and go, and the others stay what they are.

use arbitrary::{Arbitrary, Unstructured};

use super::scenario::{Act, Connect, Encode, Packet, Publish, Scenario, Step, Subscription, Will};

/// Steps from which on a scenario gets no more of them.
const ENOUGH: usize = 100;
/// Bytes of which one step is made.
const STEP_BYTES: usize = 64;

/// Numbers that follow from a seed (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn new(seed: u32) -> Self {
        let mut numbers = Self(u64::from(seed) << 1 | 1);
        // Seeds that are alike give others.
        (0..4).for_each(|_| _ = numbers.next());
        numbers
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// One of `0..count`; 0 for none.
    fn below(&mut self, count: usize) -> usize {
        self.next() as usize % count.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// A small number mostly: the lists begin with what is plain.
    fn small(&mut self) -> u8 {
        if self.one_in(4) { self.byte() } else { self.byte() % 4 }
    }
}

/// The scenario of `input`, changed, as bytes.
pub fn mutated(input: &[u8], seed: u32) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut scenario = Scenario::read(input);
    for _ in 0..=numbers.below(3) {
        change(&mut scenario, &mut numbers);
    }
    bytes(&scenario)
}

/// Steps of two scenarios in one, as bytes.
pub fn crossed(one: &[u8], other: &[u8], seed: u32) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let (mut scenario, other) = (Scenario::read(one), Scenario::read(other));
    let (from, to) = (numbers.below(other.steps.len() + 1), numbers.below(other.steps.len() + 1));
    let part = &other.steps[from.min(to)..from.max(to)];
    let at = numbers.below(scenario.steps.len() + 1);
    if numbers.one_in(2) {
        scenario.steps.truncate(at);
    }
    scenario.steps.splice(at..at, part.iter().cloned());
    scenario.steps.truncate(ENOUGH);
    bytes(&scenario)
}

fn bytes(scenario: &Scenario) -> Vec<u8> {
    let mut bytes = Vec::new();
    scenario.encode(&mut bytes);
    bytes
}

fn change(scenario: &mut Scenario, numbers: &mut Numbers) {
    let Scenario { store, answering, inflight, queue, aliases, limits, ending, steps } = scenario;
    let (at, to) = (numbers.below(steps.len()), numbers.below(steps.len() + 1));
    let has_room = steps.len() < ENOUGH;
    match numbers.below(12) {
        0 => {
            let settings = [store, answering, inflight, queue, aliases, limits, ending];
            let which = numbers.below(settings.len());
            *settings[which] = numbers.small();
        }
        1 if !steps.is_empty() => _ = steps.remove(at),
        2 if !steps.is_empty() => {
            let step = steps.remove(at);
            steps.insert(to.min(steps.len()), step);
        }
        3 if !steps.is_empty() && has_room => steps.insert(to, steps[at].clone()),
        4 if !steps.is_empty() => steps[at].goes_on ^= true,
        5..=7 if !steps.is_empty() => changed(&mut steps[at], numbers),
        8 if has_room => steps.insert(to, read_step(&random_bytes(numbers))),
        _ if has_room => {
            let step = Step { goes_on: numbers.one_in(3), act: usual(numbers) };
            steps.insert(to, step);
        }
        _ => steps.truncate(ENOUGH),
    }
}

/// Changes one byte of what makes `step`.
fn changed(step: &mut Step, numbers: &mut Numbers) {
    let mut bytes = Vec::new();
    step.encode(&mut bytes);
    let at = numbers.below(bytes.len());
    bytes[at] = match numbers.below(3) {
        0 => numbers.byte(),
        1 => numbers.small(),
        _ => bytes[at] ^ 1 << numbers.below(8),
    };
    // What it may need behind its end.
    bytes.extend(random_bytes(numbers));
    *step = read_step(&bytes);
}

fn random_bytes(numbers: &mut Numbers) -> Vec<u8> {
    (0..STEP_BYTES).map(|_| numbers.small()).collect()
}

fn read_step(bytes: &[u8]) -> Step {
    Step::arbitrary(&mut Unstructured::new(bytes)).unwrap_or_default()
}

/// What clients do mostly.
fn usual(numbers: &mut Numbers) -> Act {
    let slot = numbers.byte() % 4;
    let mut number = || numbers.small();
    let publish = |number: &mut dyn FnMut() -> u8| Publish {
        topic: number(),
        flags: number(),
        packet_id: number(),
        alias: if number() == 0 { number() } else { 0 },
        expiry: number(),
        length: number(),
        properties: if number() == 0 { number() } else { 0 },
    };
    let kind = number() % 16;
    let packet = match kind {
        0 | 1 => {
            let will = (number() == 0).then(|| Will { delay: number(), message: publish(&mut number) });
            let connect = Connect {
                version: number(),
                client: number(),
                flags: number(),
                keep_alive: number(),
                expiry: number(),
                receive_maximum: number(),
                max_packet: number(),
                alias_maximum: number(),
                will,
            };
            return Act::Open { slot, capacity: number(), connect };
        }
        2 | 3 => Packet::Subscribe {
            id: number(),
            first: Subscription { filter: number() % 20, options: number() },
            more: Vec::new(),
        },
        4 => Packet::Unsubscribe { first: number() % 20, second: None },
        5..=7 => Packet::Publish { publish: publish(&mut number) },
        8 | 9 => Packet::Ack { kind: number(), which: number(), reason: number() },
        10 => return Act::Answer { slot, count: number() },
        11 => return Act::Close { slot, how: number() },
        12 => return Act::Wait { time: number() % 16 },
        13 => return Act::Sync { all: number() % 2 == 0 },
        14 => return Act::Read { slot, amount: if number() == 0 { u8::MAX } else { number() } },
        _ => {
            return if number() == 0 {
                Act::Crash { synced: number() % 2 == 0 }
            } else {
                Act::Again { slot, which: number() }
            };
        }
    };
    Act::Send { slot, packet }
}
