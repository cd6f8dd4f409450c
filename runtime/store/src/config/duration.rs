//! `time_range`: a number and s, m, h or d.

/// Milliseconds of `2h`, `30m`, `45s`, `1d`.
pub(super) fn parse_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = match text.chars().last()? {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    let digits = text.get(..text.len() - 1)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_units_and_nothing_else() {
        assert_eq!(parse_ms("2h"), Some(7_200_000));
        assert_eq!(parse_ms("30m"), Some(1_800_000));
        assert_eq!(parse_ms("45s"), Some(45_000));
        assert_eq!(parse_ms("1d"), Some(86_400_000));
        for bad in ["", "2", "h", "2w", "-2h", "2.5h", "99999999999999999999d", "9999999999999999999d", "2é"]
        {
            assert_eq!(parse_ms(bad), None, "{bad}");
        }
    }
}
