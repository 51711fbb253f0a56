//! When a key ends, as a person writes it.
//!
//! It must never read a clock.
//!
//! Start reading at [`expires_at`].

use crate::KeyError;

/// Seconds of a day.
pub const DAY_S: u64 = 86_400;

/// The Unix second of `30d`, `12h` or `90m` from `now_s` on, or of the beginning of a date, by UTC.
///
/// # Errors
/// Another text, or a time that has passed.
pub fn expires_at(text: &str, now_s: u64) -> Result<u64, KeyError> {
    let refuse = |wanted| KeyError::BadExpiry { value: text.chars().take(40).collect(), wanted };
    let at = span_s(text).and_then(|span| now_s.checked_add(span)).or_else(|| date_s(text));
    let at = at.ok_or_else(|| {
        refuse("a number with d, h or m such as 30d, or a date such as 2027-01-31")
    })?;
    if at <= now_s { Err(refuse("in the future")) } else { Ok(at) }
}

/// The Unix second of `30d`, `12h` or `90m` before `now_s`, or of the beginning of a date, by UTC.
///
/// # Errors
/// Another text.
pub fn since(text: &str, now_s: u64) -> Result<u64, KeyError> {
    let ago = |span| now_s.saturating_sub(span);
    span_s(text).map(ago).or_else(|| date_s(text)).ok_or_else(|| KeyError::BadSince {
        value: text.chars().take(40).collect(),
        wanted: "a number with d, h or m such as 30d, or a date such as 2027-01-31",
    })
}

fn span_s(text: &str) -> Option<u64> {
    let unit_s = match text.chars().last()? {
        'd' => DAY_S,
        'h' => 3600,
        'm' => 60,
        _ => return None,
    };
    digits(&text[..text.len() - 1])?.checked_mul(unit_s)
}

fn date_s(text: &str) -> Option<u64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || (year.len(), month.len(), day.len()) != (4, 2, 2) {
        return None;
    }
    let (year, month, day) = (digits(year)?, digits(month)?, digits(day)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month_idx = usize::try_from(month).ok()?.checked_sub(1)?;
    let length = *lengths.get(month_idx)?;
    if year < 1970 || !(1..=length).contains(&day) {
        return None;
    }
    let years_before = year - 1;
    let leap_days = |years: u64| years / 4 - years / 100 + years / 400;
    let days = (year - 1970) * 365 + leap_days(years_before) - leap_days(1969);
    let days = days + lengths[..month_idx].iter().sum::<u64>() + day - 1;
    Some(days * DAY_S)
}

fn digits(text: &str) -> Option<u64> {
    let all_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::expires_at;

    #[track_caller]
    fn check(text: &str, now_s: u64, expect: Option<u64>) {
        assert_eq!(expires_at(text, now_s).ok(), expect, "{text}");
    }

    #[test]
    fn spans_count_from_now_and_dates_are_utc() {
        check("30d", 1000, Some(1000 + 30 * 86_400));
        check("12h", 0, Some(43_200));
        check("90m", 5, Some(5405));
        check("1970-01-02", 0, Some(86_400));
        check("2000-02-29", 0, Some(951_782_400));
        check("2027-01-31", 0, Some(1_801_353_600));
        check("2100-03-01", 0, Some(4_107_542_400));
    }

    #[test]
    fn other_texts_and_the_past_are_refused() {
        for text in ["", "d", "30", "-1d", "30s", "1.5d", "99999999999999999999d", "0d", "é"] {
            check(text, 1000, None);
        }
        for text in ["2027-1-31", "2027-02-29", "2027-13-01", "2027-00-01", "2027-01-00", "2027-01"]
        {
            check(text, 0, None);
        }
        check("2026-01-01", 1_801_353_600, None);
    }
}
