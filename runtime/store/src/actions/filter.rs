//! Questions about topic filters that only stores ask.

use tidegate_event::TopicFilter;

/// Whether some topic matches both filters; `None` matches all but what begins with `$`.
pub(crate) fn overlaps(a: Option<&TopicFilter>, b: Option<&TopicFilter>) -> bool {
    let all = TopicFilter::all();
    let (a, b) = (a.unwrap_or(&all), b.unwrap_or(&all));
    let (mut left, mut right) = (a.levels(), b.levels());
    let mut first = true;
    loop {
        let pair = (left.next(), right.next());
        let wild = |level: &str| level == "+" || level == "#";
        if std::mem::take(&mut first)
            && let (Some(l), Some(r)) = pair
            && (wild(l) && r.starts_with('$') || wild(r) && l.starts_with('$'))
        {
            return false;
        }
        match pair {
            (Some("#"), _) | (_, Some("#")) => return true,
            (Some(l), Some(r)) if l == r || l == "+" || r == "+" => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn filters_overlap_when_a_topic_matches_both() {
        for (a, b, expected) in [
            ("#", "a", true),
            ("a/+", "+/b", true),
            ("a/+", "b/+", false),
            ("a/#", "a", true),
            ("a/b", "a", false),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/+", true),
            ("a/+/c", "a/b/#", true),
        ] {
            let (a, b): (TopicFilter, TopicFilter) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(overlaps(Some(&a), Some(&b)), expected, "{a} {b}");
            assert_eq!(overlaps(Some(&b), Some(&a)), expected, "{b} {a}");
        }
        assert!(overlaps(None, None));
    }
}
