//! `docs/guest-matrix.md`: what every guest did and what it costs.

use std::path::PathBuf;
use std::time::Duration;

use crate::behaviour::ALL;
use crate::figures::Figures;
use crate::guests::Guest;

const HEAD: &str = "\
# Guests by toolchain

<!-- Made by the test itself: `TIDEGATE_WRITE_DOCS=1 cargo xtask test --filter every_guest`. -->

One guest a toolchain (`tests/matrix/guests`), built in the test run and loaded by the real host, each made to do the
same. The test fails when one of them does not; nothing is skipped.
";

const COLUMNS: &str = "\
What the columns ask for and what must come of it:

* `transform`: parse JSON, add a field, replace the message; a payload that is no JSON is an answered error, not a trap.
* `drop`: the verdict drop.
* `store`: a built-in storage function, which reaches the store and joins the acknowledgement.
* `config`: a value of the manifest's `[config]`. `log`: a line at level info in the broker's log.
* `panic`, `loop`, `memory`: the error names the trap, the limit `cpu` or the limit `memory`, and the next event is handled.
* `bytes`: a payload that is not UTF-8 comes back with one byte more. `large`: 256 KiB come back in reverse.
";

const NOTES: &str = "\
`compile` happens once for each version of a file, in a process of its own when the server does it; it includes making a
component of a core module. `from cache` is a start or a reload of bytes that were compiled before. `fresh` is a call
with `instances.mode = \"fresh\"`, `warm` one with the default. Each call is the `transform` of a JSON object of about
150 bytes, measured on a shared machine with two processors: compare the rows with each other.

Guests of the world `raw` get and give JSON envelopes: their calls parse and write more than those of typed guests.
The C guest checks the brackets of its payload and splices the field in; all others parse it.
";

/// Where the page is.
pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/guest-matrix.md")
}

/// The page of these rows, which are of guests that did everything: the test stops before it writes the page otherwise.
pub fn render(rows: &[(Guest, Figures)]) -> String {
    let words: Vec<&str> = ALL.iter().map(|behaviour| behaviour.word()).collect();
    let mut page =
        format!("{HEAD}\n| guest | {} |\n|{}\n", words.join(" | "), " --- |".repeat(words.len() + 1));
    for (guest, _) in rows {
        page.push_str(&format!("| {} |{}\n", guest.name, " yes |".repeat(words.len())));
    }
    page.push_str(&format!(
        "\n{COLUMNS}\n## What they cost\n\n\
         | guest | toolchain | file | KiB | compile ms | from cache ms | fresh us | warm us |\n\
         | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
    ));
    for (guest, figures) in rows {
        page.push_str(&format!(
            "| {} | {} | {} | {} | {:.0} | {:.1} | {:.0} | {:.1} |\n",
            guest.name,
            guest.toolchain,
            guest.form.words(),
            figures.bytes.div_ceil(1024),
            milliseconds(figures.compile),
            milliseconds(figures.from_cache),
            milliseconds(figures.fresh) * 1e3,
            milliseconds(figures.warm) * 1e3,
        ));
    }
    format!("{page}\n{NOTES}")
}

/// The guests that lack a row in one of the two tables of `page`.
pub fn missing<'a>(page: &str, guests: &'a [Guest]) -> Vec<&'a str> {
    let rows = |name: &str| page.lines().filter(|line| line.starts_with(&format!("| {name} |"))).count();
    guests.iter().map(|guest| guest.name).filter(|name| rows(name) != 2).collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::GUESTS;

    #[test]
    fn a_page_has_two_rows_for_each_guest_it_was_made_of() {
        let time = Duration::from_micros(1_500);
        let figures = Figures { bytes: 1_025, compile: time, from_cache: time, fresh: time, warm: time };
        let rows: Vec<_> = GUESTS.iter().skip(1).map(|guest| (*guest, figures)).collect();
        let page = render(&rows);
        assert_eq!(missing(&page, &GUESTS), [GUESTS[0].name]);
        assert!(page.contains("| 2 | 2 | 1.5 | 1500 | 1500.0 |"), "{page}");
    }
}
