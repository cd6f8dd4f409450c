//! What guests answer when a client asks for leave, checked: decisions, grants, and the reason codes they refuse with.

use std::sync::Arc;

use tidegate_event::{Access, ReasonCode, Requested, Verdict};

use crate::bindings::tidegate::hooks::types::{Access as AccessOut, Decision, Grant};
use crate::translate::{brief, qos_in};

/// The reason codes that one packet may refuse with.
pub(crate) struct Refusals {
    what: &'static str,
    codes: &'static [u8],
}

/// CONNACK (MQTT 5 clause 3.2.2.2).
pub(crate) const CONNECT: Refusals = Refusals {
    what: "a connection",
    codes: &[
        0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a,
        0x9b, 0x9c, 0x9d, 0x9f,
    ],
};

/// PUBACK and PUBREC (clauses 3.4.2.1 and 3.5.2.1).
pub(crate) const PUBLISH: Refusals =
    Refusals { what: "a publish", codes: &[0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] };

/// SUBACK (clause 3.9.3).
pub(crate) const SUBSCRIBE: Refusals =
    Refusals { what: "a subscription", codes: &[0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2] };

impl Refusals {
    /// Gives `code` if it is among them.
    ///
    /// # Errors
    /// Words that name those which are.
    pub(crate) fn check(&self, code: u8) -> Result<u8, String> {
        if self.codes.contains(&code) {
            return Ok(code);
        }
        let known: Vec<_> = self.codes.iter().map(|code| format!("{code:#04x}")).collect();
        Err(format!(
            "reason code {code:#04x} is none {} can be refused with; those are {}",
            self.what,
            known.join(", ")
        ))
    }

    fn refuse(&self, code: u8) -> Result<Verdict, String> {
        self.check(code).map(|code| Verdict::Reject(ReasonCode(code)))
    }
}

/// What a client wants, as a guest takes it: the kind, RETAIN, and what a refusal may say.
pub(crate) fn access(access: &Access) -> (AccessOut, bool, &'static Refusals) {
    match access {
        Access::Publish(message) => (AccessOut::Publish, message.retain, &PUBLISH),
        Access::Subscribe(_) => (AccessOut::Subscribe, false, &SUBSCRIBE),
    }
}

/// The verdict on what a client asks for.
///
/// # Errors
/// The reason code is none of `refusals`.
pub(crate) fn decision(answer: Decision, refusals: &Refusals) -> Result<Verdict, String> {
    match answer {
        Decision::Ignore => Ok(Verdict::Pass),
        Decision::Allow => Ok(Verdict::Allow),
        Decision::Refuse(code) => refusals.refuse(code),
    }
}

/// The verdict on a subscription.
///
/// # Errors
/// The reason code is none that SUBACK may carry, or the filter breaks a rule.
pub(crate) fn grant(answer: Grant) -> Result<Verdict, String> {
    match answer {
        Grant::Ignore => Ok(Verdict::Pass),
        Grant::Allow => Ok(Verdict::Allow),
        Grant::Refuse(code) => SUBSCRIBE.refuse(code),
        Grant::Change(other) => {
            let shown = brief(&other.filter);
            Requested::parse(other.filter.into(), qos_in(other.qos))
                .map(|request| Verdict::Change(Arc::new(request)))
                .map_err(|error| format!("filter {shown}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::bindings::tidegate::broker::types::Qos;
    use crate::bindings::tidegate::hooks::types::Subscription;

    #[test]
    fn a_refusal_carries_only_codes_of_its_packet() {
        for (refusals, good, wrong) in
            [(&CONNECT, 0x86, 0x00), (&CONNECT, 0x8a, 0x8f), (&PUBLISH, 0x90, 0x86), (&SUBSCRIBE, 0x9e, 0x90)]
        {
            let verdict = decision(Decision::Refuse(good), refusals);
            assert!(matches!(verdict, Ok(Verdict::Reject(ReasonCode(code))) if code == good), "{verdict:?}");
            let error = decision(Decision::Refuse(wrong), refusals).unwrap_err();
            assert!(error.contains(&format!("{wrong:#04x} is none {}", refusals.what)), "{error}");
        }
    }

    #[test]
    fn a_changed_subscription_is_checked() {
        let change = |filter: &str| {
            grant(Grant::Change(Subscription { filter: filter.into(), qos: Qos::AtLeastOnce }))
        };
        let Ok(Verdict::Change(request)) = change("$share/g/a/+") else { panic!("change") };
        assert_eq!((&*request.text, request.filter.filter.as_str()), ("$share/g/a/+", "a/+"));
        for bad in ["a/#/b", "", "$share/g"] {
            assert!(change(bad).unwrap_err().starts_with(&format!("filter {bad:?}: ")), "{bad}");
        }
    }
}
