//! The hook catalogue and the guest contract in `wit/` agree.

use tidegate_event::hook::CATALOGUE;
use tidegate_tidy::{files, none, text};

/// The interface of a row without its package: `message-publish`.
fn interface(row: &tidegate_event::hook::Row) -> &'static str {
    row.interface.strip_prefix("tidegate:hooks/").unwrap_or(row.interface)
}

#[test]
fn every_hook_has_its_interface_and_function() {
    let mut offenders = Vec::new();
    for row in &CATALOGUE {
        let name = interface(row);
        let path = format!("wit/hooks/{name}.wit");
        let text = text(&path);
        for wanted in [
            "package tidegate:hooks@".into(),
            format!("interface {name} {{"),
            format!("{}: func(", row.function),
        ] {
            if !text.contains(&wanted) {
                offenders.push(format!("{}: {path} lacks `{wanted}`", row.name));
            }
        }
    }
    none("each row of the hook catalogue has one WIT file", offenders);
}

#[test]
fn every_batch_is_of_its_hook() {
    let mut offenders = Vec::new();
    for row in &CATALOGUE {
        let Some(batch) = row.batch else { continue };
        let name = format!("{}-batch", interface(row));
        let text = text(&format!("wit/hooks/{name}.wit"));
        for wanted in [format!("interface {name} {{"), format!("on-{name}: func(batch: list<")] {
            if batch != format!("tidegate:hooks/{name}") || !text.contains(&wanted) {
                offenders.push(format!("{}: {batch} lacks `{wanted}`", row.name));
            }
        }
    }
    none("the interface for several events of a hook is called like it", offenders);
}

#[test]
fn every_interface_is_a_hook() {
    let file = |name: &str| format!("wit/hooks/{}.wit", name.trim_start_matches("tidegate:hooks/"));
    let known: Vec<String> =
        CATALOGUE.iter().flat_map(|row| [Some(row.interface), row.batch]).flatten().map(file).collect();
    let offenders = files().into_iter().map(|file| file.path).filter(|path| {
        path.starts_with("wit/hooks/") && path != "wit/hooks/types.wit" && !known.contains(path)
    });
    none("each interface of tidegate:hooks has a row in the hook catalogue", offenders);
}

#[test]
fn the_full_world_exports_every_hook() {
    let worlds = text("wit/worlds/worlds.wit");
    let full = worlds.split("world full {").nth(1).unwrap_or_default();
    let offenders = CATALOGUE.iter().filter(|row| !full.contains(&format!("export {}@", row.interface)));
    none("world full exports each hook", offenders.map(|row| row.interface.to_owned()));
}
