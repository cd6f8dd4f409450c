//! Every statement that a server can break has a test or a reason, every test has a statement, and the page says so.

#![allow(clippy::unwrap_used, reason = "tests")]

use tidegate_conformance::statement::{PARTS, disagreements, page, page_path};

#[test]
fn every_statement_has_a_test_or_a_reason_and_every_test_a_statement() {
    let mut wrong = Vec::new();
    for part in PARTS {
        let found = disagreements(&part.lines().unwrap(), &part.tests().unwrap());
        wrong.extend(found.into_iter().map(|what| format!("{}: {what}", part.name)));
    }
    assert!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
}

#[test]
fn the_page_is_what_the_lists_and_the_tests_say() {
    let parts = PARTS.map(|part| (part, part.lines().unwrap(), part.tests().unwrap()));
    let page = page(&parts);
    if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
        std::fs::write(page_path(), &page).unwrap();
    }
    let kept = std::fs::read_to_string(page_path()).unwrap_or_default();
    let differs = page.lines().zip(kept.lines()).find(|(new, old)| new != old);
    assert!(
        page == kept,
        "docs/conformance.md is out of date ({differs:?}): \
         TIDEGATE_WRITE_DOCS=1 cargo test -p tidegate-conformance --test statements"
    );
}
