//! The cases of row `broker`: how many publish to how many, at which QoS, in which version, over what.

use std::sync::Arc;
use std::time::Duration;

use crate::certificates::Certificates;
use crate::load::{Load, Span};
use crate::peer::{Peer, Service, Sessions};
use crate::row::Bench;
use crate::wire::{Session, Version};

/// Rounds of a case that is no headline.
const FEW: usize = 3;
/// And its span.
const BRIEF: Span = Span { warm_up: Duration::from_millis(300), measure: Duration::from_millis(1_500) };
/// Seconds that a durable session outlives its connection.
const KEPT: u32 = 300;

/// What is measured, and of whom.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) load: Load,
    pub(super) service: Service,
    /// How much faster than rumqttd we want to be, and than mosquitto; none: the ratio is printed alone.
    pub(super) targets: Targets,
    /// Whether it has all rounds and the whole span.
    pub(super) is_headline: bool,
    /// Whether `--profile` is taken of it: the others spend their time in the same places.
    pub(super) is_profiled: bool,
}

/// By how much we want to be faster.
#[derive(Clone, Copy)]
pub(super) struct Targets {
    pub(super) rumqttd: Option<f64>,
    pub(super) mosquitto: Option<f64>,
}

impl Case {
    pub(super) fn rounds(&self, bench: &Bench) -> usize {
        if self.is_headline { bench.rounds } else { bench.rounds_or(FEW) }
    }

    pub(super) fn span(&self, bench: &Bench) -> Span {
        if self.is_headline || bench.quick { bench.span } else { BRIEF }
    }

    /// Who is measured: every peer, and ourselves without durable sessions where the case is about those.
    pub(super) fn contenders(&self, peers: &[Peer]) -> Vec<Contender> {
        let is_durable = self.service.sessions == Sessions::Durable;
        let mut all = Vec::new();
        for peer in peers {
            let with = |name, service| Contender { name, peer: peer.clone(), service };
            all.push(with(peer.name(), self.service.clone()));
            if peer.is_ours() && is_durable {
                let sessions = Sessions::Volatile;
                all.push(with(VOLATILE, Service { sessions, ..self.service.clone() }));
            }
        }
        // rumqttd keeps nothing.
        all.retain(|contender| !is_durable || contender.name != "rumqttd");
        all
    }
}

/// Our own server, with sessions in memory.
pub(super) const VOLATILE: &str = "volatile";

/// A server that takes part in a case.
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) peer: Peer,
    pub(super) service: Service,
}

/// How many publish to how many.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    publishers: usize,
    fan_out: usize,
    fan_in: bool,
    /// Ten thousand deliveries for each of a hundred subscribers would be a million in the queues.
    lead: u64,
    over_rumqttd: f64,
}

const ONE: Shape =
    Shape { name: "1 -> 1", publishers: 1, fan_out: 1, fan_in: false, lead: 10_000, over_rumqttd: 1.5 };
const FAN_OUT: Shape = Shape { name: "1 -> 100", fan_out: 100, lead: 1_000, over_rumqttd: 1.0, ..ONE };
const MANY: Shape = Shape { name: "10 -> 10", publishers: 10, lead: 2_000, ..ONE };
const FAN_IN: Shape = Shape { name: "10 -> 1", fan_in: true, lead: 1_000, ..MANY };

impl Shape {
    fn load(self, qos: u8, version: Version) -> Load {
        let Self { publishers, fan_out, fan_in, lead, .. } = self;
        Load { qos, version, publishers, fan_out, fan_in, lead, ..Load::default() }
    }

    fn case(self, qos: u8, version: Version) -> Case {
        let suffix = if version == Version::V5 { ", MQTT 5" } else { "" };
        Case {
            name: format!("{}, 64 B, QoS {qos}{suffix}", self.name),
            load: self.load(qos, version),
            service: Service::plain(version),
            targets: Targets { rumqttd: Some(self.over_rumqttd), mosquitto: Some(1.0) },
            is_headline: false,
            is_profiled: false,
        }
    }
}

/// Every case, the headlines first.
pub(super) fn all(quick: bool) -> Vec<Case> {
    let (v3, v5) = (Version::V311, Version::V5);
    let profiled = |case| Case { is_profiled: true, ..case };
    let mut headlines = vec![
        profiled(ONE.case(0, v3)),
        profiled(ONE.case(1, v3)),
        ONE.case(2, v3),
        profiled(FAN_OUT.case(0, v3)),
    ];
    if quick {
        headlines.push(FAN_IN.case(1, v5));
    } else {
        headlines.extend([MANY.case(0, v3), MANY.case(1, v3), ONE.case(1, v5)]);
    }
    headlines.iter_mut().for_each(|case| case.is_headline = true);
    let mut all = headlines;
    if !quick {
        let shapes = [ONE, FAN_OUT, MANY, FAN_IN];
        let each = shapes
            .into_iter()
            .flat_map(|shape| (0..3).flat_map(move |qos| [v3, v5].map(|version| shape.case(qos, version))));
        let rest: Vec<_> = each.filter(|case| all.iter().all(|known| known.name != case.name)).collect();
        all.extend(rest);
    }
    all
}

/// Cases over TLS.
pub(super) fn with_tls(quick: bool, certificates: &Arc<Certificates>) -> Vec<Case> {
    let (v3, v5) = (Version::V311, Version::V5);
    let of = |shape: Shape, qos, version| {
        let case = shape.case(qos, version);
        let service = Service { tls: Some(certificates.clone()), ..case.service };
        Case { name: format!("{}, TLS", case.name), service, ..case }
    };
    if quick {
        return vec![of(ONE, 1, v5)];
    }
    vec![of(ONE, 0, v3), of(ONE, 1, v3), of(ONE, 1, v5), of(MANY, 0, v3), of(MANY, 1, v3)]
}

/// Cases with subscribers whose sessions are on disk.
pub(super) fn durable(quick: bool) -> Vec<Case> {
    let of = |shape: Shape, qos| {
        let case = shape.case(qos, Version::V5);
        let load = Load { session: Session::Kept(KEPT), ..case.load };
        let service = Service { sessions: Sessions::Durable, ..case.service };
        // mosquitto acknowledges before anything is on disk: no target.
        let targets = Targets { rumqttd: None, mosquitto: None };
        Case { name: format!("{}, kept sessions", case.name), load, service, targets, ..case }
    };
    if quick {
        return vec![of(ONE, 1)];
    }
    vec![of(ONE, 1), of(MANY, 1), of(MANY, 2)]
}
