//! The rules of texts: damage from wrong decoding, control characters, emptiness, language, secrets.
//!
//! It must never change a row: what would help is proposed.
//!
//! Start reading at [`check`].

use std::borrow::Cow;

use serde_json::Value;

use crate::check::column::{self, Columns};
use crate::check::contract::TextTerms;
use crate::check::{Repair, Violation, language, rule};
use crate::ingest::CountTokens;

/// The first text rule that the row breaks.
pub(crate) fn check(
    row: &Value,
    terms: &TextTerms,
    columns: &Columns,
    count_tokens: Option<&CountTokens>,
) -> Result<(), Violation> {
    let mut n_tokens = 0_u64;
    let mut found = Ok(());
    each_text(row, &terms.columns, &mut |place, text| {
        if found.is_ok() {
            found = check_text(row, place, text, terms, columns);
            if let Some(count_tokens) = count_tokens.filter(|_| terms.context_tokens.is_some()) {
                n_tokens = count_tokens.count(text).saturating_add(n_tokens);
            }
        }
    });
    found?;
    match terms.context_tokens {
        Some(limit) if n_tokens > limit => {
            let detail = format!("the row has {n_tokens} tokens, and at most {limit} may be");
            Err(Violation::new(rule::CONTEXT_TOKENS, detail))
        }
        _ => Ok(()),
    }
}

/// Calls `see` with the place and each text of the columns, or of the whole row when none are named.
pub(crate) fn each_text<'a>(
    row: &'a Value,
    columns: &'a [String],
    see: &mut dyn FnMut(&str, &'a str),
) {
    if columns.is_empty() {
        walk(row, "the row", see);
    }
    for name in columns {
        if let Some(value) = column::get(row, name) {
            walk(value, name, see);
        }
    }
}

fn walk<'a>(value: &'a Value, place: &str, see: &mut dyn FnMut(&str, &'a str)) {
    match value {
        Value::String(text) => see(place, text),
        Value::Array(items) => items.iter().for_each(|item| walk(item, place, see)),
        Value::Object(entries) => entries.iter().for_each(|(name, value)| walk(value, name, see)),
        _ => {}
    }
}

fn check_text(
    row: &Value,
    place: &str,
    text: &str,
    terms: &TextTerms,
    columns: &Columns,
) -> Result<(), Violation> {
    if terms.mojibake && !text.is_ascii() {
        if text.contains('\u{fffd}') {
            let detail = format!("{place} has U+FFFD, the sign of a character that was lost");
            return Err(Violation::new(rule::MOJIBAKE, detail));
        }
        if matches!(undo_mojibake(text), Cow::Owned(_)) {
            let detail = format!("{place} has UTF-8 that was read as windows-1252");
            let repair = mended(row, "mojibake_undone", |text| undo_mojibake(text).into_owned());
            return Err(Violation::new(rule::MOJIBAKE, detail).with_repair(repair));
        }
    }
    if terms.control_chars
        && let Some(control) = text.chars().find(|char| is_control(*char))
    {
        let detail = format!("{place} has the control character U+{:04X}", u32::from(control));
        let strip = |text: &str| text.chars().filter(|char| !is_control(*char)).collect();
        let repair = mended(row, "control_chars_removed", strip);
        return Err(Violation::new(rule::CONTROL_CHARS, detail).with_repair(repair));
    }
    if terms.empty && text.trim().is_empty() {
        let detail = format!("{place} is nothing but white space");
        return Err(Violation::new(rule::EMPTY_TEXT, detail));
    }
    if terms.secrets
        && let Some(kind) = lm_privacy::secret(text)
    {
        return Err(Violation::new(rule::SECRET, format!("{place} has {kind}")));
    }
    if let Some(kind) = columns.personal.iter().find(|kind| kind.is_in(text)) {
        return Err(Violation::new(rule::PERSONAL_DATA, format!("{place} has {kind}")));
    }
    if !terms.languages.is_empty()
        && let Some(code) = language::of(text)
        && !terms.languages.iter().any(|wanted| wanted == code)
    {
        let wanted = terms.languages.join(", ");
        let detail = format!("{place} is in {code:?}, but must be in {wanted}");
        return Err(Violation::new(rule::LANGUAGE, detail));
    }
    Ok(())
}

/// Whether the rule of damaged texts refuses it.
pub(crate) fn is_mojibake(text: &str) -> bool {
    !text.is_ascii() && (text.contains('\u{fffd}') || matches!(undo_mojibake(text), Cow::Owned(_)))
}

/// Whether the rule of control characters refuses it.
pub(crate) fn has_control(text: &str) -> bool {
    text.chars().any(is_control)
}

/// Anything but tab, line feed and carriage return.
fn is_control(char: char) -> bool {
    char.is_control() && !matches!(char, '\t' | '\n' | '\r')
}

fn mended(row: &Value, kind: &'static str, mend: impl Fn(&str) -> String) -> Repair {
    fn apply(value: &Value, mend: &dyn Fn(&str) -> String) -> Value {
        match value {
            Value::String(text) => Value::String(mend(text)),
            Value::Array(items) => items.iter().map(|item| apply(item, mend)).collect(),
            Value::Object(entries) => {
                let entry = |(name, value): (&String, &Value)| (name.clone(), apply(value, mend));
                Value::Object(entries.iter().map(entry).collect())
            }
            other => other.clone(),
        }
    }
    Repair { kind: kind.into(), row: apply(row, &mend).to_string() }
}

/// The text with each run that is UTF-8 read as windows-1252 decoded anew; owned iff there is one.
fn undo_mojibake(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut kept = 0;
    let mut rest = text;
    while let Some(begin) = rest.find(|char: char| !char.is_ascii()) {
        let run = &rest[begin..];
        let run = &run[..run.find(|char: char| char.is_ascii()).unwrap_or(run.len())];
        let end = begin + run.len();
        let at = text.len() - rest.len();
        if let Some(decoded) = decode_run(run) {
            out.push_str(&text[kept..at + begin]);
            out.push_str(&decoded);
            kept = at + end;
        }
        rest = &rest[end..];
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[kept..]);
    Cow::Owned(out)
}

fn decode_run(run: &str) -> Option<String> {
    // One character alone is never it.
    run.chars().nth(1)?;
    let (bytes, _, unmappable) = encoding_rs::WINDOWS_1252.encode(run);
    if unmappable {
        return None;
    }
    let decoded = std::str::from_utf8(&bytes).ok()?;
    // Scripts in which chance seldom hits: an accented capital before a curly quote is prose.
    let is_likely = |char: char| {
        matches!(u32::from(char), 0xa0..=0x24f | 0x370..=0x52f | 0x2000..=0x22ff | 0x3040..=0x9fff
            | 0xac00..=0xd7a3 | 0x1f300..=0x1faff)
    };
    decoded.chars().all(is_likely).then(|| decoded.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        assert_eq!(undo_mojibake(text), expect);
    }

    #[test]
    fn mojibake_is_undone_and_prose_is_left_alone() {
        check("cafÃ© au lait", "café au lait");
        check("itâ€™s \u{1f600} donâ€™t", "it’s \u{1f600} don’t");
        check("ðŸ˜€", "\u{1f600}");
        for prose in ["café", "naïve “quotes”", "CAFÉ“", "übergroß", "Ω", "日本語", "ÀÉÎ", ""]
        {
            check(prose, prose);
        }
    }
}
