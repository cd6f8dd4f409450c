//! Thousands of sequences of packets, broken in many ways: whatever the standard says must be refused is refused, in the
//! way that the version has for it, and another client never notices.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`packets`] | right packets of every type |
//! | [`sequences`] | the same packets, broken; deterministic |
//! | [`oracle`], [`properties`] | a second opinion on which of them must be refused |

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod oracle;
mod packets;
mod properties;
mod sequences;

use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_conformance::ending::answer_pieces;
use tidegate_conformance::packet::DISCONNECT;
use tidegate_conformance::{Client, Publish, Version, name, server};

use oracle::{Refusal, Verdict, judge};
use sequences::Sequence;

/// How many connections offend at once.
const OFFENDERS: usize = 4;

/// The packets of an answer: first bytes and bodies. An error when the last is not whole.
fn packets(mut answer: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, String> {
    let mut packets = Vec::new();
    while let Some((first, rest)) = answer.split_first() {
        let mut reader = tidegate_conformance::wire::Reader::new(rest);
        let length = reader.variable()?;
        packets.push((*first, reader.take(length)?.to_vec()));
        answer = reader.rest();
    }
    Ok(packets)
}

const CONNACK: u8 = 0x20;
const END: u8 = 0xE0;

/// The packets that come after `bytes`: sent at once or, two times of three, in two pieces.
fn answer(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, String> {
    let (first, second) = bytes.split_at(bytes.len() / 3 * (bytes.len() % 3));
    packets(&answer_pieces(&[first, second])?)
}

/// Whether CONNACK of this `body` says one of the codes of `refusal`, and nothing of a session.
fn is_told(body: &[u8], refusal: &Refusal) -> bool {
    let has_its_form = refusal.version == Some(Version::V5) || body.len() == 2;
    has_its_form && body.first() == Some(&0) && body.get(1).is_some_and(|code| refusal.codes.contains(code))
}

/// What is wrong with the answer to a sequence that must be refused.
fn check(sequence: &Sequence, refusal: &Refusal) -> Result<(), String> {
    let packets = answer(&sequence.bytes)?;
    let wrong = |what: &str| Err(format!("{what}, answered by {packets:02X?}"));
    if !refusal.connected {
        return match (&packets[..], refusal.version) {
            // No version: the server may say so in the way of one, or be silent.
            ([], None | Some(Version::V31 | Version::V311)) => Ok(()),
            ([(CONNACK, body)], None) if matches!(body[..], [0, 1] | [0, 0x81 | 0x82 | 0x84, 0]) => Ok(()),
            ([(CONNACK, body)], Some(_)) if is_told(body, refusal) => Ok(()),
            _ => wrong("CONNECT is not refused in its way"),
        };
    }
    match packets.split_first() {
        Some(((CONNACK, body), _)) if body.get(1) == Some(&0) => {}
        _ => return wrong("CONNECT was not accepted"),
    }
    if let Some(kind) = refusal.answers.too_many(packets.iter().map(|(first, _)| *first)) {
        return wrong(&format!("packet type {kind} answers what had to be refused, or what came behind it"));
    }
    let ends: Vec<usize> = (0..packets.len()).filter(|at| packets[*at].0 == END).collect();
    match (&ends[..], refusal.version) {
        ([at], Some(Version::V5)) if at + 1 == packets.len() => {
            let code = packets[*at].1.first().copied().unwrap_or(0);
            if refusal.codes.contains(&code) { Ok(()) } else { wrong("DISCONNECT has another reason") }
        }
        (_, Some(Version::V5)) => wrong("DISCONNECT does not come last and once"),
        ([], _) => Ok(()),
        _ => wrong("there is no such packet in this version"),
    }
}

/// What is wrong with the answer to a sequence that is right, and ends with DISCONNECT.
fn check_served(sequence: &Sequence) -> Result<(), String> {
    let bytes = [&sequence.bytes[..], DISCONNECT].concat();
    let packets = answer(&bytes)?;
    match packets.split_first() {
        Some(((CONNACK, body), rest))
            if body.get(1) == Some(&0) && rest.iter().all(|(first, _)| *first != END) =>
        {
            Ok(())
        }
        _ => Err(format!("it is right, and answered by {packets:02X?}")),
    }
}

/// Tries `cases` on several connections at once. After each one another client is served.
#[track_caller]
fn try_all<T: Sync>(cases: &[(Sequence, T)], check: impl Fn(&Sequence, &T) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let offend = || {
        let topic = name("control/");
        let mut control = Client::new(Version::V5);
        control.subscribe(&topic, 0);
        let mut failed = Vec::new();
        while let Some((sequence, expected)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = check(sequence, expected) {
                let bytes = &sequence.bytes[..sequence.bytes.len().min(120)];
                failed.push(format!("{}: {error}\n    {bytes:02X?}", sequence.what));
            }
            control.send_publish(&Publish::new(&topic, "served"));
            control.expect_payload("served");
        }
        failed
    };
    let mut failed: Vec<String> = std::thread::scope(|scope| {
        let offenders: Vec<_> = (0..OFFENDERS).map(|_| scope.spawn(offend)).collect();
        offenders
            .into_iter()
            .flat_map(|offender| offender.join().expect("the control client is served"))
            .collect()
    });
    failed.sort();
    let count = failed.len();
    failed.truncate(40);
    assert!(
        failed.is_empty(),
        "{count} of {} sequences, the first of them:\n  {}",
        cases.len(),
        failed.join("\n  ")
    );
    server::assert_no_panic();
}

/// The sequences of a version with what must become of them.
fn judged(version: Version) -> Vec<(Sequence, Verdict)> {
    let sequences = sequences::all(version);
    sequences
        .into_iter()
        .map(|sequence| (judge(&sequence.bytes), sequence))
        .map(|(verdict, s)| (s, verdict))
        .collect()
}

fn refused(version: Version) -> Vec<(Sequence, Refusal)> {
    let refused = judged(version).into_iter().filter_map(|(sequence, verdict)| match verdict {
        Verdict::Refused(refusal) => Some((sequence, refusal)),
        _ => None,
    });
    let refused: Vec<_> = refused.collect();
    assert!(refused.len() >= 2_000, "{} sequences", refused.len());
    println!("{} sequences of {version:?}", refused.len());
    refused
}

#[test]
fn malformed_sequences_of_mqtt_5_are_ended_with_a_reason() {
    try_all(&refused(Version::V5), check);
}

#[test]
fn malformed_sequences_of_3_1_1_are_ended_without_a_word() {
    try_all(&refused(Version::V311), check);
}

#[test]
fn malformed_sequences_of_3_1_are_ended_without_a_word() {
    try_all(&refused(Version::V31), check);
}

#[test]
fn broken_packets_that_are_right_all_the_same_are_served() {
    for version in [Version::V5, Version::V311, Version::V31] {
        let served: Vec<(Sequence, Verdict)> =
            judged(version).into_iter().filter(|(_, verdict)| *verdict == Verdict::Served).collect();
        assert!(served.len() >= 300, "{} sequences", served.len());
        try_all(&served, |sequence, _| check_served(sequence));
    }
}

#[test]
fn the_sequences_are_the_same_at_every_run() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let bytes = || sequences::all(version).into_iter().map(|sequence| sequence.bytes).collect::<Vec<_>>();
        assert_eq!(bytes(), bytes());
    }
}
