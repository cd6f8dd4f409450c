//! Reading and making messages.

use crate::{Message, Qos};

impl Message {
    /// A message to publish: QoS 0, not retained, no user properties. Id and time of arrival are given by
    /// the host.
    ///
    /// ```
    /// use tidegate_sdk::{Message, Qos};
    ///
    /// let alarm = Message::new("alarms/boiler", "too hot").with_qos(Qos::AtLeastOnce).with_retain(true);
    /// assert_eq!(alarm.text(), Some("too hot"));
    /// ```
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            id: String::new(),
            topic: topic.into(),
            payload: payload.into(),
            qos: Qos::AtMostOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            user_properties: Vec::new(),
        }
    }

    /// The same message on another topic. A topic name without wildcards (MQTT 5 clause 4.7).
    #[must_use]
    pub fn with_topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = topic.into();
        self
    }

    /// The same message with another payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The same message at another quality of service.
    #[must_use]
    pub fn with_qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// The same message with the RETAIN flag set or cleared.
    #[must_use]
    pub fn with_retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// The same message with one more user property; names may repeat (MQTT 5 clause 3.3.2.3.7).
    #[must_use]
    pub fn with_user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.user_properties.push((name.into(), value.into()));
        self
    }

    /// The value of the first user property called `name`.
    pub fn user_property(&self, name: &str) -> Option<&str> {
        self.user_properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The payload as text; `None` when it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.payload).ok()
    }

    /// The payload read as JSON.
    ///
    /// # Errors
    /// The payload is not JSON, or not of that shape.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.payload)
    }

    /// The same message with `value` as JSON for its payload.
    ///
    /// # Errors
    /// `value` has no JSON form (a map with keys that are not text, for example).
    #[cfg(feature = "json")]
    pub fn with_json<T: serde::Serialize + ?Sized>(self, value: &T) -> serde_json::Result<Self> {
        Ok(self.with_payload(serde_json::to_vec(value)?))
    }
}

impl Qos {
    /// 0, 1 or 2, as on the wire.
    pub const fn level(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_builder_changes_its_field_only() {
        let message = Message {
            id: "0005F65F239F03FEF44300000BB40002".into(),
            timestamp_ms: 7,
            dup: true,
            ..Message::new("a", "1")
        };
        let changed = message
            .clone()
            .with_topic("b")
            .with_payload([0xff])
            .with_qos(Qos::ExactlyOnce)
            .with_retain(true)
            .with_user_property("k", "1")
            .with_user_property("k", "2");
        assert_eq!(changed.topic, "b");
        assert_eq!(changed.text(), None);
        assert_eq!(changed.qos.level(), 2);
        assert!(changed.retain);
        assert_eq!(changed.user_property("k"), Some("1"));
        assert_eq!(changed.user_property("none"), None);
        assert_eq!((changed.id, changed.timestamp_ms, changed.dup), (message.id, 7, true));
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_goes_in_and_out() -> serde_json::Result<()> {
        let message = Message::new("t", "").with_json(&[1, 2])?;
        assert_eq!(message.text(), Some("[1,2]"));
        assert_eq!(message.json::<Vec<u8>>()?, [1, 2]);
        assert!(message.json::<bool>().is_err());
        Ok(())
    }
}
