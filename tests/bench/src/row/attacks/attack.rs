//! The attacks.

/// What the attackers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attack {
    Slowloris,
    NeverReads,
    TakeOvers,
    NewIds,
    Garbage,
    TooSlow,
    Subscribes,
    Retained,
}

impl Attack {
    pub(super) const ALL: [Self; 8] = [
        Self::Slowloris,
        Self::NeverReads,
        Self::TakeOvers,
        Self::NewIds,
        Self::Garbage,
        Self::TooSlow,
        Self::Subscribes,
        Self::Retained,
    ];

    /// The name of the case.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slowloris => "1,000 connections that send CONNECT byte by byte",
            Self::NeverReads => "subscribers that never read",
            Self::TakeOvers => "a reconnect loop under one client id",
            Self::NewIds => "a reconnect loop under new client ids",
            Self::Garbage => "1 GiB of garbage",
            Self::TooSlow => "subscribers ten times too slow for an honest publisher",
            Self::Subscribes => "a flood of SUBSCRIBE",
            Self::Retained => "a flood of huge retained messages",
        }
    }

    /// What attackers count besides connections and bytes: so many were ...
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::TakeOvers | Self::NewIds => "CONNECT accepted",
            Self::TooSlow => "messages taken by the subscribers",
            Self::Subscribes => "filters granted",
            Self::Retained => "messages accepted",
            Self::Slowloris | Self::NeverReads | Self::Garbage => "",
        }
    }

    /// What a server accepts for good by its default limits, MiB: retained messages stay (`broker.max_retained_bytes`).
    pub(super) fn keeps_mib(self) -> f64 {
        if self == Self::Retained { 64.0 } else { 0.0 }
    }
}
