//! `tidegate schema ...`: the files that make the tables of back ends.

use std::process::ExitCode;

use tidegate_store::backend::{self, BackendKind, Schema};

use crate::cli::{SchemaPrintArgs, WhichArgs};

/// Prints a file, or which there are; exit status 1 when there is no such back end.
pub(crate) fn print(args: &SchemaPrintArgs) -> ExitCode {
    let Some(wanted) = &args.name else {
        for kind in backend::known() {
            println!("{:<10} {}", kind.name, file(kind));
        }
        return ExitCode::SUCCESS;
    };
    // A connector's name begins with its back end's.
    let word = wanted.split_once(':').map_or(&**wanted, |(kind, _)| kind);
    let Some(kind) = backend::find(word) else {
        let names: Vec<_> = backend::known().map(|kind| kind.name).collect();
        eprintln!("error: no back end {word:?}; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    match kind.schema {
        Schema::File { text, .. } | Schema::ByItself { text, .. } => print!("{text}"),
        // Standard output is for the database's tools.
        Schema::Nothing(why) => eprintln!("{}: nothing to make: {why}", kind.name),
    }
    ExitCode::SUCCESS
}

/// Has the drivers make the tables; exit status 1 when one does not.
pub(crate) fn apply(args: &WhichArgs) -> ExitCode {
    crate::connectors::ask(args, "/v1/schema/apply")
}

fn file(kind: &BackendKind) -> String {
    match kind.schema {
        Schema::File { name, .. } => name.to_owned(),
        Schema::ByItself { name, .. } => format!("{name} (made by the driver)"),
        Schema::Nothing(why) => format!("- ({why})"),
    }
}
