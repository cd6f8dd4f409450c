//! The hooks a component exports, found once per version and looked up once per instance.

use tidegate_event::Hook;
use tidegate_event::hook::CATALOGUE;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, Instance, InstancePre};
use wasmtime::{AsContextMut, Engine};

use crate::bindings::exports::tidegate::{hooks, module};
use crate::error::LoadError;
use crate::raw;
use crate::state::State;

/// The version of the contract whose interfaces are called; wasmtime finds compatible ones for it.
const VERSION: &str = "0.1.0";
const INIT: &str = "tidegate:module/init";
const STATE: &str = "tidegate:module/state";
const TICK: &str = "tidegate:module/tick";
const PUBLISH_BATCH: &str = "tidegate:hooks/message-publish-batch";

/// One row a hook: the variant, the module of its generated bindings.
macro_rules! for_each_hook {
    ($($hook:ident => $module:ident),* $(,)?) => {
        /// Where a component's exports are.
        #[derive(Clone)]
        pub(crate) struct Exports {
            init: Option<module::init::GuestIndices>,
            /// `handle` of the world `raw`, for components that export no hook.
            raw: Option<ComponentExportIndex>,
            state: Option<module::state::GuestIndices>,
            tick: Option<module::tick::GuestIndices>,
            publish_batch: Option<hooks::message_publish_batch::GuestIndices>,
            $($module: Option<hooks::$module::GuestIndices>,)*
        }

        /// The typed functions of one instance.
        pub(crate) struct Functions {
            pub(crate) init: Option<module::init::Guest>,
            pub(crate) raw: Option<raw::Handle>,
            pub(crate) state: Option<module::state::Guest>,
            pub(crate) tick: Option<module::tick::Guest>,
            pub(crate) publish_batch: Option<hooks::message_publish_batch::Guest>,
            $(pub(crate) $module: Option<hooks::$module::Guest>,)*
        }

        impl Exports {
            fn find_all(pre: &InstancePre<State>) -> Result<Self, LoadError> {
                Ok(Self {
                    init: find(pre, INIT, module::init::GuestIndices::new)?,
                    raw: raw::find(pre),
                    state: find(pre, STATE, module::state::GuestIndices::new)?,
                    tick: find(pre, TICK, module::tick::GuestIndices::new)?,
                    publish_batch: find(pre, PUBLISH_BATCH, hooks::message_publish_batch::GuestIndices::new)?,
                    $($module: find(pre, Hook::$hook.row().interface, hooks::$module::GuestIndices::new)?,)*
                })
            }

            fn has(&self, hook: Hook) -> bool {
                let singly = match hook { $(Hook::$hook => self.$module.is_some(),)* };
                singly || (hook == Hook::MessagePublish && self.takes_batches())
            }

            /// Looks the functions up in a new instance and checks their types.
            ///
            /// # Errors
            /// [`LoadError::ExportType`] naming the interface.
            pub(crate) fn load(
                &self,
                mut store: impl AsContextMut<Data = State>,
                instance: &Instance,
            ) -> Result<Functions, LoadError> {
                let mut store = store.as_context_mut();
                Ok(Functions {
                    init: match &self.init {
                        Some(found) => Some(typed(INIT, found.load(&mut store, instance))?),
                        None => None,
                    },
                    raw: match &self.raw {
                        Some(index) => Some(raw::load(&mut store, instance, index)?),
                        None => None,
                    },
                    state: match &self.state {
                        Some(found) => Some(typed(STATE, found.load(&mut store, instance))?),
                        None => None,
                    },
                    tick: match &self.tick {
                        Some(found) => Some(typed(TICK, found.load(&mut store, instance))?),
                        None => None,
                    },
                    publish_batch: match &self.publish_batch {
                        Some(found) => Some(typed(PUBLISH_BATCH, found.load(&mut store, instance))?),
                        None => None,
                    },
                    $($module: match &self.$module {
                        Some(found) => {
                            Some(typed(Hook::$hook.row().interface, found.load(&mut store, instance))?)
                        }
                        None => None,
                    },)*
                })
            }
        }
    };
}

for_each_hook! {
    ClientConnected => client_connected,
    ClientDisconnected => client_disconnected,
    SessionCreated => session_created,
    SessionSubscribed => session_subscribed,
    SessionUnsubscribed => session_unsubscribed,
    MessagePublish => message_publish,
    MessageDeliver => message_deliver,
    MessageAcked => message_acked,
    ClientAuthenticate => client_authenticate,
    ClientAuthorize => client_authorize,
    ClientSubscribe => client_subscribe,
}

fn find<T>(
    pre: &InstancePre<State>,
    interface: &'static str,
    indices: impl FnOnce(&InstancePre<State>) -> wasmtime::Result<T>,
) -> Result<Option<T>, LoadError> {
    if pre.component().get_export_index(None, format!("{interface}@{VERSION}")).is_none() {
        return Ok(None);
    }
    typed(interface, indices(pre)).map(Some)
}

fn typed<T>(interface: &str, result: wasmtime::Result<T>) -> Result<T, LoadError> {
    result.map_err(|error| LoadError::ExportType {
        interface: interface.to_owned(),
        reason: format!("{error:#}"),
    })
}

impl Exports {
    /// Whether published messages come to it in batches.
    pub(crate) fn takes_batches(&self) -> bool {
        self.publish_batch.is_some()
    }

    /// Whether it is called from time to time.
    pub(crate) fn has_tick(&self) -> bool {
        self.tick.is_some()
    }

    /// Whether an instance can hand its state to the next version's.
    pub(crate) fn has_state(&self) -> bool {
        self.state.is_some()
    }

    /// Finds the exports of a component, and which hooks they are: none for a component of the world `raw`.
    ///
    /// # Errors
    /// [`LoadError::NoHook`] when there is none, [`LoadError::ExportType`] when an interface lacks its function.
    pub(crate) fn find(pre: &InstancePre<State>) -> Result<(Self, Vec<Hook>), LoadError> {
        let mut exports = Self::find_all(pre)?;
        let hooks: Vec<_> = Hook::all().filter(|hook| exports.has(*hook)).collect();
        if !hooks.is_empty() {
            exports.raw = None;
        } else if exports.raw.is_none() {
            let found = names(pre.component(), pre.engine());
            return Err(LoadError::NoHook {
                found: if found.is_empty() { "nothing".to_owned() } else { found.join(", ") },
                known: CATALOGUE.map(|row| format!("{}@{VERSION}", row.interface)).join(", "),
            });
        }
        for name in names(pre.component(), pre.engine()) {
            if name.starts_with("tidegate:hooks/") && !is_known(&name) {
                tracing::warn!(export = name, "the module exports a hook that this host does not know");
            }
        }
        Ok((exports, hooks))
    }
}

impl Exports {
    /// Whether the component is of the world `raw`: it handles any hook, and says itself or by its manifest which.
    pub(crate) fn is_raw(&self) -> bool {
        self.raw.is_some()
    }
}

fn is_known(name: &str) -> bool {
    let interface = name.split_once('@').map_or(name, |(interface, _)| interface);
    interface == "tidegate:hooks/types"
        || CATALOGUE.iter().any(|row| row.interface == interface || row.batch == Some(interface))
}

fn names(component: &Component, engine: &Engine) -> Vec<String> {
    let component = component.component_type();
    component
        .exports(engine)
        .filter(|(_, export)| {
            matches!(export.ty, ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_))
        })
        .map(|(name, _)| name.to_owned())
        .collect()
}
