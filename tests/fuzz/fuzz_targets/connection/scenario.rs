//! What an input stands for: some clients of one broker, and what they do, step by step. Numbers choose from lists
//! ([`super::draft`]), modulo their length, so that any input is a scenario.
//!
//! Every type can be written as the bytes it is read from: that is how seeds are made.

use arbitrary::{Arbitrary, Unstructured};

/// The opposite of [`Arbitrary`].
pub trait Encode {
    fn encode(&self, out: &mut Vec<u8>);
}

impl Encode for u8 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
}

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        self.iter().for_each(|value| value.encode(out));
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        for value in self {
            true.encode(out);
            value.encode(out);
        }
        false.encode(out);
    }
}

macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Arbitrary, Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$field.encode(out);)*
            }
        }
    };
}

macro_rules! choice {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident { $($field:ident: $type:ty),* },)*
    }) => {
        $(#[$meta])*
        #[derive(Arbitrary, Clone, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant { $($field: $type),* },)* }

        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                let variants = [$(stringify!($variant)),*];
                match self {
                    $(Self::$variant { $($field),* } => {
                        let place = variants.iter().position(|known| *known == stringify!($variant));
                        tag(place.unwrap_or(0), variants.len(), out);
                        $($field.encode(out);)*
                    })*
                }
            }
        }
    };
}

/// The four bytes from which a derived `Arbitrary` makes the variant `place` of `count`.
fn tag(place: usize, count: usize, out: &mut Vec<u8>) {
    let number = ((place as u64) << 32).div_ceil(count as u64);
    out.extend((number as u32).to_le_bytes());
}

record! {
    /// What an input stands for.
    Scenario {
        /// What the broker keeps over a crash, and how fast.
        store: u8,
        /// Bits: which clients answer everything at once.
        answering: u8,
        /// The broker's limits.
        inflight: u8,
        queue: u8,
        aliases: u8,
        limits: u8,
        /// How it ends.
        ending: u8,
        steps: Vec<Step>,
    }
}

record! {
    Step {
        /// The next step follows at once, before anybody has reacted.
        goes_on: bool,
        act: Act,
    }
}

choice! {
    /// What is done next. `slot`: by which client.
    Act {
        /// Opens a connection, in place of the client's last one, and sends CONNECT.
        Open { slot: u8, capacity: u8, connect: Connect },
        /// Opens a connection and sends nothing.
        Silence { slot: u8, capacity: u8 },
        /// Sends a packet.
        Send { slot: u8, packet: Packet },
        /// Sends a packet that was changed.
        Mangle { slot: u8, packet: Packet, how: u8, at: u8, with: u8 },
        /// Sends bytes.
        Raw { slot: u8, bytes: Vec<u8> },
        /// The next packet is sent in two parts.
        Cut { slot: u8, at: u8 },
        /// Answers what is to be answered, as the protocol wants it.
        Answer { slot: u8, count: u8 },
        /// Sends a PUBLISH again.
        Again { slot: u8, which: u8 },
        /// Sends many messages.
        Flood { slot: u8, count: u8, publish: Publish },
        /// Reads so much of what was written, all of it, or nothing more.
        Read { slot: u8, amount: u8 },
        /// Closes the connection, or its own side of it.
        Close { slot: u8, how: u8 },
        /// Time passes.
        Wait { time: u8 },
        /// The store has written everything, or what has waited longest.
        Sync { all: bool },
        /// The broker crashes and starts again.
        Crash { synced: bool },
    }
}

choice! {
    Packet {
        Connect { connect: Connect },
        Publish { publish: Publish },
        Ack { kind: u8, which: u8, reason: u8 },
        Subscribe { id: u8, first: Subscription, more: Vec<Subscription> },
        Unsubscribe { first: u8, second: Option<u8> },
        Ping {},
        Disconnect { reason: u8, expiry: u8 },
        Auth { reason: u8, method: bool },
    }
}

record! {
    Connect {
        version: u8,
        client: u8,
        /// Bits: clean start, user name, password, no problem information, response information, an authentication
        /// method (two bits).
        flags: u8,
        keep_alive: u8,
        expiry: u8,
        receive_maximum: u8,
        max_packet: u8,
        alias_maximum: u8,
        will: Option<Will>,
    }
}

record! {
    Will {
        delay: u8,
        message: Publish,
    }
}

record! {
    Publish {
        topic: u8,
        /// QoS, and RETAIN (bit 2), DUP (bit 3), no payload (bit 4).
        flags: u8,
        /// 0: one that is free.
        packet_id: u8,
        alias: u8,
        expiry: u8,
        length: u8,
        /// Bits: which properties it has.
        properties: u8,
    }
}

record! {
    Subscription {
        filter: u8,
        /// QoS (2 bits), no local, retain as published, retain handling (2 bits).
        options: u8,
    }
}

impl Default for Act {
    fn default() -> Self {
        Self::Wait { time: 0 }
    }
}

impl Scenario {
    /// What `input` stands for.
    pub fn read(input: &[u8]) -> Self {
        Self::arbitrary(&mut Unstructured::new(input)).unwrap_or_default()
    }
}
