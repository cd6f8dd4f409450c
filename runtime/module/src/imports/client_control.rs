//! `tidegate:broker/client-control`: what a module may do to clients of its tenant.

use tidegate_event::{ControlError, Message, TopicFilter};

use crate::bindings::tidegate::broker::client_control::{Error, Host};
use crate::bindings::tidegate::broker::types::{MessageResult, Qos};
use crate::state::State;
use crate::translate::{MessageIn, brief, qos_in};

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NoSuchClient(_) => Self::NoSuchClient,
            ControlError::HopLimit(_) => Self::HopLimit,
            ControlError::Busy => Self::Busy,
            ControlError::Stopping => Self::Stopping,
        }
    }
}

impl State {
    /// The hops behind a message that is made while handling event `number`.
    fn hops(&self, number: u64) -> Result<u8, Error> {
        let call = self.event(number).ok_or_else(|| stale(number))?;
        Ok(call.message().map_or(0, |message| message.hops).saturating_add(1))
    }

    fn created(&mut self, event: u64, message: MessageResult) -> Result<Message, Error> {
        let hops = self.hops(event)?;
        let message = MessageIn::check(message).map_err(Error::InvalidTopic)?;
        if !self.count_publish() {
            return Err(Error::Busy);
        }
        Ok(message.create(&self.shared.services.ids, hops))
    }

    fn filter(&self, event: u64, filter: String) -> Result<TopicFilter, Error> {
        self.event(event).ok_or_else(|| stale(event))?;
        TopicFilter::new(filter.as_str())
            .map_err(|error| Error::InvalidTopic(format!("filter {}: {error}", brief(&filter))))
    }
}

fn stale(number: u64) -> Error {
    Error::InvalidTopic(format!("event {number} is not the one being handled"))
}

impl Host for State {
    fn publish(&mut self, event: u64, message: MessageResult) -> wasmtime::Result<Result<(), Error>> {
        Ok(self
            .created(event, message)
            .and_then(|message| Ok(self.shared.services.control.publish(&self.shared.tenant, message)?)))
    }

    fn deliver(
        &mut self,
        event: u64,
        client_id: String,
        message: MessageResult,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.created(event, message).and_then(|message| {
            Ok(self.shared.services.control.deliver(&self.shared.tenant, &client_id, message)?)
        }))
    }

    fn subscribe(
        &mut self,
        event: u64,
        client_id: String,
        filter: String,
        qos: Qos,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.filter(event, filter).and_then(|filter| {
            let control = &self.shared.services.control;
            Ok(control.subscribe(&self.shared.tenant, &client_id, filter, qos_in(qos))?)
        }))
    }

    fn unsubscribe(
        &mut self,
        event: u64,
        client_id: String,
        filter: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.filter(event, filter).and_then(|filter| {
            Ok(self.shared.services.control.unsubscribe(&self.shared.tenant, &client_id, filter)?)
        }))
    }

    fn disconnect(&mut self, event: u64, client_id: String) -> wasmtime::Result<Result<(), Error>> {
        Ok(self
            .event(event)
            .ok_or_else(|| stale(event))
            .and_then(|_| Ok(self.shared.services.control.disconnect(&self.shared.tenant, &client_id)?)))
    }
}
