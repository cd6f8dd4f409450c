//! `tidegate:broker/context`: rarer facts about the event being handled.

use tidegate_event::PublishProperties;

use crate::bindings::tidegate::broker::context::{ClientInfo, Host};
use crate::state::State;
use crate::translate;

impl State {
    fn properties(&self, event: u64) -> Option<&PublishProperties> {
        self.event(event)?.message()?.properties.as_deref()
    }
}

impl Host for State {
    fn message_property(&mut self, event: u64, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.properties(event).and_then(|properties| match name.as_str() {
            "content-type" => properties.content_type.as_ref().map(ToString::to_string),
            "response-topic" => properties.response_topic.as_ref().map(ToString::to_string),
            "payload-format-indicator" => properties.payload_format.map(|format| format.to_string()),
            "message-expiry-interval" => properties.message_expiry.map(|seconds| seconds.to_string()),
            _ => None,
        }))
    }

    fn correlation_data(&mut self, event: u64) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.properties(event).and_then(|p| p.correlation_data.as_ref()).map(|data| data.to_vec()))
    }

    fn client(&mut self, event: u64) -> wasmtime::Result<Option<ClientInfo>> {
        let client = self.event(event).and_then(|call| call.scope()?.event.client());
        Ok(client.map(|client| translate::client_result(client)))
    }

    fn tenant(&mut self, _event: u64) -> wasmtime::Result<String> {
        // A module lives in one tenant, whatever the event.
        Ok(self.shared.tenant.name().to_owned())
    }

    fn node(&mut self) -> wasmtime::Result<String> {
        Ok(self.shared.services.node.name().to_owned())
    }
}
