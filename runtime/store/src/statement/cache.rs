//! Compiled statements of guests, which give the text anew with every call.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tidegate_event::Hook;

use super::{Language, StatementError, Template};

type ByHook = [RwLock<HashMap<Box<str>, Arc<Template>>>; Hook::COUNT];

/// Templates by language, hook and text. Bounded: when it is full it starts over, which costs a recompilation each.
#[derive(Default)]
pub(crate) struct TemplateCache {
    sql: ByHook,
    commands: ByHook,
}

/// Statements kept per hook. A guest has a handful; one that builds texts on the fly cannot fill the memory.
const CAPACITY: usize = 256;
/// Longer texts are compiled every time.
const MAX_TEXT_BYTES: usize = 16 * 1024;

impl TemplateCache {
    /// The template of `text` for `hook`.
    pub(crate) fn get(
        &self,
        text: &str,
        hook: Hook,
        language: Language,
    ) -> Result<Arc<Template>, StatementError> {
        let by_hook = match language {
            Language::Sql => &self.sql,
            Language::Commands => &self.commands,
        };
        let Some(cached) = by_hook.get(hook as usize) else {
            return Template::compile(text, hook, language).map(Arc::new);
        };
        if let Some(template) = cached.read().get(text) {
            return Ok(Arc::clone(template));
        }
        let template = Arc::new(Template::compile(text, hook, language)?);
        if text.len() <= MAX_TEXT_BYTES {
            let mut cached = cached.write();
            if cached.len() >= CAPACITY {
                cached.clear();
            }
            cached.insert(text.into(), Arc::clone(&template));
        }
        Ok(template)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_text_is_compiled_once_and_the_cache_is_bounded() {
        let cache = TemplateCache::default();
        let first = cache.get("select ${clientid}", Hook::ClientConnected, Language::Sql).unwrap();
        let second = cache.get("select ${clientid}", Hook::ClientConnected, Language::Sql).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        for n in 0..10_000 {
            cache.get(&format!("select {n}"), Hook::ClientConnected, Language::Sql).unwrap();
        }
        let kept: usize = cache.sql.iter().map(|m| m.read().len()).sum();
        assert!(kept <= CAPACITY, "{kept}");
    }
}
