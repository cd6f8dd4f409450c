//! Reading `[rollout]`: how a new version of the module is tried.

use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use super::{Reader, Value};
use crate::manifest::{Manifest, Mode, keys};

impl Reader<'_> {
    pub(super) fn rollout(&mut self, value: &Value<'_>, manifest: &mut Manifest) {
        let into = &mut manifest.rollout;
        let mut promote_at = None;
        for (key, value) in self.table("rollout", value).into_iter().flatten() {
            let name = key.get_ref().as_ref();
            let path = format!("rollout.{name}");
            match name {
                "canary" => self.count(&path, value, 1, 100, &mut into.canary),
                "promote_after" => {
                    promote_at = Some(key.span());
                    into.promote_after = self.time_or_never(&path, value);
                }
                "rollback_error_rate" => into.rollback_error_rate = self.rate(&path, value),
                _ => self.unknown(&key.span(), &path, name, "key", keys::ROLLOUT),
            }
        }
        if let (Some(span), false) = (promote_at, into.is_trial()) {
            let message = "belongs to canary below 100 or to rollback_error_rate";
            self.error(&span, "rollout.promote_after", message);
        }
    }

    /// What `[rollout]` at `span` says must fit the rest of the manifest.
    pub(super) fn rollout_fits(&mut self, span: &Range<usize>, manifest: &Manifest) {
        if manifest.instances.mode == Mode::Single && manifest.rollout.is_trial() {
            self.error(
                span,
                "rollout",
                "mode = \"single\" has one instance for all clients, and two versions would be two: leave rollout out",
            );
        }
    }

    /// A duration; zero, as a number or with a unit, for never.
    fn time_or_never(&mut self, key: &str, value: &Value<'_>) -> Option<Duration> {
        let zero = match value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()) == Ok(0),
            DeValue::String(text) => humantime::parse_duration(text) == Ok(Duration::ZERO),
            _ => false,
        };
        if zero {
            return Some(Duration::ZERO);
        }
        if !matches!(value.get_ref(), DeValue::String(_)) {
            self.wrong(key, value, "a duration such as \"10m\", or 0");
            return None;
        }
        let mut time = Duration::ZERO;
        self.duration(key, value, &mut time);
        Some(time)
    }

    /// A share of one.
    fn rate(&mut self, key: &str, value: &Value<'_>) -> Option<f64> {
        let rate = match value.get_ref() {
            DeValue::Integer(number) => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        let rate = rate.filter(|rate| *rate > 0.0 && *rate <= 1.0);
        if rate.is_none() {
            self.wrong(key, value, "a number above 0 and at most 1");
        }
        rate
    }
}
