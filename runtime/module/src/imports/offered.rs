//! What the host offers, by name, to say what is nearest when a component wants something else.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::raw::HOST_CALL;
use crate::error::LoadError;
use crate::manifest::nearest;

/// The draft of `wasi:config/store` that is offered besides the release candidate.
pub(super) const CONFIG_DRAFT: &str = "wasi:config/store@0.2.0-draft";

const CONFIG: &[&str] = &["get", "get-all"];

const KEYVALUE_STORE: &[&str] = &[
    "open",
    "[method]bucket.get",
    "[method]bucket.set",
    "[method]bucket.delete",
    "[method]bucket.exists",
    "[method]bucket.list-keys",
];
const KEYVALUE_BATCH: &[&str] = &["get-many", "set-many", "delete-many"];

/// Interfaces of the contract with their functions.
const CONTRACT: &[(&str, &[&str])] = &[
    ("tidegate:broker/context@0.1.0", &["message-property", "correlation-data", "client", "tenant", "node"]),
    (
        "tidegate:broker/client-control@0.1.0",
        &["publish", "deliver", "subscribe", "unsubscribe", "disconnect"],
    ),
    ("tidegate:storage/actions@0.1.0", &["run", "execute", "run-wait", "execute-wait"]),
    ("tidegate:storage/sql@0.1.0", &["query", "exec", "exec-batch"]),
    ("tidegate:storage/redis@0.1.0", &["command", "pipeline"]),
    ("wasi:config/store@0.2.0-rc.1", CONFIG),
    (CONFIG_DRAFT, CONFIG),
    ("wasi:logging/logging@0.1.0-draft", &["log"]),
    ("wasi:keyvalue/store@0.2.0-draft", KEYVALUE_STORE),
    ("wasi:keyvalue/atomics@0.2.0-draft", &["increment"]),
    ("wasi:keyvalue/batch@0.2.0-draft", KEYVALUE_BATCH),
    ("wasi:keyvalue/store@0.2.0-draft2", KEYVALUE_STORE),
    ("wasi:keyvalue/atomics@0.2.0-draft2", &["[static]cas.new", "[method]cas.current", "increment", "swap"]),
    ("wasi:keyvalue/batch@0.2.0-draft2", KEYVALUE_BATCH),
];

/// Interfaces of WASI 0.2 with functions, as wasmtime offers them.
const WASI: &[&str] = &[
    "wasi:cli/environment@0.2.12",
    "wasi:cli/exit@0.2.12",
    "wasi:cli/stderr@0.2.12",
    "wasi:cli/stdin@0.2.12",
    "wasi:cli/stdout@0.2.12",
    "wasi:cli/terminal-stderr@0.2.12",
    "wasi:cli/terminal-stdin@0.2.12",
    "wasi:cli/terminal-stdout@0.2.12",
    "wasi:clocks/monotonic-clock@0.2.12",
    "wasi:clocks/wall-clock@0.2.12",
    "wasi:filesystem/preopens@0.2.12",
    "wasi:filesystem/types@0.2.12",
    "wasi:http/outgoing-handler@0.2.12",
    "wasi:http/types@0.2.12",
    "wasi:io/error@0.2.12",
    "wasi:io/poll@0.2.12",
    "wasi:io/streams@0.2.12",
    "wasi:random/insecure-seed@0.2.12",
    "wasi:random/insecure@0.2.12",
    "wasi:random/random@0.2.12",
    "wasi:sockets/instance-network@0.2.12",
    "wasi:sockets/ip-name-lookup@0.2.12",
    "wasi:sockets/tcp-create-socket@0.2.12",
    "wasi:sockets/tcp@0.2.12",
    "wasi:sockets/udp-create-socket@0.2.12",
    "wasi:sockets/udp@0.2.12",
];

/// Interfaces whose functions take an event number, and the function of the raw world, which means the current event.
const ABOUT_EVENTS: [&str; 4] =
    ["tidegate:broker/context", "tidegate:broker/client-control", "tidegate:storage/actions", HOST_CALL];

/// Whether `component` imports anything that takes an event number.
pub(crate) fn asks_about_events(component: &Component, engine: &Engine) -> bool {
    let component = component.component_type();
    component.imports(engine).any(|(name, _)| ABOUT_EVENTS.contains(&base(name)))
}

/// Why `component` cannot be linked, from its imports; `refusal` is the linker's own reason.
pub(crate) fn explain(component: &Component, engine: &Engine, refusal: &wasmtime::Error) -> LoadError {
    for (name, import) in component.component_type().imports(engine) {
        match import.ty {
            ComponentItem::ComponentInstance(instance) => {
                let functions: Vec<_> = instance
                    .exports(engine)
                    .filter(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_)))
                    .map(|(function, _)| function)
                    .collect();
                if !functions.is_empty()
                    && let Some(error) = unknown(name, &functions)
                {
                    return error;
                }
            }
            ComponentItem::ComponentFunc(_) if name == HOST_CALL => {}
            // WIT types without functions need nothing from the host.
            ComponentItem::Type(_) => {}
            _ => return LoadError::UnknownImport { wanted: name.to_owned(), nearest: None },
        }
    }
    LoadError::ImportType(format!("{refusal:#}"))
}

/// Why `interface` with these functions is not offered; `None` when it is.
pub(crate) fn unknown(interface: &str, functions: &[&str]) -> Option<LoadError> {
    let wanted_base = base(interface);
    if WASI.iter().any(|offered| base(offered) == wanted_base && same_minor(offered, interface)) {
        return None;
    }
    let offered = CONTRACT.iter().find(|(name, _)| *name == interface || compatible(name, interface));
    if let Some((name, known)) = offered {
        let missing = functions.iter().find(|function| !known.contains(function))?;
        return Some(LoadError::UnknownImport {
            wanted: format!("{interface}#{missing}"),
            nearest: nearest(missing, known.iter().copied()).map(|near| format!("{name}#{near}")),
        });
    }
    let all = || CONTRACT.iter().map(|(name, _)| *name).chain(WASI.iter().copied());
    // Another version of an interface that exists, or a misspelt name.
    let near = all().find(|name| base(name) == wanted_base).or_else(|| {
        nearest(wanted_base, all().map(base)).and_then(|near| all().find(|name| base(name) == near))
    });
    let wanted = match functions.first() {
        Some(function) => format!("{interface}#{function}"),
        None => interface.to_owned(),
    };
    Some(LoadError::UnknownImport { wanted, nearest: near.map(str::to_owned) })
}

fn base(name: &str) -> &str {
    name.split_once('@').map_or(name, |(base, _)| base)
}

fn version(name: &str) -> &str {
    name.split_once('@').map_or("", |(_, version)| version)
}

/// Whether the linker takes the one for the other: equal up to the last number of a 0.x release.
fn compatible(offered: &str, wanted: &str) -> bool {
    base(offered) == base(wanted)
        && !version(offered).contains('-')
        && !version(wanted).contains('-')
        && same_minor(offered, wanted)
}

fn same_minor(one: &str, other: &str) -> bool {
    let minor = |name: &str| version(name).rsplit_once('.').map(|(minor, _)| minor.to_owned());
    minor(one) == minor(other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;
    use crate::engine::Engines;
    use crate::imports::linker;
    use tidegate_encode::Lane;

    /// A function of each interface of `WASI`, in the same order.
    const WASI_FUNCTIONS: [&str; 26] = [
        "get-environment",
        "exit",
        "get-stderr",
        "get-stdin",
        "get-stdout",
        "get-terminal-stderr",
        "get-terminal-stdin",
        "get-terminal-stdout",
        "now",
        "now",
        "get-directories",
        "[method]descriptor.sync",
        "handle",
        "[constructor]fields",
        "[method]error.to-debug-string",
        "poll",
        "[method]input-stream.read",
        "insecure-seed",
        "get-insecure-random-u64",
        "get-random-u64",
        "instance-network",
        "resolve-addresses",
        "create-tcp-socket",
        "[method]tcp-socket.start-bind",
        "create-udp-socket",
        "[method]udp-socket.start-bind",
    ];

    #[test]
    fn everything_said_to_be_offered_is_linked() {
        let mut linker = linker(Engines::on_demand().unwrap().get(Lane::Plain), Lane::Plain).unwrap();
        assert_eq!(WASI.len(), WASI_FUNCTIONS.len());
        let contract = CONTRACT.iter().flat_map(|(name, functions)| functions.iter().map(|f| (*name, *f)));
        for (interface, function) in contract.chain(WASI.iter().copied().zip(WASI_FUNCTIONS)) {
            // What is defined cannot be defined again.
            let again = linker.instance(interface).unwrap().func_wrap(function, |_, (): ()| Ok(()));
            assert!(again.is_err(), "{interface}#{function} is not linked");
        }
    }

    #[test]
    fn the_functions_are_those_of_the_contract() {
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        for (name, functions) in CONTRACT {
            let (package, interface) = base(name).split_once('/').unwrap();
            let dir = match package.split_once(':').unwrap() {
                ("wasi", "keyvalue") if version(name) == "0.2.0-draft2" => "wasi-keyvalue-draft2".to_owned(),
                ("wasi", package) => format!("wasi-{package}"),
                (_, package) => package.to_owned(),
            };
            let text = std::fs::read_to_string(wit.join(dir).join(format!("{interface}.wit"))).unwrap();
            let mut resource = None;
            let mut declared = Vec::new();
            for line in text.lines().map(str::trim) {
                if let Some((opened, _)) =
                    line.strip_prefix("resource ").and_then(|rest| rest.split_once(' '))
                {
                    resource = Some(opened);
                } else if line == "}" {
                    resource = None;
                } else if let Some((function, kind)) = line.split_once(": ") {
                    match (kind.starts_with("static func("), kind.starts_with("func("), resource) {
                        (true, _, Some(resource)) => declared.push(format!("[static]{resource}.{function}")),
                        (_, true, Some(resource)) => declared.push(format!("[method]{resource}.{function}")),
                        (_, true, None) => declared.push(function.to_owned()),
                        _ => {}
                    }
                }
            }
            assert_eq!(declared, *functions, "{name}");
        }
    }

    fn explained(imports: &[(&str, &str)]) -> String {
        let engines = Engines::on_demand().unwrap();
        let engine = engines.get(Lane::Plain);
        let linker = linker(engine, Lane::Plain).unwrap();
        let mut text = String::from("(component");
        for (interface, function) in imports {
            write!(text, r#" (import "{interface}" (instance (export "{function}" (func))))"#).unwrap();
        }
        text.push(')');
        let component = Component::new(engine, text).unwrap();
        let refusal = linker.instantiate_pre(&component).err().unwrap();
        explain(&component, engine, &refusal).to_string()
    }

    #[test]
    fn an_unknown_import_is_named_with_the_nearest() {
        for (interface, function, expected) in [
            (
                "tidegate:storage/sqll@0.1.0",
                "query",
                "it imports tidegate:storage/sqll@0.1.0#query, which the host does not offer (the nearest it offers is tidegate:storage/sql@0.1.0)",
            ),
            (
                "tidegate:storage/sql@0.1.0",
                "qurey",
                "it imports tidegate:storage/sql@0.1.0#qurey, which the host does not offer (the nearest it offers is tidegate:storage/sql@0.1.0#query)",
            ),
            (
                "tidegate:broker/context@0.2.0",
                "node",
                "it imports tidegate:broker/context@0.2.0#node, which the host does not offer (the nearest it offers is tidegate:broker/context@0.1.0)",
            ),
            (
                "acme:things/stuff@1.0.0",
                "f",
                "it imports acme:things/stuff@1.0.0#f, which the host does not offer",
            ),
        ] {
            assert_eq!(explained(&[(interface, function)]), expected);
        }
    }

    #[test]
    fn a_wrong_type_of_an_import_is_said() {
        let text = explained(&[("tidegate:storage/sql@0.1.0", "query")]);
        assert!(text.contains("query"), "{text}");
        assert!(text.starts_with("an import does not fit"), "{text}");
    }
}
